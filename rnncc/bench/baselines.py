"""Baselines: a cell and a shape -> the programs that its kernel is timed against."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rnncc.bench.timing import Run
from rnncc.errors import RnnccError
from rnncc.export.torch_loop import Step, plain_loop, plain_step
from rnncc.export.torch_loop import initial_states as states_before
from rnncc.ir.program import CellIR
from rnncc.runtime.kernel import COMPUTE

Shape = tuple[int, int, int]
Arguments = Mapping[str, Tensor]
Loop = Callable[[Arguments], list[Tensor]]

CPU = torch.device("cpu")
CHUNK = 32  # steps of the loop that torch.compile sees at once


class UnavailableError(RnnccError):
    """A baseline can't be run here, or not at this shape; says why."""


# --- loops -----------------------------------------------------------------------------------


def plain(cell: CellIR, dtype: torch.dtype = torch.float32, device: torch.device = CPU) -> Loop:
    """The loop that a user would write in PyTorch, all of it in one dtype."""
    step = step_on(cell, dtype, device)

    def run(arguments: Arguments) -> list[Tensor]:
        given = {name: x.to(dtype) for name, x in arguments.items()}
        return plain_loop(cell, given, initial_states(cell, given), step)[0]

    return run


def oracle(cell: CellIR, dtype: torch.dtype, device: torch.device = CPU) -> Loop:
    """The plain loop in the dtype that kernels compute in, its outputs rounded as theirs are."""
    wide = plain(cell, COMPUTE[dtype], device)
    return lambda arguments: [y.to(dtype) for y in wide(arguments)]


def chunked(
    cell: CellIR,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
    size: int = CHUNK,
) -> Loop:
    """The plain loop, `size` steps at a time under torch.compile: the best baseline on a CPU."""
    step = step_on(cell, dtype, device, once=False)

    def chunk(
        states: tuple[Tensor, ...], inputs: Sequence[Tensor], params: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        rows = []
        for xs in zip(*(x.unbind(1) for x in inputs), strict=True):
            states, outputs = step(*states, *xs, *params)
            rows.append(outputs)
        return states, [torch.stack(column, 1) for column in zip(*rows, strict=True)]

    compiled = torch.compile(chunk, dynamic=False)

    def run(arguments: Arguments) -> list[Tensor]:
        given = {name: x.to(dtype) for name, x in arguments.items()}
        inputs, params = inputs_of(cell, given), [given[a.name] for a in cell.params]
        states = initial_states(cell, given)
        parts = []
        for xs in zip(*(x.split(size, 1) for x in inputs), strict=True):
            states, outputs = compiled(states, xs, params)
            parts.append(outputs)
        return [torch.cat(column, 1) for column in zip(*parts, strict=True)]

    return run


def one_step(cell: CellIR, arguments: Arguments, dtype: torch.dtype, device: torch.device) -> Run:
    """A step of the plain loop, from arguments of one step."""
    given = {name: x.to(dtype) for name, x in arguments.items()}
    step, states = step_on(cell, dtype, device), initial_states(cell, given)
    inputs = [x[:, 0] for x in inputs_of(cell, given)]
    params = [given[a.name] for a in cell.params]

    def run() -> Any:
        with torch.no_grad():
            return step(*states, *inputs, *params)

    return run


def step_on(cell: CellIR, dtype: torch.dtype, device: torch.device, once: bool = True) -> Step:
    """The step of the plain loop, its constants on the device.

    Args:
        once: make each constant once; False for torch.compile, which makes constants of its own.
    """
    step = plain_step(cell, dtype)
    if device.type != "cpu":

        def tensor(value: float) -> Tensor:
            return torch.full((), float(value), dtype=dtype, device=device)

        step.__globals__["_tensor"] = functools.cache(tensor) if once else tensor
    return step


def inputs_of(cell: CellIR, arguments: Arguments) -> list[Tensor]:
    """[B, T, N] each, [B, T, 1] if shared."""
    inputs = [arguments[a.name] for a in cell.inputs]
    return [x.unsqueeze(-1) if a.shared else x for a, x in zip(cell.inputs, inputs, strict=True)]


def initial_states(cell: CellIR, arguments: Arguments) -> tuple[Tensor, ...]:
    """The states before the first step, [B, N] each, in the inputs' dtype and on their device."""
    first = arguments[cell.inputs[0].name]
    channels = [arguments[a.name].shape[-1] for a in cell.inputs if not a.shared]
    learned = (*cell.params, *cell.starts)
    channels += [arguments[a.name].shape[0] * (a.block or 1) for a in learned if not a.shared]
    size = (first.shape[0], channels[0] if channels else 1)
    return states_before(cell, arguments, first, size)


# --- copies ------------------------------------------------------------------------------------


def copier(moved: int, device: torch.device = CPU) -> Run:
    """A copy that reads half of the bytes and writes the other half."""
    source = torch.ones(max(1, moved // 8), device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
