"""Symbolic constants: Cell -> CellIR whose constants are symbols, not numbers; for `latex`."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType, FunctionType
from typing import Any

from rnncc.errors import CellError
from rnncc.ir.program import CellIR
from rnncc.lang import symbols
from rnncc.lang.dsl import Cell, Param
from rnncc.lang.trace import trace

MOST_CALLS = 100_000  # of Python's, in the trace of a cell with symbolic constants


def with_symbolic_constants(cell: Cell, constants: Mapping[str, float] | None = None) -> CellIR:
    """The recurrence with its compile-time constants as symbols.

    A constant that the body needs as a number, such as a spike's slope, stays one.

    Args:
        constants: new values of some, by name, which then are numbers.
    Raises:
        CellError: the one that `trace` raises for the cell with numbers.
    """
    plain = trace(cell, constants)
    free = [name for name in plain.constants if name not in (constants or {})]
    symbolic = [name for name in free if _traced(cell, constants, [name])]
    return _traced(cell, constants, symbolic) or plain


def _traced(
    cell: Cell, constants: Mapping[str, float] | None, symbolic: Iterable[str]
) -> CellIR | None:
    """The trace with some constants as if they were params; None where the body can't take it."""
    symbolic = set(symbolic)
    numbers = {name: value for name, value in (constants or {}).items() if name not in symbolic}
    try:
        with _patience():
            return trace(Cell(_symbolic_signature(cell.function, symbolic)), numbers)
    except CellError:
        return None


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Give up on bodies that grow without end on symbols, such as the exponential of a matrix."""
    calls = itertools.count()

    def count(frame: FrameType, event: str, _: Any) -> None:
        # an operation of the body's own, not inside SymPy, where an exception may get lost
        own = frame.f_code is symbols.lift.__code__
        if event == "call" and next(calls) > MOST_CALLS and own:
            raise RuntimeError("symbolic constants make the body too long")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)


def _symbolic_signature(function: object, symbolic: set[str]) -> FunctionType:
    assert isinstance(function, FunctionType)
    cells = function.__closure__ or ()
    around = {
        name: cell.cell_contents
        for name, cell in zip(function.__code__.co_freevars, cells, strict=True)
    }
    signature = inspect.signature(function, locals=around, eval_str=True)
    changed = [
        parameter.replace(default=parameter.empty, annotation=Param(shared=True))
        if parameter.name in symbolic
        else parameter
        for parameter in signature.parameters.values()
    ]
    copy = FunctionType(
        function.__code__, function.__globals__, function.__name__, None, function.__closure__
    )
    copy.__doc__ = function.__doc__
    arguments = [p.replace(kind=p.KEYWORD_ONLY) for p in changed]  # in any order, default or not
    copy.__signature__ = signature.replace(parameters=arguments)  # type: ignore[attr-defined]
    return copy
