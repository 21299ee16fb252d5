"""Triton kernels, one per file; they import torch and triton and nothing of memwb."""
