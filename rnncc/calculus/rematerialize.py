"""Rematerialize: the lets that Jacobian and adjoint read -> stored, or recomputed at each read."""

from __future__ import annotations

from collections.abc import Iterable

import sympy

from rnncc.ir.functions import Opaque
from rnncc.ir.program import AdjointIR, JacobianIR, Let, Program, Rematerialized

CHEAP = 4  # operations that cost no more than a store and a load


def rematerialize(program: Program, jacobian: JacobianIR, adjoint: AdjointIR) -> Rematerialized:
    """Store the lets that Jacobian and adjoint read, except cheap arithmetic on values at hand."""
    results = [*adjoint.states, *adjoint.inputs, *adjoint.params]
    entries = [e for row in jacobian.entries for e in row]
    lets = [*(let.expr for let in (*adjoint.lets, *jacobian.lets)), *results, *entries]
    read = {s.name for expr in lets for s in expr.free_symbols}
    at_hand = {symbol.name for symbol in program.arguments}
    wanted = [let for let in program.lets if let.name in read]
    at_hand |= {let.name for let in wanted if not _cheap(let)}
    recomputed: list[Let] = []
    for let in wanted:
        if _cheap(let) and {s.name for s in let.expr.free_symbols} <= at_hand:
            recomputed.append(let)
        at_hand.add(let.name)
    cheap = {let.name for let in recomputed}
    return Rematerialized(
        tuple(let.name for let in wanted if let.name not in cheap), tuple(recomputed)
    )


def _cheap(let: Let) -> bool:
    return not let.expr.has(Opaque) and sympy.count_ops(let.expr) <= CHEAP


def needed(lets: Iterable[Let], readers: Iterable[sympy.Expr]) -> list[Let]:
    """Those of the recomputed lets that the readers need, in order."""
    names = {s.name for reader in readers for s in reader.free_symbols}
    result: list[Let] = []
    for let in reversed(list(lets)):
        if let.name in names:
            result.append(let)
            names |= {s.name for s in let.expr.free_symbols}
    return result[::-1]
