"""The functions a cell may use: one row each with value, derivative and PyTorch text.

A function stays opaque to SymPy, so that its derivative is the stable one of its row, written with
the already computed value y, and never the derivative of an expanded formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sympy
from sympy import Expr, Float, Integer

Pull = Callable[..., tuple[Any, ...]]


class Opaque(sympy.Function):
    """A function that SymPy neither evaluates nor expands."""

    is_real = True

    @classmethod
    def eval(cls, *_: Expr) -> None:
        return None


class Comparison(Opaque):
    """A condition, usable in `where` only; prints as its operator."""

    operator = ""

    def _sympystr(self, printer: Any) -> str:
        if len(self.args) == 1:
            return f"{self.operator}({printer._print(self.args[0])})"
        left, right = (printer._print(arg) for arg in self.args)
        if self.args and all(isinstance(arg, Comparison) for arg in self.args):
            left, right = f"({left})", f"({right})"
        return f"{left} {self.operator} {right}"


class MatVec(Opaque):
    """R @ e: mixes each group of k consecutive channels."""

    def _sympystr(self, printer: Any) -> str:
        return f"({printer._print(self.args[0])} @ {printer._print(self.args[1])})"


class Shift(Opaque):
    """shift(e, n): channel i reads channel i - n. Expressible, so that it can be refused."""

    def _sympystr(self, printer: Any) -> str:
        return f"shift({printer._print(self.args[0])}, {self.args[1]})"


class Mean(Opaque):
    """mean(e): every channel reads every channel. Expressible, so that it can be refused."""

    def _sympystr(self, printer: Any) -> str:
        return f"mean({printer._print(self.args[0])})"


MIXING = (MatVec, Shift, Mean)


@dataclass(frozen=True)
class Function:
    """One row of the table.

    Attributes:
        symbol: the opaque SymPy class; its name is the name in the DSL, in C++ and in CUDA.
        pull: (g, y, *args) -> the gradient of each argument, given the gradient g of the value y.
            `div` takes what it divides by as one value, or as b, n, ..., factors b**n.
        torch: PyTorch text, with {0}, {1}, ... for the arguments.
        value: the same on Python floats, for compile-time constants.
        smooth: has a derivative everywhere inside its domain.
        slope: (y, *args) -> the true derivative, where `pull` is a surrogate.
    """

    symbol: type[Opaque]
    pull: Pull
    torch: str
    value: Callable[..., float]
    smooth: bool = True
    slope: Pull | None = None

    @property
    def name(self) -> str:
        return str(self.symbol.__name__)

    @property
    def arity(self) -> int:
        return max(i + 1 for i in range(4) if f"{{{i}}}" in self.torch)

    def partials(self, y: Expr, args: tuple[Expr, ...]) -> tuple[Any, ...]:
        """The true derivative with respect to each argument."""
        return self.slope(y, *args) if self.slope else self.pull(Integer(1), y, *args)

    def reads_arguments(self) -> bool:
        """Whether the derivative needs the arguments, not only the value."""
        y, *args = sympy.symbols(f"y_ a:{self.arity}", real=True)
        pulled = self.pull(Integer(1), y, *args)
        return any(set(args) & p.free_symbols for p in pulled if isinstance(p, Expr))


def _stable_sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _exprel(x: float) -> float:
    return math.expm1(x) / x if x else 1.0


def _sign(x: float) -> float:
    return float((x > 0) - (x < 0))


TABLE: dict[str, Function] = {}


def _row(name: str, pull: Pull, torch: str, value: Callable[..., float], **options: Any) -> None:
    base = options.pop("base", Opaque)
    symbol = type(name, (base,), {"operator": options.pop("operator", name)})
    TABLE[name] = Function(symbol, pull, torch, value, **options)


def call(name: str, *args: Any) -> Expr:
    """The opaque application name(*args)."""
    return TABLE[name].symbol(*args)


def row_of(expr: Any) -> Function | None:
    """The row of an opaque application, None for arithmetic."""
    return TABLE.get(type(expr).__name__) if isinstance(expr, Opaque) else None


def _where(condition: Expr, yes: Any, no: Any) -> Expr:
    return call("where", condition, sympy.sympify(yes), sympy.sympify(no))


def _smooth_rows() -> None:
    half = Float(0.5)
    _row("exp", lambda g, y, x: (g * y,), "torch.exp({0})", math.exp)
    _row("log", lambda g, y, x: (divide(g, x),), "torch.log({0})", math.log)
    _row("log1p", lambda g, y, x: (divide(g, 1 + x),), "torch.log1p({0})", math.log1p)
    _row("expm1", lambda g, y, x: (g * (y + 1),), "torch.expm1({0})", math.expm1)
    _row("exprel", lambda g, y, x: (g * call("exprel_slope", x),), "_exprel({0})", _exprel)
    # the derivative of exprel; a cell can't write it
    _row("exprel_slope", _pull_exprel_slope, "_exprel_slope({0})", lambda x: math.nan)
    _row("sqrt", lambda g, y, x: (divide(half * g, y),), "torch.sqrt({0})", math.sqrt)
    _row(
        "rsqrt",
        lambda g, y, x: (divide(-half * g * y, x),),
        "torch.rsqrt({0})",
        lambda x: 1 / math.sqrt(x),
    )
    _row("sigmoid", lambda g, y, x: (g * y * (1 - y),), "torch.sigmoid({0})", _stable_sigmoid)
    _row("tanh", lambda g, y, x: (g * (1 - y**2),), "torch.tanh({0})", math.tanh)
    _row(
        "softplus",
        lambda g, y, x: (g * call("sigmoid", x),),
        "-torch.nn.functional.logsigmoid(-({0}))",
        _softplus,
    )
    _row(
        "logsigmoid",
        lambda g, y, x: (g * call("sigmoid", -x),),
        "torch.nn.functional.logsigmoid({0})",
        lambda x: -_softplus(-x),
    )
    _row("sin", lambda g, y, x: (g * call("cos", x),), "torch.sin({0})", math.sin)
    _row("cos", lambda g, y, x: (-g * call("sin", x),), "torch.cos({0})", math.cos)
    _row("sinh", lambda g, y, x: (g * call("cosh", x),), "torch.sinh({0})", math.sinh)
    _row("cosh", lambda g, y, x: (g * call("sinh", x),), "torch.cosh({0})", math.cosh)
    two_over_root_pi = Float(2 / math.sqrt(math.pi))
    _row(
        "erf",
        lambda g, y, x: (g * two_over_root_pi * call("exp", -(x**2)),),
        "torch.erf({0})",
        math.erf,
    )
    _row("pow", _pull_power, "torch.pow({0}, {1})", math.pow)
    _row("div", _pull_quotient, "({0}) / ({1})", lambda a, b: a / b)


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
    _row(
        "relu",
        lambda g, y, x: (_where(call("le", x, Integer(0)), 0, g),),
        "torch.relu({0})",
        lambda x: max(x, 0.0),
        smooth=False,
    )
    _row(
        "abs",
        lambda g, y, x: (g * call("sign", x),),
        "torch.abs({0})",
        abs,
        smooth=False,
    )
    _row(
        "sign",
        lambda g, y, x: (Integer(0),),
        "torch.sign({0})",
        _sign,
        smooth=False,
    )

    _row(
        "floor",
        lambda g, y, x: (Integer(0),),
        "torch.floor({0})",
        lambda x: float(math.floor(x)),
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

    _row("maximum", extremum("lt"), "torch.maximum({0}, {1})", max, smooth=False)
    _row("minimum", extremum("gt"), "torch.minimum({0}, {1})", min, smooth=False)
    _row(
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


def _condition_rows() -> None:
    _row(
        "where",
        lambda g, y, c, a, b: (None, _where(c, g, 0), _where(c, 0, g)),
        "torch.where({0}, {1}, {2})",
        lambda c, a, b: a if c else b,
        smooth=False,
    )
    for name, operator in COMPARISONS.items():
        _row(
            name,
            lambda g, y, *args: (None,) * len(args),
            f"({{0}}) {operator} ({{1}})",
            lambda a, b: math.nan,
            base=Comparison,
            operator=operator,
            smooth=False,
        )
    # of a gradient: nothing asked for its value, not even with a weight of 0
    _row(
        "absent",
        lambda g, y, x: (None,),
        "torch.signbit({0}) & ({0} == 0)",
        lambda x: math.nan,
        base=Comparison,
        smooth=False,
    )
    _row(
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


def divide(a: Any, b: Any) -> Expr:
    """a / b as arithmetic; lowering names the quotient, so that its derivative needs no square."""
    return sympy.sympify(a) / b


def powers(below: tuple[Expr, ...]) -> list[tuple[Expr, Expr]]:
    """(b, n) for each factor b**n of what a `div` divides by: one value, or b, n, b, n, ..."""
    return (
        list(zip(below[::2], below[1::2], strict=True)) if below[1:] else [(below[0], Integer(1))]
    )


def product(below: tuple[Expr, ...]) -> Expr:
    """What a `div` divides by, as arithmetic."""
    return sympy.Mul(*(b**n for b, n in powers(below)))


# --- surrogates ------------------------------------------------------------------------------
# name -> (derivative, its integral as PyTorch text), both in u and the slope k
SURROGATES: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    # Zenke & Ganguli 2018, arXiv:1705.11146
    "fast_sigmoid": (
        lambda u, k: 1 / (1 + k * call("abs", u)) ** 2,
        "({0}) / (1 + {1} * torch.abs({0}))",
    ),
    # Fang et al. 2021, arXiv:2007.05785
    "atan": (
        lambda u, k: k / (2 * (1 + (Float(math.pi / 2) * k * u) ** 2)),
        "torch.atan(({0}) * ({1} * torch.pi / 2)) / torch.pi",
    ),
    "sigmoid": (
        lambda u, k: k * call("sigmoid", k * u) * (1 - call("sigmoid", k * u)),
        "torch.sigmoid(({0}) * {1})",
    ),
    # Bellec et al. 2018, arXiv:1803.09574
    "triangle": (
        lambda u, k: k * call("relu", 1 - k * call("abs", u)),
        "torch.where(torch.abs({0}) * {1} < 1,"
        " ({0}) * {1} - torch.sign({0}) * (({0}) * {1})**2 / 2, torch.sign({0}) / 2)",
    ),
}


def _spike_rows() -> None:
    for name, (derivative, integral) in SURROGATES.items():

        def pull(g: Any, y: Any, u: Any, k: Any, derivative: Any = derivative) -> tuple[Any, Any]:
            return (g * derivative(u, k), None)

        _row(
            f"spike_{name}",
            pull,
            f"_heaviside({{0}}, {integral})",
            lambda u, k: float(u > 0),
            smooth=False,
            slope=lambda y, u, k: (Integer(0), None),
        )


_smooth_rows()
_kinked_rows()
_condition_rows()
_spike_rows()
