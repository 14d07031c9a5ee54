"""Chain: lets -> the longest chain of operations, each of which waits for the one before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import sympy
from sympy import Expr

from rnncc.calculus.fission import expensive
from rnncc.ir.functions import Opaque
from rnncc.ir.program import Let


class Chain(NamedTuple):
    """A chain, or one link of it.

    Attributes:
        cycles: from its beginning to its end.
        operations, functions: arithmetic operations, and calls of exp, tanh and the like.
    """

    cycles: float = 0.0
    operations: int = 0
    functions: int = 0

    def then(self, link: Chain) -> Chain:
        return Chain(
            self.cycles + link.cycles,
            self.operations + link.operations,
            self.functions + link.functions,
        )


Link = Callable[[Expr], Chain]
# Of a GPU: only to tell which of two chains is the longer one.
OPERATION, FUNCTION = 4.0, 40.0


def longest(
    lets: Iterable[Let], ends: Iterable[Expr], begin: Iterable[str], link: Link | None = None
) -> Chain:
    """The longest chain from any symbol of `begin` to any expression of `ends`.

    Args:
        lets: in their order; those that don't depend on `begin` are there already.
        link: what an operation adds, by itself.
    """
    link = link or _link
    ready: dict[str, Chain] = dict.fromkeys(begin, Chain())
    for let in lets:
        if (found := _ready(let.expr, ready, link)) is not None:
            ready[let.name] = found
    return max((c for end in ends if (c := _ready(end, ready, link)) is not None), default=Chain())


def squarings(power: sympy.Pow) -> int:
    """Multiplications one after another of a power, or 1 if it isn't an integer one."""
    return max(1, int(abs(power.exp)).bit_length() - 1) if power.exp.is_Integer else 1


def _ready(expr: Expr, ready: Mapping[str, Chain], link: Link) -> Chain | None:
    """When an expression is known; None if it was before the step."""
    if isinstance(expr, sympy.Symbol):
        return ready.get(expr.name)
    parts = [c for arg in expr.args if (c := _ready(arg, ready, link)) is not None]
    if not parts:
        return None
    if isinstance(expr, sympy.Mul) and expr.args[0] == -1 and len(expr.args) == 2:
        return max(parts)  # a sign costs nothing
    return max(parts).then(link(expr))


def _link(expr: Expr) -> Chain:
    if isinstance(expr, Opaque) and expensive(type(expr).__name__):
        return Chain(FUNCTION, functions=1)
    count = squarings(expr) if isinstance(expr, sympy.Pow) else 1
    return Chain(count * OPERATION, operations=count)
