"""Parts: which expressions of a trace get names of their own, and which names.

SymPy gathers what it can into one expression. That is undone where an expression would be written
out at each of its readers, or where constants would gather into one that float32 can't hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rnncc.ir.program import Let

if TYPE_CHECKING:
    from sympy import Expr, Symbol

LARGEST, DEEPEST = 64, 20  # nodes of an expression, and calls within calls
LARGEST_POWER = 64  # that is written as products; beyond, by pow
MODERATE = 2**64  # constants up to here, and down to its inverse, gather


def is_large(expr: Expr) -> bool:
    """Whether an expression is too large to be a part of another."""
    count, level = 0, expr.args
    for _ in range(DEEPEST):
        if not level:
            return False
        count += len(level)
        if count > LARGEST:
            return True
        level = [arg for parent in level for arg in parent.args]
    return True


def gathers(expr: Expr, operands: Sequence[Expr], product: bool = False) -> bool:
    """Whether SymPy has made a constant or a power of several that is far from each.

    Args:
        product: of the operands; if it has become a sum, the constant is in each of its terms.
    """
    far = _far(expr)
    if not far or (product and expr.is_Add):
        return bool(far)
    return bool(far - {part for operand in operands for part in _far(operand)})


def _far(expr: Expr) -> set[Expr]:
    """Its constants that are very large or very small, and its high powers."""
    found, rest = set(), [expr]
    while rest:
        part = rest.pop()
        if (part.is_Number or part.is_Pow) and _is_far(part):
            found.add(part)
        rest += part.args
    return found


def _is_far(part: Expr) -> bool:
    if part.is_Pow:
        return bool(abs(part.args[1]) > LARGEST_POWER)
    if part.is_Rational:
        above, below = abs(part.p), part.q
        return bool(above > MODERATE * below or 0 < above * MODERATE < below)
    return bool(part.is_finite and part != 0 and not 1 / MODERATE <= abs(part) <= MODERATE)


def is_product(expr: Expr) -> bool:
    """Whether a power of it would be written as powers of its factors."""
    return bool(expr.is_Mul) and sum(not factor.is_Number for factor in expr.args) > 1


def placeholder(number: int) -> Symbol:
    """A symbol for a part until its name is known; no cell can have this name."""
    import sympy

    return sympy.Symbol(f"<{number}>", real=True)


def is_placeholder(expr: Expr) -> bool:
    """Whether it is the symbol of a part."""
    return bool(expr.is_Symbol) and str(expr.name).startswith("<")


def named(lets: Sequence[Let], taken: Iterable[str]) -> dict[Symbol, Symbol]:
    """A name for each part by its placeholder: z_0, z_1, ... after the let z that reads it first.

    Args:
        lets: in order, parts before their readers.
        taken: names of the cell.
    """
    import sympy

    names: dict[Symbol, Symbol] = {}
    used, readers = set(taken), _readers(lets)
    counts = dict.fromkeys(readers.values(), 0)
    for let in lets:
        if let.name not in readers:
            continue
        reader = readers[let.name]
        while (name := f"{reader}_{counts[reader]}") in used:
            counts[reader] += 1
        used.add(name)
        names[sympy.Symbol(let.name, real=True)] = sympy.Symbol(name, real=True)
    return names


def renamed(lets: Sequence[Let], names: Mapping[Symbol, Symbol]) -> tuple[Let, ...]:
    """The lets with other names."""
    final = {str(symbol): str(name) for symbol, name in names.items()}
    return tuple(
        Let(final.get(let.name, let.name), let.expr.xreplace(names), let.line, let.note)
        for let in lets
    )


def _readers(lets: Sequence[Let]) -> dict[str, str]:
    """The author's let that reads each part first, itself or through another part."""
    readers: dict[str, str] = {}
    for let in reversed(lets):
        for symbol in let.expr.free_symbols:
            if is_placeholder(symbol):
                readers[symbol.name] = readers.get(let.name, let.name)
    return readers
