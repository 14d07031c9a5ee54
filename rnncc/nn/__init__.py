"""PyTorch's side: arguments, operators with autograd, the functional form and the layer."""
