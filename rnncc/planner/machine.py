"""Machine: how long the parts of a kernel take on a CPU, for the planner."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, astuple, dataclass, fields
from functools import cache
from pathlib import Path

from rnncc.cache import cache_dir, cpu_identity, make_cache_dir, write_private


@dataclass(frozen=True)
class Machine:
    """Nanoseconds of one thread.

    Attributes:
        step: one step of a tile, however wide.
        operation, function: an arithmetic operation, and a call of exp, tanh or the like, over the
            lanes of `LANE_BYTES`.
        row, piece: bringing a row of lanes from or to memory, and each value or part of a vector
            of it, where the kernel can't work in place.
        beside: LANE_BYTES of a step of a tile whose rows in memory continue in another thread's.
        wake: the other threads, once.
    """

    step: float
    operation: float
    function: float
    row: float
    piece: float
    beside: float
    wake: float

    def nanoseconds(self, counts: Machine) -> float:
        """The time of these numbers of each."""
        pairs = zip(astuple(self), astuple(counts), strict=True)
        return float(sum(mine * count for mine, count in pairs))


# Fitted by `rnncc doctor --calibrate` on an AMD EPYC (Zen 4, AVX-512), g++ 12, 2026-11-27: medians
# of three; `beside` and `wake` from whole calls of one sequence of 64 and 256 channels, `row` and
# `piece` from calls of 2 to 64 sequences of 1 to 12 channels beside as many lanes in place.
MEASURED = Machine(
    step=13.7, operation=0.32, function=5.3, row=0.6, piece=0.75, beside=20.0, wake=5000.0
)


def calibration_file() -> Path:
    """The file of this machine's own constants, in the kernel cache."""
    digest = hashlib.sha256(cpu_identity().encode()).hexdigest()[:20]
    return cache_dir() / f"calibration-{digest}.json"


@cache
def this_machine() -> Machine:
    """The constants calibrated here, else those measured for the project.

    Read once: a calibration takes effect in the next process.
    """
    try:
        values = json.loads(calibration_file().read_text(encoding="utf-8"))
        return Machine(**{f.name: float(values[f.name]) for f in fields(Machine)})
    except (OSError, ValueError, TypeError, KeyError):
        return MEASURED


def save(machine: Machine) -> Path:
    """Save calibrated constants for later processes."""
    make_cache_dir()
    path = calibration_file()
    write_private(path, (json.dumps(asdict(machine), indent=2) + "\n").encode())
    return path
