"""Errors: one class per stage; a message has the place, what was seen, what was expected, a fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One fault in a cell: where it is, what was seen, what was expected, how to fix it."""

    file: str
    line: int
    cell: str
    seen: str
    expected: str
    fix: str

    def __str__(self) -> str:
        where = f"{shorten(self.file)}:{self.line}: " if self.file else ""
        text = f"{where}cell '{self.cell}': {self.seen}.\n"
        if self.expected:
            text += f"{self.expected}\n"
        return text + f"Fix: {self.fix}"


class RnnccError(Exception):
    """The base of every error that rnncc raises on purpose."""


class ProblemsError(RnnccError):
    """A stage's problems, collected and raised once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[ProblemsError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class CellError(ProblemsError):
    """Tracing: the cell uses something that can't be compiled."""


class StructureError(ProblemsError):
    """Structure: channels couple in a way that no fused solver can take."""


class LoadError(RnnccError):
    """Loading: the cell's file, or a generated folder, can't be found or read."""


class BuildError(RnnccError):
    """Building: no compiler, or the compiler rejected the emitted source."""


class ArgumentError(RnnccError, ValueError):
    """Run time: a shape, dtype, device or option that doesn't fit; it names the argument."""


class ConvergenceError(RnnccError):
    """Run time: the solver was "newton" and did not converge within its iterations."""


def shorten(file: str) -> str:
    """The path relative to the working directory where it lies below it, else unchanged."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except ValueError:
        return file
