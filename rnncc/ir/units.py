"""Units: rows of activations whose derivative, by that of their parts, would lose digits."""

from __future__ import annotations

import math
from typing import Any

from sympy import Expr, Integer

from rnncc.ir.table import call, divide, row


def unit_rows() -> None:
    """elu with alpha = 1, from which the others are made; mish; softsign."""
    row(
        "elu",
        lambda g, y, x: (g * _slope_of_elu(x),),
        "torch.nn.functional.elu({0})",
        lambda x: x if x > 0 else math.expm1(x),
    )
    row(
        "mish",
        _pull_mish,
        "torch.nn.functional.mish({0})",
        lambda x: x * math.tanh(max(x, 0.0) + math.log1p(math.exp(-abs(x)))),
    )
    row(
        "softsign",
        lambda g, y, x: (divide(g, (1 + call("abs", x)) ** 2),),
        "torch.nn.functional.softsign({0})",
        lambda x: x / (1 + abs(x)),
    )


def _slope_of_elu(x: Expr) -> Expr:
    """By the exponential, since 1 + y has no digits left far to the left."""
    right, zero = call("gt", x, Integer(0)), Integer(0)
    return call("where", right, Integer(1), call("exp", call("where", right, zero, x)))


def _pull_mish(g: Any, y: Any, x: Expr) -> tuple[Any]:
    t = call("tanh", call("softplus", x))
    return (g * (t + x * call("sigmoid", x) * (1 - t**2)),)
