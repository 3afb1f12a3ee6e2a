"""Kernels in C for CPUs with AVX512_BF16, compiled on the machine at first use."""
