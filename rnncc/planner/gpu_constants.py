"""GPU constants: how long the parts of a kernel take on a GPU, for the planner."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

from rnncc.cache import cache_dir


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
    aside: float
    aside_function: float
    issue_function: float
    issue_stream: float
    crossing: float
    border: float
    barrier: float
    launch: float


# Of an NVIDIA H200 at 1.98 GHz, by `rnncc doctor --calibrate --device cuda`.
MEASURED = GpuConstants(
    clock=1.98,
    bytes_per_cycle=1980.0,
    latency=1490.0,
    step=55.0,
    operation=5.1,
    function=33.0,
    aside=2.0,
    aside_function=32.0,
    issue_function=18.0,
    issue_stream=14.0,
    crossing=121.0,
    border=340.0,
    barrier=570.0,
    launch=3500.0,
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
    path = calibration_file(gpu)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        file.write(json.dumps({"gpu": gpu, **asdict(constants)}, indent=2) + "\n")
    os.replace(file.name, path)
    return path
