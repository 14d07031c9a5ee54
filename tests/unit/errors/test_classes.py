"""The classes of errors, and the arguments that compiling refuses."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import rnncc
from rnncc import compiler, errors
from rnncc.errors import ArgumentError, CellError, Problem, RnnccError
from tests.support.cells import cell_from, source_of
from tests.support.refusals import (
    BODY,
)


def test_compiling_a_plain_function_says_what_is_missing() -> None:
    def plain() -> None: ...

    with pytest.raises(ArgumentError) as caught:
        rnncc.compile(plain)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "cell: got function, expected a function under @cell, or the name of a shipped cell or "
        "file.\nFix: put @cell (from rnncc import cell) above the function"
    )


def test_every_error_is_an_rnncc_error() -> None:
    classes = [
        c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)
    ]
    assert len(classes) >= 6
    assert all(issubclass(c, RnnccError) for c in classes)
    assert issubclass(ArgumentError, ValueError)


def test_a_problem_reported_twice_is_shown_once() -> None:
    problem = Problem("f.py", 3, "c", "seen", "expected", "fix")
    assert str(CellError([problem, problem])) == "f.py:3: cell 'c': seen.\nexpected\nFix: fix"


def test_the_compiler_refuses_an_unknown_target(tmp_path: Path) -> None:
    compiled = compiler.compile_cell(cell_from(tmp_path, source_of(BODY)))
    with pytest.raises(ArgumentError, match="target: got 'fortran', expected one of cpp"):
        compiled.source("fortran")
