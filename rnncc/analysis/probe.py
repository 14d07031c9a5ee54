"""Probe: a compiled cell -> how hard it is to solve in parallel, from runs on random inputs."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from rnncc.bench.cpu import random_arguments
from rnncc.compiler import CompiledCell
from rnncc.errors import ArgumentError
from rnncc.nn.status import Solve

Arguments = Mapping[str, Tensor]
Say = Callable[[str], None]

TOLERANCE = 1e-12  # of neighbouring segments, relative to max(1, |state|)
SEGMENTS = (16, 32, 128)
FEWEST_STEPS = 2 * SEGMENTS[0]
NEWTON_LIMIT = 100  # iterations, after which it counts as not converged
EARLY = 6  # iterations after which Newton's error is told
MOST_DRAWN = 40  # sweeps of a curve

# How a verdict is reached; docs/sweeps.md tells it in words. An exponent is above 0 if a difference
# grows more than T times over all T steps, and below 0 if it fades so far as to be forgotten.
HELD_STEPS = 4096  # with the inputs held; the first half lets what is transient fade
UNDAMPED, VISIBLE = 0.9, 1e-3  # of an oscillation: what is left of its swing, and its size
RETURNS = 3  # how often it must come back
GROWING = 10  # times larger in the last quarter than in the first half
FORGOTTEN = 1e-6  # what is left of a difference, relative to max(1, |state|)


@dataclass(frozen=True)
class Sweeps:
    """How one cut of time was solved.

    Attributes:
        segments, segment: so many, of so many steps.
        sweeps: over all segments, until neighbours agreed or there were as many as segments.
        mismatch: in the last of them.
        sequential_from: the step from which one pass over time did the rest, or None.
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


@dataclass(frozen=True)
class Probe:
    """What was found.

    Attributes:
        weights: params were drawn from U(-weights, weights); None if as the cell starts them.
        exponent, median: the largest Lyapunov exponent per step, of any group of channels and of
            the median one.
        held_exponent: the largest with the inputs held at their means.
        oscillating: channels that then oscillate for ever.
        forgotten: the steps until two runs from different starts agree in all channels, or None.
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
    """Run a cell in float64 on random inputs, such as the cell says are typical.

    Args:
        steps, channels: of one sequence.
        weights: draw params from U(-weights, weights), not as the cell starts them.
        say: is told what goes on.
    Raises:
        ArgumentError: too few steps, channels that don't fit the cell's groups, weights below 0.
    """
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
    behaviour = _behaviour(compiled, arguments)
    verdict, reason = _verdict(compiled, behaviour)
    plan = compiled.explanation(1, steps, channels, "float64")
    exponents = behaviour.exponents
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
        held_exponent=float(behaviour.held_exponents.max()),
        oscillating=behaviour.oscillating,
        forgotten=behaviour.forgotten,
        verdict=verdict,
        reason=reason,
        solver=plan["solver"],
        why=plan["reason"],
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


# --- sweeps ----------------------------------------------------------------------------------


def count_sweeps(compiled: CompiledCell, arguments: Arguments, segments: int) -> Sweeps:
    """Solve in so many segments (fewer where the steps don't divide)."""
    steps = _steps(compiled, arguments)
    segment = -(-steps // segments)
    segments = -(-steps // segment)
    solve = _solve(compiled, arguments, solver="segmented", segment=segment, iterations=segments)
    return Sweeps(segments, segment, solve.sweeps, solve.mismatch, solve.sequential_from)


def count_newton(compiled: CompiledCell, arguments: Arguments) -> Newton:
    """Newton's iteration to tolerance, and its error on the way."""
    solve = _solve(compiled, arguments, **_newton(NEWTON_LIMIT))
    exact = _states(compiled, arguments)
    first, early = (
        _error(_states(compiled, arguments, **_newton(count)), exact) for count in (1, EARLY)
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


def _states(compiled: CompiledCell, arguments: Arguments, h0: Any = None, **choices: Any) -> Tensor:
    """The states after each step, [states, T, N]; by one pass over time if nothing is chosen."""
    choices = choices or {"solver": "sequential"}
    _, states = _quietly(compiled, **arguments, h0=h0, return_states=True, **choices)
    return torch.stack([h[0] for h in (states if isinstance(states, tuple) else (states,))])


def _quietly(compiled: CompiledCell, **given: Any) -> Any:
    """Call it without the warning that Newton's iteration has not converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compiled(**given)


def _error(states: Tensor, exact: Tensor) -> float:
    """The largest; infinite where one of them is not finite and the other is."""
    same = (states == exact) | (states.isnan() & exact.isnan())
    return float(torch.where(same, 0.0, (states - exact).abs()).nan_to_num(math.inf).max())


def _steps(compiled: CompiledCell, arguments: Arguments) -> int:
    return arguments[compiled.stages.cell.inputs[0].name].shape[1]


# --- differences -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Behaviour:
    """What becomes of differences between states.

    Attributes:
        states: [states, T, N].
        exponents, held_exponents: [N / group], with the inputs as drawn, and held at their means.
        oscillating: channels that oscillate with the inputs held.
        apart: channels that still tell two starts apart after the last step.
        forgotten: the steps until none did, or None.
    """

    states: Tensor
    exponents: Tensor
    held_exponents: Tensor
    oscillating: int
    apart: int
    forgotten: int | None


def _behaviour(compiled: CompiledCell, arguments: Arguments) -> _Behaviour:
    states = _states(compiled, arguments)
    elsewhere = states[:, -1].roll(compiled.structure.group, -1)  # where the group beside it ended
    again = _states(compiled, arguments, _as_start(elsewhere))
    size = states.abs().clamp(min=1)
    differs = ~((states - again).abs() <= FORGOTTEN * size).all(0)
    last = differs.any(1).nonzero()
    apart = int(differs[-1].sum())
    held, held_exponents = _hold(compiled, arguments)
    keeps = held_exponents.abs() <= _above(held.shape[1])
    oscillating = _oscillates(held) & keeps.repeat_interleave(compiled.structure.group)
    return _Behaviour(
        states=states,
        exponents=lyapunov(compiled.jacobians(**arguments)[0]),
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
    start = _as_start(_states(compiled, held)[:, -1])
    return _states(compiled, held, start), lyapunov(compiled.jacobians(**held, h0=start)[0])


def _as_start(states: Tensor) -> Any:
    """[states, N] -> h0 of one sequence."""
    return tuple(h[None] for h in states) if len(states) > 1 else states


def _oscillates(states: Tensor) -> Tensor:
    """[states, T, N] -> [N], whether one comes back again and again with an undamped swing."""
    first, last = (half.amax(1) - half.amin(1) for half in states.chunk(2, 1))
    above = states > states.mean(1, keepdim=True)
    returns = (~above[:, :-1] & above[:, 1:]).sum(1)
    visible = last > VISIBLE * states.abs().amax(1).clamp(min=1)
    return (visible & (last > UNDAMPED * first) & (returns >= RETURNS)).any(0)


# --- in words --------------------------------------------------------------------------------


def _above(steps: int) -> float:
    return math.log(steps) / steps


def _below(steps: int) -> float:
    return math.log(FORGOTTEN) / steps


def _verdict(compiled: CompiledCell, found: _Behaviour) -> tuple[str, str]:
    steps, channels = found.states.shape[1:]
    exponent = float(found.exponents.max())
    memory = (
        f"what it starts from is forgotten after {found.forgotten} steps"
        if found.forgotten is not None
        else f"{found.apart} of {channels} channels still tell after {steps} steps where they began"
    )
    if not bool(found.states.isfinite().all()):
        return "unstable", "the states do not stay finite, in one pass over time either"
    if compiled.structure.spiking:
        return "spiking", f"the Jacobian says nothing of its jumps; {memory}"
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
