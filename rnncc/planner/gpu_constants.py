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
        step, operation, function: of one thread: a step whatever it computes; an arithmetic
            operation, and an exp, a tanh or the like, that wait for the one before them.
        aside, aside_function: of operations and functions that don't: it does them meanwhile.
        issue_function, issue_stream: of a scheduler, for a function and for a load or store with
            its address; an operation takes it one cycle.
        border: one between segments of the grid.
        barrier: of a block, with the borders that a warp crosses meanwhile.
        launch: from one kernel to the next.
    """

    clock: float
    bytes_per_cycle: float
    latency: float
    step: float
    operation: float
    function: float
    aside: float
    aside_function: float
    issue_function: float
    issue_stream: float
    border: float
    barrier: float
    launch: float


# Of an NVIDIA H200 at 1.98 GHz, by `rnncc doctor --calibrate --device cuda`.
MEASURED = GpuConstants(
    clock=1.98,
    bytes_per_cycle=1730.0,
    latency=2890.0,
    step=86.4,
    operation=2.6,
    function=26.8,
    aside=3.7,
    aside_function=6.6,
    issue_function=6.55,
    issue_stream=20.2,
    border=531.0,
    barrier=3390.0,
    launch=4450.0,
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
        return MEASURED
    return found if all(value > 0 for value in vars(found).values()) else MEASURED


def save(gpu: str, constants: GpuConstants) -> Path:
    """Save calibrated constants for later processes."""
    make_cache_dir()
    path = calibration_file(gpu)
    text = json.dumps({"gpu": gpu, **asdict(constants)}, indent=2) + "\n"
    write_private(path, text.encode())
    return path
