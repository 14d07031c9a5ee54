"""Legacy vmap, by which torch.autograd.functional vectorizes: it hands over wrapped tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

NESTED = 64  # levels of it, at most


def unwrapped(rule: Callable[..., Any]) -> Callable[..., Any]:
    """From a rule of torch.library.register_vmap what the operator does with wrapped tensors."""

    def run(*values: Any) -> Any:
        call = unwrap(values)
        results, dims = rule(call, call.dims, *call.values)
        return call.wrap([results], [dims])[0] if dims == 0 else call.wrap(results, dims)

    return run


class Unwrapped(NamedTuple):
    """The arguments of a call with their members in dimension 0, or shared by all."""

    batch_size: int
    values: Any
    dims: Any
    level: int

    def wrap(self, results: Any, dims: Sequence[int | None]) -> Any:
        """Results as this vmap takes them: as tangents only with the members first in memory."""
        add: Any = torch._add_batch_dim
        return [
            r if d is None else add(r.movedim(d, 0).contiguous(), 0, self.level)
            for r, d in zip(results, dims, strict=True)
        ]


def unwrap(values: Sequence[Any]) -> Unwrapped:
    """Take the innermost level off; it isn't told, so look from above."""
    for level in range(NESTED, 0, -1):
        sizes: list[int] = []
        found = [_off(value, level, sizes) for value in values]
        if sizes:
            return Unwrapped(sizes[0], [f[0] for f in found], [f[1] for f in found], level)
    raise AssertionError("no tensor with members")


def _off(value: Any, level: int, sizes: list[int]) -> tuple[Any, Any]:
    if isinstance(value, (list, tuple)):
        found = [_off(v, level, sizes) for v in value]
        return [f[0] for f in found], [f[1] for f in found]
    if not isinstance(value, Tensor):
        return value, None
    remove: Any = torch._remove_batch_dim
    one, two = remove(value, level, 1, 0), remove(value, level, 2, 0)
    if one.shape[0] != two.shape[0]:  # it has no such level, and was expanded
        return value, None
    sizes.append(one.shape[0])
    return one, 0
