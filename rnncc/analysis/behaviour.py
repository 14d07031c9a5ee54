"""Behaviour: a compiled cell and arguments -> the growth of differences, and a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rnncc.analysis.sweeps import Arguments, states_of
from rnncc.compiler import CompiledCell
from rnncc.nn.vectors import join, joined

# How a verdict is reached; docs/sweeps.md describes it. An exponent is above 0 if a difference
# grows more than T times over all T steps, and below 0 if it fades so far as to be forgotten.
HELD_STEPS = 4096  # with the inputs held; transients fade in the first half
UNDAMPED, VISIBLE = (
    0.9,
    1e-3,
)  # of an oscillation: the share of its swing that remains, and its size
RETURNS = 3  # how often it must come back
GROWING = 10  # times larger in the last quarter than in the first half
FORGOTTEN = 1e-6  # the rest of a difference, relative to max(1, |state|)


@dataclass(frozen=True)
class Behaviour:
    """How differences between states grow or fade.

    Attributes:
        states: [states, T, N].
        exponents, held_exponents: [N / group], with the inputs as drawn, and held at their means.
        oscillating: channels that oscillate with the inputs held.
        apart: channels in which two initial states still differ after the last step.
        forgotten: the steps until none did, or None.
    """

    states: Tensor
    exponents: Tensor
    held_exponents: Tensor
    oscillating: int
    apart: int
    forgotten: int | None


def behaviour(compiled: CompiledCell, arguments: Arguments) -> Behaviour:
    """Run it twice from different states, and with its inputs held."""
    states = states_of(compiled, arguments)
    elsewhere = states[:, -1].roll(compiled.structure.group, -1)  # where the group beside it ended
    other = states_of(compiled, arguments, _as_h0(compiled, elsewhere))
    size = states.abs().clamp(min=1)
    differs = ~((states - other).abs() <= FORGOTTEN * size).all(0)
    last = differs.any(1).nonzero()
    apart = int(differs[-1].sum())
    held, held_exponents = _hold(compiled, arguments)
    keeps = held_exponents.abs() <= _above(held.shape[1])
    oscillating = _oscillates(held) & keeps.repeat_interleave(compiled.structure.group)
    return Behaviour(
        states=states,
        exponents=lyapunov(compiled.jacobians(**joined(compiled.spec, arguments))[0]),
        held_exponents=held_exponents,
        oscillating=0 if compiled.structure.affine else int(oscillating.sum()),
        apart=apart,
        forgotten=None if apart else int(last[-1]) + 1 if len(last) else 0,
    )


def lyapunov(jacobians: Tensor) -> Tensor:
    """[T, G, D, D] -> [G], the largest exponent per step: the growth of the product of all."""
    steps, groups, size, _ = jacobians.shape
    eye = torch.eye(size, dtype=jacobians.dtype) / math.sqrt(size)
    product = eye.expand(groups, size, size)
    total = jacobians.new_zeros(groups)
    for jacobian in jacobians:
        product = jacobian @ product
        growth = product.flatten(1).norm(dim=1)
        total += growth.log()
        product = product / torch.where(growth > 0, growth, 1)[:, None, None]
    return total / steps


def _hold(compiled: CompiledCell, arguments: Arguments) -> tuple[Tensor, Tensor]:
    """States [states, HELD_STEPS / 2, N] with the inputs held at their means, and exponents."""
    half = HELD_STEPS // 2
    held = dict(arguments)
    for given in compiled.stages.cell.inputs:
        mean = arguments[given.name].mean(1, keepdim=True)
        held[given.name] = mean.expand(-1, half, *mean.shape[2:])
    initial = _as_h0(compiled, states_of(compiled, held)[:, -1])
    means = joined(compiled.spec, held)
    return states_of(compiled, held, initial), lyapunov(compiled.jacobians(**means, h0=initial)[0])


def _as_h0(compiled: CompiledCell, states: Tensor) -> Any:
    """[states, N] -> h0 of one sequence."""
    spec = compiled.spec
    h0 = join(spec, "state", [h[None] for h in states])
    return tuple(h0) if len(h0) > 1 else h0[0]


def _oscillates(states: Tensor) -> Tensor:
    """[states, T, N] -> [N], whether one oscillates without damping."""
    first, last = (half.amax(1) - half.amin(1) for half in states.chunk(2, 1))
    above = states > states.mean(1, keepdim=True)
    returns = (~above[:, :-1] & above[:, 1:]).sum(1)
    visible = last > VISIBLE * states.abs().amax(1).clamp(min=1)
    return (visible & (last > UNDAMPED * first) & (returns >= RETURNS)).any(0)


# --- in words ---------------------------------------------------------------------------------


def _above(steps: int) -> float:
    return math.log(steps) / steps


def _below(steps: int) -> float:
    return math.log(FORGOTTEN) / steps


def verdict(compiled: CompiledCell, found: Behaviour) -> tuple[str, str]:
    """The verdict in a word, and its reason."""
    steps, channels = found.states.shape[1:]
    exponent = float(found.exponents.max())
    memory = (
        f"the initial state is forgotten after {found.forgotten} steps"
        if found.forgotten is not None
        else f"{found.apart} of {channels} channels still depend on their initial state "
        f"after {steps} steps"
    )
    if not bool(found.states.isfinite().all()):
        return "unstable", "the states do not stay finite, not even in one pass over time"
    if compiled.structure.spiking:
        return "spiking", f"the Jacobian says nothing about its jumps; {memory}"
    if math.isnan(exponent):
        return "undecided", f"the Jacobian does not stay finite; {memory}"
    if exponent > _above(steps):
        if _grow(found.states):
            return "unstable", f"states grow e-fold every {1 / exponent:.3g} steps, without bound"
        return "chaotic", f"differences grow e-fold every {1 / exponent:.3g} steps"
    if found.oscillating:
        which = f"{found.oscillating} of {channels} channels oscillate"
        return "limit cycle", f"with its inputs held, {which}; {memory}"
    if exponent >= _below(steps):
        return "marginal", f"differences hardly fade or grow over {steps} steps; {memory}"
    if found.forgotten is None:
        return "multistable", f"small differences fade, but {memory}"
    return "contracting", memory


def _grow(states: Tensor) -> bool:
    """Whether states grow along the sequence."""
    quarter = states.shape[1] // 4
    sizes = states.abs().amax((0, 2))
    return bool(sizes[-quarter:].max() > GROWING * sizes[: 2 * quarter].max())
