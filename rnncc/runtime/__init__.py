"""The run time: a kernel's text, tensors and a plan -> results, on every backend."""
