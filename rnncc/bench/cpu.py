"""Bench: a compiled cell and shapes -> times of its kernel and of the plain PyTorch loop."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from rnncc.bench.baselines import Shape, chunked, copier, oracle, plain
from rnncc.bench.timing import interleave
from rnncc.bench.workload import (
    bytes_moved,
    check,
    check_shape,
    forward,
    forward_backward,
    fused_loop,
    random_arguments,
    solver_loops,
)
from rnncc.compiler import CompiledCell
from rnncc.doctor.cpu import cpu_name
from rnncc.nn.status import Solve


@dataclass(frozen=True)
class Timing:
    """Median seconds of one pass at one shape, all measured in turns.

    Attributes:
        shape: [B, T, N].
        direction: "forward" or "forward+backward".
        fused, loop, compiled: the kernel, the plain loop, and the loop under torch.compile.
        solvers: the kernel by each solver by name, where asked for; one that fails is left out.
        chosen: the solver that `auto`, which is timed as `fused`, takes in the forward.
        copy: a copy of as many bytes as the pass must read and write, `bytes` of them.
        runs: of the loop; faster programs ran more often.
    """

    shape: Shape
    direction: str
    fused: float
    loop: float
    compiled: float | None
    copy: float
    bytes: int
    runs: int
    chosen: str
    solvers: dict[str, float]

    @property
    def ratio(self) -> float:
        """How many times faster than the plain loop."""
        return self.loop / self.fused

    @property
    def ratio_compiled(self) -> float | None:
        """How many times faster than the loop under torch.compile."""
        return None if self.compiled is None else self.compiled / self.fused

    def data(self) -> dict[str, Any]:
        """For machines; milliseconds."""
        times = {
            f"{name}_ms": None if seconds is None else seconds * 1e3
            for name in ("fused", "loop", "compiled", "copy")
            for seconds in (getattr(self, name),)
        }
        return {
            "shape": list(self.shape),
            "pass": self.direction,
            **times,
            "ratio": self.ratio,
            "ratio_compiled": self.ratio_compiled,
            "bytes": self.bytes,
            "runs": self.runs,
            "solver": self.chosen,
            "solvers_ms": {name: seconds * 1e3 for name, seconds in self.solvers.items()},
        }


def use_threads(count: int | None) -> None:
    """Set the number of threads of PyTorch, and so of the kernels; None leaves it."""
    if count:
        torch.set_num_threads(count)


def machine() -> dict[str, Any]:
    """The machine that was measured."""
    return {
        "device": cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def measure(
    compiled: CompiledCell,
    shape: Shape,
    dtype: str = "float32",
    against_compile: bool = False,
    solvers: bool = False,
    budget: float = 6.0,
) -> Iterator[Timing]:
    """Time the forward, then forward and backward.

    Args:
        shape: [B, T, N].
        dtype: of the inputs.
        against_compile: also the loop with chunks of 32 steps under torch.compile; that compiles
            for 10 to 40 seconds, for many minutes where a step has many operations.
        budget: about how many seconds each of the two takes, once compiled.
    Raises:
        ArgumentError: the shape doesn't fit the cell.
        RnnccError: the kernel and the loop don't agree.
    """
    cell, spec, io = compiled.stages.cell, compiled.spec, getattr(torch, dtype)
    check_shape(spec, shape)
    arguments = random_arguments(spec, shape, dtype=io)
    loops = {"fused": fused_loop(compiled), "loop": plain(cell, io)}
    check(loops["fused"], oracle(cell, io), arguments, spec)
    if against_compile:
        loops["compiled"] = chunked(cell, io)
    each = solver_loops(compiled, arguments) if solvers else {}
    chosen: list[Solve] = []
    fused_loop(compiled, observe=chosen.append)(arguments)
    for direction, run in (("forward", forward), ("forward+backward", forward_backward)):
        moved = bytes_moved(spec, shape, direction, io.itemsize)
        runs = {name: run(loop, arguments) for name, loop in {**loops, **each}.items()}
        times = interleave({**runs, "copy": copier(moved)}, budget)
        medians = {name: statistics.median(samples) for name, samples in times.items()}
        yield Timing(
            shape=shape,
            direction=direction,
            fused=medians["fused"],
            loop=medians["loop"],
            compiled=medians.get("compiled"),
            copy=medians["copy"],
            bytes=moved,
            runs=len(times["loop"]),
            chosen=chosen[0].solver,
            solvers={name: medians[name] for name in each},
        )
