"""Table: what a row is; `functions` and `surrogates` fill the one table with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sympy
from sympy import Expr, Integer

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


class Remainder(Opaque):
    """% and //, which print as such."""

    operator = ""

    def _sympystr(self, printer: Any) -> str:
        left, right = (printer.parenthesize(arg, 100) for arg in self.args)
        return f"({left} {self.operator} {right})"


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


TABLE: dict[str, Function] = {}


def row(name: str, pull: Pull, torch: str, value: Callable[..., float], **options: Any) -> None:
    """Add a row, whose class is made here: of `base`, printed as `operator`."""
    base = options.pop("base", Opaque)
    members = {"operator": options.pop("operator", name), "__reduce__": _by_name}
    TABLE[name] = Function(type(name, (base,), members), pull, torch, value, **options)


def _by_name(expr: Opaque) -> tuple[Any, ...]:
    """For pickles, which find no class by a name that only the table has."""
    return call, (type(expr).__name__, *expr.args)


def call(name: str, *args: Any) -> Expr:
    """The opaque application name(*args)."""
    return TABLE[name].symbol(*args)


def row_of(expr: Any) -> Function | None:
    """The row of an opaque application, None for arithmetic."""
    return TABLE.get(type(expr).__name__) if isinstance(expr, Opaque) else None


def divide(a: Any, b: Any) -> Expr:
    """a / b as arithmetic; lowering names the quotient, so that its derivative needs no square."""
    return sympy.sympify(a) / b
