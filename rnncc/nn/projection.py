"""Projection: a layer's x -> the inputs of its cell, by one Linear.

Its rows are those of each unshared input in turn, N each, and then one for each shared input that
is projected as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from rnncc.errors import ArgumentError
from rnncc.ir.spec import InputSpec, KernelSpec
from rnncc.nn.arguments import cast, check_tensor
from rnncc.nn.initialize import fill
from rnncc.nn.refusal import refuse, show


def unshared(spec: KernelSpec) -> list[InputSpec]:
    """Per-channel inputs."""
    return [i for i in spec.inputs if not i.shared]


def given(spec: KernelSpec) -> list[str]:
    """Inputs that are given to a layer by name."""
    return [i.name for i in spec.inputs if not i.projected]


def check_given(spec: KernelSpec, shared: Mapping[str, object]) -> None:
    """Check that all of them are given, and no others.

    Raises:
        ArgumentError: one is missing, or unknown.
    """
    wanted = given(spec)
    if set(shared) != set(wanted):
        odd = sorted(set(shared) ^ set(wanted))[0]
        expected = ", ".join(wanted) or "none"
        raise ArgumentError(
            f"{odd}: {'missing' if odd in wanted else 'not a shared input'}.\n"
            f"Fix: give the shared inputs of '{spec.name}' by name: {expected}"
        )


def width(spec: KernelSpec, channels: int) -> int:
    """Rows of the projection; N where nothing is projected, so that a layer always has a weight."""
    return sum(1 if i.shared else channels for i in spec.inputs if i.projected) or channels


def reset(linear: nn.Linear, spec: KernelSpec, channels: int) -> None:
    """Initialize it as torch.nn.Linear does, except biases for which the cell has an init."""
    linear.reset_parameters()
    if linear.bias is None:
        return
    for i, rows in _rows(spec, channels):
        if i.bias is not None:
            fill(linear.bias.data[rows], i.bias)


def inputs(
    linear: nn.Linear, spec: KernelSpec, channels: int, x: Tensor, named: Mapping[str, Tensor]
) -> list[Tensor]:
    """The inputs of the cell, all unshared ones as one.

    Args:
        x: [..., T, input_size].
        named: those that `given` lists, [..., T] each.
    Returns:
        [B, T, G, N] if there are G > 0 unshared inputs, then [B, T] for each shared one.
    Raises:
        ArgumentError: a shared input doesn't fit.
    """
    leading, steps = tuple(x.shape[:-2]), x.shape[-2]
    projected = linear(x)
    own = len(spec.inputs) - spec.shared_inputs
    if own == len(spec.inputs):
        return [projected.reshape(math.prod(leading), steps, own, channels)]
    projected = projected.reshape(math.prod(leading), steps, projected.shape[-1])
    sizes = [own * channels] + [1 for i in spec.inputs if i.shared and i.projected]
    first, *single = projected.split(sizes, -1) if len(sizes) > 1 else (projected,)
    found = [first.unflatten(-1, (own, channels))] if own else []
    rest: Iterator[Tensor] = iter(single)
    for i in spec.inputs:
        if i.shared and i.projected:
            found.append(next(rest).squeeze(-1))
        elif i.shared:
            whole = _whole(i.name, named[i.name], (*leading, steps), projected)
            found.append(whole.reshape(math.prod(leading), steps))
    return found


def _whole(name: str, value: Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    check_tensor(name, value, like.device)
    try:
        return cast(value, like.dtype).expand(*shape)
    except RuntimeError:
        raise refuse(name, show(value), f"{[*shape]}", "one value per step") from None


def _rows(spec: KernelSpec, channels: int) -> Iterator[tuple[InputSpec, slice]]:
    """The rows of the projection that each projected input comes from."""
    first = 0
    for i in (*unshared(spec), *(i for i in spec.inputs if i.shared and i.projected)):
        size = 1 if i.shared else channels
        yield i, slice(first, first + size)
        first += size
