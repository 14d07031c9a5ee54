"""Benchmarks: kernels and their baselines, timed in turns."""
