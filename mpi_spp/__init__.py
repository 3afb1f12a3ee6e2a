"""Run a Hugging Face decoder language model over MPI ranks, on CPUs and GPUs."""

import os

from mpi_spp.lesser_cpu import believe

__version__ = "0.1.0"

os.environ.update(believe())  # torch looks when it is loaded, which is later
