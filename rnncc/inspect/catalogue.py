"""Catalogue: the shipped cells -> an entry for each, in brief; cached by content."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rnncc import paths
from rnncc.cache import cache_dir, make_cache_dir, write_private
from rnncc.ir.program import Structure
from rnncc.lang.docstring import fields_of, source_of
from rnncc.lang.loader import find, shipped


@dataclass(frozen=True)
class CatalogueEntry:
    """A cell in brief.

    Attributes:
        doc: its docstring.
        states: by name, in declared order.
        structure: the proof is left out.
        operations, functions: of one channel and step; a function is an exp, a tanh or the like.
        streams: inputs and outputs, each of which is read or written at every step.
    """

    name: str
    file: str
    doc: str
    states: tuple[str, ...]
    structure: Structure
    operations: float
    functions: float
    streams: int

    @property
    def what(self) -> str:
        """The first line of the docstring."""
        return self.doc.partition("\n")[0]

    @property
    def fields(self) -> tuple[str, ...]:
        return fields_of(self.doc)

    @property
    def source(self) -> str:
        return source_of(self.doc)

    def data(self) -> dict[str, Any]:
        """For `rnncc list --json`."""
        return {
            "name": self.name,
            "file": self.file,
            "states": list(self.states),
            "structure": self.structure.summary(),
            "fields": list(self.fields),
            "doc": self.what,
            "source": self.source,
        }


def catalogue() -> tuple[CatalogueEntry, ...]:
    """Every cell that ships, by name.

    A cell is traced once: its entry stays in the cache until its file or rnncc changes.
    """
    cached = _read()
    rnncc = _digest_of_rnncc()
    found: dict[str, CatalogueEntry] = {}
    for file in shipped():
        key = hashlib.sha256(rnncc + file.read_bytes()).hexdigest()
        found[key] = _restored(cached.get(key), file) or _entry_of(file)
    if found.keys() != cached.keys():
        _write(found)
    return tuple(found.values())


def select(
    found: Sequence[CatalogueEntry],
    words: Sequence[str] = (),
    states: int | None = None,
    affine: bool | None = None,
    spiking: bool = False,
    smooth: bool = False,
    field: str | None = None,
) -> list[CatalogueEntry]:
    """The entries that fit all filters.

    Args:
        words: each somewhere in name or docstring; case is ignored.
        states: their number.
        affine: in the state, or not; None for either.
        field: or a part of its name.
    """

    def fits(cell: CatalogueEntry) -> bool:
        text = f"{cell.name} {cell.doc}".lower()
        return (
            all(word.lower() in text for word in words)
            and states in (None, len(cell.states))
            and affine in (None, cell.structure.affine)
            and (cell.structure.spiking or not spiking)
            and (cell.structure.smooth or not smooth)
            and (field is None or any(field.lower() in each for each in cell.fields))
        )

    return [cell for cell in found if fits(cell)]


def spread(found: Sequence[CatalogueEntry], count: int) -> list[CatalogueEntry]:
    """Cells that differ as much as possible in the cost, reads and mixing of a step.

    The first is the one that costs least; each further one is the farthest from those before it,
    by its places in the orders of operations, functions, streams and channels of a group.
    """
    columns = (
        _places([cell.operations for cell in found]),
        _places([cell.functions for cell in found]),
        _places([cell.streams for cell in found]),
        _places([cell.structure.group for cell in found]),
    )
    points = list(zip(*columns, strict=True))
    left = sorted(range(len(found)), key=lambda i: sum(points[i]))
    chosen = [left.pop(0)] if left else []
    while left and len(chosen) < count:
        gaps = {i: min(math.dist(points[i], points[j]) for j in chosen) for i in left}
        chosen.append(max(left, key=gaps.__getitem__))
        left.remove(chosen[-1])
    return [found[i] for i in chosen]


def _places(values: Sequence[float]) -> list[float]:
    """The place of each value among all different ones, from 0 to 1."""
    order = sorted(set(values))
    return [order.index(value) / max(1, len(order) - 1) for value in values]


# --- the cache -------------------------------------------------------------------------------


def _entry_of(file: Path) -> CatalogueEntry:
    from rnncc.calculus.cost import count
    from rnncc.calculus.fission import expensive
    from rnncc.calculus.lower import lower
    from rnncc.calculus.structure import classify
    from rnncc.lang.trace import trace

    cell = trace(find(str(file)))
    structure = classify(cell)
    operations, calls = count(let.expr for let in lower(cell, structure.group).lets)
    functions = sum(times for name, times in calls.items() if expensive(name))
    return CatalogueEntry(
        name=cell.name,
        file=str(file),
        doc=cell.doc,
        states=tuple(state.name for state in cell.states),
        structure=replace(structure, proof=""),
        operations=(operations + sum(calls.values()) - functions) / structure.group,
        functions=functions / structure.group,
        streams=len(cell.inputs) + len(cell.outputs),
    )


def _digest_of_rnncc() -> bytes:
    """A digest of everything that an entry depends on, except the cell itself."""
    digest = hashlib.sha256(importlib.metadata.version("sympy").encode())
    for package in ("ir", "lang", "calculus"):
        for file in sorted((paths.HERE / package).glob("*.py")):
            digest.update(file.read_bytes())
    return digest.digest()


def _cache_file() -> Path:
    return cache_dir() / "cells.json"


def _read() -> dict[str, Any]:
    try:
        cached = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cached if isinstance(cached, dict) else {}


def _restored(cached: Any, file: Path) -> CatalogueEntry | None:
    """From the cache; None where it isn't there or isn't whole."""
    try:
        summary = {**cached["structure"], "proof": ""}
        summary |= {name: tuple(summary[name]) for name in ("pattern", "readouts")}
        current = {"file": str(file), "states": tuple(cached["states"])}
        return CatalogueEntry(**{**cached, **current, "structure": Structure(**summary)})
    except (KeyError, TypeError):
        return None


def _write(found: dict[str, CatalogueEntry]) -> None:
    """Cache them; a cache that can't be written is not an error."""
    text = json.dumps({key: asdict(cell) for key, cell in found.items()})
    with contextlib.suppress(OSError):
        make_cache_dir()
        write_private(_cache_file(), text.encode())
