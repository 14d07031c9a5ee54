"""Fission: a program's lets -> parts, each a loop over lanes, so that function calls overlap.

A processor overlaps neighbouring channels only as far ahead as it can look. Functions that feed
each other therefore go into loops of their own; lets that cross from part to part are stored.
"""

from __future__ import annotations

from rnncc.ir.functions import Opaque
from rnncc.ir.program import Fission, Let, Program

CHEAP = frozenset(
    """
    where relu abs sign floor round maximum minimum clip div sqrt rsqrt
    gt ge lt le eq ne both either negate absent stop_gradient forward_as finite_part pivot softsign
    at_least at_most
    """.split()
)
MOST_PARTS = 4


def fission(program: Program) -> Fission:
    """Part n holds the lets that depend on a chain of n expensive functions, and these."""
    depth: dict[str, int] = {}
    parts: dict[int, list[Let]] = {}
    for let in program.lets:
        before = max((depth.get(s.name, 0) for s in let.expr.free_symbols), default=0)
        depth[let.name] = min(before + _expensive(let), MOST_PARTS)
        parts.setdefault(max(1, depth[let.name]), []).append(let)
    ordered = tuple(tuple(parts[n]) for n in sorted(parts))
    return Fission(ordered, _crossing(ordered))


def _expensive(let: Let) -> bool:
    return any(expensive(type(opaque).__name__) for opaque in let.expr.atoms(Opaque))


def expensive(function: str) -> bool:
    """Whether a function takes many operations."""
    return function not in CHEAP and not function.startswith("spike_")


def _crossing(parts: tuple[tuple[Let, ...], ...]) -> tuple[str, ...]:
    """Lets of one part that a later part reads."""
    home = {let.name: n for n, part in enumerate(parts) for let in part}
    read = {
        s.name
        for n, part in enumerate(parts)
        for let in part
        for s in let.expr.free_symbols
        if home.get(s.name, n) < n
    }
    return tuple(let.name for part in parts for let in part if let.name in read)
