"""Starting the ranks: the only package that knows MPI vendors' options. Needs no MPI library."""
