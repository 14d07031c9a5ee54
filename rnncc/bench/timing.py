"""Timing: runs -> seconds of each, taken in turns; on a GPU by the GPU's own clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

Run = Callable[[], Any]
Of = TypeVar("Of")

LEAST_ROUNDS, MOST_ROUNDS = 3, 25
FAST = 0.1  # seconds; anything faster runs several times in a round, so in its own steady state

# On a GPU: seconds and calls of one sample. More calls would fill the driver's queue of about 1000
# kernels, and Python would wait for the GPU.
SAMPLE, MOST_CALLS = 0.02, 20


class Clock(Protocol):
    """The clock of a device that works beside Python.

    Attributes:
        warm: seconds of work until the device runs at its usual speed.
    """

    warm: float

    def wait(self) -> None:
        """Until the device has done all that was launched."""

    def mark(self) -> Any:
        """A mark in the device's work, behind all that was launched."""

    def between(self, begin: Any, end: Any) -> float:
        """Seconds of the device between two marks; after `wait`."""

    def replay(self, run: Run) -> Run:
        """What a run launches, recorded, so that Python takes next to nothing to launch it."""


class CudaClock:
    """The events of a GPU, in PyTorch's current stream."""

    warm = 0.2

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wait(self) -> None:
        torch.cuda.synchronize(self.device)

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return float(begin.elapsed_time(end)) / 1e3

    def replay(self, run: Run) -> Run:
        """A CUDA graph of it."""
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        side = torch.cuda.Stream(self.device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            run()  # all that the first call of a stream does, before the recording
        here.wait_stream(side)
        with torch.cuda.graph(graph):
            results = run()

        def replayed() -> Any:
            graph.replay()
            return results

        return replayed


@dataclass(frozen=True)
class Place:
    """Where runs are timed: a device and its clock."""

    device: torch.device
    clock: Clock


class Sample(NamedTuple):
    """Seconds of one call on a GPU.

    Attributes:
        device: from the beginning of one call to that of the next, by the GPU's clock.
        python: until Python has launched the call.
    """

    device: float
    python: float


def interleave(runs: Mapping[str, Run], budget: float = 6.0) -> dict[str, list[float]]:
    """Seconds of each run, in turns, so that a slowdown of the machine hits all of them."""
    repeats = {name: _repeats(run) for name, run in runs.items()}

    def sample(name: str) -> list[float]:
        return [_seconds(runs[name]) for _ in range(repeats[name])]

    return _in_turns(runs, sample, budget)


def interleave_on_gpu(
    runs: Mapping[str, Run], clock: Clock, budget: float = 6.0
) -> dict[str, list[Sample]]:
    """The same for runs that only launch; each sample is of several calls in a row."""
    share = clock.warm / len(runs)  # one after another, they warm the device together
    calls = {name: _warm_up(run, clock, share) for name, run in runs.items()}

    def sample(name: str) -> list[Sample]:
        return [_sample(runs[name], calls[name], clock)]

    return _in_turns(runs, sample, budget)


def quickest(runs: Mapping[str, Run], count: int, tries: int = 3) -> list[str]:
    """The names of the `count` fastest runs, by a few calls of each."""
    best = {
        name: (run(), min(_seconds(run) for _ in range(tries)))[1] for name, run in runs.items()
    }
    return sorted(best, key=lambda name: best[name])[:count]


def replayed(runs: Mapping[str, Run], clock: Clock, budget: float) -> dict[str, Sample]:
    """Medians of the same, of what the runs launch alone: Python and its pace play no part."""
    found = interleave_on_gpu({n: clock.replay(run) for n, run in runs.items()}, clock, budget)
    return {n: Sample(*map(statistics.median, zip(*of, strict=True))) for n, of in found.items()}


def once(run: Run, clock: Clock) -> float:
    """Seconds of one call, from launching it until the GPU is done."""
    clock.wait()
    start = time.perf_counter()
    run()
    clock.wait()
    return time.perf_counter() - start


def _in_turns(
    runs: Mapping[str, Run], sample: Callable[[str], list[Of]], budget: float
) -> dict[str, list[Of]]:
    samples: dict[str, list[Of]] = {name: [] for name in runs}
    start = time.perf_counter()
    for count in range(MOST_ROUNDS):
        if count >= LEAST_ROUNDS and time.perf_counter() - start > budget:
            break
        for name in runs:
            samples[name] += sample(name)
    return samples


def _repeats(run: Run) -> int:
    """How often it runs in a round; the first call warms up (and may compile)."""
    run()
    return max(1, min(10, int(FAST / max(_seconds(run), 1e-9))))


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _warm_up(run: Run, clock: Clock, warm: float) -> int:
    """How many calls a sample takes; the first may compile, and others let the clocks rise."""
    run()
    seconds = max(once(run, clock), 1e-6)
    for _ in range(min(1000, int(warm / seconds))):
        run()
    return max(1, min(MOST_CALLS, int(SAMPLE / seconds)))


def _sample(run: Run, calls: int, clock: Clock) -> Sample:
    clock.wait()
    start, begin = time.perf_counter(), clock.mark()
    for _ in range(calls):
        run()
    end = clock.mark()
    python = time.perf_counter() - start
    clock.wait()
    return Sample(clock.between(begin, end) / calls, python / calls)
