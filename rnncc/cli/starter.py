"""Starter: a name -> the text of a commented cell that compiles as it is, and its file."""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path

from rnncc.errors import ArgumentError, LoadError
from rnncc.lang import dsl

PACKAGES = frozenset("torch numpy sympy jinja2 pydantic click rich cupy pytest generated".split())

TEXT = '''\
"""{name}: say here in one line what the cell does.

Source: where its equations come from.
"""

from rnncc import Input, Param, State, cell, sigmoid, tanh, uniform


@cell
def {name}(
    h: State,  # carried from step to step, one value per channel; State(init=1.0) starts elsewhere
    xg: Input, xc: Input,  # given at each step; the layer computes them as a Linear of its x
    ac: Param(init=uniform(-1, 1)),  # learnt, one value per channel
    bias=0.0,  # a compile-time constant: `rnncc compile {name}.py --set bias=1`
):
    # One step of one channel. The names and comments of these lines go into the emitted code.
    g = sigmoid(xg + bias)  # gate: how much is new
    c = tanh(ac * h + xc)  # candidate
    return (1 - g) * h + g * c  # the next h


# Several states: return their next values in order, or a dict with further outputs by name:
#     return {{"c": c_new, "h": h_new, "y": o * tanh(c_new)}}
# A choice: where(h > 1, a, b); Python's `if` can't see values.
# Channels that mix in groups of 4: R: Matrix(block=4), then R @ h.
'''


def starter(name: str) -> str:
    """The text of a commented cell."""
    return TEXT.format(name=name)


def write_cell(text: str, name: str, folder: Path, force: bool = False) -> Path:
    """Write NAME.py into the folder.

    Raises:
        LoadError: the file exists, or can't be written.
    """
    path = folder / f"{name}.py"
    if path.exists() and not force:
        raise LoadError(
            f"{path}: exists.\nFix: another name, --dir another folder, or --force to replace it"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise LoadError(
            f"{path}: can't be written: {reason}.\nFix: --dir another folder"
        ) from error
    return path


def check_name(name: str) -> None:
    """Refuse a name that Python, C++ or rnncc has taken."""
    reason = _taken(name)
    if reason:
        plain = re.sub(r"[\W_]+", "_", name.removesuffix(".py"), flags=re.ASCII)
        plain = plain.strip("_").lstrip("0123456789_") or "my_cell"
        plain = f"{plain}_cell" if _taken(plain) else plain
        raise ArgumentError(f"NAME: got {name!r}, which {reason}.\nFix: rnncc new {plain}")


def _taken(name: str) -> str:
    """Why the name can't be a cell's; empty if it can."""
    from rnncc.ir.functions import TABLE
    from rnncc.lang.signature import KEYWORDS

    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or "__" in name:
        return "is not a plain name (ASCII letters, digits, single underscores, a letter first)"
    if name in sys.stdlib_module_names or name in PACKAGES:
        return "is the name of a package, which a file of that name would hide"
    if keyword.iskeyword(name) or name in KEYWORDS:
        return "is a reserved word of Python, C++ or CUDA"
    if hasattr(dsl, name) or name in TABLE or name.startswith("RNNCC"):
        return "is a name of rnncc's own"
    return ""
