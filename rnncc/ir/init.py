"""Init: how a learned value is initialized: a distribution, and the functions of a drawn value.

`log(-log(uniform(0.9, 0.999)))` in a cell is an `Init`; nothing is drawn before a layer is made.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["uniform", "normal", "constant", "spaced"]
Change = tuple[str, float | None]

SUM, PRODUCT, POWER, ATOM = range(4)  # how tightly a text binds

# Changes of a value x that need a number as well: the operation, its text, how tightly x must bind
# in it, and how tightly the result binds.
WITH_NUMBER: dict[str, tuple[Callable[[Any, float], Any], str, int, int]] = {
    "add": (operator.add, "{x} + {c}", SUM, SUM),
    "mul": (operator.mul, "{c}*{x}", PRODUCT, PRODUCT),
    "pow": (operator.pow, "{x}**{c}", ATOM, POWER),
}
DEVIATIONS = 6  # of a normal distribution, at which draws are cut off
SAMPLES = 9  # of what can be drawn
SHAPING = ("exp", "log", "log1p", "expm1", "sqrt")  # functions that an init may go through


@dataclass(frozen=True)
class Init:
    """The init of a value: a distribution, and the changes of a drawn value.

    Attributes:
        kind: uniform in [a, b], normal of mean a and deviation b, constant a, or spaced: evenly
            from a at the first channel to b at the last.
        then: the changes, in order: a function of SHAPING, or one of WITH_NUMBER with its number.
    """

    kind: Kind
    a: float
    b: float = 0.0
    then: tuple[Change, ...] = ()

    def __str__(self) -> str:
        text = f"{self.kind}({self.a:g}{'' if self.kind == 'constant' else f', {self.b:g}'})"
        binding = ATOM
        for name, number in self.then:
            if number is None:
                text, binding = f"{name}({text})", ATOM
                continue
            _, pattern, needs, gives = WITH_NUMBER[name]
            inner = text if binding >= needs else f"({text})"
            if (name, number) == ("mul", -1):
                text = f"-({text})" if text.startswith("-") else f"-{inner}"
            elif name == "add" and number < 0:
                text = f"{inner} - {-number:g}"
            else:
                text = pattern.format(x=inner, c=f"{number:g}")
            binding = gives
        return text

    def shaped(self, change: str, number: float | None = None) -> Init:
        """With one more change."""
        return replace(self, then=(*self.then, (change, number)))

    def drawn(self) -> Init:
        """The text of the distribution, without the changes."""
        return replace(self, then=())

    def broken_rule(self) -> str:
        """The rule that its numbers break; empty if none."""
        if self.kind == "uniform" and self.a > self.b:
            return "uniform(a, b) needs a <= b"
        if self.kind == "normal" and self.b < 0:
            return "normal(mean, std) needs std >= 0"
        return ""

    def repaired(self) -> Init:
        """With the bounds of a uniform one swapped, and the deviation of a normal one positive."""
        if self.kind == "uniform":
            return replace(self, a=min(self.a, self.b), b=max(self.a, self.b))
        return replace(self, b=abs(self.b))

    def samples(self) -> list[float]:
        """Values over the whole range that can be drawn, in order; NaN where there is none."""
        if self.kind == "constant":
            low, high = self.a, self.a
        elif self.kind == "normal":
            low, high = self.a - DEVIATIONS * self.b, self.a + DEVIATIONS * self.b
        else:
            low, high = self.a, self.b
        drawn = [low + (high - low) * i / (SAMPLES - 1) for i in range(SAMPLES)]
        return [_changed(value, self.then) for value in drawn]

    def __add__(self, other: Any) -> Init:
        return self._with("add", other)

    def __mul__(self, other: Any) -> Init:
        return self._with("mul", other)

    def __pow__(self, other: Any) -> Init:
        return self._with("pow", other)

    def __sub__(self, other: Any) -> Init:
        return self._with("add", other, lambda c: -c)

    def __truediv__(self, other: Any) -> Init:
        return self._with("mul", other, lambda c: 1 / c if c else math.inf)

    def __rsub__(self, other: Any) -> Init:
        return (-self)._with("add", other)

    def __rtruediv__(self, other: Any) -> Init:
        return self.shaped("pow", -1.0)._with("mul", other)

    def __neg__(self) -> Init:
        return self.shaped("mul", -1.0)

    __radd__, __rmul__ = __add__, __mul__

    def _with(self, change: str, other: Any, to: Callable[[float], float] = float) -> Init:
        """With a change by a number; NotImplemented for anything else."""
        if type(other) not in (int, float):
            return NotImplemented  # type: ignore[no-any-return]
        return self.shaped(change, to(float(other)))


def change(value: Any, changes: tuple[Change, ...], functions: Any) -> Any:
    """Make all changes, with the functions of a module: math for a number, torch for a tensor."""
    for name, number in changes:
        if number is None:
            value = getattr(functions, name)(value)
        else:
            value = WITH_NUMBER[name][0](value, number)
    return value


def _changed(value: float, changes: tuple[Change, ...]) -> float:
    try:
        changed = change(value, changes, math)
    except (ValueError, OverflowError, ZeroDivisionError):
        return math.nan
    return changed if isinstance(changed, float) else math.nan
