"""Choices: how a user wants a recurrence solved, checked and written as text for the operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from rnncc.errors import ArgumentError
from rnncc.ir.abi import Solver

SOLVERS = ("auto", *(solver.name.lower() for solver in Solver))
MOST = 2**31  # of any number of steps or iterations
ON_FAILURE = ("raise", "warn", "sequential")

# The options that each solver honours; any other one given with it is an error.
HONOURED = {
    "auto": ("checkpoint",),
    "sequential": ("checkpoint",),
    "segmented": ("checkpoint", "segment", "iterations", "tol"),
    "newton": ("checkpoint", "iterations", "tol", "on_failure"),
}


@dataclass(frozen=True)
class Choices:
    """What a user may choose; None leaves it to the planner.

    Attributes:
        solver: "auto", "sequential" (one fused pass over time), "segmented" (segments of time side
            by side, Newton on their starts; the sequential answer) or "newton" (every step at once,
            as in DEER and ParaRNN, for comparison).
        segment: steps of a segment, for "segmented".
        iterations: Newton iterations at most. For "segmented" it is when one pass over time takes
            over, for "newton" when it has failed (3 by default).
        tol: how well neighbours must agree, relative to max(1, |state|).
        on_failure: what "newton" does when it has not converged: "raise" a ConvergenceError,
            "warn", or solve the call again by "sequential".
        checkpoint: steps between the states that are kept for the backward, which computes the
            others again.
        reverse: from the last step to the first.
    """

    solver: str = "auto"
    segment: int | None = None
    iterations: int | None = None
    tol: float | None = None
    on_failure: str | None = None
    checkpoint: int | None = None
    reverse: bool = False

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ArgumentError(
                f"solver: got {self.solver!r}, expected one of {', '.join(SOLVERS)}.\n"
                "Fix: solver='auto'"
            )
        for name in ("segment", "iterations", "tol", "on_failure", "checkpoint"):
            if getattr(self, name) is not None and name not in HONOURED[self.solver]:
                able = [solver for solver in SOLVERS if name in HONOURED[solver]]
                raise ArgumentError(
                    f"{name}: got {getattr(self, name)!r}, but the solver '{self.solver}' does not "
                    f"use it.\nFix: leave it out, or solver='{able[0]}'"
                )
        for name in ("segment", "iterations", "checkpoint"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not 1 <= value <= MOST):
                raise ArgumentError(
                    f"{name}: got {value!r}, expected an int from 1 to {MOST}.\nFix: {name}=16"
                )
        tol = self.tol
        is_number = isinstance(tol, (int, float)) and not isinstance(tol, bool)
        if tol is not None and not (is_number and 0 <= tol <= 1):
            raise ArgumentError(f"tol: got {tol!r}, expected a number from 0 to 1.\nFix: tol=1e-6")
        if self.on_failure not in (None, *ON_FAILURE):
            raise ArgumentError(
                f"on_failure: got {self.on_failure!r}, expected one of {', '.join(ON_FAILURE)}.\n"
                "Fix: on_failure='raise'"
            )
        if not isinstance(self.reverse, bool):
            raise ArgumentError(
                f"reverse: got {self.reverse!r}, expected True or False.\nFix: reverse=True"
            )

    def text(self) -> str:
        """For an operator's argument; `read` takes it back."""
        return _text(self)

    @staticmethod
    def read(text: str) -> Choices:
        return _read(text)


AUTO = Choices()


# What each option is. torch.compile traces the writing, so it is plain.
KINDS: dict[str, Callable[[str], Any]] = {
    **{"solver": str, "segment": int, "iterations": int, "tol": float, "on_failure": str},
    **{"checkpoint": int, "reverse": bool},
}


def _text(choices: Choices) -> str:
    given = [(name, getattr(choices, name)) for name in KINDS]
    chosen = [(name, value) for name, value in given if value is not None and value is not False]
    # `kind(value)`: under torch.compile a number may be symbolic, and this asks for its value
    return " ".join([f"{name}={KINDS[name](value)}" for name, value in chosen])


@cache
def _read(text: str) -> Choices:
    parts = [part.split("=") for part in text.split()]
    return Choices(**{name: KINDS[name](value) for name, value in parts})
