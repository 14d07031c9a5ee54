"""Calibrate on a GPU: times of kernels -> the constants of the planner's model of it."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from rnncc.bench import timing, workload
from rnncc.bench.baselines import Arguments, Loop, Shape
from rnncc.bench.fit import fit
from rnncc.bench.timing import Place, Run, Sample
from rnncc.compiler import CompiledCell
from rnncc.errors import RnnccError
from rnncc.ir.choices import Choices
from rnncc.lang.loader import find
from rnncc.nn.status import Solve
from rnncc.planner.cuda import AUTO_ROUNDS, SWEEPS_OF_TILE, Gpu, plan
from rnncc.planner.gpu_constants import MEASURED, GpuConstants
from rnncc.runtime.backend import backend_of
from rnncc.runtime.cuda.backend import CudaBackend
from rnncc.runtime.kernel import COMPUTE

# One and two states, few operations and many; the last is affine and remembers more than a warm-up.
CELLS = ("para_gru", "elman", "lru", "para_lstm", "slstm", "rg_lru")
SAMPLED = 0.03  # seconds of a sample, once it is warm
BEFORE = "the forward before it"
FEWEST = 12  # times, one for each constant
# Of a time, to replay it: the GPU waits for Python, so the time says nothing about the GPU.
IN_PYTHON = 0.9
LEAST = 1e-9  # seconds: where noise makes a difference of times negative, it says nothing


@dataclass(frozen=True)
class Job:
    """One call to time, and the plan that is forced on it: [B, T, N], a dtype, a segment or none.

    A segment of 1 stands for segments of a block.
    """

    shape: Shape
    segment: int | None = None
    dtype: str = "float32"

    @property
    def options(self) -> dict[str, Any]:
        return forced(self.segment)


def forced(segment: int | None) -> dict[str, Any]:
    """The options that force one pass, or segments, with as many launches as `auto` makes."""
    if segment is None:
        return {"solver": "sequential"}
    rounds = {"iterations": AUTO_ROUNDS} if segment > 1 else {}
    return {"solver": "segmented", "segment": segment, **rounds}


# One pass bound by memory, by instructions, by the chain of a step or latency; segments of the grid
# with few and many borders, and of blocks.
JOBS = (
    Job((8, 2048, 4096)),
    Job((8, 2048, 4096), dtype="bfloat16"),
    Job((64, 1024, 1024)),
    Job((8, 4096, 256)),
    Job((1, 4096, 64)),
    Job((8, 8192, 1024)),
    Job((8, 8192, 256), 1),
    Job((1, 4096, 64), 1),
    Job((64, 2048, 256), 1),
    Job((8, 32768, 256), 1024),
    Job((8, 32768, 256), 256),
    Job((1, 131072, 64), 128),
    Job((1, 131072, 64), 1024),
    Job((1, 4096, 64), 128),
    Job((1, 32768, 2048), 512),
)


@dataclass(frozen=True)
class Timed:
    """A direction of a job of a cell, "forward" or "backward", and its measured seconds."""

    compiled: CompiledCell
    job: Job
    direction: str
    seconds: float

    def predicted(self, gpu: Gpu) -> float:
        """Seconds by the planner's model."""
        dtype: torch.dtype = getattr(torch, self.job.dtype)
        sizes = (COMPUTE[dtype].itemsize, dtype.itemsize)
        choices = Choices(**self.job.options)
        found = plan(self.compiled.spec, self.job.shape, sizes[0], gpu, choices, io=sizes[1])
        cut = found.forward if self.direction == "forward" else found.backward
        return cut.predicted / 1e9


@dataclass(frozen=True)
class GpuCalibration:
    """The fitted constants.

    Attributes:
        constants: all of them.
        error: the median deviation of the model from the times it was fitted to, relative;
            `error_before`: with the constants that rnncc ships.
        times: those times, each with what the model says now, for machines.
    """

    constants: GpuConstants
    error: float
    error_before: float
    times: tuple[dict[str, Any], ...]


def calibrate(
    place: Place,
    budget: float = 90.0,
    cells: Sequence[str] = CELLS,
    jobs: Sequence[Job] = JOBS,
) -> GpuCalibration:
    """Time kernels of some shipped cells and fit the model to them.

    Args:
        place: a GPU and its clock.
        budget: seconds after which nothing else is timed.
    Raises:
        RnnccError: fewer times than constants were measured.
    """
    end = time.perf_counter() + budget
    timed = list(_timed(place, end, cells, jobs))
    if len(timed) < FEWEST:
        raise RnnccError(
            f"calibration: got {len(timed)} times of kernels within {budget:.0f} s, expected at "
            f"least {FEWEST}.\nFix: nothing else on this GPU, and a second try: kernels are cached"
        )
    return calibrated(timed, processors_of(place))


def processors_of(place: Place) -> int:
    """Streaming multiprocessors."""
    return cast(CudaBackend, backend_of(place.device)).gpu(place.device).processors


def calibrated(timed: Sequence[Timed], processors: int) -> GpuCalibration:
    """The constants from measured times."""

    def model(values: Sequence[float]) -> list[float]:
        gpu = Gpu.of(processors, with_others(values))
        return [t.predicted(gpu) for t in timed]

    constants = with_others(fit(model, [t.seconds for t in timed], others(MEASURED)))
    gpu = Gpu.of(processors, constants)
    return GpuCalibration(
        constants=constants,
        error=_error(timed, model(others(constants))),
        error_before=_error(timed, model(others(MEASURED))),
        times=tuple(_row(t, gpu) for t in timed),
    )


def others(constants: GpuConstants) -> list[float]:
    """All but the clock, the unit of all others: no time could tell it from them."""
    return [value for name, value in vars(constants).items() if name != "clock"]


def with_others(values: Sequence[float]) -> GpuConstants:
    """The constants of these values, and the clock that rnncc ships."""
    names = [name for name in vars(MEASURED) if name != "clock"]
    return replace(MEASURED, **dict(zip(names, values, strict=True)))


def _error(timed: Sequence[Timed], predicted: Sequence[float]) -> float:
    pairs = zip(timed, predicted, strict=True)
    return statistics.median(abs(p / t.seconds - 1) for t, p in pairs)


def _row(timed: Timed, gpu: Gpu) -> dict[str, Any]:
    job = timed.job
    return {
        "cell": timed.compiled.name,
        "shape": list(job.shape),
        "dtype": job.dtype,
        "segment": job.segment,
        "pass": timed.direction,
        "ms": timed.seconds * 1e3,
        "predicted_ms": timed.predicted(gpu) * 1e3,
    }


# --- times -----------------------------------------------------------------------------------


def _timed(place: Place, end: float, cells: Sequence[str], jobs: Sequence[Job]) -> Iterator[Timed]:
    for name in cells:
        compiled = CompiledCell(find(name), {})
        for job in jobs:
            if time.perf_counter() > end:
                return
            with contextlib.suppress(torch.OutOfMemoryError):
                yield from _directions(compiled, job, place)


def _directions(compiled: CompiledCell, job: Job, place: Place) -> Iterator[Timed]:
    """Those whose time the model should explain."""
    dtype: torch.dtype = getattr(torch, job.dtype)
    arguments = workload.random_arguments(
        compiled.spec, job.shape, dtype=dtype, device=place.device
    )
    found: list[Solve] = []
    with torch.no_grad():
        workload.fused_loop(compiled, **job.options, observe=found.append)(arguments)
    loop = workload.fused_loop(compiled, **job.options)
    names = ("forward",) if as_modelled(compiled, found[0]) else ()
    for direction in (*names, "backward"):
        sample = seconds_of(loop, arguments, direction, place, SAMPLED)
        if sample.device > LEAST and sample.python < IN_PYTHON * sample.device:
            yield Timed(compiled, job, direction, sample.device)


def seconds_of(
    loop: Loop, arguments: Arguments, direction: str, place: Place, budget: float
) -> Sample:
    """Of the forward, or of the backward: what it adds to the forward before it."""
    runs = recorded(loop, arguments, direction)
    return added(timing.replayed(runs, place.clock, budget), direction)


def recorded(loop: Loop, arguments: Arguments, direction: str) -> dict[str, Run]:
    """The runs to time for a direction."""
    if direction == "forward":
        return {direction: workload.forward(loop, arguments)}
    both = workload.forward_backward(loop, arguments)
    return {direction: both, BEFORE: workload.training(loop, arguments)}


def added(found: Mapping[str, Sample], direction: str) -> Sample:
    """What a direction takes, from the samples of its runs."""
    sample, before = found[direction], found.get(BEFORE)
    if before is None:
        return sample
    return Sample(max(LEAST, sample.device - before.device), sample.python - before.python)


def as_modelled(compiled: CompiledCell, solve: Solve) -> bool:
    """Whether segments took the sweeps that the planner counts on."""
    if solve.solver == "sequential":
        return True
    if solve.segment <= compiled.spec.ahead:
        return solve.sweeps <= SWEEPS_OF_TILE
    expected = 2 if compiled.spec.structure.affine else 1
    return solve.sweeps == expected and solve.sequential_from is None
