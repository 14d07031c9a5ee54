"""Random cells: kernels, and segments of time, against autograd of the same text run on tensors.

The text of a cell runs twice: traced by rnncc, and as plain Python on PyTorch's functions.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from torch import Tensor

import rnncc
from tests.support.cells import cell_from
from tests.support.random_cells import (
    Text,
    by_autograd,
    by_kernel,
    differing,
    quick_builds,
    random_leaves,
    texts,
    with_gradients,
)

EXAMPLES = 20  # for each of the six kinds below


@pytest.mark.parametrize("mixes", [False, True], ids=["channels-alone", "channels-in-groups"])
@pytest.mark.parametrize("states", [1, 2, 3])
def test_a_random_cell_equals_autograd(
    states: int, mixes: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cells")

    @settings(max_examples=EXAMPLES)
    @given(texts(states, mixes), st.integers(0, 1000), st.integers(1, 60), st.integers(1, 70))
    def holds(text: Text, seed: int, steps: int, segment: int) -> None:
        note(text.source)
        c = rnncc.compile(cell_from(folder, text.source))
        segments = {"solver": "segmented", "segment": segment, "checkpoint": 1 + seed % 17}
        with quick_builds("-O3" if seed % 16 == 0 else "-O0"):
            assert_equal_to_autograd(c, text, random_leaves(text, seed), {})
            large = random_leaves(text, seed, steps, weights=5.0)
            assert_equal_to_autograd(c, text, large, segments)

    holds()


def assert_equal_to_autograd(
    c: rnncc.CompiledCell, text: Text, leaves: dict[str, Tensor], choices: dict[str, Any]
) -> None:
    expected = with_gradients(lambda given: by_autograd(text, given), leaves)
    assume(all(t.isfinite().all() for t in expected.values()))
    got = with_gradients(lambda given: by_kernel(c, text, given, **choices), leaves)
    complaints = differing(got, expected)
    if complaints:
        assume_steady(text, leaves, expected)
    assert not complaints, f"{choices}: " + "\n".join(complaints)


def assume_steady(text: Text, leaves: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """At a jump, or in chaos, the last bits of an argument decide: then autograd moves as well.

    Disturbed by 1e-12, to which neighbouring segments agree.
    """
    noise = torch.Generator().manual_seed(0)
    for _ in range(3):
        disturbed = {
            n: t * (1 + 1e-12 * torch.randn(t.shape, generator=noise, dtype=t.dtype))
            for n, t in leaves.items()
        }
        again = with_gradients(lambda given: by_autograd(text, given), disturbed)
        assume(not differing(again, expected))
