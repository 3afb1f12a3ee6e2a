"""Kernels in C for CPUs with AVX2, and better ones for those with AVX512_BF16 or AMX, compiled at first use."""
