"""Several hosts on one machine, for tests and benchmarks: see network.py."""
