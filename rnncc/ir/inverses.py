"""Inverses: rows of the inverses of circular and hyperbolic functions, and of base 2."""

from __future__ import annotations

import math
from typing import Any

from sympy import Expr, Float

from rnncc.ir.table import call, divide, row


def inverse_rows() -> None:
    """Derivatives as PyTorch's, but of an argument whose square overflows."""
    ln2 = Float(math.log(2))
    row("atan", lambda g, y, x: (divide(g, 1 + x**2),), "torch.atan({0})", math.atan)
    row("asin", lambda g, y, x: (g * _slope_of_asin(x),), "torch.asin({0})", math.asin)
    row("acos", lambda g, y, x: (-g * _slope_of_asin(x),), "torch.acos({0})", math.acos)
    row(
        "atan2",
        lambda g, y, a, b: (g * call("atan2_slope", b, a), -g * call("atan2_slope", a, b)),
        "torch.atan2({0}, {1})",
        math.atan2,
    )
    # a / (a^2 + b^2), 0 at the origin; a cell can't write it
    row(
        "atan2_slope",
        _pull_atan2_slope,
        "_atan2_slope({0}, {1})",
        lambda a, b: a / (a * a + b * b) if a or b else 0.0,
    )
    row("asinh", lambda g, y, x: (g * call("rsqrt", 1 + x**2),), "torch.asinh({0})", math.asinh)
    row(
        "acosh",
        lambda g, y, x: (g * call("rsqrt", x**2 - 1),),
        "torch.acosh({0})",
        math.acosh,
    )
    row("atanh", lambda g, y, x: (divide(g, (1 - x) * (1 + x)),), "torch.atanh({0})", math.atanh)
    row("log2", lambda g, y, x: (divide(g, ln2 * x),), "torch.log2({0})", math.log2)
    row("exp2", lambda g, y, x: (ln2 * g * y,), "torch.exp2({0})", lambda x: 2.0**x)


def _slope_of_asin(x: Expr) -> Expr:
    return call("rsqrt", (1 - x) * (1 + x))


def _pull_atan2_slope(g: Any, y: Any, a: Expr, b: Expr) -> tuple[Any, Any]:
    other = call("atan2_slope", b, a)
    return g * (other**2 - y**2), -2 * g * y * other
