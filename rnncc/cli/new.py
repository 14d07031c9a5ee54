"""New: a name -> the file of a cell to edit, a small commented one or a copy of another."""

from __future__ import annotations

import io
import keyword
import re
import sys
import tokenize
from itertools import pairwise
from pathlib import Path

import click

from rnncc.cli import options, terminal
from rnncc.cli.load import read
from rnncc.errors import ArgumentError, LoadError, shorten
from rnncc.lang import dsl
from rnncc.lang.dsl import Cell

PACKAGES = frozenset("torch numpy sympy jinja2 pydantic click rich cupy pytest generated".split())
BY_HAND = "copy the file and rename the cell there"

STARTER = '''\
"""{name}: one line that says what the cell does.

Source: where its equations come from.
"""

from rnncc import Input, Param, State, cell, sigmoid, tanh, uniform


@cell
def {name}(
    h: State,  # carried from step to step, one value per channel; State(init=1.0) sets the first
    xg: Input, xc: Input,  # given at each step; the layer computes them as a Linear of its x
    ac: Param(init=uniform(-1, 1)),  # learned, one value per channel
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


@click.command(
    epilog="""\b
Examples:
  rnncc new my_cell
  rnncc new my_cell --like para_gru
  rnncc new my_cell --like other.py:its_cell --dir cells"""
)
@click.argument("name")
@click.option("--like", metavar="PATH", help="Copy the file of this cell, or of one that ships.")
@click.option("--dir", "folder", default=".", show_default=True, help="Where to write it.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@options.common
def new(name: str, like: str | None, folder: str, force: bool, json: bool) -> None:
    """Write NAME.py, a cell to edit.

    It is commented and compiles. With --like it is a copy of another cell's file, in which
    that cell has the new name; other cells of the file are copied with it.
    """
    check_name(name)
    origin = None if like is None else _find(like)
    text = STARTER.format(name=name).encode() if origin is None else copied(origin, name)
    path = write_cell(text, name, Path(folder), force)
    if json:
        terminal.as_json({"name": name, "file": str(path), "like": like})
        return
    others = [] if origin is None else _others(origin)
    holds = f" It also holds {', '.join(others)}." if others else ""
    which = f"{path}:{name}" if others else path
    terminal.line(f"{path}: written.{holds}\nNext: rnncc check {which}")


def _find(path: str) -> Cell:
    try:
        return read(path)
    except LoadError as error:
        raise LoadError(f"--like: {error}") from error


def _others(cell: Cell) -> list[str]:
    """The other cells of its file."""
    from rnncc.lang.loader import cells_of

    return [name for name in cells_of(Path(cell.file).resolve()) if name != cell.name]


# --- a copy ----------------------------------------------------------------------------------


def copied(cell: Cell, name: str) -> bytes:
    """The cell's file, unchanged except for the name after the cell's `def`.

    Raises:
        ArgumentError: the file has no such `def`, names the cell elsewhere too, or uses the new
            name.
    """
    source = Path(cell.file).read_bytes()
    encoding, *tokens = tokenize.tokenize(io.BytesIO(source).readline)
    names = [token for token in tokens if token.type == tokenize.NAME]
    own = [
        after
        for before, after in pairwise(names)
        if before.string == "def" and before.start[0] == cell.line
    ]
    if not own:
        raise ArgumentError(
            f"--like: {shorten(cell.file)} does not define '{cell.name}' by a `def`.\n"
            f"Fix: {BY_HAND}"
        )
    (place,) = own
    _refuse_other_uses(cell, place, names, name)
    (row, begin), (_, end) = place.start, place.end
    lines = io.BytesIO(source).readlines()
    line = lines[row - 1].decode(encoding.string)
    lines[row - 1] = f"{line[:begin]}{name}{line[end:]}".encode(encoding.string)
    return b"".join(lines)


def _refuse_other_uses(
    cell: Cell, place: tokenize.TokenInfo, names: list[tokenize.TokenInfo], name: str
) -> None:
    """A copy renames one word, so no other may depend on it."""
    file = shorten(cell.file)
    for token in names:
        if token.string == name != cell.name:
            raise ArgumentError(
                f"NAME: got {name!r}, a name that {file} uses for something else.\n"
                f"Fix: rnncc new {name}_cell --like ..."
            )
        if token.string == cell.name != name and token is not place:
            raise ArgumentError(
                f"--like: {file}:{token.start[0]}: names '{cell.name}' outside its `def` too.\n"
                f"Fix: {BY_HAND}"
            )


# --- the file --------------------------------------------------------------------------------


def write_cell(text: bytes, name: str, folder: Path, force: bool = False) -> Path:
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
        path.write_bytes(text)
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
    from rnncc.lang.names import KEYWORDS

    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or "__" in name:
        return "is not a plain name (ASCII letters, digits, single underscores, a letter first)"
    if name in sys.stdlib_module_names or name in PACKAGES:
        return "is the name of a package, which a file of that name would hide"
    if keyword.iskeyword(name) or name in KEYWORDS:
        return "is a reserved word of Python, C++ or CUDA"
    if hasattr(dsl, name) or name in TABLE or name.startswith("RNNCC"):
        return "is a name of rnncc's own"
    return ""
