"""The cells that ship, by name, each read at its first use: `from rnncc.cells import lru`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rnncc.lang.dsl import Cell


def __getattr__(name: str) -> Cell:
    """A shipped cell.

    Raises:
        AttributeError: no cell of that name ships; the message names similar ones.
    """
    from difflib import get_close_matches

    from rnncc.lang.loader import find, shipped

    files = {file.stem: file for file in shipped()}
    if name not in files:
        close = " or ".join(f"'{match}'" for match in get_close_matches(name, files))
        hint = f"did you mean {close}? " if close else ""
        raise AttributeError(
            f"rnncc.cells.{name}: no cell of that name ships.\nFix: {hint}`rnncc list` shows them"
        )
    globals()[name] = cell = find(str(files[name]))
    return cell


def __dir__() -> list[str]:
    """The names of all cells that ship."""
    from rnncc.lang.loader import shipped

    return [file.stem for file in shipped()]
