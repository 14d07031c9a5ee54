"""Work: expressions -> how many operations and which function calls they take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import sympy
from sympy import Expr

from rnncc.ir.functions import Opaque


def work(exprs: Iterable[Expr]) -> tuple[int, Counter[str]]:
    """Additions, multiplications and the like, and calls by name."""
    calls: Counter[str] = Counter()
    operations = 0
    for expr in exprs:
        opaque = expr.atoms(Opaque)
        calls.update(type(part).__name__ for part in opaque)
        operations += int(sympy.count_ops(expr)) - len(opaque)
    return operations, calls
