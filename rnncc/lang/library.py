"""Library: functions of the language that are made of others; each is one equation.

Derivatives at kinks follow PyTorch: the conditions say which side a bound is on.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from rnncc.lang.dsl import _apply, abs_, erf, exp, floor, log, maximum, sigmoid, sign, tanh, where
from rnncc.lang.numbers import number
from rnncc.lang.symbols import fail
from rnncc.lang.vectors import VectorValue, name_scalars, vector


def silu(x: Any) -> Any:
    """x * sigmoid(x)."""
    return x * sigmoid(x)


def softplus(x: Any, beta: Any = 1.0) -> Any:
    """log(1 + exp(beta * x)) / beta, without a threshold."""
    if number(beta) == 1:
        return _apply("softplus", x)
    return _apply("softplus", beta * x) / beta


def gelu(x: Any, approximate: str = "none") -> Any:
    """x * Phi(x) with the exact Gaussian distribution function, or that of "tanh"."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f'approximate is "none" or "tanh", got {approximate!r}')
    if approximate == "tanh":
        return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + erf(x * 0.7071067811865476))


def hardsigmoid(x: Any) -> Any:
    """(x + 3) / 6 between 0 and 1; derivative 0 at both ends."""
    return where(x <= -3, 0.0, where(x >= 3, 1.0, (x + 3) / 6))


def hardtanh(x: Any, lo: Any = -1.0, hi: Any = 1.0) -> Any:
    """x between lo and hi; derivative 0 at both, where that of clip is 1."""
    return where(x <= lo, lo, where(x >= hi, hi, x))


def leaky_relu(x: Any, slope: Any = 0.01) -> Any:
    """x above 0, slope * x at 0 and below."""
    return where(x > 0, x, slope * x)


def elu(x: Any, alpha: Any = 1.0) -> Any:
    """x above 0, alpha * (exp(x) - 1) at 0 and below."""
    whole = _apply("elu", x)
    return whole if number(alpha) == 1 else where(x > 0, x, alpha * whole)


def selu(x: Any) -> Any:
    """elu with the constants that preserve mean and variance; arXiv:1706.02515."""
    return 1.0507009873554805 * elu(x, 1.6732632423543772)


def mish(x: Any) -> Any:
    """x * tanh(softplus(x)); arXiv:1908.08681."""
    return _apply("mish", x)


def softsign(x: Any) -> Any:
    """x / (1 + abs(x))."""
    return _apply("softsign", x)


def ceil(x: Any) -> Any:
    """The smallest whole number from x on; derivative 0."""
    return -floor(-x)


def trunc(x: Any) -> Any:
    """x without its fraction, towards 0; derivative 0."""
    return sign(x) * floor(abs_(x))


def log10(x: Any) -> Any:
    """The logarithm to base 10."""
    return log(x) * 0.4342944819032518


def asin(x: Any) -> Any:
    """The inverse of the sine, from -pi/2 to pi/2."""
    return _apply("asin", x)


def acos(x: Any) -> Any:
    """The inverse of the cosine, from 0 to pi."""
    return _apply("acos", x)


def atan2(y: Any, x: Any) -> Any:
    """The angle of the point (x, y), from -pi to pi; 0 with derivative 0 at the origin."""
    return _apply("atan2", y, x)


def logsumexp(values: Iterable[Any]) -> Any:
    """log(exp(a) + exp(b) + ...) of a sequence, relative to its maximum: it can't overflow."""
    values, top = _values("logsumexp", values, "finite_part")
    total = sum(exp(value - top) for value in values)
    some = total > 0
    nothing = log(_apply("finite_part", total))  # -infinity, where all of them are
    return where(some, top + log(where(some, total, 1.0)), nothing)


def softmax(values: Iterable[Any]) -> Any:
    """exp(a) / (exp(a) + exp(b) + ...) for each of a sequence, as a list; of a vector a vector."""
    each, top = _values("softmax", values, "pivot")
    is_vector = isinstance(values, VectorValue)
    if is_vector:
        name_scalars([top])  # what each element reads is computed once
    parts = [exp(value - top) for value in each]
    if is_vector:
        name_scalars(parts)
        return vector(parts) / sum(parts)
    total = sum(parts)
    return [part / total for part in parts]


def _values(function: str, values: Iterable[Any], top: str) -> tuple[list[Any], Any]:
    """The sequence, and its maximum without a derivative: neither result depends on it."""
    found = list(values)
    if isinstance(values, VectorValue) and len(values.shape) > 1:
        fail(
            f"{function} is given a vector of shape {list(values.shape)}",
            "It takes the values of one list or vector.",
            f"[{function}(row) for row in h], or of one row {function}(h[0])",
        )
    if not found:
        raise ValueError(f"{function}() takes at least one value, got an empty sequence")
    return found, _apply(top, functools.reduce(maximum, found))


def stop_gradient(x: Any) -> Any:
    """x, through which no gradient flows back; a solver still knows its slope."""
    return _apply("stop_gradient", x)


def forward_as(value: Any, *, gradient_of: Any) -> Any:
    """The value of one expression with the gradient of another: a straight-through estimator."""
    return _apply("forward_as", value, gradient_of)
