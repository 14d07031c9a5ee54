"""Derivative: arithmetic, by one symbol, in the form that sympy.diff gives it, and far sooner."""

from __future__ import annotations

from functools import lru_cache

import sympy
from sympy import Add, Expr, Integer, Mul, Symbol

ZERO, ONE = Integer(0), Integer(1)


@lru_cache(maxsize=16384)
def derivative(expr: Expr, symbol: Symbol) -> Expr:
    """By the rules of sums, products and integer powers; Jacobian and adjoint ask for the same."""
    if expr == symbol:
        return ONE
    if symbol not in _symbols(expr):
        return ZERO
    args = expr.args
    if expr.is_Add:
        return Add(*(derivative(arg, symbol) for arg in args))
    if expr.is_Mul:
        inner = [derivative(arg, symbol) for arg in args]
        return Add(
            *(Mul(*args[:i], d, *args[i + 1 :]) for i, d in enumerate(inner) if d is not ZERO)
        )
    if expr.is_Pow and args[1].is_Integer:
        return expr * (derivative(args[0], symbol) * args[1] / args[0])
    return sympy.diff(expr, symbol)


@lru_cache(maxsize=16384)
def _symbols(expr: Expr) -> frozenset[Symbol]:
    return frozenset({expr}) if expr.is_Symbol else frozenset().union(*map(_symbols, expr.args))
