"""Symbols: the arguments of a cell while its body is traced; every way out is refused.

Nothing here imports SymPy before a cell is traced, so that `import rnncc` stays fast.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from rnncc.lang import foreign, instead
from rnncc.lang.numbers import UFUNCS, is_finite, number, shown
from rnncc.lang.parts import LARGEST_POWER, gathers, is_large, is_product
from rnncc.lang.tracer import TRACER as TRACER
from rnncc.lang.tracer import Tracer as Tracer
from rnncc.lang.tracer import fail as fail

if TYPE_CHECKING:
    from sympy import Expr


SIZED = "State(size=n), Input(size=n), Param(size=n) for n values of a channel"
OWN_FUNCTIONS = "use rnncc's own functions (from rnncc import tanh, exp, ...) on symbols"


def _refuse_conversion(wanted: str) -> NoReturn:
    name = wanted.rpartition(".")[2] if wanted.startswith(("torch.", "numpy.")) else ""
    fail(
        f"{wanted} is applied to a symbol",
        "A cell's body runs once on symbols, which have no number yet.",
        instead.call(_place()) or foreign.named(name) or OWN_FUNCTIONS,
    )


def _place() -> instead.Place | None:
    return instead.Place.of(sys._getframe(1))


class Symbolic:
    """The base of all symbols: refuses every way out of the language."""

    def __init__(self, expr: Expr) -> None:
        self.expr = expr
        self.tracer = tracer = TRACER.get()
        self.line = tracer.line() if tracer else 0
        if tracer and tracer.is_without_gradients():
            instead.refuse_no_grad(_place())

    def __repr__(self) -> str:
        return str(self.expr)

    def own(self) -> Tracer:
        """The running trace; a symbol of another is refused."""
        tracer = TRACER.get()
        if tracer is None or self.tracer is not tracer:
            fail(
                f"'{self.expr}' is a symbol of another cell",
                "A cell computes with its own arguments, and is traced afresh each time.",
                "give the cell an argument of its own, and don't store symbols outside its body",
            )
        return tracer

    def __bool__(self) -> bool:
        fail(
            f"Python decides on '{self.expr}' (if, while, and, or, not)",
            "A cell's body runs once on symbols, so Python can't branch on their values.",
            instead.decision(_place(), isinstance(self, Condition))
            or "where(condition, a, b); combine conditions with &, | and ~",
        )

    def __float__(self) -> float:
        _refuse_conversion("a function that needs a number (math.*, float)")

    __int__ = __index__ = __complex__ = __float__

    def __iter__(self) -> NoReturn:
        fail(
            f"'{self.expr}' is iterated over",
            "A symbol is one value of one channel.",
            f"give each value its own argument, or {SIZED}",
        )

    def __len__(self) -> int:
        self.__iter__()

    def __getitem__(self, _: Any) -> NoReturn:
        fail(
            f"'{self.expr}' is indexed",
            "A symbol is one value of one channel.",
            f"leave the index out, or {SIZED}",
        )

    def __setitem__(self, _: Any, __: Any) -> NoReturn:
        fail(
            f"an element of '{self.expr}' is assigned",
            "A symbol is one value of one channel, and isn't changed in place.",
            "assign to the name, without an index",
        )

    @classmethod
    def __torch_function__(cls, func: Any, _: Any, args: Any = (), __: Any = None) -> NoReturn:
        for arg in args:
            if type(arg).__module__ == "torch":
                refuse_operand(arg)
        _refuse_conversion(f"torch.{getattr(func, '__name__', func)}")

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        _refuse_conversion("NumPy")

    def __array_ufunc__(self, ufunc: Any, _: str, *operands: Any, **__: Any) -> Any:
        """An operator with a number of NumPy on the left."""
        numbers = [o if isinstance(o, Symbolic) else number(o) for o in operands]
        for operand, found in zip(operands, numbers, strict=True):
            if found is None:
                refuse_operand(operand)
        if ufunc.__name__ in UFUNCS:
            return getattr(operator, UFUNCS[ufunc.__name__])(*numbers)
        _refuse_conversion(f"numpy.{ufunc.__name__}")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") or TRACER.get() is None:
            raise AttributeError(name)
        fail(
            f"'.{name}' is accessed on a symbol",
            "A symbol has no attributes.",
            instead.PAST
            if name == "ago"
            else instead.method(_place()) or instead.call(_place()) or OWN_FUNCTIONS,
        )


class Elementwise(Symbolic):
    """The base of vectors: operators of other symbols leave it to its own."""

    def misused(self) -> NoReturn:
        raise NotImplementedError


def refuse_operand(operand: Any) -> NoReturn:
    """Report an operand that is neither a symbol nor a Python number."""
    kind = f"{type(operand).__module__}.{type(operand).__qualname__}".removeprefix("builtins.")
    fail(
        f"an operand of type {kind}",
        "A constant inside a cell is a Python number; a value for each channel is a Param.",
        instead.OTHER_FIXES.get(
            kind, "float(...) for a single number, or an argument annotated Param"
        ),
    )


def lift(operand: Any) -> Any:
    """A SymPy expression for a symbol or a finite Python number; anything else is refused."""
    import sympy

    if isinstance(operand, Value):
        tracer = operand.own()
        return tracer.part(operand) if is_large(operand.expr) else operand.expr
    if isinstance(operand, (Condition, MatrixValue, Elementwise)):
        operand.misused()
    found = number(operand)
    if found is None:
        refuse_operand(operand)
    if not is_finite(found):
        fail(
            f"the constant {shown(found)} is not finite",
            "Constants of a cell are finite numbers.",
            "a large finite number, such as 1e30",
        )
    return sympy.Integer(found) if isinstance(found, int) else sympy.Float(found)


def _binary(name: str, reflected: bool = False) -> Callable[[Any, Any], Any]:
    apply = getattr(operator, name)

    def method(self: Value, other: Any) -> Value:
        if isinstance(other, Elementwise):
            return NotImplemented  # type: ignore[no-any-return]
        a, b = (other, self) if reflected else (self, other)
        if name == "pow":
            return power(a, b)
        x, y = lift(a), lift(b)
        if name == "truediv":
            _refuse_zero(b)
        result = apply(x, y)
        if gathers(result, [x, y], name in ("mul", "truediv")):
            result = apply(_apart(a), _apart(b))
        return Value(result)

    return method


def _remainder(name: str, reflected: bool = False) -> Callable[[Any, Any], Any]:
    def method(self: Value, other: Any) -> Any:
        if isinstance(other, Elementwise):
            return NotImplemented
        a, b = (other, self) if reflected else (self, other)
        _refuse_zero(b)
        return Value(opaque(name, lift(a), lift(b)))

    return method


def _refuse_zero(divisor: Any) -> None:
    if not isinstance(divisor, Symbolic) and lift(divisor).is_zero:
        fail("division by the constant 0", "", "divide by something else")


def _apart(operand: Any) -> Any:
    """An operand whose constants stay its own."""
    return operand.own().part(operand) if isinstance(operand, Value) else lift(operand)


def _compare(name: str) -> Callable[[Any, Any], Any]:
    def method(self: Value, other: Any) -> Condition:
        if isinstance(other, Elementwise):
            return NotImplemented  # type: ignore[no-any-return]
        from rnncc.ir import functions

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
    __mod__, __rmod__ = _remainder("remainder"), _remainder("remainder", reflected=True)
    __floordiv__ = _remainder("floor_divide")
    __rfloordiv__ = _remainder("floor_divide", reflected=True)

    def __neg__(self) -> Value:
        return Value(-lift(self))

    def __pos__(self) -> Value:
        return self

    def __abs__(self) -> Value:
        return Value(opaque("abs", lift(self)))

    def __round__(self, digits: int | None = None) -> Any:
        if not digits:
            return Value(opaque("round", lift(self)))
        scale = 10.0**digits
        return Value(opaque("round", lift(self * scale))) / scale

    def __floor__(self) -> Value:
        return Value(opaque("floor", lift(self)))

    def __ceil__(self) -> Value:
        return -Value(opaque("floor", -lift(self)))

    def __trunc__(self) -> Value:
        return Value(opaque("sign", lift(self)) * lift(abs(self).__floor__()))

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __matmul__(self, other: Any) -> NoReturn:
        fail(
            f"the operator @ on '{self.expr}'",
            "The left side of @ must be a Matrix.",
            "R @ h with R: Matrix(block=k) mixes channels; a Param multiplies by *",
        )

    __rmatmul__ = __matmul__

    def _combine(self, _: Any = None) -> NoReturn:
        fail(
            f"the value '{self.expr}' is taken for a condition",
            "&, | and ^ combine comparisons, and bind more tightly than they do.",
            instead.apart(_place())
            or "(h > 0) & (h < 1), each comparison in parentheses; ** for powers",
        )

    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __invert__ = _combine


class Condition(Symbolic):
    """A comparison, for `where`; combined by &, |, ^ and ~."""

    def __and__(self, other: Any) -> Condition:
        return self._combine("both", other)

    def __or__(self, other: Any) -> Condition:
        return self._combine("either", other)

    def __xor__(self, other: Any) -> Any:
        return (self | other) & ~(self & other)

    def __invert__(self) -> Condition:
        from rnncc.ir import functions

        return Condition(functions.call("negate", self.lifted()))

    def _combine(self, name: str, other: Any) -> Condition:
        from rnncc.ir import functions

        if isinstance(other, Elementwise):
            return NotImplemented  # type: ignore[no-any-return]
        if not isinstance(other, Condition):
            fail(
                f"'{other}' is combined with a condition",
                "&, | and ^ take comparisons on both sides.",
                "put each comparison in parentheses: (h > 0) & (h < 1)",
            )
        return Condition(functions.call(name, self.lifted(), other.lifted()))

    def lifted(self) -> Expr:
        """The condition as a part of an expression; a large one is computed apart, as 1 or 0."""
        self.own()
        if is_large(self.expr):
            self.expr = (Value(opaque("where", self.expr, *map(lift, (1, 0)))) != 0).expr
        return self.expr

    def misused(self) -> NoReturn:
        fail(
            f"the condition '{self.expr}' is used as a number",
            "A comparison is a condition, not a value.",
            "where(condition, 1.0, 0.0), or spike(u) where a gradient should pass",
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
        from rnncc.ir import functions

        if isinstance(other, Elementwise):
            return NotImplemented
        if isinstance(other, (Condition, MatrixValue)):
            other.misused()
        if not isinstance(other, Value):
            refuse_operand(other)
        self.own()
        return Value(functions.MatVec(self.expr, lift(other)))

    def misused(self, *_: Any) -> NoReturn:
        fail(
            f"the Matrix '{self.expr}' is used without @",
            "A Matrix mixes channels: R @ h, the matrix on the left.",
            f"{self.expr} @ h, or annotate '{self.expr}' as Param for one value per channel",
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = misused
    __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __neg__ = __rmatmul__ = misused
    __hash__ = object.__hash__
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = misused


def power(base: Any, exponent: Any) -> Value:
    """Integer powers are products, halves are roots, everything else is the function pow."""
    import sympy

    b, e = lift(base), lift(exponent)
    if e == 0.5:
        return Value(opaque("sqrt", b))
    if e == -0.5:
        return Value(opaque("rsqrt", b))
    if e.is_Number and float(e) == int(e) and abs(e) <= LARGEST_POWER:
        if abs(e) > 1 and (is_product(b) or gathers(b**e, [b])):
            b = _apart(base)
        return Value(b ** sympy.Integer(int(e)))
    return Value(opaque("pow", b, e))


def opaque(name: str, *args: Any) -> Any:
    """The application name(*args), imported when first needed."""
    from rnncc.ir import functions

    return functions.call(name, *args)
