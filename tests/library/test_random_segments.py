"""Segments of time of random cells with large weights are finite wherever one pass is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st
from torch import Tensor

import rnncc
from tests.support.cells import cell_from
from tests.support.random_cells import (
    Text,
    by_kernel,
    quick_builds,
    random_leaves,
    texts,
    with_gradients,
)

EVERY_TARGET = True  # see conftest.py
EXAMPLES = 5  # random cells of each kind


@pytest.mark.parametrize("mixes", [False, True], ids=["channels-alone", "channels-in-groups"])
@pytest.mark.parametrize("states", [1, 2, 3])
def test_segments_of_a_random_cell_are_finite_where_one_pass_is(
    states: int, mixes: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In float32, with large weights; test_random.py compares in float64."""
    folder = tmp_path_factory.mktemp("cells")

    @settings(max_examples=EXAMPLES)
    @given(texts(states, mixes), st.integers(0, 1000), st.integers(1, 90), st.integers(1, 70))
    def holds(text: Text, seed: int, steps: int, segment: int) -> None:
        note(text.source)
        c = rnncc.compile(cell_from(folder, text.source))
        wide = random_leaves(text, seed, steps, weights=5.0)
        leaves = {n: t.float() for n, t in wide.items()}

        def outcome(**choices: Any) -> dict[str, Tensor]:
            return with_gradients(lambda given: by_kernel(c, text, given, **choices), leaves)

        with quick_builds("-O0"):
            one_pass = outcome(solver="sequential")
            segmented = outcome(solver="segmented", segment=segment, checkpoint=1 + seed % 17)
        for what, expected in one_pass.items():
            assert segmented[what][expected.isfinite()].isfinite().all(), what

    holds()
