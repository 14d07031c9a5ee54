"""Docstring: the text of a cell's docstring -> its prose, fields, source and units."""

from __future__ import annotations

import re
from collections.abc import Sequence

ENTRIES = ("Field:", "Source:")
UNIT = r"[munpk]?(?:V|A|S|F|s|Hz|Ohm)(?:/\w+)?"


def source_of(doc: str) -> str:
    """The entry `Source:`, with its continuation lines."""
    return _entry(doc, "Source:")


def fields_of(doc: str) -> tuple[str, ...]:
    """The entries of `Field:`."""
    names = _entry(doc, "Field:").removesuffix(".").split(",")
    return tuple(name.strip() for name in names if name.strip())


def prose_of(doc: str) -> str:
    """The docstring without its entries."""
    lines = doc.splitlines()
    for name in ENTRIES:
        begin, end = _place(lines, name)
        lines = lines[:begin] + lines[end:]
    return "\n".join(lines).strip()


def unit_of(doc: str, name: str) -> str:
    """The unit of an argument where the docstring has it, as in "v is the potential (mV)"."""
    text = " ".join(prose_of(doc).split())
    found = re.search(rf"\b{name}\b (?:(?:is )?in |\(|is [^.;,()]*\()({UNIT})\b", text)
    return found[1] if found else ""


def _entry(doc: str, name: str) -> str:
    lines = doc.splitlines()
    begin, end = _place(lines, name)
    return " ".join(line.strip() for line in lines[begin:end]).removeprefix(name).strip()


def _place(lines: Sequence[str], name: str) -> tuple[int, int]:
    """Where an entry begins and ends: at an empty line or the next entry."""
    begin = next((i for i, line in enumerate(lines) if line.startswith(name)), len(lines))
    for end in range(begin + 1, len(lines)):
        if not lines[end].strip() or lines[end].startswith(ENTRIES):
            return begin, end
    return begin, len(lines)
