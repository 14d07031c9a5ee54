"""Which tests run daily, and which are slow: those that add little, and take long.

`make test` runs the daily ones; `make test-all` all; CI the daily ones and a tenth of the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.runs import CELLS, CORE, SHIPPED

FOLDER: Final = Path(__file__).parents[1]
LIBRARY, FIDELITY = FOLDER / "library", FOLDER / "fidelity"
# Each cell, dtype and target takes a compiler's run of its own: these are built every day.
DAILY: Final[dict[str, dict[str, Sequence[str]]]] = {
    "cpp": {
        "float32": CELLS,
        "float64": CELLS,
        "bfloat16": ("para_gru", "lstm", "crossed"),
        "float16": ("para_gru", "lstm", "crossed"),
    },
    "emulated": {
        "float32": CELLS,
        "float64": ("para_gru", "crossed"),
        "bfloat16": ("lstm",),
        "float16": (),
    },
}


def is_slow(item: pytest.Item) -> bool:
    """Whether a test is marked so, lies in tests/library, or is of a cell that isn't for every day.

    A cell stands in the parameters of a test, as its name or its file; beside it, dtype and target.
    """
    if item.get_closest_marker("slow") or LIBRARY in item.path.parents:
        return True
    given = _parameters(item)
    name = _cell(given)
    if name is None:
        return False
    if name in SHIPPED and name not in CORE:
        return FIDELITY not in item.path.parents  # which holds each cell to its own paper
    daily = DAILY.get(given.get("target", "cpp"), DAILY["emulated"])
    return name in CELLS and name not in daily[_dtype(given)]


def drawn(items: Sequence[pytest.Item], seed: str) -> set[str]:
    """The ids of a tenth of these tests: whole cells of a target, whose tests share a build."""
    groups: dict[str, list[str]] = {}
    for item in items:
        groups.setdefault(_group(item), []).append(item.nodeid)
    order = sorted(groups, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())
    return {nodeid for group in order[: -(-len(order) // 10)] for nodeid in groups[group]}


def _group(item: pytest.Item) -> str:
    given = _parameters(item)
    name = _cell(given)
    return item.nodeid if name is None else f"{name} {given.get('target', 'cpp')}"


def _parameters(item: pytest.Item) -> dict[str, Any]:
    callspec = getattr(item, "callspec", None)
    return {} if callspec is None else callspec.params


def _dtype(given: dict[str, Any]) -> str:
    return str(given.get("dtype", "float32")).removeprefix("torch.")


def _cell(given: dict[str, Any]) -> str | None:
    names = (v.stem if isinstance(v, Path) else v for v in given.values())
    return next((n for n in names if isinstance(n, str) and n in {*SHIPPED, *CELLS}), None)
