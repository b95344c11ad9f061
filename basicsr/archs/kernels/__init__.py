"""Attention and norms written for one kind of device: C++ for CPUs, Triton for NVIDIA GPUs."""
