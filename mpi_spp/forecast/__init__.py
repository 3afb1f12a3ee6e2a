"""What a run would need and how long it would take, before anything is loaded: no figure here reads a weight."""
