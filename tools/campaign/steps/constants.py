"""Constants: times of kernels -> the planner's constants, and how much longer its plans take.

Nothing is saved for later processes: the other steps measure what rnncc ships.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

from campaign.setting import Setting, compiled, name_of
from campaign.sink import Sink

FITTED = "fit"
CELL = "para_gru"
FITTING = 0.4  # of the seconds
NEEDS = 3.0  # seconds of a row


def run(sink: Sink, setting: Setting) -> None:
    """Fit, then the regret of the constants that ship, then of the fitted ones."""
    seconds = FITTING * sink.left
    sink.take(FITTED, partial(fit, seconds, setting), limit=seconds + 60)
    regrets(sink, setting, "shipped")
    found = sink.known.get(FITTED)
    if found is not None and found.state == "ok":
        with planned_by(found.data["constants"], setting):
            regrets(sink, setting, "fitted")


def fit(seconds: float, setting: Setting) -> dict[str, Any]:
    """The constants, their error, and the times that they were fitted to."""
    from rnncc.bench import calibrate_gpu
    from rnncc.bench.calibrate_gpu import Job

    small = [Job((2, 64, 8)), Job((2, 64, 8), 1), Job((1, 256, 8), 128), Job((1, 128, 8), 64)]
    cells = setting.choose(calibrate_gpu.CELLS, (CELL, "min_gru"))
    jobs = setting.choose(calibrate_gpu.JOBS, small)
    found = calibrate_gpu.calibrate(setting.place, seconds, cells, jobs)
    return {**vars(found), "constants": vars(found.constants)}


def regrets(sink: Sink, setting: Setting, constants: str) -> None:
    """A row for each shape and pass."""
    from rnncc.bench.regret import PASSES, SHAPES

    for shape in setting.choose(SHAPES, ((1, 64, 8),)):
        for direction in PASSES:
            key = f"regret {constants} {name_of(shape)} {direction}"
            find = partial(regret_of, shape, direction, constants, setting)
            sink.take(key, find, needs=setting.choose(NEEDS, 0.0))


def regret_of(
    shape: tuple[int, int, int], direction: str, constants: str, setting: Setting
) -> dict[str, Any]:
    """One row.

    Raises:
        RuntimeError: it can't be measured.
    """
    from rnncc.bench.regret import regret

    (row,) = regret(compiled(CELL), setting.place, shapes=[shape], passes=[direction])
    if row.reason:
        raise RuntimeError(row.reason)
    return {**row.data(), "constants": constants}


@contextlib.contextmanager
def planned_by(constants: dict[str, float], setting: Setting) -> Iterator[None]:
    """Within it, `auto` decides by these constants."""
    from rnncc.bench.calibrate_gpu import processors_of
    from rnncc.planner.cuda import Gpu
    from rnncc.planner.gpu_constants import GpuConstants
    from rnncc.runtime.backend import backend_of, registered

    place = setting.place
    gpu = Gpu.of(processors_of(place), GpuConstants(**constants))
    backend: Any = copy.copy(backend_of(place.device))
    backend.gpu = lambda device: gpu
    with registered(place.device.type, backend):
        yield
