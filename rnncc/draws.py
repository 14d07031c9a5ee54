"""Draws: how values start, or are like -> tensors of them."""

from __future__ import annotations

import torch
from torch import Tensor

from rnncc.starts import Init, change


def fill(tensor: Tensor, init: Init, generator: torch.Generator | None = None) -> Tensor:
    """Fill a tensor in place; `spaced` goes along its last dimension."""
    with torch.no_grad():
        if init.kind == "uniform":
            tensor.uniform_(init.a, init.b, generator=generator)
        elif init.kind == "normal":
            tensor.normal_(init.a, init.b, generator=generator)
        elif init.kind == "constant":
            tensor.fill_(init.a)
        else:
            tensor.copy_(torch.linspace(init.a, init.b, tensor.shape[-1]))
        if init.then:
            # drawn in the tensor's dtype, changed in double: log(-log(x)) of an x near 1 has digits
            tensor.copy_(change(tensor.double(), init.then, torch))
    return tensor
