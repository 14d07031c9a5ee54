"""Bench on a GPU: a compiled cell and shapes -> times of its kernels and of their baselines.

Calls run in PyTorch's own stream, repeatedly on the same tensors, and nothing else runs.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rnncc.bench import baselines, peers, timing, workload
from rnncc.bench.baselines import Loop, Shape, UnavailableError
from rnncc.bench.timing import Place, Run, Sample
from rnncc.compiler import CompiledCell
from rnncc.ir.spec import KernelSpec, ParamSpec
from rnncc.nn.status import Solve
from rnncc.nn.vectors import join, joined
from rnncc.runtime.kernel import COMPUTE

DIRECTIONS = ("forward", "forward+backward", "decode")
FEW_STEPS = 64  # of the plain loop, to check the kernel by, and to predict the time of all
LOOP, GRAPH = "plain loop", "in a CUDA graph"


@dataclass(frozen=True)
class GpuTiming:
    """Median seconds of one pass at one shape.

    Attributes:
        shape: [B, T, N]; "decode" takes T = 1.
        dtype: of the inputs, "float32" and so on.
        direction: "forward", "forward+backward", or "decode": one step from given states.
        solver: the one that `auto` takes in the forward.
        fused: the kernels, called as users call them.
        copy: a copy of as many bytes as the pass must read and write, `bytes` of them.
        baselines: by name; those left out are in `skipped`, with the reason.
        solvers: the kernels by each solver by name, where asked for.
        rounds: samples of `fused`.
        graph: the kernels alone, launched by a CUDA graph and not by Python; without gradients.
    """

    shape: Shape
    dtype: str
    direction: str
    solver: str
    fused: Sample
    copy: float
    bytes: int
    rounds: int
    baselines: dict[str, float] = field(default_factory=dict)
    solvers: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    graph: float | None = None

    @property
    def speed(self) -> float:
        """Bytes per second, of those that must move."""
        return self.bytes / self.fused.device

    @property
    def share(self) -> float:
        """Of the speed of the copy."""
        return self.copy / self.fused.device

    def data(self) -> dict[str, Any]:
        """For machines; milliseconds."""
        times = {"fused": self.fused.device, "python": self.fused.python, "copy": self.copy}
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "pass": self.direction,
            "solver": self.solver,
            **{f"{name}_ms": seconds * 1e3 for name, seconds in times.items()},
            "bytes": self.bytes,
            "bytes_per_second": self.speed,
            "copy_ratio": self.fused.device / self.copy,
            "share_of_copy": self.share,
            "baselines_ms": {name: seconds * 1e3 for name, seconds in self.baselines.items()},
            "ratios": {
                name: seconds / self.fused.device for name, seconds in self.baselines.items()
            },
            "solvers_ms": {name: seconds * 1e3 for name, seconds in self.solvers.items()},
            "skipped": self.skipped,
            "rounds": self.rounds,
            "graph_ms": None if self.graph is None else self.graph * 1e3,
        }


def measure(
    compiled: CompiledCell,
    shape: Shape,
    place: Place,
    dtype: str = "float32",
    against_compile: bool = False,
    solvers: bool = False,
    budget: float = 6.0,
) -> Iterator[GpuTiming]:
    """Time the forward, forward and backward, and one step as in decoding.

    Args:
        shape: [B, T, N].
        place: a GPU and its clock.
        dtype: of the inputs.
        against_compile: also the loop with chunks of 32 steps under torch.compile.
        solvers: also each solver by itself.
        budget: about how many seconds each pass takes, and each baseline of it; a plain loop that
            would take longer is left out.
    Raises:
        ArgumentError: the shape doesn't fit the cell.
        BuildError: a kernel can't be built.
        MemoryError: the GPU's memory is too small.
        RnnccError: the kernel and the loop don't agree.
    """
    workload.check_shape(compiled.spec, shape)
    case = Case(compiled, shape, getattr(torch, dtype), place, budget, budget)
    with memory_as_error():
        case.check()
        for direction in DIRECTIONS:
            yield case.time(direction, against_compile, solvers)


@contextlib.contextmanager
def memory_as_error() -> Iterator[None]:
    """Within it, a GPU's memory that is too small is a MemoryError, without PyTorch's advice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError("the GPU's memory is too small") from error


def bytes_of_step(spec: KernelSpec, shape: Shape, dtype: torch.dtype) -> int:
    """The least that one step reads and writes: inputs, outputs, params, states before and after.

    Args:
        shape: [B, T, N]; T is ignored.
    """
    batch, _, channels = shape
    params = sum(1 if p.shared else channels * (p.block or 1) for p in spec.params)
    carried = 2 * len(spec.states) * batch * channels + params
    rows = workload.bytes_moved(spec, (batch, 1, channels), "forward", dtype.itemsize)
    return rows + COMPUTE[dtype].itemsize * carried


@dataclass(frozen=True)
class Case:
    """A cell at one shape and dtype on one GPU.

    Attributes:
        shape: [B, T, N].
        budget: about how many seconds runs are sampled for, once they are warm.
        patience: seconds that three calls of a baseline may take; it is left out if they are
            predicted to take longer.
        against_peers: whether programs of other projects are timed too.
        builds: whether those of them that compile for long are.
    """

    compiled: CompiledCell
    shape: Shape
    dtype: torch.dtype
    place: Place
    budget: float = 6.0
    patience: float = 6.0
    against_peers: bool = True
    builds: bool = True

    @property
    def device(self) -> torch.device:
        return self.place.device

    def arguments(self, steps: int) -> dict[str, Tensor]:
        batch, _, channels = self.shape
        shape = (batch, steps, channels)
        spec, there = self.compiled.spec, self.device
        return workload.random_arguments(spec, shape, dtype=self.dtype, device=there)

    def check(self) -> None:
        """On a few steps against the plain loop; on all of them against one pass over time."""
        compiled, spec = self.compiled, self.compiled.spec
        loop = baselines.oracle(compiled.stages.cell, self.dtype, self.device)
        workload.check(workload.fused_loop(compiled), loop, self.arguments(self.few), spec)
        if self.shape[1] == self.few:
            return
        arguments = self.arguments(self.shape[1])
        if self.solver(arguments) != "sequential":
            one_pass = workload.fused_loop(compiled, "sequential")
            what = "that of one pass over time"
            workload.check(workload.fused_loop(compiled), one_pass, arguments, spec, what)

    @property
    def few(self) -> int:
        return min(FEW_STEPS, self.shape[1])

    def solver(self, arguments: dict[str, Tensor]) -> str:
        """The one that `auto` takes in the forward."""
        found: list[Solve] = []
        workload.fused_loop(self.compiled, observe=found.append)(arguments)
        return found[0].solver

    # --- time --------------------------------------------------------------------------------

    def time(
        self, direction: str, against_compile: bool = False, solvers: bool = False
    ) -> GpuTiming:
        """The kernel and the copy in turns, then each baseline by itself: only one holds memory."""
        decode = direction == "decode"
        arguments = self.arguments(1 if decode else self.shape[1])
        solver, moved = self.solver(arguments), self.bytes(direction)
        each = workload.solver_loops(self.compiled, arguments) if solvers and not decode else {}
        ours = self.step(arguments) if decode else None
        runs = {"auto": ours or _passes(direction, workload.fused_loop(self.compiled), arguments)}
        runs |= {name: _passes(direction, loop, arguments) for name, loop in each.items()}
        runs["copy"] = baselines.copier(moved, self.device)
        samples = timing.interleave_on_gpu(runs, self.place.clock, self.budget)
        medians = {name: _median(found) for name, found in samples.items()}
        against = self.against(direction, arguments, against_compile)
        if direction != "forward+backward":
            against = {GRAPH: partial(self.place.clock.replay, runs["auto"]), **against}
        runs.clear()  # with the tensors that they hold
        found, skipped = self.times_of(against)
        return GpuTiming(
            shape=(self.shape[0], 1, self.shape[2]) if decode else self.shape,
            dtype=str(self.dtype).removeprefix("torch."),
            direction=direction,
            solver=solver,
            fused=medians["auto"],
            copy=medians["copy"].device,
            bytes=moved,
            rounds=len(samples["auto"]),
            graph=found.pop(GRAPH, None),
            baselines=found,
            solvers={name: medians[name].device for name in each},
            skipped=skipped,
        )

    def times_of(
        self, prepared: dict[str, Callable[[], Run]]
    ) -> tuple[dict[str, float], dict[str, str]]:
        """The time of each baseline that can be run, and the reason of each that can't."""
        found: dict[str, float] = {}
        skipped: dict[str, str] = {}
        for name, prepare in prepared.items():
            try:
                found[name] = self.time_of(name, prepare)
            except torch.OutOfMemoryError:
                skipped[name] = "the GPU's memory is too small"
            except Exception as error:  # of whatever kind: most of them are others' code
                skipped[name] = str(error).strip().partition("\n")[0] or type(error).__name__
        return found, skipped

    def time_of(self, name: str, prepare: Callable[[], Run]) -> float:
        """In a scope of its own: when it returns, nothing holds the tensors of the baseline."""
        runs = {name: prepare()}
        samples = timing.interleave_on_gpu(runs, self.place.clock, self.budget)
        return _median(samples[name]).device

    def bytes(self, direction: str) -> int:
        if direction == "decode":
            return bytes_of_step(self.compiled.spec, self.shape, self.dtype)
        return workload.bytes_moved(self.compiled.spec, self.shape, direction, self.dtype.itemsize)

    def step(self, arguments: dict[str, Tensor]) -> Run:
        """One step of the kernel, from given states."""
        batch, _, channels = self.shape
        compiled, kind = self.compiled, COMPUTE[self.dtype]
        states = [
            torch.full((batch, channels), float(state.init), dtype=kind, device=self.device)
            if not isinstance(state.init, ParamSpec)
            else arguments[state.init.name].expand(batch, channels)
            for state in compiled.spec.states
        ]
        given = joined(compiled.spec, arguments)
        h0 = tuple(join(compiled.spec, "state", states))

        def run() -> Any:
            with torch.no_grad():
                return compiled(**given, h0=h0, return_state=True)

        return run

    def against(
        self, direction: str, arguments: dict[str, Tensor], against_compile: bool
    ) -> dict[str, Callable[[], Run]]:
        """A function for each baseline that prepares it, or raises UnavailableError."""
        cell, there = self.compiled.stages.cell, (self.dtype, self.device)
        found: dict[str, Callable[[], Run]] = {}
        if direction == "decode":
            found[LOOP] = partial(baselines.one_step, cell, arguments, *there)
        else:
            plain = partial(self.looped, baselines.plain(cell, *there), direction, arguments)
            found[LOOP] = partial(self.unless_long, plain)
            if against_compile:
                loop = baselines.chunked(cell, *there)
                chunks = partial(self.looped, loop, direction, arguments)
                found["torch.compile"] = partial(self.unless_long, chunks)
        compared = peers.peers_of(self.compiled, direction) if self.against_peers else {}
        for name, peer in compared.items():
            prepare = partial(self.peer, peer, direction)
            serial = peer.serial and direction != "decode"
            whole = partial(prepare, self.shape[1])
            found[name] = partial(self.unless_long, prepare) if serial else whole
        return found

    def looped(self, loop: Loop, direction: str, arguments: dict[str, Tensor], steps: int) -> Run:
        whole = steps == self.shape[1]
        return _passes(direction, loop, arguments if whole else self.arguments(steps))

    def peer(self, peer: peers.Peer, direction: str, steps: int) -> Run:
        if peer.builds and not self.builds:
            raise UnavailableError("compiles for long; not at every shape")
        batch, _, channels = self.shape
        shape = (batch, steps, channels)
        return peer.prepare(self.compiled, shape, self.dtype, self.device, direction)

    def unless_long(self, prepare: Callable[[int], Run]) -> Run:
        """A run over all steps, unless a few of them predict that it takes too long."""
        if self.shape[1] > self.few:
            few = prepare(self.few)
            few()
            seconds = min(timing.once(few, self.place.clock) for _ in range(2))
            foretold = seconds * self.shape[1] / self.few
            if 3 * foretold > self.patience:
                raise UnavailableError(
                    f"{self.few} steps take {seconds * 1e3:.3g} ms, so {self.shape[1]} would take "
                    f"about {foretold:.2g} s"
                )
        return prepare(self.shape[1])


def _passes(direction: str, loop: Loop, arguments: dict[str, Tensor]) -> Run:
    run = workload.forward if direction == "forward" else workload.forward_backward
    return run(loop, arguments)


def _median(samples: list[Sample]) -> Sample:
    return Sample(*(statistics.median(column) for column in zip(*samples, strict=True)))
