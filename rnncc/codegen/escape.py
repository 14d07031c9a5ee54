"""Escape: text of an author -> text that stays text in emitted Python, C++ and CUDA.

Comments, docstrings and the names of files pass through here; names in code are checked where they
are read (lang.names), and numbers are printed from floats.
"""

from __future__ import annotations

import re


def plain(text: str) -> str:
    """One line of what can be seen: <U+202E> for a character that would reorder the line."""
    return "".join(map(_seen, text))


def _seen(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else f"<U+{ord(character):04X}>"


def comment(text: str, mark: str = "//") -> str:
    """A comment that ends with its line and hides nothing; `mark` begins it.

    A backslash at the end would take in the next line, as would the trigraph for one.
    """
    shown = re.sub(r"(\s|\\|\?\?/)+$", "", plain(text).replace("*/", "* /"))
    # the first lines of a Python file may name its encoding; a shell reads the same word
    return re.sub(r"(coding)([:=])", r"\1\\\2", shown) if mark == "#" else shown


def docstring(text: str) -> str:
    """A line within a docstring's triple quotes."""
    return plain(text).replace("\\", "\\\\").replace('"""', "'''")
