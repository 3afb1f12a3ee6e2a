"""Kernels in C for CPUs with AVX512_BF16, and better ones for those with AMX, compiled on the machine at first use."""
