"""The language: `@cell`, the roles of its arguments and the functions of its body.

Nothing here imports SymPy before a cell is traced, so that `import rnncc` stays fast.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from linecache import getline
from types import CodeType
from typing import Any, NoReturn

from rnncc.errors import CellError, Problem
from rnncc.ir.init import SHAPING, Init
from rnncc.lang.numbers import number, shown, truth
from rnncc.lang.symbols import (
    TRACER,
    Condition,
    Elementwise,
    Symbolic,
    Value,
    fail,
    lift,
    opaque,
    refuse_operand,
)
from rnncc.lang.vectors import elementwise

# --- roles -----------------------------------------------------------------------------------


def uniform(a: float, b: float) -> Init:
    """Init: uniform between a and b."""
    return Init("uniform", float(a), float(b))


def normal(mean: float, std: float) -> Init:
    """Init: normally distributed."""
    return Init("normal", float(mean), float(std))


def constant(value: float) -> Init:
    """Init: one value."""
    return Init("constant", float(value))


def spaced(a: float, b: float) -> Init:
    """Init: evenly spaced over the channels, a at the first, b at the last."""
    return Init("spaced", float(a), float(b))


DEFAULT_INIT = uniform(-1.0, 1.0)


Size = int | str | tuple[int | str, ...] | None  # of the values of a channel


class Role:
    """The role of an argument: bare (`h: State`), or called (`h: State(init=1.0)`)."""


@dataclass(frozen=True)
class State(Role):
    """Carried from step to step, one value per channel.

    Attributes:
        init: its value before the first step: a number, or a Param if it is learned.
        size: how many values each channel has, or the sizes of a matrix; None for one value.
        delay: how many steps of its past it carries: `h.ago(k)`; a number, or a constant's name.
    """

    init: float | Param | type[Param] = 0.0
    size: Size = None
    delay: int | str | None = None

    def __post_init__(self) -> None:
        _take_numbers(self, "init")


@dataclass(frozen=True)
class Input(Role):
    """Given per batch, step and channel; with `shared=True` per batch and step for all channels.

    Attributes:
        projected: whether a layer computes it from x, or is given it by name; None: those of each
            channel are computed, shared ones given.
        bias: the init of its projection's bias; None for that of torch.nn.Linear.
        size: as of a State.
        typical: the distribution of its values, from which rnncc draws examples (`check --probe`,
            bench, tests); None is normal(0, 1), or uniform(0, 1) for one that is given to a layer.
    """

    shared: bool = False
    projected: bool | None = None
    bias: Init | None = None
    typical: Init | None = None
    size: Size = None


@dataclass(frozen=True)
class Param(Role):
    """Learned, one value per channel; with `shared=True` one for all channels."""

    shared: bool = False
    init: Init = DEFAULT_INIT
    size: Size = None


@dataclass(frozen=True)
class Matrix(Role):
    """Learned, mixes each group of `block` consecutive channels: `R @ h`.

    Without `block` it mixes all channels, which no fused solver can take: `StructureError`.
    The default init is uniform(-1/sqrt(block), 1/sqrt(block)).
    """

    block: int | None = None
    init: Init | None = None

    def __post_init__(self) -> None:
        _take_numbers(self, "block")


def _take_numbers(role: Role, option: str) -> None:
    """Python's number for one of NumPy."""
    found = number(getattr(role, option))
    if found is not None:
        object.__setattr__(role, option, found)


# --- cells -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A recurrence under `@cell`: the function, not yet traced."""

    function: Callable[..., Any]

    @property
    def name(self) -> str:
        return self.function.__name__

    @cached_property
    def code(self) -> CodeType:
        """Of the function itself, below other decorators."""
        code: CodeType = inspect.unwrap(self.function).__code__
        return code

    @property
    def file(self) -> str:
        return self.code.co_filename

    @property
    def line(self) -> int:
        """The line of `def`; the code object itself starts at the decorator."""
        first = self.code.co_firstlineno
        lines = range(first, first + 20)
        return next((n for n in lines if getline(self.file, n).lstrip()[:4] == "def "), first)

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        tracer = TRACER.get()
        if tracer is not None:
            tracer.fail(
                f"calls the cell '{self.name}'",
                "A cell can't run inside another cell.",
                f"make '{self.name}' a plain Python function (without @cell) and call that",
            )
        raise CellError(
            [
                Problem(
                    self.file,
                    self.line,
                    self.name,
                    "called directly",
                    "A cell is a recurrence to compile, not a layer.",
                    f"c = rnncc.compile({self.name}); c(...) runs it, c.layer(...) is a module",
                )
            ]
        )


def cell(function: Callable[..., Any] | None = None) -> Cell:
    """Mark a plain function as a recurrence: annotations give the roles, the body one step.

    Returns:
        A `Cell`, for `rnncc.compile` and `rnncc compile`.
    """
    if function is None:
        raise TypeError("@cell takes no arguments.\nFix: @cell, without parentheses")
    if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
        raise TypeError(
            f"@cell goes above a plain function, got {function!r}.\n"
            f"Fix: @cell above def {getattr(function, '__name__', 'name')}(...):"
        )
    return Cell(function)


# --- functions -------------------------------------------------------------------------------


def _apply(name: str, *args: Any) -> Any:
    """name(*args) on symbols, on inits, or on plain numbers at compile time."""
    from rnncc.ir import functions

    if name in SHAPING and isinstance(args[0], Init):
        return args[0].shaped(name)

    if any(isinstance(arg, Elementwise) for arg in args):
        return elementwise(lambda *each: _apply(name, *each), *args)
    if not any(isinstance(arg, Symbolic) for arg in args):
        numbers = []
        for arg in args:
            found = number(arg)
            if found is None:
                if TRACER.get() is None:
                    raise TypeError(f"{name}() takes symbols of a cell or numbers, got {arg!r}")
                refuse_operand(arg)
            numbers.append(found)
        return _of_numbers(name, *numbers)
    return Value(functions.call(name, *(lift(arg) for arg in args)))


def _of_numbers(name: str, *args: float) -> float:
    """The value of a function at compile time, within a cell a finite one."""
    from rnncc.ir import functions

    try:
        return functions.TABLE[name].value(*args)
    except (ArithmeticError, ValueError):
        if TRACER.get() is None:
            raise
        fail(
            f"{name}({', '.join(map(shown, args))}) is no finite number",
            "Constants of a cell are finite numbers.",
            "check the arithmetic on constants in this line",
        )


def _unary(name: str, text: str) -> Callable[[Any], Any]:
    def function(x: Any) -> Any:
        return _apply(name, x)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = text
    return function


exp = _unary("exp", "e to the power x.")
log = _unary("log", "The natural logarithm.")
log1p = _unary("log1p", "log(1 + x), accurate near 0.")
expm1 = _unary("expm1", "exp(x) - 1, accurate near 0.")
exprel = _unary(
    "exprel", "(exp(x) - 1) / x, 1 at 0: x / (exp(x) - 1) without a gap is 1 / exprel(x)."
)
sqrt = _unary("sqrt", "The square root.")
rsqrt = _unary("rsqrt", "1 / sqrt(x).")
sigmoid = _unary("sigmoid", "The logistic function 1 / (1 + exp(-x)).")
tanh = _unary("tanh", "The hyperbolic tangent.")
logsigmoid = _unary("logsigmoid", "log(sigmoid(x)), finite for every finite x.")
relu = _unary("relu", "max(x, 0); derivative 0 at 0, as in PyTorch.")
abs_ = _unary("abs", "The absolute value; derivative 0 at 0.")
sign = _unary("sign", "-1, 0 or 1; derivative 0.")
floor = _unary("floor", "The largest whole number up to x; derivative 0.")
sin = _unary("sin", "The sine.")
cos = _unary("cos", "The cosine.")
sinh = _unary("sinh", "The hyperbolic sine.")
cosh = _unary("cosh", "The hyperbolic cosine.")
erf = _unary("erf", "The error function.")
atan = _unary("atan", "The inverse of the tangent, from -pi/2 to pi/2.")
asinh = _unary("asinh", "The inverse of the hyperbolic sine.")
acosh = _unary("acosh", "The inverse of the hyperbolic cosine.")
atanh = _unary("atanh", "The inverse of the hyperbolic tangent.")
log2 = _unary("log2", "The logarithm to base 2, whole at a power of two.")
exp2 = _unary("exp2", "2 to the power x.")


def round_(x: Any, digits: int | None = None) -> Any:
    """The nearest whole number, of two the even one, or number of so many digits; derivative 0."""
    if not digits:
        return _apply("round", x)
    scale = 10.0**digits
    return _apply("round", x * scale) / scale


round_.__name__ = round_.__qualname__ = "round"


def maximum(a: Any, *others: Any) -> Any:
    """The largest of two or more; at a tie each side gets half the gradient, as in PyTorch."""
    return _of_several("maximum", a, others)


def minimum(a: Any, *others: Any) -> Any:
    """The smallest of two or more; at a tie each side gets half the gradient, as in PyTorch."""
    return _of_several("minimum", a, others)


def _of_several(name: str, a: Any, others: Sequence[Any]) -> Any:
    if not others:
        listed = isinstance(a, (list, tuple)) and len(a) > 1
        fail(
            f"{name} is given '{a}' alone",
            "It takes two values or more.",
            f"{name}({', '.join(map(str, a))})"
            if listed
            else f"{name}(*h) for the elements of a vector h",
        )
    return functools.reduce(functools.partial(_apply, name), others, a)


def clip(x: Any, lo: Any, hi: Any = None) -> Any:
    """x limited to [lo, hi], either of which may be None; the gradient passes at the limits."""
    lo = None if number(lo) == -math.inf else lo
    hi = None if number(hi) == math.inf else hi
    if not any(isinstance(each, Symbolic) for each in (x, lo, hi)):
        return _apply("clip", x, -math.inf if lo is None else lo, math.inf if hi is None else hi)
    if hi is None:
        return x if lo is None else _apply("at_least", x, lo)
    return _apply("at_most", x, hi) if lo is None else _apply("clip", x, lo, hi)


def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b; gradients pass through the chosen side only."""
    if any(isinstance(arg, Elementwise) for arg in (condition, a, b)):
        return elementwise(where, condition, a, b)
    if not isinstance(condition, Condition):
        if TRACER.get() is None or truth(condition) is not None:
            return a if condition else b
        fail(
            f"where is given '{condition}'",
            "Its first argument is a comparison.",
            "where(h > 0, a, b)",
        )
    return Value(opaque("where", condition.lifted(), lift(a), lift(b)))


def spike(
    u: Any, surrogate: str | Callable[[Any], Any] = "fast_sigmoid", slope: float = 25.0
) -> Any:
    """A Heaviside step [u > 0] forward, the surrogate's derivative backward.

    Args:
        u: the membrane potential less its threshold.
        surrogate: fast_sigmoid 1/(1+k|u|)^2, atan k/2/(1+(pi/2 k u)^2), sigmoid
            k s(1-s) with s = sigmoid(k u), or triangle k relu(1 - k|u|); k is the slope.
            Or a function of u that gives the derivative: lambda u: 1 / (1 + abs(u)) ** 2.
        slope: how narrow the surrogate is; a compile-time number.
    """
    from rnncc.ir import functions

    if callable(surrogate):
        return _apply("spike_own", u, surrogate(u))
    if surrogate not in functions.SURROGATES:
        fail(
            f"spike has no surrogate '{surrogate}'",
            f"The surrogates are {', '.join(functions.SURROGATES)}, or a function of u.",
            "surrogate='fast_sigmoid'",
        )
    if isinstance(slope, Symbolic):
        fail(
            "spike's slope is a symbol",
            "The slope is a compile-time number.",
            "give the cell an argument with a numeric default: slope=25.0",
        )
    return _apply(f"spike_{surrogate}", u, slope)


def shift(x: Any, steps: int) -> Value:
    """Channel i reads channel i - steps. No fused solver can take it; structure says why."""
    import sympy

    from rnncc.ir import functions

    return Value(functions.Shift(lift(x), sympy.Integer(steps)))


def mean(x: Any) -> Value:
    """The mean over channels. No fused solver can take it; structure says why."""
    from rnncc.ir import functions

    return Value(functions.Mean(lift(x)))


# the names in the language, beside Python's own, which work on symbols as well
abs = abs_
round = round_
