"""Tracer: the context of a running trace, which names values and reports faults at their line."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import TYPE_CHECKING, NoReturn

from rnncc.errors import CellError, Problem
from rnncc.ir.program import Let
from rnncc.lang.parts import placeholder

if TYPE_CHECKING:
    from sympy import Expr, Symbol

    from rnncc.lang.symbols import Value


MOST_LETS = 5000


def has_gradients() -> bool:
    """Whether PyTorch records gradients, as it does if it isn't there."""
    torch = sys.modules.get("torch")
    return torch is None or torch.is_grad_enabled()


@dataclass
class Tracer:
    """The context of a running trace: its cell, and the line that is running.

    Attributes:
        returned: once the body has run, the line of its return.
        lets: the values that were named, in order.
        refused: every refusal, even if the body has caught it.
        gradients: PyTorch recorded gradients when the trace began.
    """

    name: str
    file: str
    first_line: int
    code: CodeType
    returned: int = 0
    lets: list[Let] = field(default_factory=list)
    names: dict[Symbol, Symbol] = field(default_factory=dict)
    refused: list[Problem] = field(default_factory=list)
    gradients: bool = field(default_factory=has_gradients)

    def line(self) -> int:
        """The line of the cell's own frame, seen from any helper that it calls."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code is self.code:
                return frame.f_lineno
            frame = frame.f_back
        return self.returned or self.first_line

    def fail(self, seen: str, expected: str, fix: str) -> NoReturn:
        problem = Problem(self.file, self.line(), self.name, seen, expected, fix)
        self.refused.append(problem)
        raise CellError([problem])

    def is_without_gradients(self) -> bool:
        """Whether what runs is under `torch.no_grad`, of the body or of a helper."""
        return self.gradients and not has_gradients()

    def part(self, value: Value) -> Expr:
        """Name a value that has no name from the author: what reads it reads a symbol."""
        if not value.expr.is_Atom:
            symbol = placeholder(len(self.lets))
            self.add(Let(symbol.name, value.expr, value.line))
            value.expr = symbol
        return value.expr

    def add(self, let: Let) -> None:
        """Add a let; a body that makes too many may be a loop that never ends."""
        self.lets.append(let)
        if len(self.lets) > MOST_LETS:
            self.fail(
                f"the body has more than {MOST_LETS} values with a name",
                "A loop is written out: each assignment in each turn is a value of its own.",
                "a loop of few turns, for k in range(10), or steps of time instead of turns",
            )


TRACER: ContextVar[Tracer | None] = ContextVar("rnncc_tracer", default=None)


def fail(seen: str, expected: str, fix: str) -> NoReturn:
    """Report a fault of the cell that is being traced, at the line that runs."""
    tracer = TRACER.get()
    if tracer is None:
        raise RuntimeError(f"a symbol of rnncc was used outside the trace of its cell: {seen}")
    tracer.fail(seen, expected, fix)
