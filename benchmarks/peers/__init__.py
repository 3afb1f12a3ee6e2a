"""The engines that mpi-spp is compared with, one file each; its name is the key of `--peer`.

A peer's file says what to install and which variants to try, and measures inside the peer's own environment. It imports
the peer in functions only, so that the comparison can read the file where the peer is not installed.
"""
