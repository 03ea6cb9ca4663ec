"""Triton kernels: the linear margins of every GPU, and row scores and selection where the compiled CUDA module is absent."""
