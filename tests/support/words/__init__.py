"""Cells in the words that people write, each beside a step in plain PyTorch.

A step takes the tuple of states, and a namespace of inputs at one time and params; it gives the
tuples of next states and of outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rnncc import Cell
from tests.support.words import assigned, every, functions, large, shipped, vectors

Step = Callable[[Any, Any], tuple[tuple[Any, ...], tuple[Any, ...]]]
PARTS = (functions, assigned, vectors, large, every, shipped)
WORDS: dict[str, tuple[Cell, Step]] = {pair[0].name: pair for part in PARTS for pair in part.PAIRS}
