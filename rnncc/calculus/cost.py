"""Cost: a cell's step and adjoint -> operations and bytes, per channel and step or per lane."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import sympy
from sympy import Expr

from rnncc.calculus.chain import Chain, longest
from rnncc.calculus.fission import expensive
from rnncc.calculus.rematerialize import needed
from rnncc.ir.functions import Opaque, product
from rnncc.ir.program import Compiled, Let, Program
from rnncc.ir.spec import Effort, EffortSpec, KernelSpec

FLOAT = 4  # bytes of a float32


@dataclass(frozen=True)
class Pass:
    """The cost of one pass over time, for one channel and step, in float32.

    Attributes:
        operations: additions, multiplications and the like.
        functions: calls by name.
        reads, writes: bytes by tensor; params, which are read once a sequence, count nothing.
    """

    operations: float
    functions: dict[str, float]
    reads: dict[str, float]
    writes: dict[str, float]


@dataclass(frozen=True)
class Cost:
    """Both passes. The backward recomputes the steps, so it includes the cost of a forward."""

    forward: Pass
    backward: Pass


def cost(compiled: Compiled, spec: KernelSpec, every: int) -> Cost:
    """Count both passes.

    Args:
        every: steps between the states that training saves.
    """
    adjoint = compiled.adjoint
    step = [let.expr for let in compiled.program.lets]
    back = [let.expr for let in adjoint.lets]
    back += [*adjoint.states, *adjoint.inputs, *adjoint.params]
    back += [let.expr for let in needed(compiled.rematerialized.recomputed, back)]
    inputs = {i.name: 0.0 if i.shared else float(FLOAT) for i in spec.inputs}
    outputs = {name: float(FLOAT) for name in spec.outputs}
    saved = {f"states, every {every} steps in training": FLOAT * len(spec.states) / every}
    return Cost(
        forward=Pass(*_per_channel(step, spec.group), inputs, outputs | saved),
        backward=Pass(
            *_per_channel([*step, *back], spec.group),
            inputs | {f"d{name}": size for name, size in outputs.items()} | saved,
            {f"d{name}": size for name, size in inputs.items()},
        ),
    )


def _per_channel(exprs: Iterable[Expr], group: int) -> tuple[float, dict[str, float]]:
    """Operations and function calls of one channel of a group."""
    operations, calls = count(exprs)
    return operations / group, {name: calls[name] / group for name in sorted(calls)}


def effort(compiled: Compiled) -> EffortSpec:
    """The cost of each part of a kernel for one lane, which holds a group of channels."""
    program, jacobian, adjoint = compiled.program, compiled.jacobian, compiled.adjoint
    entries = [e for row in jacobian.entries for e in row]
    carry = _effort([*(let.expr for let in jacobian.lets), *entries])
    size = len(jacobian.states)
    reached = frozenset(compiled.products)
    products = sum(
        jacobian.entries[r][k] != 0 and (k, c) in reached for r, c in reached for k in range(size)
    )
    back = [let.expr for let in adjoint.lets]
    lets = needed(adjoint.lets, adjoint.states)
    through = _effort([*(let.expr for let in lets), *adjoint.states])
    columns = 1 + len(compiled.fed)
    forth = longest(program.lets, program.next, [s.symbol.name for s in program.states])
    up = [symbol.name for symbol in adjoint.upstream_states]
    return EffortSpec(
        step=_effort([let.expr for let in program.lets], forth),
        carry=Effort(
            operations=carry.operations + 2 * products,
            functions=carry.functions,
            chain_operations=size,  # a row times a column
        ),
        adjoint=_effort(
            [*back, *adjoint.states, *adjoint.inputs, *adjoint.params],
            longest(adjoint.lets, adjoint.states, up),
        ),
        through=Effort(
            operations=columns * through.operations,
            functions=columns * through.functions,
            chain_operations=longest(adjoint.lets, adjoint.states, up).operations,
        ),
        early=_effort([let.expr for let in of_params(program)]),
    )


def of_params(program: Program) -> tuple[Let, ...]:
    """The lets that depend on params alone."""
    known = {slot.symbol.name for slot in program.params}

    def those(lets: Iterable[Let]) -> Iterable[Let]:
        for let in lets:
            read = {symbol.name for symbol in let.expr.free_symbols}
            if read and read <= known:
                known.add(let.name)
                yield let

    return tuple(those(program.lets))


def _effort(exprs: Iterable[Expr], chain: Chain | None = None) -> Effort:
    operations, calls = count(exprs)
    functions = sum(count for name, count in calls.items() if expensive(name))
    found = chain or Chain()
    return Effort(
        operations=operations + sum(calls.values()) - functions,
        functions=functions,
        chain_operations=found.operations,
        chain_functions=found.functions,
    )


def count(exprs: Iterable[Expr]) -> tuple[int, Counter[str]]:
    """Additions, multiplications and the like, and calls by name."""
    calls: Counter[str] = Counter()
    operations = 0
    for expr in exprs:
        own, names = _count(expr)
        operations += own
        calls.update(names)
    return operations, calls


@lru_cache(maxsize=16384)
def _count(expr: Expr) -> tuple[int, tuple[str, ...]]:
    """Of one expression; the same ones are counted for the planner and for comments."""
    if expr.is_Atom:
        return 0, ()
    opaque = expr.atoms(Opaque)
    quotients = [o for o in opaque if type(o).__name__ == "div"]
    below = sum(int(sympy.count_ops(product(q.args[1:]))) for q in quotients)
    names = tuple(type(part).__name__ for part in opaque)
    return int(sympy.count_ops(expr)) - len(opaque) + below, names
