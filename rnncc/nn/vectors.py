"""Vectors: one tensor of a user's for several values of a channel <-> the kernels' scalars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rnncc.errors import ArgumentError
from rnncc.ir.spec import KernelSpec, ParamSpec
from rnncc.ir.vector import Role, Vector, grouped, places
from rnncc.nn.refusal import refuse, show


def states_of(spec: KernelSpec) -> tuple[Vector, ...]:
    """The states that users see, in order."""
    return grouped([s.name for s in spec.states], spec.vectors, "state")


def learned_of(spec: KernelSpec) -> list[tuple[Vector, ParamSpec]]:
    """The learned values that users see, each with the spec of its first scalar."""
    specs = {p.name: p for p in spec.learned}
    return [(v, specs[v.members[0]]) for v in grouped(specs, spec.vectors, "param")]


def starts_of(spec: KernelSpec) -> tuple[Vector, ...]:
    """The learned starts that users see."""
    return grouped([s.name for s in spec.starts], spec.vectors, "param")


def label(vectors: Sequence[Vector], scalar: str) -> str:
    """The name of a scalar in messages: that of an element is `A[0, 1]`."""
    for v in vectors:
        if scalar in v.members and v.shape:
            place = list(places(v.shape))[v.members.index(scalar)]
            return f"{v.name}[{', '.join(map(str, place))}]"
    return scalar


def split(spec: KernelSpec, bound: Mapping[str, Any], plain: str = "") -> dict[str, Any]:
    """Inputs and params by name, each vector as its scalars, without a copy.

    Args:
        plain: a name that stands for something else, such as a layer's x.
    Raises:
        ArgumentError: the last dimensions aren't the vector's.
    """
    if not spec.vectors:
        return dict(bound)
    of = {v.name: v for v in spec.vectors if v.role in ("input", "param")}
    found: dict[str, Any] = {}
    for name, value in bound.items():
        if name in of and name != plain:
            _check_param(of[name], value)
            found |= zip(of[name].members, elements(name, value, of[name].shape), strict=True)
        else:
            found[name] = value
    return found


def _check_param(vector: Vector, value: Tensor) -> None:
    """That of a param: a dimension of channels, and those of the vector."""
    sizes = ", ".join(map(str, vector.shape))
    if vector.role == "param" and value.dim() != 1 + len(vector.shape):
        same = tuple(value.shape) == vector.shape
        raise refuse(
            vector.name,
            show(value),
            f"[N, {sizes}], or [1, {sizes}] if all channels share it",
            f"{vector.name}.expand(N, {sizes})" if same else f"{vector.name} of [N, {sizes}]",
        )


def elements(name: str, value: Tensor, shape: tuple[int, ...]) -> Sequence[Tensor]:
    """The scalars of a tensor whose last dimensions are `shape`; the tensor itself if it is ()."""
    if not shape:
        return (value,)
    if tuple(value.shape[-len(shape) :]) != shape:
        sizes = ", ".join(map(str, shape))
        counted = f"{sizes} value{'s' if shape != (1,) else ''}"
        raise ArgumentError(
            f"{name}: got {show(value)}, expected {counted} of each channel in the last "
            f"dimension{'s' if len(shape) > 1 else ''}.\nFix: {name} of [..., N, {sizes}]"
        )
    return value.flatten(-len(shape)).unbind(-1)


def join(spec: KernelSpec, role: Role, rows: Sequence[Tensor]) -> list[Tensor]:
    """One tensor for each state or output that users see, from all scalars in order."""
    if not any(v.role == role for v in spec.vectors):
        return list(rows)
    names = spec.outputs if role == "output" else [s.name for s in spec.states]
    of = dict(zip(names, rows, strict=True))
    return [_whole([of[m] for m in v.members], v) for v in grouped(names, spec.vectors, role)]


def joined(spec: KernelSpec, arguments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The arguments of a call, from scalars by name."""
    of = {m: v for v in spec.vectors if v.role in ("input", "param") for m in v.members}
    names: Iterable[Vector | str] = dict.fromkeys(of.get(name, name) for name in arguments)
    return {
        v if isinstance(v, str) else v.name: arguments[v]
        if isinstance(v, str)
        else _whole([arguments[m] for m in v.members], v)
        for v in names
    }


def apart(spec: KernelSpec, outputs: Sequence[Tensor]) -> list[Tensor]:
    """The scalars of the outputs that a call returns."""
    found = grouped(spec.outputs, spec.vectors, "output")
    pairs = zip(found, outputs, strict=True)
    return [row for v, y in pairs for row in elements(v.name, y, v.shape)]


def _whole(rows: Sequence[Tensor], vector: Vector) -> Tensor:
    return torch.stack(list(rows), -1).unflatten(-1, vector.shape) if vector.shape else rows[0]
