"""Calls that take every way through kernel.cu, and edits that break it on purpose."""

from __future__ import annotations

from typing import Any

import torch

from tests.support.runs import (
    Call,
    fitting,
    random_call,
)

LEVELS: dict[str, dict[str, Any]] = {
    "one pass": {"solver": "sequential"},
    "segments of a block": {"solver": "segmented", "segment": 1},
    "segments of the grid": {"solver": "segmented", "segment": 16},
    "newton": {"solver": "newton", "iterations": 40},
    "one pass, few states saved": {"solver": "sequential", "checkpoint": 21},
    "a block, few states saved": {"solver": "segmented", "segment": 1, "checkpoint": 16},
    "the grid, few states saved": {"solver": "segmented", "segment": 48, "checkpoint": 21},
}


def call_of(name: str, **sequences: Any) -> Call:
    """Enough steps for several tiles of a block, and channels that fill no warp."""
    return random_call(name, (2, 150, fitting(name, 5)), torch.float32, states=True, **sequences)


def broken(old: str, new: str, count: int = 1) -> Any:
    """An edit of the text; the text must contain the edited part."""

    def edit(text: str) -> str:
        assert text.count(old) >= count
        return text.replace(old, new, count)

    return edit
