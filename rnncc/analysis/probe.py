"""Probe: a compiled cell -> how hard it is to solve in parallel, from runs on random inputs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from rnncc.analysis.behaviour import behaviour, verdict
from rnncc.analysis.sweeps import (
    SEGMENTS,
    TOLERANCE,
    Newton,
    Say,
    Sweeps,
    count_newton,
    count_sweeps,
)
from rnncc.bench.workload import random_arguments
from rnncc.compiler import CompiledCell
from rnncc.errors import ArgumentError
from rnncc.ir.program import LARGEST_PRODUCT
from rnncc.planner.plan import values_of

FEWEST_STEPS = 2 * SEGMENTS[0]


@dataclass(frozen=True)
class Probe:
    """The results of a probe.

    Attributes:
        weights: params were drawn from U(-weights, weights); None if by their init.
        exponent, median: the largest Lyapunov exponent per step, of any group of channels and of
            the median one.
        held_exponent: the largest with the inputs held at their means.
        oscillating: channels that then oscillate forever.
        forgotten: the steps until two runs from different initial states agree, or None.
        verdict: unstable, spiking, undecided, chaotic, limit cycle, marginal, multistable or
            contracting; docs/sweeps.md says when.
        solver: what `auto` takes at this shape in float64, and why.
    """

    cell: str
    steps: int
    channels: int
    weights: float | None
    seed: int
    sweeps: tuple[Sweeps, ...]
    newton: Newton
    exponent: float
    median: float
    held_exponent: float
    oscillating: int
    forgotten: int | None
    verdict: str
    reason: str
    solver: str
    why: str
    tolerance: float = TOLERANCE

    def data(self) -> dict[str, Any]:
        """For machines; a number that is not finite is None."""
        found = _finite(asdict(self))
        assert isinstance(found, dict)
        return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def probe(
    compiled: CompiledCell,
    *,
    steps: int = 1024,
    channels: int = 64,
    weights: float | None = None,
    seed: int = 0,
    say: Say = lambda text: None,
) -> Probe:
    """Run a cell in float64 on random inputs that are typical of it.

    Args:
        steps, channels: of one sequence.
        weights: draw params from U(-weights, weights), not from their init.
        say: called with the progress, in words.
    Raises:
        ArgumentError: too few steps, channels that don't fit the cell's groups, weights below 0, or
            a cell that only one pass solves.
    """
    _refuse_one_pass(compiled)
    say("running one pass")
    arguments = draw(compiled, steps, channels, weights, seed)
    counts = []
    for segments in SEGMENTS:
        if 2 * segments <= steps:
            say(f"solving {segments} segments")
            counts.append(count_sweeps(compiled, arguments, segments))
    say("running Newton's iteration over all steps")
    newton = count_newton(compiled, arguments)
    say("following differences")
    seen = behaviour(compiled, arguments)
    word, reason = verdict(compiled, seen)
    plan = compiled.explanation(1, steps, channels, "float64")
    exponents = seen.exponents
    return Probe(
        cell=compiled.name,
        steps=steps,
        channels=channels,
        weights=weights,
        seed=seed,
        sweeps=tuple(counts),
        newton=newton,
        exponent=float(exponents.max()),
        median=float(exponents.median()),
        held_exponent=float(seen.held_exponents.max()),
        oscillating=seen.oscillating,
        forgotten=seen.forgotten,
        verdict=word,
        reason=reason,
        solver=plan["solver"],
        why=plan["reason"],
    )


def _refuse_one_pass(compiled: CompiledCell) -> None:
    if compiled.spec.one_pass:
        raise ArgumentError(
            f"probe: '{compiled.name}' has {values_of(compiled.spec)}; more than {LARGEST_PRODUCT} "
            "are solved by one pass over time, so there are no sweeps to count.\n"
            f"Fix: rnncc check {compiled.name}, without --probe"
        )


def draw(
    compiled: CompiledCell, steps: int, channels: int, weights: float | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """Random arguments of one sequence by name, in float64; see `probe`."""
    spec = compiled.kernel.spec
    if steps < FEWEST_STEPS:
        raise ArgumentError(
            f"steps: got {steps}, expected at least {FEWEST_STEPS}, two for each of "
            f"{SEGMENTS[0]} segments.\nFix: 1024 steps"
        )
    if channels < 1 or channels % spec.group:
        raise ArgumentError(
            f"channels: got {channels}, expected a multiple of {spec.group}, the group that "
            f"'{spec.name}' mixes.\nFix: {-(-max(1, channels) // spec.group) * spec.group} channels"
        )
    if weights is not None and not 0 <= weights < math.inf:
        raise ArgumentError(
            f"weights: got {weights:g}, expected a number >= 0, the largest size of a param.\n"
            "Fix: 3"
        )
    arguments = random_arguments(spec, (1, steps, channels), seed)
    generator = torch.Generator().manual_seed(seed)
    for param in spec.params:
        if weights is not None:
            arguments[param.name].uniform_(-weights, weights, generator=generator)
    return {name: value.double() for name, value in arguments.items()}
