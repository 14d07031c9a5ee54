"""tools/catalogue.py, which writes docs/cells.md, as a module; and three cells as if measured."""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from rnncc.bench import cpu as bench
from rnncc.lang.loader import find

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WAYS = ("forward", "forward+backward")


@functools.cache
def tool(name: str) -> Any:
    """A module of tools/: "catalogue", or "catalogue_page" beside it."""
    folder = str(ROOT / "tools")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


@functools.cache
def few_entries() -> list[Any]:
    """Three cells in the place of all."""
    page = tool("catalogue_page")
    return [page.entry(Path(find(name).file)) for name in ("lif", "lstm", "block_elman")]


def as_if_measured() -> dict[str, Any]:
    """The content of docs/cells.json for the three."""
    head = tool("catalogue")._empty() | {"machines": [bench.machine()]}
    found: dict[str, Any] = {e.name: measured(e.fingerprint) for e in few_entries()}
    return head | {"cells": found}


def measured(fingerprint: str) -> dict[str, Any]:
    speed = {way: {"rnncc_ms": 0.5, "loop_ms": 60.0, "ratio": 120.0} for way in WAYS}
    probe = {
        "verdict": "contracting",
        "reason": "the initial state is forgotten after 26 steps",
        "sweeps": {"16": 2, "32": 3, "128": 4},
        "newton": "5",
    }
    return {
        "machine": 0,
        "date": "2026-01-02",
        "fingerprint": fingerprint,
        "probe": probe,
        "speed": {"shape": [8, 256, 64], **speed},
    }


def run(catalogue: Any, *words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(catalogue.main, words)
    return result.exit_code, result.stdout, result.stderr
