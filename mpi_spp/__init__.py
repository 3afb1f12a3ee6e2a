"""Run a Hugging Face decoder language model over MPI ranks, on CPUs and GPUs."""

__version__ = "0.1.0"
