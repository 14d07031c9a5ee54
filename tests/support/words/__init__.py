"""Cells in the words that people write, each beside a step in plain PyTorch.

A step takes the tuple of states, and a namespace of inputs at one time and params; it gives the
tuples of next states and of outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rnncc import Cell
from tests.support.words import assigned, functions, shipped, vectors

Step = Callable[[Any, Any], tuple[tuple[Any, ...], tuple[Any, ...]]]
WORDS: dict[str, tuple[Cell, Step]] = {
    pair[0].name: pair
    for pair in (*functions.PAIRS, *assigned.PAIRS, *vectors.PAIRS, *shipped.PAIRS)
}
