"""GPU constants: how long the parts of a kernel take on a GPU, for the planner."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

from rnncc.cache import cache_dir, make_cache_dir, write_private


@dataclass(frozen=True)
class GpuConstants:
    """Cycles of a processor's clock, unless they say otherwise.

    Attributes:
        clock: cycles in a nanosecond.
        bytes_per_cycle: that all of the memory moves.
        latency: from a load until its value is there.
        step, operation, function: of the chain of one thread: a step whatever it computes, an
            arithmetic operation, and an exp, a tanh or the like.
        issue_function, issue_stream: of a scheduler, for the same and for a load or store with its
            address; an operation takes it one cycle.
        crossing: one border between segments in shared memory; `border`: one through memory.
        barrier: of a block.
        launch: from one kernel to the next.
    """

    clock: float
    bytes_per_cycle: float
    latency: float
    step: float
    operation: float
    function: float
    issue_function: float
    issue_stream: float
    crossing: float
    border: float
    barrier: float
    launch: float


# Not measured: guesses from public figures of an H100. Dependent operations take 4 cycles, and some
# run side by side; the latency is 700 ns.
GUESSED = GpuConstants(
    clock=1.7,
    bytes_per_cycle=1800.0,
    latency=1200.0,
    step=30.0,
    operation=2.5,
    function=40.0,
    issue_function=12.0,
    issue_stream=4.0,
    crossing=40.0,
    border=170.0,
    barrier=60.0,
    launch=4000.0,
)


def calibration_file(gpu: str) -> Path:
    """The file of the constants of GPUs of that name, in the kernel cache."""
    digest = hashlib.sha256(f"GPU {gpu}".encode()).hexdigest()[:20]
    return cache_dir() / f"calibration-{digest}.json"


@cache
def constants_of(gpu: str) -> GpuConstants:
    """The constants calibrated here for GPUs of that name, else the guesses.

    Read once: a calibration takes effect in the next process.
    """
    try:
        values = json.loads(calibration_file(gpu).read_text(encoding="utf-8"))
        found = GpuConstants(**{f.name: float(values[f.name]) for f in fields(GpuConstants)})
    except (OSError, ValueError, TypeError, KeyError):
        return GUESSED
    return found if all(value > 0 for value in vars(found).values()) else GUESSED


def save(gpu: str, constants: GpuConstants) -> Path:
    """Save calibrated constants for later processes."""
    make_cache_dir()
    path = calibration_file(gpu)
    text = json.dumps({"gpu": gpu, **asdict(constants)}, indent=2) + "\n"
    write_private(path, text.encode())
    return path
