"""Timing: runs -> seconds of each, taken in turns; on a GPU by the GPU's own clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch

Run = Callable[[], Any]
Of = TypeVar("Of")

LEAST_ROUNDS, MOST_ROUNDS = 3, 25
FAST = 0.1  # seconds; anything faster runs several times in a round, so in its own steady state

# On a GPU: seconds of work until its clocks are up, seconds and calls of one sample. More calls
# would fill the driver's queue of about 1000 kernels, and Python would wait for the GPU.
WARM, SAMPLE, MOST_CALLS = 0.2, 0.02, 20


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
    runs: Mapping[str, Run], device: torch.device, budget: float = 6.0
) -> dict[str, list[Sample]]:
    """The same for runs that only launch; each sample is of several calls in a row."""
    calls = {name: _warm_up(run, device) for name, run in runs.items()}

    def sample(name: str) -> list[Sample]:
        return [_sample(runs[name], calls[name], device)]

    return _in_turns(runs, sample, budget)


def once(run: Run, device: torch.device) -> float:
    """Seconds of one call, from launching it until the GPU is done."""
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    torch.cuda.synchronize(device)
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


def _warm_up(run: Run, device: torch.device) -> int:
    """How many calls a sample takes; the first may compile, and others let the clocks rise."""
    run()
    seconds = max(once(run, device), 1e-6)
    for _ in range(min(1000, int(WARM / seconds))):
        run()
    return max(1, min(MOST_CALLS, int(SAMPLE / seconds)))


def _sample(run: Run, calls: int, device: torch.device) -> Sample:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    python = time.perf_counter() - start
    torch.cuda.synchronize(device)
    return Sample(begin.elapsed_time(end) / 1e3 / calls, python / calls)
