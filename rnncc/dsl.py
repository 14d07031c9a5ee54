"""The language: `@cell`, the roles of its arguments and the functions of its body.

Nothing here imports SymPy before a cell is traced, so that `import rnncc` stays fast.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from linecache import getline
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from rnncc.errors import CellError, Problem
from rnncc.ir import Init

if TYPE_CHECKING:
    from sympy import Expr

# --- roles -----------------------------------------------------------------------------------


def uniform(a: float, b: float) -> Init:
    """Start uniformly between a and b."""
    return Init("uniform", float(a), float(b))


def normal(mean: float, std: float) -> Init:
    """Start normally distributed."""
    return Init("normal", float(mean), float(std))


def constant(value: float) -> Init:
    """Start at one value."""
    return Init("constant", float(value))


class Role:
    """What an argument of a cell is. Usable bare (`h: State`) or called (`h: State(init=1.0)`)."""


@dataclass(frozen=True)
class State(Role):
    """Carried from step to step, one value per channel; `init` is its value before the first."""

    init: float = 0.0


@dataclass(frozen=True)
class Input(Role):
    """Given per batch, step and channel; with `shared=True` per batch and step for all channels."""

    shared: bool = False


@dataclass(frozen=True)
class Param(Role):
    """Learnt, one value per channel; with `shared=True` one for all channels."""

    shared: bool = False
    init: Init = Init("uniform", -1.0, 1.0)


@dataclass(frozen=True)
class Matrix(Role):
    """Learnt, mixes each group of `block` consecutive channels: `R @ h`.

    Without `block` it mixes all channels, which no fused solver can take: `StructureError`.
    The default start is uniform within 1/sqrt(block).
    """

    block: int | None = None
    init: Init | None = None


# --- cells -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A recurrence under `@cell`: the function, not yet traced."""

    function: Callable[..., Any]

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def code(self) -> CodeType:
        return self.function.__code__

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


def cell(function: Callable[..., Any]) -> Cell:
    """Mark a plain function as a recurrence: annotations give the roles, the body one step.

    Returns:
        A `Cell`, for `rnncc.compile` and `rnncc compile`.
    """
    return Cell(function)


# --- tracing context -------------------------------------------------------------------------


@dataclass
class Tracer:
    """What the symbols of a running trace know: which cell, and which line is running."""

    cell: Cell
    returned: int = 0  # once the body has run, the line of its return

    def line(self) -> int:
        """The line of the cell's own frame, seen from any helper that it calls."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code is self.cell.code:
                return frame.f_lineno
            frame = frame.f_back
        return self.returned or self.cell.line

    def fail(self, seen: str, expected: str, fix: str) -> NoReturn:
        problem = Problem(self.cell.file, self.line(), self.cell.name, seen, expected, fix)
        raise CellError([problem])


TRACER: ContextVar[Tracer | None] = ContextVar("rnncc_tracer", default=None)


def _fail(seen: str, expected: str, fix: str) -> NoReturn:
    tracer = TRACER.get()
    if tracer is None:
        raise RuntimeError(f"a symbol of rnncc was used outside the trace of its cell: {seen}")
    tracer.fail(seen, expected, fix)


# --- symbols ---------------------------------------------------------------------------------


def _refuse_conversion(wanted: str) -> NoReturn:
    _fail(
        f"{wanted} is applied to a symbol",
        "A cell's body runs once on symbols, which have no number yet.",
        "use rnncc's own functions (from rnncc import tanh, exp, ...) on symbols",
    )


class Symbolic:
    """What `Value`, `Condition` and `MatrixValue` share: every way out of the language is refused."""

    def __init__(self, expr: Expr) -> None:
        self.expr = expr
        tracer = TRACER.get()
        self.line = tracer.line() if tracer else 0

    def __repr__(self) -> str:
        return str(self.expr)

    def __bool__(self) -> bool:
        _fail(
            f"Python decides on '{self.expr}' (if, while, and, or, not)",
            "A cell's body runs once on symbols, so Python can't branch on their values.",
            "where(condition, a, b); combine conditions with &, | and ~",
        )

    def __float__(self) -> float:
        _refuse_conversion("a function that wants a number (math.*, float)")

    __int__ = __index__ = __complex__ = __float__

    def __iter__(self) -> NoReturn:
        _fail(
            f"'{self.expr}' is iterated over",
            "A symbol is one value of one channel.",
            "name each state, input or parameter as an argument of its own",
        )

    def __len__(self) -> int:
        self.__iter__()

    def __getitem__(self, _: Any) -> NoReturn:
        self.__iter__()

    @classmethod
    def __torch_function__(cls, func: Any, *_: Any, **__: Any) -> NoReturn:
        _refuse_conversion(f"torch.{getattr(func, '__name__', func)}")

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        _refuse_conversion("NumPy")

    def __array_ufunc__(self, ufunc: Any, method: str, *operands: Any, **_: Any) -> NoReturn:
        if any(type(operand).__module__ == "numpy" for operand in operands):
            _refuse_operand(next(o for o in operands if type(o).__module__ == "numpy"))
        _refuse_conversion(f"numpy.{ufunc.__name__}")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") or TRACER.get() is None:
            raise AttributeError(name)
        _fail(
            f"'.{name}' is asked of a symbol",
            "A symbol has no attributes.",
            "use rnncc's own functions (from rnncc import tanh, exp, ...) on symbols",
        )


def _refuse_operand(operand: Any) -> NoReturn:
    kind = f"{type(operand).__module__}.{type(operand).__qualname__}".removeprefix("builtins.")
    _fail(
        f"a {kind} meets a symbol",
        "A constant inside a cell is a Python number; what has one value per channel is a Param.",
        "float(...) for a single number, or an argument annotated Param",
    )


def lift(operand: Any) -> Any:
    """A SymPy expression for a symbol or a finite Python number; anything else is refused."""
    import math

    import sympy

    if isinstance(operand, Value):
        return operand.expr
    if isinstance(operand, (Condition, MatrixValue)):
        operand.misused()
    if type(operand) is bool or not isinstance(operand, (int, float)):
        _refuse_operand(operand)
    if not math.isfinite(operand):
        _fail(
            f"the constant {operand} is not finite",
            "Constants of a cell are finite numbers.",
            "a large finite number, such as 1e30",
        )
    return sympy.Integer(operand) if isinstance(operand, int) else sympy.Float(float(operand))


def _binary(name: str, reflected: bool = False) -> Callable[[Any, Any], Any]:
    import operator

    apply = getattr(operator, name)

    def method(self: Value, other: Any) -> Value:
        a, b = (other, self) if reflected else (self, other)
        if name == "pow":
            return _power(a, b)
        if name == "truediv" and not isinstance(b, Symbolic) and b == 0:
            _fail("division by the constant 0", "", "divide by something else")
        return Value(apply(lift(a), lift(b)))

    return method


def _compare(name: str) -> Callable[[Any, Any], Any]:
    def method(self: Value, other: Any) -> Condition:
        from rnncc import functions

        return Condition(functions.call(name, lift(self), lift(other)))

    return method


class Value(Symbolic):
    """One value of one channel: an argument, a let, or an expression of them."""

    __hash__ = object.__hash__
    __add__, __radd__ = _binary("add"), _binary("add", reflected=True)
    __sub__, __rsub__ = _binary("sub"), _binary("sub", reflected=True)
    __mul__, __rmul__ = _binary("mul"), _binary("mul", reflected=True)
    __truediv__, __rtruediv__ = _binary("truediv"), _binary("truediv", reflected=True)
    __pow__, __rpow__ = _binary("pow"), _binary("pow", reflected=True)
    __gt__, __ge__, __lt__, __le__ = (_compare(n) for n in ("gt", "ge", "lt", "le"))
    __eq__, __ne__ = _compare("eq"), _compare("ne")

    def __neg__(self) -> Value:
        return Value(-self.expr)

    def __pos__(self) -> Value:
        return self

    def __abs__(self) -> Value:
        return Value(_opaque("abs", self.expr))

    def __matmul__(self, other: Any) -> NoReturn:
        self._refuse_operator("@")

    def __floordiv__(self, _: Any) -> NoReturn:
        self._refuse_operator("//")

    def __mod__(self, _: Any) -> NoReturn:
        self._refuse_operator("%")

    __rmatmul__, __rfloordiv__, __rmod__ = __matmul__, __floordiv__, __mod__

    def _refuse_operator(self, operator: str) -> NoReturn:
        if operator == "@":
            _fail(
                f"the operator @ on '{self.expr}'",
                "Only a Matrix can stand on the left of @.",
                "R @ h with R: Matrix(block=k) mixes channels; a Param multiplies by *",
            )
        _fail(
            f"the operator {operator} on '{self.expr}'",
            "rnncc has no derivative for it.",
            "sin and cos for what is periodic",
        )


class Condition(Symbolic):
    """A comparison, for `where`; combined by &, | and ~."""

    def __and__(self, other: Any) -> Condition:
        return self._combine("both", other)

    def __or__(self, other: Any) -> Condition:
        return self._combine("either", other)

    def __invert__(self) -> Condition:
        from rnncc import functions

        return Condition(functions.call("negate", self.expr))

    def _combine(self, name: str, other: Any) -> Condition:
        from rnncc import functions

        if not isinstance(other, Condition):
            _fail(
                f"'{other}' is combined with a condition",
                "& and | take comparisons on both sides.",
                "bracket each comparison: (h > 0) & (h < 1)",
            )
        return Condition(functions.call(name, self.expr, other.expr))

    def misused(self) -> NoReturn:
        _fail(
            f"the condition '{self.expr}' is used as a number",
            "A comparison is a condition, not a value.",
            "where(condition, 1.0, 0.0), or spike(u) where a gradient shall pass",
        )

    def _arithmetic(self, *_: Any) -> NoReturn:
        self.misused()

    __hash__ = object.__hash__
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _arithmetic
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _arithmetic
    __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __neg__ = _arithmetic


class MatrixValue(Symbolic):
    """A matrix argument; its only use is `R @ e`."""

    def __matmul__(self, other: Any) -> Value:
        from rnncc import functions

        if isinstance(other, (Condition, MatrixValue)):
            other.misused()
        if not isinstance(other, Value):
            _refuse_operand(other)
        return Value(functions.MatVec(self.expr, other.expr))

    def misused(self, *_: Any) -> NoReturn:
        _fail(
            f"the Matrix '{self.expr}' is used without @",
            "A Matrix mixes channels: R @ h, the matrix on the left.",
            f"{self.expr} @ h, or annotate '{self.expr}' as Param for one value per channel",
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = misused
    __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __neg__ = __rmatmul__ = misused
    __hash__ = object.__hash__
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = misused


# --- functions -------------------------------------------------------------------------------


def _apply(name: str, *args: Any) -> Any:
    """name(*args) on symbols, or on plain numbers at compile time."""
    from rnncc import functions

    if not any(isinstance(arg, Symbolic) for arg in args):
        for arg in args:
            if type(arg) is bool or not isinstance(arg, (int, float)):
                if TRACER.get() is None:
                    raise TypeError(f"{name}() takes symbols of a cell or numbers, got {arg!r}")
                _refuse_operand(arg)
        return functions.TABLE[name].value(*args)
    return Value(functions.call(name, *(lift(arg) for arg in args)))


def _power(base: Any, exponent: Any) -> Value:
    """Integer powers are products, halves are roots, everything else is the function pow."""
    import sympy

    b, e = lift(base), lift(exponent)
    if e == 0.5:
        return Value(_opaque("sqrt", b))
    if e == -0.5:
        return Value(_opaque("rsqrt", b))
    if e.is_Number and float(e) == int(e):
        return Value(b ** sympy.Integer(int(e)))
    return Value(_opaque("pow", b, e))


def _opaque(name: str, *args: Any) -> Any:
    from rnncc import functions

    return functions.call(name, *args)


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
sqrt = _unary("sqrt", "The square root.")
rsqrt = _unary("rsqrt", "1 / sqrt(x).")
sigmoid = _unary("sigmoid", "The logistic function 1 / (1 + exp(-x)).")
tanh = _unary("tanh", "The hyperbolic tangent.")
softplus = _unary("softplus", "log(1 + exp(x)), without a threshold.")
logsigmoid = _unary("logsigmoid", "log(sigmoid(x)), finite for every finite x.")
relu = _unary("relu", "max(x, 0); derivative 0 at 0, as in PyTorch.")
abs_ = _unary("abs", "The absolute value; derivative 0 at 0.")
sign = _unary("sign", "-1, 0 or 1; derivative 0.")
sin = _unary("sin", "The sine.")
cos = _unary("cos", "The cosine.")
sinh = _unary("sinh", "The hyperbolic sine.")
cosh = _unary("cosh", "The hyperbolic cosine.")
erf = _unary("erf", "The error function.")


def silu(x: Any) -> Any:
    """x * sigmoid(x)."""
    return x * sigmoid(x)


def gelu(x: Any) -> Any:
    """x * Phi(x) with the exact Gaussian distribution function."""
    return 0.5 * x * (1 + erf(x * 0.7071067811865476))


def maximum(a: Any, b: Any) -> Any:
    """The larger; at a tie each side gets half the gradient, as in PyTorch."""
    return _apply("maximum", a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller; at a tie each side gets half the gradient, as in PyTorch."""
    return _apply("minimum", a, b)


def clip(x: Any, lo: Any, hi: Any) -> Any:
    """x limited to [lo, hi]; the gradient passes at the limits, as in torch.clamp."""
    return _apply("clip", x, lo, hi)


def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b; gradients pass through the chosen side only."""
    if not isinstance(condition, Condition):
        if TRACER.get() is None or isinstance(condition, bool):
            return a if condition else b
        _fail(
            f"where is given '{condition}'",
            "Its first argument is a comparison.",
            "where(h > 0, a, b)",
        )
    return Value(_opaque("where", condition.expr, lift(a), lift(b)))


def spike(u: Any, surrogate: str = "fast_sigmoid", slope: float = 25.0) -> Any:
    """A Heaviside step [u > 0] forward, the surrogate's derivative backward.

    Args:
        u: the membrane potential less its threshold.
        surrogate: fast_sigmoid 1/(1+k|u|)^2, atan k/2/(1+(pi/2 k u)^2), sigmoid
            k s(1-s) with s = sigmoid(k u), or triangle k relu(1 - k|u|); k is the slope.
        slope: how narrow the surrogate is; a compile-time number.
    """
    from rnncc import functions

    if surrogate not in functions.SURROGATES:
        _fail(
            f"spike has no surrogate '{surrogate}'",
            f"The surrogates are {', '.join(functions.SURROGATES)}.",
            "surrogate='fast_sigmoid'",
        )
    if isinstance(slope, Symbolic):
        _fail(
            "spike's slope is a symbol",
            "The slope is a compile-time number.",
            "give the cell an argument with a numeric default: slope=25.0",
        )
    return _apply(f"spike_{surrogate}", u, slope)


def shift(x: Any, steps: int) -> Value:
    """Channel i reads channel i - steps. No fused solver can take it; structure says why."""
    import sympy

    from rnncc import functions

    return Value(functions.Shift(lift(x), sympy.Integer(steps)))


def mean(x: Any) -> Value:
    """The mean over channels. No fused solver can take it; structure says why."""
    from rnncc import functions

    return Value(functions.Mean(lift(x)))


# the name in the language, beside Python's own abs, which works on symbols as well
abs = abs_
