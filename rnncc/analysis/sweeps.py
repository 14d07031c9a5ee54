"""Sweeps: a compiled cell and arguments -> the sweeps of each cut of time, and of Newton."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rnncc.compiler import CompiledCell
from rnncc.nn import vectors
from rnncc.nn.status import Solve

Arguments = Mapping[str, Tensor]
Say = Callable[[str], None]

TOLERANCE = 1e-12  # of neighbouring segments, relative to the state, Newton's to max(1, |state|)
SEGMENTS = (16, 32, 128)
NEWTON_LIMIT = 100  # iterations, after which it counts as not converged
EARLY = 6  # iterations after which Newton's error is reported
MOST_DRAWN = 40  # sweeps of a curve


@dataclass(frozen=True)
class Sweeps:
    """How one cut of time was solved.

    Attributes:
        segments, segment: their number, and the steps of each.
        sweeps: over all segments, until neighbours agreed or there were as many as segments.
        mismatch: in the last of them.
        sequential_from: the step from which one pass over time solved the rest, or None.
    """

    segments: int
    segment: int
    sweeps: int
    mismatch: float
    sequential_from: int | None


@dataclass(frozen=True)
class Newton:
    """Newton's iteration over all steps at once, as in the papers, from h = f(0, x).

    Attributes:
        iterations: until the residual was within tolerance; None if not within NEWTON_LIMIT.
        error: the largest of any state after `early` iterations, against one pass over time.
        diverges: it has not converged, and that error is larger than after one iteration.
    """

    iterations: int | None
    error: float
    diverges: bool
    early: int = EARLY

    def __str__(self) -> str:
        if self.iterations is not None:
            return str(self.iterations)
        return "diverges" if self.diverges else f"not in {NEWTON_LIMIT}"


def count_sweeps(compiled: CompiledCell, arguments: Arguments, segments: int) -> Sweeps:
    """Solve in `segments` segments (fewer where the steps don't divide)."""
    steps = _steps(compiled, arguments)
    segment = -(-steps // segments)
    segments = -(-steps // segment)
    solve = _solve(compiled, arguments, solver="segmented", segment=segment, iterations=segments)
    return Sweeps(segments, segment, solve.sweeps, solve.mismatch, solve.sequential_from)


def count_newton(compiled: CompiledCell, arguments: Arguments) -> Newton:
    """Newton's iteration to tolerance, and its error on the way."""
    solve = _solve(compiled, arguments, **_newton(NEWTON_LIMIT))
    exact = states_of(compiled, arguments)
    first, early = (
        _error(states_of(compiled, arguments, **_newton(count)), exact) for count in (1, EARLY)
    )
    converged = solve.converged
    return Newton(
        iterations=solve.sweeps - 1 if converged else None,
        error=early,
        diverges=not converged and not early <= first,
    )


@dataclass(frozen=True)
class Curve:
    """The mismatch in each sweep of one cut of time, or the residual after each iteration."""

    label: str
    mismatches: tuple[float, ...]


def curves(
    compiled: CompiledCell, arguments: Arguments, say: Say = lambda text: None
) -> tuple[Curve, ...]:
    """How fast each cut of time converges, Newton's iteration over all steps last."""
    steps = _steps(compiled, arguments)
    found = []
    for segments in SEGMENTS:
        if 2 * segments <= steps:
            say(f"following {segments} segments")
            cut = {"solver": "segmented", "segment": -(-steps // segments)}
            runs = (_solve(compiled, arguments, **cut, iterations=n) for n in itertools.count(1))
            found.append(_curve(f"{segments} segments", runs))
    say("following Newton's iteration over all steps")
    runs = (_solve(compiled, arguments, **_newton(n)) for n in itertools.count(1))
    return (*found, _curve("Newton over all steps", runs))


def _curve(label: str, runs: Any) -> Curve:
    """Run with one sweep more each time, until it converges."""
    mismatches: list[float] = []
    for solve in itertools.islice(runs, MOST_DRAWN):
        mismatches.append(solve.mismatch)
        if solve.converged and solve.sequential_from is None:
            break
    return Curve(label, tuple(mismatches))


def _newton(iterations: int) -> dict[str, Any]:
    return {"solver": "newton", "iterations": iterations, "on_failure": "warn"}


def _solve(compiled: CompiledCell, arguments: Arguments, **choices: Any) -> Solve:
    seen: list[Solve] = []
    _quietly(compiled, **arguments, **choices, tol=TOLERANCE, observe=seen.append)
    return seen[0]


def states_of(
    compiled: CompiledCell, arguments: Arguments, h0: Any = None, **choices: Any
) -> Tensor:
    """The states after each step, [states, T, N]; by one pass over time if nothing is chosen."""
    choices = choices or {"solver": "sequential"}
    _, states = _quietly(compiled, **arguments, h0=h0, return_states=True, **choices)
    given = states if isinstance(states, tuple) else (states,)
    pairs = zip(vectors.states_of(compiled.spec), given, strict=True)
    return torch.stack([e[0] for v, h in pairs for e in vectors.elements(v.name, h, v.shape)])


def _quietly(compiled: CompiledCell, **given: Any) -> Any:
    """Call it without the warning that Newton's iteration has not converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compiled(**vectors.joined(compiled.spec, given))


def _error(states: Tensor, exact: Tensor) -> float:
    """The largest; infinite where one of them is not finite and the other is."""
    same = (states == exact) | (states.isnan() & exact.isnan())
    return float(torch.where(same, 0.0, (states - exact).abs()).nan_to_num(math.inf).max())


def _steps(compiled: CompiledCell, arguments: Arguments) -> int:
    return arguments[compiled.stages.cell.inputs[0].name].shape[1]
