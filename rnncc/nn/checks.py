"""Checks: everything an operator is handed, before a kernel reads or writes memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

import torch
from torch import Tensor

from rnncc.errors import ArgumentError
from rnncc.ir.spec import KernelSpec
from rnncc.nn.arguments import check_groups
from rnncc.nn.given import COMMON, Given
from rnncc.nn.refusal import refuse, refuse_device, show
from rnncc.runtime.backend import DEFAULTS, Backend, backend_of
from rnncc.runtime.call import Shapes
from rnncc.runtime.kernel import COMPUTE, Kernel, kernel_of

Sizes = tuple[Any, ...]  # ints, symbolic under torch.compile


def parse(arguments: Sequence[Any]) -> tuple[Given, Kernel, Backend]:
    """The arguments that an operator begins with, checked but for devices and numbers.

    It is written in one, because every call pays for it.

    Raises:
        ArgumentError: a count, shape or dtype doesn't fit; it names the argument.
    """
    given = Given(*arguments[:COMMON])
    kernel = kernel_of(given.key)
    inputs, params, form = given.inputs, given.params, _form(given.key, given.packed)
    if len(inputs) != len(form.shared) or len(params) != len(form.blocks):
        check_count("inputs", inputs, len(form.shared))
        check_count("params", params, len(form.blocks))
    x = inputs[0]
    shape, dtype = x.shape, x.dtype
    if dtype not in COMPUTE or len(shape) != form.rank:
        _refuse_first(form, x)
    channels = shape[-1] if form.rank > 2 else _channels(given, form)
    whole, each = (shape[0], shape[1], channels), (shape[0], shape[1])
    for i, x in enumerate(inputs):
        if form.alike:
            wanted: Sizes = shape
        elif given.packed and not i:
            wanted = (shape[0], shape[1], form.together, channels)
        else:
            wanted = each if form.shared[i] else whole
        if x.shape != wanted or x.dtype is not dtype:
            _refuse_tensor(form.inputs[i], x, wanted, dtype)
    compute, row = COMPUTE[dtype], (channels,)
    for i, p in enumerate(params):
        block = form.blocks[i]
        wanted = row if block < 0 else (channels // block, block, block) if block else (1,)
        if p.shape != wanted or p.dtype is not compute:
            _refuse_tensor(form.params[i], p, wanted, compute)
    if form.group > 1:
        check_groups(kernel.spec, channels)
    count = shape[0] if given.starts is None else _check_joined(given)
    if given.lengths is not None:
        check_tensor("lengths", given.lengths, (count,), torch.int64)
    if given.reset is not None:
        check_tensor("reset", given.reset, each, torch.bool)
    if given.h0 is not None:
        check_tensor("h0", given.h0, (form.states, count, channels), compute)
    return given, kernel, backend_of(inputs[0].device)


def check_gradients(
    given: Given,
    spec: KernelSpec,
    shapes: Shapes,
    saved: Tensor,
    dy: Sequence[Tensor | None],
    dz: Sequence[Tensor | None],
    dh_last: Tensor | None,
    wanted: Sequence[bool],
) -> None:
    """Check what the backward takes beside the checked arguments of the forward.

    Raises:
        ArgumentError: one doesn't fit; it names the argument.
    """
    x = given.inputs[0]
    compute = COMPUTE[x.dtype]
    if not isinstance(saved, Tensor):  # PyTorch hands None on
        raise refuse("saved", show(saved), "a tensor", "what forward returns with save=True")
    check_tensor("saved", saved, shapes.saved, compute)
    check_count("dy", dy, len(spec.outputs))
    if dz:
        check_count("dz", dz, len(spec.states))
    for name, gradients in (("dy", dy), ("dz", dz)):
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                check_tensor(f"{name}[{i}]", gradient, shapes.y, x.dtype)
    if dh_last is not None:
        check_tensor("dh_last", dh_last, shapes.h, compute)
    check_count("wanted", wanted, len(given.inputs))


Named = Iterable[tuple[str, Tensor]]


def check_devices(tensors: Named) -> None:
    """All are on one device.

    Raises:
        ArgumentError: one isn't; it names the argument.
    """
    device = None
    for name, value in tensors:
        device = device or value.device
        if value.device != device:
            raise refuse_device(name, value, device)


def refuse_foreign(tensors: Named) -> NoReturn:
    """Where no kernel runs for what was handed over: name the tensor that is the reason."""
    for name, value in tensors:
        if value.layout != torch.strided or value.is_nested or value.device.type not in DEFAULTS:
            expected = f"a dense tensor on {' or '.join(DEFAULTS)}"
            raise refuse(name, show(value), expected, f"a dense {name}, on one of these devices")
    raise ArgumentError(
        "inputs: got no tensor that a kernel could read, expected one for each input.\n"
        "Fix: give inputs and params as they are for the cell's own function"
    )


def check_count(name: str, values: Sequence[object], count: int) -> None:
    """A list has as many entries as the cell has arguments."""
    if len(values) != count:
        raise ArgumentError(
            f"{name}: got {len(values)}, expected {count} for this cell.\n"
            f"Fix: a list of {count}, in the order of the cell's signature"
        )


def check_tensor(name: str, value: Tensor, shape: Sizes, dtype: torch.dtype) -> None:
    """A tensor is of this shape and dtype."""
    if value.shape != shape or value.dtype is not dtype:
        _refuse_tensor(name, value, shape, dtype)


def _refuse_tensor(name: str, value: Tensor, shape: Sizes, dtype: torch.dtype) -> NoReturn:
    expected = f"{str(dtype).removeprefix('torch.')} {list(shape)}"
    raise refuse(name, show(value), expected, "the shape and dtype that go with inputs[0]")


def _check_joined(given: Given) -> Any:
    """The number of sequences that lie one after another."""
    starts, x = given.starts, given.inputs[0]
    assert starts is not None
    if given.lengths is None or x.shape[0] != 1 or starts.dim() != 1:
        raise ArgumentError(
            f"starts: got {show(starts)} with inputs of {x.shape[0]} rows and "
            f"{'no ' if given.lengths is None else ''}lengths, expected int64 [S], lengths [S] and "
            "inputs of one row.\nFix: cu_seqlens[:-1] and cu_seqlens.diff()"
        )
    check_tensor("starts", starts, starts.shape, torch.int64)
    return starts.shape[0]


@dataclass(frozen=True)
class _Form:
    """What the operators take for a cell.

    Attributes:
        inputs, params: their names in messages: the operator's and the cell's.
        shared: whether all channels share it, for each of `inputs`.
        blocks: k of a matrix, -1 for one value a channel, 0 for one in all, for each of `params`.
        rank: dimensions of the first input.
        together: inputs that are packed in the first.
        alike: all have the shape of the first.
    """

    inputs: tuple[str, ...]
    params: tuple[str, ...]
    shared: tuple[bool, ...]
    blocks: tuple[int, ...]
    rank: int
    together: int
    alike: bool
    group: int
    states: int


@lru_cache(maxsize=1000)
def _form(key: str, packed: bool) -> _Form:
    spec = kernel_of(key).spec
    together = sum(not i.shared for i in spec.inputs)
    shared = [i.shared for i in spec.inputs]
    names = [f" ('{i.name}')" for i in spec.inputs]
    if packed:
        names = ["", *(name for name, all_in_one in zip(names, shared, strict=True) if all_in_one)]
        shared = [False, *(s for s in shared if s)]
    return _Form(
        inputs=tuple(f"inputs[{i}]{name}" for i, name in enumerate(names)),
        params=tuple(f"params[{i}] ('{p.name}')" for i, p in enumerate(spec.params)),
        shared=tuple(shared),
        blocks=tuple(0 if p.shared else p.block or -1 for p in spec.params),
        rank=4 if packed else 2 if shared[0] else 3,
        together=together,
        alike=not packed and together in (0, len(spec.inputs)),
        group=spec.group,
        states=len(spec.states),
    )


def _channels(given: Given, form: _Form) -> Any:
    """N, of the first argument that has channels, or h0; 1 if none has."""
    for x, shared in zip(given.inputs, form.shared, strict=True):
        if not shared:
            return x.shape[-1] if x.dim() else 0
    for p, block in zip(given.params, form.blocks, strict=True):
        if block:
            return p.shape[0] * abs(block) if p.dim() else 0
    return 1 if given.h0 is None or not given.h0.dim() else given.h0.shape[-1]


def _refuse_first(form: _Form, x: Tensor) -> NoReturn:
    shape = {2: "[B, T]", 3: "[B, T, N]", 4: "[B, T, G, N]"}[form.rank]
    dtypes = "float32, bfloat16, float16 or float64"
    raise refuse(form.inputs[0], show(x), f"{shape} in {dtypes}", "as for the cell's own function")
