"""Calibrate: this machine -> the constants of the planner's model, fitted to times of kernels."""

from __future__ import annotations

import statistics
import time
from dataclasses import astuple, dataclass
from typing import Any

import torch

from rnncc.bench.workload import random_arguments
from rnncc.compiler import CompiledCell
from rnncc.inspect.catalogue import CatalogueEntry, catalogue, spread
from rnncc.ir.choices import Choices
from rnncc.lang.loader import find
from rnncc.planner.cpu_model import LANE_BYTES, Load, counts
from rnncc.planner.machine import Machine
from rnncc.planner.plan import Problem
from rnncc.runtime.args import STATUS_SIZE
from rnncc.runtime.call import plan_call
from rnncc.runtime.cpu.allocator import empty
from rnncc.runtime.cpu.backend import CpuBackend

# The number of cells, and shapes that work in place, that copy values, that copy rows in pieces,
# and that share rows between threads.
CELLS = 5
ONE_THREAD = ((1, 2048, 16), (1, 1024, 128), (1, 512, 256), (64, 512, 1), (64, 512, 4))
ALL_THREADS = ((1, 16384, 64), (1, 8192, 128), (16, 512, 256))
ROUNDS = 15
ONE_PASS = Choices(solver="sequential")


@dataclass(frozen=True)
class Calibration:
    """The fitted constants.

    Attributes:
        machine: the constants.
        error: the median deviation of the model from the times it was fitted to, relative.
        samples: how many times those were.
    """

    machine: Machine
    error: float
    samples: int


def calibrate() -> Calibration:
    """Time the forward of some shipped cells and fit the model to it; takes about 20 seconds."""
    rows, threads = [], torch.get_num_threads()
    try:
        for cell in _cells():
            compiled = CompiledCell(find(cell.file), {})
            for shape in (*ONE_THREAD, *ALL_THREADS):
                torch.set_num_threads(1 if shape in ONE_THREAD else threads)
                rows.append(_sample(compiled, shape))
    finally:
        torch.set_num_threads(threads)
    counts = torch.tensor([astuple(c) for c, _ in rows], dtype=torch.float64)
    times = torch.tensor([t for _, t in rows], dtype=torch.float64)
    found = fit(counts, times)
    errors = ((counts @ found - times) / times).abs()
    return Calibration(Machine(*found.tolist()), float(errors.median()), len(rows))


def _cells() -> list[CatalogueEntry]:
    """A few different ones, without the third that computes most: the model doesn't fit those."""
    by_work = sorted(catalogue(), key=lambda cell: cell.operations + cell.functions)
    return spread(by_work[: -(-2 * len(by_work) // 3)], CELLS)


def _sample(compiled: CompiledCell, shape: tuple[int, int, int]) -> tuple[Machine, float]:
    """The counts of the model for one forward, and its measured nanoseconds."""
    spec, kernel = compiled.kernel.spec, compiled.kernel
    arguments: dict[str, Any] = random_arguments(spec, shape)
    inputs = [arguments[i.name] for i in spec.inputs]
    backend, params = CpuBackend(), [arguments[p.name] for p in spec.params]
    call = plan_call(backend, kernel, ONE_PASS, inputs, False, params, None)
    h_last = inputs[0].new_empty(len(spec.states), shape[0], shape[2])
    status = torch.zeros(STATUS_SIZE, dtype=torch.float64)
    seconds = []
    for _ in range(ROUNDS):
        y = [empty(inputs[0], shape) for _ in spec.outputs]  # fresh, as in a call
        start = time.perf_counter()
        backend.forward(call, y, [], h_last, None, status)
        seconds.append(time.perf_counter() - start)
    plan, steps = call.plan, shape[1]
    load = Load(Problem.of(spec, shape, None), LANE_BYTES // 4, plan.threads)
    streams = len(spec.inputs) + len(spec.outputs)
    counted = counts(load, plan.forward.tiling, steps, [spec.effort.step], streams)
    return counted, statistics.median(seconds[3:]) * 1e9


def fit(counts: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """The constants, none below 0, that bring `counts @ constants` near `times` in proportion.

    Args:
        counts: [samples, constants].
        times: [samples].
    """
    weighted, ones = counts / times[:, None], torch.ones_like(times)
    free = list(range(counts.shape[1]))
    found = torch.zeros(counts.shape[1], dtype=counts.dtype)
    while free:
        solution = torch.linalg.lstsq(weighted[:, free], ones, driver="gelsd").solution
        if bool((solution >= 0).all()):
            found[free] = solution
            break
        free.pop(int(solution.argmin()))
    return found
