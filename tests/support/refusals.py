"""Refusals: cells that can't be compiled, their messages, and a check that none is missing."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import rnncc
from rnncc.errors import CellError, LoadError, Problem, StructureError
from tests.support.cells import BODY_LINE, DEF_LINE, SIGNATURE, cell_from, source_of

BODY = "return a * h + x"
NAMES = "Names are used unchanged in C++ and CUDA."
PLAIN = "is not a plain ASCII name (letters, digits, single underscores, a letter first)"


@dataclass(frozen=True)
class Case:
    """A cell that can't be compiled, and its message."""

    seen: str
    expected: str
    fix: str
    body: str = BODY
    signature: str = SIGNATURE
    line: int = BODY_LINE
    before: str = ""
    set: tuple[tuple[str, float], ...] = ()
    name: str = "odd"

    def text(self) -> str:
        line = self.line + self.before.count("\n")
        expected = f"{self.expected}\n" if self.expected else ""
        return f"odd.py:{line}: cell '{self.name}': {self.seen}.\n{expected}Fix: {self.fix}"


def bad_argument(seen: str, expected: str, fix: str, signature: str, body: str = BODY) -> Case:
    return Case(seen, expected, fix, body, signature, line=DEF_LINE)


def compile_case(case: Case, folder: Path) -> None:
    source = source_of(case.body, case.signature, case.before, case.name)
    rnncc.compile(cell_from(folder, source), **dict(case.set))


def message_of(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The whole message, with paths relative to the cell's folder."""
    monkeypatch.chdir(folder)
    with pytest.raises((CellError, StructureError)) as caught:
        compile_case(case, folder)
    return str(caught.value)


# --- completeness ----------------------------------------------------------------------------

REPORTS = {"fail", "add", "LoadError", "Problem", "_coupling"}


def missed(
    modules: tuple[ModuleType, ...], run: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The places of the modules that report a fault and that a run does not reach."""
    reached = reached_lines(run, monkeypatch)
    return [
        f"{Path(str(module.__file__)).name}:{first}"
        for module in modules
        for first, last in report_sites(module)
        if not any((module.__file__, line) in reached for line in range(first, last + 1))
    ]


def report_sites(module: ModuleType) -> Iterator[tuple[int, int]]:
    """First and last line of every call that reports a fault."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            owner = ast.unparse(node.func).rpartition(".")[0]
            if name in REPORTS and (name != "add" or "problems" in owner):
                yield node.lineno, node.end_lineno or node.lineno


def reached_lines(
    run: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> set[tuple[str, int]]:
    """The lines on the stack whenever a fault is reported during a run."""
    reached: set[tuple[str, int]] = set()

    def note() -> None:
        frame = sys._getframe(1)
        while frame is not None:
            reached.add((frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back  # type: ignore[assignment]

    for cls in (Problem, LoadError):
        original = cls.__init__

        def noting(self: object, *args: object, original: Callable[..., None] = original) -> None:
            note()
            original(self, *args)

        monkeypatch.setattr(cls, "__init__", noting)
    run()
    return reached
