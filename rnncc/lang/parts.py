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
MODERATE = 2.0**64  # constants up to here, and down to its inverse, gather


def is_large(expr: Expr) -> bool:
    """Whether an expression is too large to be a part of another."""
    count, level = 0, [expr]
    for _ in range(DEEPEST):
        count += len(level)
        level = [arg for parent in level for arg in parent.args]
        if not level or count > LARGEST:
            break
    return bool(level) or count > LARGEST


def gathers(expr: Expr, operands: Sequence[Expr]) -> bool:
    """Whether SymPy has made a constant or a power of several that is far from each."""
    return bool(_far(expr) - {part for operand in operands for part in _far(operand)})


def spreads(expr: Expr, operands: Sequence[Expr]) -> bool:
    """Whether a product has become a sum, with such a constant in each term."""
    return bool(expr.is_Add and any(operand.is_Add for operand in operands) and _far(expr))


def _far(expr: Expr) -> set[Expr]:
    """Its constants that are very large or very small, and its high powers."""
    import sympy

    numbers = (n for n in expr.atoms(sympy.Number) if n.is_finite and n != 0)
    far = {n for n in numbers if not 1 / MODERATE <= abs(n) <= MODERATE}
    return far | {p for p in expr.atoms(sympy.Pow) if abs(p.args[1]) > LARGEST_POWER}


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
