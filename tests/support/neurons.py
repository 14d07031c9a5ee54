"""Neurons run by their kernels, and by one neuron's step in plain loops; for their tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import rnncc
from tests.support.runs import Call, compiled, listed, random_call, solve

Array = NDArray[np.float64]
Values = Mapping[str, float]
Step = Callable[[list[float], Values], tuple[list[float], Any]]

BATCH, STEPS, CHANNELS = 2, 60, 5


def drawn(name: str, starts: Mapping[str, tuple[float, float]], steps: int = STEPS) -> Call:
    """Typical inputs; params by the cell's inits, perturbed; states uniform in these ranges."""
    call = random_call(name, (BATCH, steps, CHANNELS), torch.float64)
    generator = torch.Generator().manual_seed(1)
    unit = torch.rand(len(starts), BATCH, CHANNELS, generator=generator, dtype=torch.float64)
    assert list(starts) == [state.name for state in compiled(name).stages.cell.states]
    h0 = [low + (high - low) * u for (low, high), u in zip(starts.values(), unit, strict=True)]
    return replace(call, h0=tuple(h0))


def agrees(name: str, call: Call, step: Step) -> list[Tensor]:
    """Hold the kernel to a step of one neuron, (states, values) -> (states, output or outputs).

    Returns:
        the outputs [B, T, N] and the last states [B, N].
    """
    assert call.h0 is not None
    y, h = solve(name, call.arguments, call.h0)
    inputs = {i.name for i in compiled(name).stages.cell.inputs}
    outputs = [torch.empty_like(row) for row in y]
    last = [torch.empty_like(state) for state in h]
    for b, n in np.ndindex(BATCH, CHANNELS):
        states = [float(state[b, n]) for state in call.h0]
        for t in range(y[0].shape[1]):
            at = {k: (b, t, n) if k in inputs else n for k in call.arguments}
            values = {k: float(tensor[at[k]]) for k, tensor in call.arguments.items()}
            states, out = step(states, values)
            for row, value in zip(outputs, np.atleast_1d(out), strict=True):
                row[b, t, n] = float(value)
        for end, state in zip(last, states, strict=True):
            end[b, n] = state
    for got, expected in zip([*y, *h], [*outputs, *last], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    return [*y, *h]


def some_fire(output: Tensor) -> bool:
    """The test sees spikes, and steps without one."""
    return bool(10 < output.sum() < output.numel() - 10)


def steady(
    cell: str | rnncc.CompiledCell, steps: int, start: Sequence[float] | None = None, **given: Any
) -> Array:
    """The output under constant inputs, [T, N]: a neuron for each value."""
    c = compiled(cell) if isinstance(cell, str) else cell
    shape = np.broadcast_shapes(*(np.shape(value) for value in given.values()))
    arguments = {
        k: torch.tensor(np.broadcast_to(v, shape), dtype=torch.float64) for k, v in given.items()
    }
    for i in c.stages.cell.inputs:
        arguments[i.name] = arguments[i.name].expand(1, steps, *shape)
    states = [torch.tensor([s]).double().expand(1, *shape) for s in start or ()]
    (y,) = listed(c(**arguments, h0=tuple(states) or None))
    return y[0].numpy()


def crossings(v: Array, level: float, dt: float = 1.0) -> Array:
    """When a trace [T] rises through a level, interpolated."""
    (k,) = np.nonzero((v[1:] > level) & (v[:-1] <= level))
    return dt * (k + (level - v[k]) / (v[k + 1] - v[k]))


def spike_times(s: Array) -> Array:
    """The steps at which an output [T] is 1."""
    return np.nonzero(s)[0].astype(float)
