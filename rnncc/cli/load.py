"""Load: a PATH of the command line -> its cell, or the compiled cell."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rnncc.compiler import CompiledCell
    from rnncc.lang.dsl import Cell


def load(path: str, constants: Mapping[str, float], fast_math: bool = False) -> CompiledCell:
    """Find and compile; prints of the cell's own file go to stderr, away from the results."""
    from rnncc.compiler import CompiledCell

    with contextlib.redirect_stdout(sys.stderr):
        return CompiledCell(read(path), constants, fast_math)


def read(path: str) -> Cell:
    """The cell that a PATH names, its file run in the same way."""
    from rnncc.lang.loader import find

    with contextlib.redirect_stdout(sys.stderr):
        return find(path)
