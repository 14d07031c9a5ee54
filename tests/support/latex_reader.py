"""Evaluates the output of `latex`: a small reader that knows the notation, and nothing of rnncc."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

FUNCTIONS: dict[str, Callable[..., float]] = {
    r"\exp": math.exp,
    r"\log": math.log,
    r"\log_2": math.log2,
    r"\tanh": math.tanh,
    r"\sin": math.sin,
    r"\cos": math.cos,
    r"\arctan": math.atan,
    r"\mathrm{asinh}": math.asinh,
    r"\mathrm{acosh}": math.acosh,
    r"\mathrm{atanh}": math.atanh,
    r"\sinh": math.sinh,
    r"\cosh": math.cosh,
    r"\sigma": lambda x: 1 / (1 + math.exp(-x)),
    r"\max": max,
    r"\min": min,
    r"\Theta": lambda u: float(u > 0),
    r"\mathrm{softplus}": lambda x: math.log(1 + math.exp(x)),
    r"\mathrm{clip}": lambda x, lo, hi: min(max(x, lo), hi),
    r"\mathrm{sign}": lambda x: math.copysign(1, x) if x else 0.0,
    r"\mathrm{erf}": math.erf,
}
RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    ">": lambda a, b: a > b,
    r"\ge": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    r"\le": lambda a, b: a <= b,
    "=": lambda a, b: a == b,
    r"\ne": lambda a, b: a != b,
    r"\land": lambda a, b: a and b,
    r"\lor": lambda a, b: a or b,
}
# Tokens that can't begin a factor.
STOPS = {
    "",
    *"+-)},&",
    r"\\",
    r"\right|",
    r"\right\rfloor",
    r"\right\rceil",
    r"\end{cases}",
    *RELATIONS,
}
TOKEN = (
    r"\\left\||\\right\||\\left\\lfloor|\\right\\r(?:floor|ceil)|\\log_2"
    r"|\\(?:begin|end)\{cases\}|\\text\{[^}]*\}"
    r"|\\mathrm\{\w+\}|\\[A-Za-z]+|\\\\|\d+(?:\.\d+)?|\S"
)


class Reader:
    """Reads one expression at a time.

    Args:
        values: by name as written in LaTeX.
    """

    def __init__(self, values: Mapping[str, float]) -> None:
        self.values = values
        names = (re.escape(name) for name in sorted(values, key=len, reverse=True))
        self.token = re.compile("|".join([*names, TOKEN]))
        self.tokens: list[str] = []

    def value(self, text: str) -> float:
        """Of a whole expression."""
        for written, plain in ((r"\left(", "("), (r"\right)", ")"), (r"\,", " ")):
            text = text.replace(written, plain)
        self.tokens = self.token.findall(text)
        result = self.sum()
        assert not self.tokens, f"left over of {text}: {self.tokens}"
        return result

    def peek(self) -> str:
        return self.tokens[0] if self.tokens else ""

    def take(self, expected: str | None = None) -> str:
        token = self.tokens.pop(0)
        assert expected in (None, token), f"{expected} expected, got {token}"
        return token

    def sum(self) -> float:
        sign = -1 if self.peek() == "-" and self.take() else 1
        total = sign * self.product()
        while self.peek() in ("+", "-"):
            total += (1 if self.take() == "+" else -1) * self.product()
        return total

    def product(self) -> float:
        total = self.power()
        while self.peek() not in STOPS:
            if self.peek() == r"\cdot":
                self.take()
            total *= self.power()
        return total

    def power(self) -> float:
        base = self.atom()
        if self.peek() == "^":
            self.take()
            return float(base ** self.group())
        return base

    def group(self) -> float:
        """{...}, or one digit or name."""
        return self.within("{", "}") if self.peek() == "{" else self.atom()

    def within(self, begin: str, end: str) -> float:
        self.take(begin)
        value = self.sum()
        self.take(end)
        return value

    def atom(self) -> float:
        token = self.peek()
        if token == "(":
            return self.within("(", ")")
        if token == r"\left|":
            return abs(self.within(token, r"\right|"))
        if token == r"\left\lfloor":
            return self.whole()
        self.take()
        if token in self.values:
            return self.values[token]
        if token == r"\frac":
            return self.group() / self.group()
        if token == r"\sqrt":
            return math.sqrt(self.group())
        if token == r"\begin{cases}":
            return self.cases()
        if token in FUNCTIONS:
            return FUNCTIONS[token](*self.arguments())
        return math.pi if token == r"\pi" else float(token)

    def whole(self) -> float:
        """Rounded down, or to the nearest."""
        self.take(r"\left\lfloor")
        value = self.sum()
        return float(math.floor(value) if self.take() == r"\right\rfloor" else round(value))

    def arguments(self) -> list[float]:
        self.take("(")
        found = [self.sum()]
        while self.take() == ",":
            found.append(self.sum())
        return found

    def cases(self) -> float:
        """The first whose condition holds."""
        found: list[float] = []
        while True:
            value = self.sum()
            self.take("&")
            if self.take() == r"\text{otherwise}" or self.condition():
                found.append(value)
            if self.take() == r"\end{cases}":
                return found[0]

    def condition(self) -> bool:
        if self.peek() == r"\lnot":
            self.take()
            return not self.bracketed()
        left: Any = self.bracketed() if self.peek() == "(" else self.sum()
        relation = RELATIONS[self.take()]
        right: Any = self.bracketed() if self.peek() == "(" else self.sum()
        return bool(relation(left, right))

    def bracketed(self) -> bool:
        self.take("(")
        held = self.condition()
        self.take(")")
        return held
