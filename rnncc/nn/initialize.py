"""Initialize: inits and typical distributions -> tensors drawn from them."""

from __future__ import annotations

import torch
from torch import Tensor

from rnncc.ir.init import Init, change


@torch.no_grad()
def fill(
    tensor: Tensor, init: Init, generator: torch.Generator | None = None, rank: int = 0
) -> Tensor:
    """Fill a tensor in place; `spaced` goes along its channels.

    Values that are changed after the draw are drawn in double: in half precision log(-log(x)) of
    an x near 1 would have few values.

    Args:
        rank: the dimensions behind that of the channels.
    """
    if init.then:
        drawn = fill(torch.empty_like(tensor, dtype=torch.float64), init.drawn(), generator, rank)
        return tensor.copy_(change(drawn, init.then, torch))
    if init.kind == "uniform":
        return tensor.uniform_(init.a, init.b, generator=generator)
    if init.kind == "normal":
        return tensor.normal_(init.a, init.b, generator=generator)
    if init.kind == "constant":
        return tensor.fill_(init.a)
    device, count = tensor.device, tensor.shape[-1 - rank]
    line = torch.linspace(init.a, init.b, count, dtype=torch.float64, device=device)
    return tensor.copy_(line.view(count, *(1,) * rank))
