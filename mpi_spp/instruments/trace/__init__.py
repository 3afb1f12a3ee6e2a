"""What all ranks did, on one clock: recorded, written, summed up and drawn."""
