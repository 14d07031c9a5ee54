"""Printer: expressions -> text. One list of node kinds that every target prints."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar

import sympy
from sympy import Expr

from rnncc.ir.functions import SURROGATES, TABLE, Comparison, Opaque, product, row_of

ADD, MUL, UNARY, ATOM = 1, 2, 3, 4
LARGEST_PRODUCT = 4
ABSENT = TABLE["absent"].symbol


class Printer:
    """Prints arithmetic, opaque functions and choices; a target overrides what differs."""

    TIMES: ClassVar = "*"

    def text(self, expr: Expr) -> str:
        return self.visit(expr)[0]

    def visit(self, expr: Expr) -> tuple[str, int]:
        """The text and how tightly its outermost operator binds."""
        if expr.is_Symbol:
            return str(expr.name), ATOM
        if expr.is_Number:
            text = self.number(expr)
            return text, UNARY if text.startswith("-") else ATOM
        if isinstance(expr, Comparison):
            return self.condition(expr), ADD
        if isinstance(expr, Opaque):
            return self.opaque(expr)
        if expr.is_Add:
            return self.add(expr), ADD
        if expr.is_Mul:
            return self.mul(expr), MUL
        if expr.is_Pow:
            return self.power(expr)
        raise TypeError(f"no printer for {type(expr).__name__}: {expr}")

    def bracket(self, expr: Expr, outer: int) -> str:
        text, binding = self.visit(expr)
        return f"({text})" if binding < outer else text

    def add(self, expr: Expr) -> str:
        terms = list(expr.as_ordered_terms())
        # 1 - z, not -z + 1
        positive = next((t for t in terms if not t.could_extract_minus_sign()), terms[0])
        terms.remove(positive)
        text = self.bracket(positive, MUL)
        for term in terms:
            if term.could_extract_minus_sign():
                text += f" - {self.bracket(-term, MUL)}"
            else:
                text += f" + {self.bracket(term, MUL)}"
        return text

    def mul(self, expr: Expr) -> str:
        if expr.could_extract_minus_sign():
            return f"-{self.bracket(-expr, MUL)}"
        numerator, denominator = sympy.fraction(expr, exact=True)
        if denominator != 1:
            return f"{self.bracket(numerator, MUL)} / {self.bracket(denominator, UNARY)}"
        return self.TIMES.join(self.bracket(f, MUL) for f in self.factors(numerator))

    def factors(self, expr: Expr) -> list[Expr]:
        return list(expr.as_ordered_factors())

    def power(self, expr: Expr) -> tuple[str, int]:
        base, exponent = expr.args
        if not exponent.is_Integer:
            raise TypeError(f"a power that is not an integer reached the printer: {expr}")
        n = int(exponent)
        if n < 0:
            return f"{self.number(sympy.Integer(1))} / {self.bracket(base**-n, UNARY)}", MUL
        if n <= LARGEST_PRODUCT:
            return self.TIMES.join([self.bracket(base, UNARY)] * n), MUL
        half = self.bracket(base ** (n // 2), UNARY)
        rest = [self.bracket(base, UNARY)] if n % 2 else []
        return self.TIMES.join([half, half, *rest]), MUL

    def quotient(self, expr: Expr) -> tuple[str, int]:
        above, below = expr.args[0], product(expr.args[1:])
        return f"{self.bracket(above, MUL)} / {self.bracket(below, UNARY)}", MUL

    def number(self, value: Expr) -> str:
        return repr(float(value))

    def condition(self, expr: Expr) -> str:
        raise NotImplementedError

    def opaque(self, expr: Expr) -> tuple[str, int]:
        raise NotImplementedError


class CPrinter(Printer):
    """C++ and CUDA: `real` is float or double, so no literal may be a double by accident."""

    TIMES: ClassVar = " * "
    OPERATORS: ClassVar = {"both": "&&", "either": "||"}

    def __init__(self) -> None:
        # derivatives repeat long parts of the lets
        self.visit = lru_cache(maxsize=16384)(self.visit)  # type: ignore[method-assign]

    def number(self, value: Expr) -> str:
        number = float(value)
        exact = abs(number) < 3e38 and struct.unpack("f", struct.pack("f", number))[0] == number
        return f"{number!r}f" if exact else f"real({number!r})"

    def condition(self, expr: Expr) -> str:
        if isinstance(expr, ABSENT):
            return f"absent({self.text(expr.args[0])})"
        if len(expr.args) == 1:
            return f"!({self.text(expr.args[0])})"
        operator = self.OPERATORS.get(type(expr).__name__, expr.operator)
        left, right = (self.text(arg) for arg in expr.args)
        if operator in self.OPERATORS.values():
            return f"({left}) {operator} ({right})"
        return f"{left} {operator} {right}"

    def opaque(self, expr: Expr) -> tuple[str, int]:
        name = type(expr).__name__
        if name == "where":
            condition, yes, no = expr.args
            choice = f"{self.text(condition)} ? {self.argument(yes)} : {self.argument(no)}"
            return f"({choice})", ATOM
        if name == "div":
            return self.quotient(expr)
        if name.startswith("spike_"):
            return f"heaviside({self.text(expr.args[0])})", ATOM
        return f"{name}({', '.join(self.argument(arg) for arg in expr.args)})", ATOM

    def argument(self, expr: Expr) -> str:
        """A literal as an argument has the kernel's type: 1.0f would be a float beside a double."""
        return f"real({float(expr)!r})" if expr.is_Number else self.text(expr)


class TorchPrinter(Printer):
    """PyTorch, for the oracle and for the plain loop that a user would write.

    Attributes:
        renamed: names of the cell that Python can't take, and those in their place.
        like: a tensor of the dtype and device of all; without it a function _tensor knows them.
    """

    def __init__(self, renamed: Mapping[str, str] | None = None, like: str = "") -> None:
        self.renamed, self.like = renamed or {}, like

    def visit(self, expr: Expr) -> tuple[str, int]:
        if expr.is_Symbol:
            return self.renamed.get(expr.name, expr.name), ATOM
        return super().visit(expr)

    def number(self, value: Expr) -> str:
        return repr(float(value))

    def condition(self, expr: Expr) -> str:
        return self.fill(expr)

    def opaque(self, expr: Expr) -> tuple[str, int]:
        if type(expr).__name__ == "div":
            return self.quotient(expr)
        return f"({self.fill(expr)})", ATOM

    def mul(self, expr: Expr) -> str:
        raised = [f for f in sympy.Mul.make_args(expr) if f.is_Pow and f.args[1] < -1]
        if not raised or expr.could_extract_minus_sign():
            return super().mul(expr)
        rest = sympy.Mul(*(f for f in expr.args if f not in raised))
        return self.TIMES.join(self.bracket(factor, MUL) for factor in (rest, *raised))

    def power(self, expr: Expr) -> tuple[str, int]:
        """An inverse power as PyTorch's own, whose derivative doesn't square the quotient."""
        base, exponent = expr.args
        if exponent.is_Integer and exponent < -1:
            return f"{self.bracket(base, ATOM)} ** {exponent}", UNARY
        return super().power(expr)

    def value(self, expr: Expr) -> str:
        """A tensor, even if the expression is a number."""
        if not expr.is_number:
            return self.text(expr)
        return f"{f'{self.like}.new' if self.like else ''}_tensor({self.text(expr)})"

    def fill(self, expr: Expr) -> str:
        """The row's PyTorch text with the arguments in their places."""
        row = row_of(expr)
        if row is None:  # R @ e over groups of channels
            return f"_mix({', '.join(self.text(arg) for arg in expr.args)})"
        first, *others = expr.args
        texts = [self.value(arg) for arg in expr.args]
        if row.name.removeprefix("spike_") in SURROGATES:  # its slope is a number
            texts = [self.text(a) for a in expr.args]
        # At the bound of a tensor torch.clamp has a derivative in reverse mode, none in forward.
        elif row.torch.startswith("torch.clamp") and all(bound.is_number for bound in others):
            texts = [self.value(first), *(self.text(bound) for bound in others)]
        return row.torch.format(*texts)
