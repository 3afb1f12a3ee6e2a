"""The decoder: configuration, weights and arithmetic of one rank. Knows no ranks and no MPI."""
