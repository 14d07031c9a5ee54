"""The functions a cell may use: one row each with value, derivative and PyTorch text.

A function stays opaque to SymPy, so that its derivative is the stable one of its row, written with
the already computed value y, and never the derivative of an expanded formula.
"""

from __future__ import annotations

import math
from typing import Any

import sympy
from sympy import Expr, Float, Integer

from rnncc.ir.inverses import inverse_rows
from rnncc.ir.surrogates import SURROGATES as SURROGATES
from rnncc.ir.surrogates import detached_rows, own_rows, spike_rows
from rnncc.ir.table import MIXING as MIXING
from rnncc.ir.table import TABLE as TABLE
from rnncc.ir.table import Comparison as Comparison
from rnncc.ir.table import Function as Function
from rnncc.ir.table import MatVec as MatVec
from rnncc.ir.table import Mean as Mean
from rnncc.ir.table import Opaque as Opaque
from rnncc.ir.table import Pull as Pull
from rnncc.ir.table import Remainder as Remainder
from rnncc.ir.table import Shift as Shift
from rnncc.ir.table import call as call
from rnncc.ir.table import divide as divide
from rnncc.ir.table import row as row
from rnncc.ir.table import row_of as row_of
from rnncc.ir.units import unit_rows


def _stable_sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _exprel(x: float) -> float:
    return math.expm1(x) / x if x else 1.0


def _sign(x: float) -> float:
    return float((x > 0) - (x < 0))


def _where(condition: Expr, yes: Any, no: Any) -> Expr:
    return call("where", condition, sympy.sympify(yes), sympy.sympify(no))


def _smooth_rows() -> None:
    half = Float(0.5)
    row("exp", lambda g, y, x: (g * y,), "torch.exp({0})", math.exp)
    row("log", lambda g, y, x: (divide(g, x),), "torch.log({0})", math.log)
    row("log1p", lambda g, y, x: (divide(g, 1 + x),), "torch.log1p({0})", math.log1p)
    row("expm1", lambda g, y, x: (g * (y + 1),), "torch.expm1({0})", math.expm1)
    row("exprel", lambda g, y, x: (g * call("exprel_slope", x),), "_exprel({0})", _exprel)
    # the derivative of exprel; a cell can't write it
    row("exprel_slope", _pull_exprel_slope, "_exprel_slope({0})", lambda x: math.nan)
    row("sqrt", lambda g, y, x: (divide(half * g, y),), "torch.sqrt({0})", math.sqrt)
    row(
        "rsqrt",
        lambda g, y, x: (divide(-half * g * y, x),),
        "torch.rsqrt({0})",
        lambda x: 1 / math.sqrt(x),
    )
    row("sigmoid", lambda g, y, x: (g * y * (1 - y),), "torch.sigmoid({0})", _stable_sigmoid)
    row("tanh", lambda g, y, x: (g * (1 - y**2),), "torch.tanh({0})", math.tanh)
    row(
        "softplus",
        lambda g, y, x: (g * call("sigmoid", x),),
        "-torch.nn.functional.logsigmoid(-({0}))",
        _softplus,
    )
    row(
        "logsigmoid",
        lambda g, y, x: (g * call("sigmoid", -x),),
        "torch.nn.functional.logsigmoid({0})",
        lambda x: -_softplus(-x),
    )
    row("sin", lambda g, y, x: (g * call("cos", x),), "torch.sin({0})", math.sin)
    row("cos", lambda g, y, x: (-g * call("sin", x),), "torch.cos({0})", math.cos)
    row("sinh", lambda g, y, x: (g * call("cosh", x),), "torch.sinh({0})", math.sinh)
    row("cosh", lambda g, y, x: (g * call("sinh", x),), "torch.cosh({0})", math.cosh)
    two_over_root_pi = Float(2 / math.sqrt(math.pi))
    row(
        "erf",
        lambda g, y, x: (g * two_over_root_pi * call("exp", -(x**2)),),
        "torch.erf({0})",
        math.erf,
    )
    row("pow", _pull_power, "torch.pow({0}, {1})", math.pow)
    row("div", _pull_quotient, "({0}) / ({1})", lambda a, b: a / b)


def _pull_exprel_slope(g: Any, y: Any, x: Expr) -> tuple[Any]:
    """(exp(x) - 2 y) / x, and near 0, where that cancels, its series."""
    near = call("lt", call("abs", x), Float(0.5))
    small, large = _where(near, x, 0), _where(near, 1, x)
    series: Any = Float(0)
    for n in reversed(range(16)):
        series = (n + 1) * (n + 2) / Float(math.factorial(n + 3)) + small * series
    return (g * _where(near, series, divide(call("exp", large) - 2 * y, large)),)


def _pull_power(g: Any, y: Any, x: Expr, p: Expr) -> tuple[Any, Any]:
    """PyTorch's rules where a factor is infinite: x**0 has the slope 0, and 0**p for p >= 0."""
    to_base, zero = g * p * call("pow", x, p - 1), Integer(0)
    if p.is_Symbol:
        to_base = _where(call("eq", p, zero), zero, to_base)
    if x == 0:
        return to_base, g * _where(call("ge", p, zero), zero, y * call("log", x))
    if x.is_Symbol:
        flat = call("both", call("eq", x, zero), call("ge", p, zero))
        x = _where(flat, Integer(1), x)
    return to_base, g * y * call("log", x)


def _pull_quotient(g: Any, y: Any, a: Expr, *below: Expr) -> tuple[Any, ...]:
    """By the quotient y itself: the square of it, or of a power, overflows where y / b doesn't."""
    if len(below) == 1:
        return divide(g, below[0]), -y * divide(g, below[0])
    slopes = [(None if b.is_number else -n * g * y / b, None) for b, n in powers(below)]
    return divide(g, product(below)), *(slope for pair in slopes for slope in pair)


def _kinked_rows() -> None:
    """PyTorch's rules at the kinks, written so that the gradient passes where x is NaN."""
    half = Float(0.5)
    row(
        "relu",
        lambda g, y, x: (_where(call("le", x, Integer(0)), 0, g),),
        "torch.relu({0})",
        lambda x: max(x, 0.0),
        smooth=False,
    )
    row(
        "abs",
        lambda g, y, x: (g * call("sign", x),),
        "torch.abs({0})",
        abs,
        smooth=False,
    )

    def extremum(worse: str) -> Pull:
        def pull(g: Any, y: Any, a: Any, b: Any) -> tuple[Any, Any]:
            tie = call("eq", a, b)
            return (
                _where(tie, half * g, _where(call(worse, a, b), 0, g)),
                _where(tie, half * g, _where(call(worse, b, a), 0, g)),
            )

        return pull

    row("maximum", extremum("lt"), "torch.maximum({0}, {1})", max, smooth=False)
    row("minimum", extremum("gt"), "torch.minimum({0}, {1})", min, smooth=False)
    row(
        "clip",
        lambda g, y, x, lo, hi: (
            _where(call("ge", x, lo), _where(call("le", x, hi), g, 0), 0),
            _where(call("lt", x, lo), _where(call("lt", lo, hi), g, 0), 0),
            _where(call("gt", x, hi), g, _where(call("gt", lo, hi), g, 0)),
        ),
        "torch.clamp({0}, {1}, {2})",
        lambda x, lo, hi: min(max(x, lo), hi),
        smooth=False,
    )
    for name, within, beyond, torch, value in (
        ("at_least", "ge", "lt", "torch.clamp({0}, min={1})", max),
        ("at_most", "le", "gt", "torch.clamp({0}, max={1})", min),
    ):

        def pull(
            g: Any, y: Any, x: Any, bound: Any, within: str = within, beyond: str = beyond
        ) -> tuple[Any, Any]:
            return tuple(_where(call(side, x, bound), g, 0) for side in (within, beyond))

        row(name, pull, torch, value, smooth=False)


def _step_rows() -> None:
    """Flat wherever they are continuous."""
    row(
        "sign",
        lambda g, y, x: (Integer(0),),
        "torch.sign({0})",
        _sign,
        smooth=False,
    )
    row(
        "floor",
        lambda g, y, x: (Integer(0),),
        "torch.floor({0})",
        lambda x: float(math.floor(x)),
        smooth=False,
    )

    row(
        "round",
        lambda g, y, x: (Integer(0),),
        "torch.round({0})",
        lambda x: float(round(x)),
        smooth=False,
    )
    _remainder_rows()
    # what a sum of exponentials is taken relative to; whatever it is, the result is the same
    row("pivot", lambda g, y, x: (None,), "({0}).detach()", lambda x: x, smooth=False)
    row(
        "finite_part",
        lambda g, y, x: (None,),
        "torch.where(torch.isinf({0}), 0.0, {0}).detach()",
        lambda x: 0.0 if math.isinf(x) else x,
        smooth=False,
    )


def _remainder_rows() -> None:
    """Python's, with the sign of the divisor."""
    row(
        "remainder",
        lambda g, y, a, b: (g, -g * call("floor_divide", a, b)),
        "torch.remainder({0}, {1})",
        lambda a, b: a % b,
        base=Remainder,
        operator="%",
        smooth=False,
    )
    row(
        "floor_divide",
        lambda g, y, a, b: (Integer(0), Integer(0)),
        'torch.div({0}, {1}, rounding_mode="floor")',
        lambda a, b: a // b,
        base=Remainder,
        operator="//",
        smooth=False,
    )


def _condition_rows() -> None:
    row(
        "where",
        lambda g, y, c, a, b: (None, _where(c, g, 0), _where(c, 0, g)),
        "torch.where({0}, {1}, {2})",
        lambda c, a, b: a if c else b,
        smooth=False,
    )
    for name, operator in COMPARISONS.items():
        row(
            name,
            lambda g, y, *args: (None,) * len(args),
            f"({{0}}) {operator} ({{1}})",
            lambda a, b: math.nan,
            base=Comparison,
            operator=operator,
            smooth=False,
        )
    # of a gradient: nothing asked for its value, not even with a weight of 0
    row(
        "absent",
        lambda g, y, x: (None,),
        "torch.signbit({0}) & ({0} == 0)",
        lambda x: math.nan,
        base=Comparison,
        smooth=False,
    )
    row(
        "negate",
        lambda g, y, c: (None,),
        "~({0})",
        lambda c: math.nan,
        base=Comparison,
        operator="not",
        smooth=False,
    )


COMPARISONS = {
    "gt": ">",
    "ge": ">=",
    "lt": "<",
    "le": "<=",
    "eq": "==",
    "ne": "!=",
    "both": "&",
    "either": "|",
}


def powers(below: tuple[Expr, ...]) -> list[tuple[Expr, Expr]]:
    """(b, n) for each factor b**n of what a `div` divides by: one value, or b, n, b, n, ..."""
    return (
        list(zip(below[::2], below[1::2], strict=True)) if below[1:] else [(below[0], Integer(1))]
    )


def product(below: tuple[Expr, ...]) -> Expr:
    """What a `div` divides by, as arithmetic."""
    return sympy.Mul(*(b**n for b, n in powers(below)))


_smooth_rows()
inverse_rows()
unit_rows()
_kinked_rows()
_step_rows()
_condition_rows()
spike_rows()
own_rows()
detached_rows()
