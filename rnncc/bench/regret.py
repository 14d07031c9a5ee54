"""Regret: shapes -> how much longer `auto` takes on a GPU than the best plan that can be forced."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rnncc.bench import timing, workload
from rnncc.bench.baselines import Shape
from rnncc.bench.calibrate_gpu import BEFORE, LEAST, added, forced, recorded
from rnncc.bench.timing import Place
from rnncc.compiler import CompiledCell
from rnncc.ir.choices import Choices
from rnncc.planner.plan import Cut
from rnncc.runtime.backend import backend_of

SHAPES: tuple[Shape, ...] = (
    (8, 2048, 4096),
    (8, 2048, 1024),
    (1, 2048, 4096),
    (8, 2048, 256),
    (1, 32768, 2048),
    (1, 131072, 64),
    (64, 1024, 1024),
    (8, 512, 256),
    (8, 32768, 256),
    (1, 4096, 64),
    (32, 512, 1024),
    (1, 16384, 256),
)
SEGMENTS = (128, 256, 512, 1024, 2048, 4096)
PASSES = ("forward", "backward")
SAMPLED = 0.2  # seconds for all plans of a row, once they are warm


@dataclass(frozen=True)
class Regret:
    """A shape [B, T, N] and "forward" or "backward", with the seconds of `auto` and of other plans.

    Attributes:
        plans: seconds by name: "one pass", "block", or the steps of segments of the grid; empty if
            the row was not measured, for the `reason` given.
        predicted: seconds by the planner's model, of these and of "auto".
        chosen: what `auto` takes, in the same names.
    """

    shape: Shape
    direction: str
    auto: float = 0.0
    plans: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    predicted: dict[str, float] = field(default_factory=dict)
    chosen: str = ""

    @property
    def best(self) -> str:
        """The name of the fastest plan."""
        return min(self.plans, key=lambda name: self.plans[name])

    @property
    def ratio(self) -> float:
        """How many times as long as the best plan `auto` takes; 1 if it is the best."""
        return max(1.0, self.auto / self.plans[self.best])

    def data(self) -> dict[str, Any]:
        """For machines; milliseconds."""
        row = {"shape": list(self.shape), "pass": self.direction, "reason": self.reason}
        if not self.plans:
            return row
        return {
            **row,
            "auto_ms": self.auto * 1e3,
            "plans_ms": {name: seconds * 1e3 for name, seconds in self.plans.items()},
            "predicted_ms": {name: seconds * 1e3 for name, seconds in self.predicted.items()},
            "chosen": self.chosen,
            "best": self.best,
            "regret": self.ratio,
        }


def regret(
    compiled: CompiledCell,
    place: Place,
    budget: float = 90.0,
    shapes: Sequence[Shape] = SHAPES,
    dtype: str = "float32",
    passes: Sequence[str] = PASSES,
) -> Iterator[Regret]:
    """Time `auto` and all forced plans in turns, row by row; a row that fails gives its reason.

    Args:
        place: a GPU and its clock.
        budget: seconds after which no other row is begun; those left are yielded with that reason.
        dtype: of the inputs.
        passes: some of `PASSES`.
    """
    end = time.perf_counter() + budget
    for shape in shapes:
        for direction in passes:
            if time.perf_counter() > end:
                yield Regret(shape, direction, reason=f"not reached within {budget:.0f} s")
                continue
            try:
                yield _row(compiled, place, shape, direction, getattr(torch, dtype))
            except torch.OutOfMemoryError:
                yield Regret(shape, direction, reason="the GPU's memory is too small")
            except Exception as error:  # the rows after it may do
                yield Regret(shape, direction, reason=str(error).strip() or type(error).__name__)


def plans(shape: Shape) -> dict[str, dict[str, Any]]:
    """The options that force each plan, by its name."""
    grid = {str(k): forced(k) for k in SEGMENTS if k < shape[1]}
    return {"one pass": forced(None), "block": forced(1), **grid}


def _row(
    compiled: CompiledCell, place: Place, shape: Shape, direction: str, dtype: torch.dtype
) -> Regret:
    spec, there = compiled.spec, place.device
    arguments = workload.random_arguments(spec, shape, dtype=dtype, device=there)
    options = {"auto": {}, **plans(shape)}
    cuts = {n: _cut(compiled, place, shape, direction, dtype, of) for n, of in options.items()}
    runs = {
        f"{name} {what}": run
        for name, of in options.items()
        for what, run in recorded(workload.fused_loop(compiled, **of), arguments, direction).items()
    }
    found = timing.replayed(runs, place.clock, SAMPLED)
    seconds = {}
    for name in options:
        own = {
            what: found[key] for what in (direction, BEFORE) if (key := f"{name} {what}") in found
        }
        seconds[name] = added(own, direction).device
    if min(seconds.values()) <= LEAST:
        return Regret(shape, direction, reason="too noisy: a backward took no time")
    return Regret(
        shape,
        direction,
        auto=seconds.pop("auto"),
        plans=seconds,
        predicted={name: cut.predicted / 1e9 for name, cut in cuts.items()},
        chosen=_name(cuts["auto"], shape),
    )


def _cut(
    compiled: CompiledCell,
    place: Place,
    shape: Shape,
    direction: str,
    dtype: torch.dtype,
    options: dict[str, Any],
) -> Cut:
    backend, kernel, steps = backend_of(place.device), compiled.kernel, shape[0] * shape[1]
    found = backend.plan(kernel, shape, dtype, Choices(**options), steps, place.device)
    return found.forward if direction == "forward" else found.backward


def _name(cut: Cut, shape: Shape) -> str:
    if cut.in_block:
        return "block"
    return "one pass" if cut.tiling.segment >= shape[1] else str(cut.tiling.segment)
