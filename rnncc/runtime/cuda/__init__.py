"""The CUDA backend: CUDA text -> modules, and launches on PyTorch's current stream."""
