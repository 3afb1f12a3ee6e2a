"""Who computes and holds what: pure values, without torch and MPI, the same on all ranks."""
