"""Roofline: a cell's cost and a shape -> the least time on a GPU, estimated by its datasheet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import sympy
from sympy import Expr

from rnncc.calculus.chain import Chain, longest, squarings
from rnncc.calculus.cost import FLOAT, Pass, cost
from rnncc.ir.functions import Opaque
from rnncc.ir.program import Compiled, Let
from rnncc.ir.spec import KernelSpec
from rnncc.planner.devices import ISSUED, SPECIAL, Device, call, operation

SIZES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}  # bytes


@dataclass(frozen=True)
class Roofline:
    """An estimate of the least time of one pass, in seconds, by each possible bound.

    Attributes:
        bytes: that cross the memory, and `memory` their time.
        arithmetic: of all instructions that the recurrence itself takes.
        special: of the units for exponentials and reciprocals.
        chain: of the steps one after another, each waiting for the state before it. Segments of
            time shorten it, and take more of all others.
    """

    bytes: float
    memory: float
    arithmetic: float
    special: float
    chain: float

    @property
    def bound(self) -> str:
        """Which of them is the largest."""
        return max(("memory", "arithmetic", "special", "chain"), key=lambda name: vars(self)[name])

    @property
    def seconds(self) -> float:
        """The largest of them."""
        return max(self.memory, self.arithmetic, self.special, self.chain)


def estimate(
    compiled: Compiled,
    spec: KernelSpec,
    shape: tuple[int, int, int],
    dtype: str,
    device: Device,
    every: int = 16,
) -> dict[str, Roofline]:
    """An estimate of the least time of the forward, in training, and of the backward.

    Assumptions: the clock is the boost clock, and the memory as fast as the datasheet says. Each
    tensor crosses the memory once; nothing is found in a cache. The machine is full, but for the
    chain. Lets that depend only on params are computed once, not in each step. An addition, a
    multiplication and the like is one instruction, though many pairs fuse; addresses, loads, stores
    and conversions count nothing.

    Args:
        shape: sequences, steps, channels; each at least 1.
        dtype: of the tensors; halves are computed in float32.
        every: steps between the states that training saves. The backward recomputes the steps.
    """
    compiled, double = _each_step(compiled), dtype == "float64"
    found, forward = cost(compiled, spec, every), _cycles(compiled, double)
    both = forward + _cycles_back(compiled, double)
    return {
        "forward": _roofline(found.forward, forward, spec.group, shape, dtype, device),
        "backward": _roofline(found.backward, both, spec.group, shape, dtype, device),
    }


def _each_step(compiled: Compiled) -> Compiled:
    """Without the lets that depend only on params."""
    program, adjoint = compiled.program, compiled.adjoint
    rematerialized = compiled.rematerialized
    varying = {slot.symbol.name for slot in (*program.states, *program.inputs)}
    varying |= {symbol.name for symbol in (*adjoint.upstream_states, *adjoint.upstream_outputs)}

    def those_that_vary(lets: Iterable[Let]) -> tuple[Let, ...]:
        result = []
        for let in lets:
            if any(symbol.name in varying for symbol in let.expr.free_symbols):
                varying.add(let.name)
                result.append(let)
        return tuple(result)

    return replace(
        compiled,
        program=replace(program, lets=those_that_vary(program.lets)),
        rematerialized=replace(
            rematerialized, recomputed=those_that_vary(rematerialized.recomputed)
        ),
        adjoint=replace(adjoint, lets=those_that_vary(adjoint.lets)),
    )


def _roofline(
    work: Pass,
    cycles: float,
    group: int,
    shape: tuple[int, int, int],
    dtype: str,
    device: Device,
) -> Roofline:
    batch, steps, channels = shape
    values, clocks = batch * steps * channels, device.multiprocessors * device.clock
    double = dtype == "float64"
    size = _bytes(work.reads, dtype) + _bytes(work.writes, dtype)
    calls = [(count, call(name, double)) for name, count in work.functions.items()]
    instructions = work.operations + sum(n * call.instructions for n, call in calls)
    floating = work.operations + sum(n * call.floating for n, call in calls)
    special = sum(n * call.special for n, call in calls)
    units = device.float64 if double else device.float32
    # a lane of a warp takes a group of channels, and a warp starts one instruction per clock
    step = max(cycles, instructions * group)
    return Roofline(
        bytes=values * size,
        memory=values * size / device.bandwidth,
        arithmetic=values * max(instructions / ISSUED, floating / units) / clocks,
        special=values * special / SPECIAL / clocks,
        chain=steps * step / device.clock,
    )


def _bytes(tensors: Mapping[str, float], dtype: str) -> float:
    """`cost` counts float32; states are saved in the type that they are computed in."""
    state = max(SIZES[dtype], FLOAT)
    return sum(
        size / FLOAT * (state if name.startswith("states") else SIZES[dtype])
        for name, size in tensors.items()
    )


# --- the chain -------------------------------------------------------------------------------


def _cycles(compiled: Compiled, double: bool) -> float:
    """From a state to the next one."""
    program = compiled.program
    begin = [slot.symbol.name for slot in program.states]
    return longest(program.lets, program.next, begin, partial(_link, double)).cycles


def _cycles_back(compiled: Compiled, double: bool) -> float:
    """From the gradient of a next state to that of a state."""
    adjoint = compiled.adjoint
    begin = [symbol.name for symbol in adjoint.upstream_states]
    return longest(adjoint.lets, adjoint.states, begin, partial(_link, double)).cycles


def _link(double: bool, expr: Expr) -> Chain:
    if isinstance(expr, Opaque):
        return Chain(call(type(expr).__name__, double).cycles)
    count = squarings(expr) if isinstance(expr, sympy.Pow) else 1
    return Chain(count * operation(double))


# --- for people and machines -----------------------------------------------------------------

HEADERS = ("pass", "bytes", "memory", "arithmetic", "special functions", "one by one", "bound")
NOTE = (
    "An estimate from the datasheet, not a timing: about the least that one pass over time takes.\n"
    "One by one: each step waits for the state before it; segments of time shorten that."
)
WORDS = {
    "memory": "memory",
    "arithmetic": "arithmetic",
    "special": "special functions",
    "chain": "one by one",
}


def rows(found: Mapping[str, Roofline]) -> list[tuple[str, ...]]:
    """A row for each pass under `HEADERS`, in milliseconds."""
    return [
        (
            name,
            f"{roof.bytes / 2**20:.3g} MiB",
            *(
                f"{t * 1e3:.3g} ms"
                for t in (roof.memory, roof.arithmetic, roof.special, roof.chain)
            ),
            WORDS[roof.bound],
        )
        for name, roof in found.items()
    ]


def summary(found: Mapping[str, Roofline], device: Device) -> dict[str, Any]:
    """The same as data, in bytes and seconds."""
    passes = {n: vars(r) | {"seconds": r.seconds, "bound": r.bound} for n, r in found.items()}
    return {"device": vars(device), "estimate": True} | passes
