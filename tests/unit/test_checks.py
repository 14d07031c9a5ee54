"""Checks of lengths and boundaries, against the definition in Python's whole numbers."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from rnncc.errors import ArgumentError
from rnncc.nn.sequences import check_values

STEPS = 6
EDGES = [-(2**63), -(2**62), -STEPS, -1, 0, 1, 2, STEPS - 1, STEPS, STEPS + 1, 2**62, 2**63 - 1]


def accepted(starts: list[int] | None, lengths: list[int]) -> bool:
    first = None if starts is None else torch.tensor(starts, dtype=torch.int64)
    try:
        check_values(first, torch.tensor(lengths, dtype=torch.int64), STEPS)
    except ArgumentError:
        return False
    return True


def wrapped(value: int) -> int:
    """In 64 bits, as PyTorch subtracts."""
    return (value + 2**63) % 2**64 - 2**63


def test_padded_lengths_are_accepted_within_the_inputs_only() -> None:
    for lengths in itertools.product(EDGES, repeat=2):
        assert accepted(None, [*lengths]) == all(0 <= n <= STEPS for n in lengths), lengths


def test_boundaries_are_accepted_if_they_rise_over_the_inputs() -> None:
    seen = 0
    for inner in itertools.product(EDGES[::2], [*EDGES[1::2], 2], EDGES):
        bounds = [inner[0], *inner[1:], STEPS] if inner[0] == 0 else [0, *inner, STEPS]
        lengths = [wrapped(b - a) for a, b in itertools.pairwise(bounds)]
        rises = all(a <= b for a, b in itertools.pairwise(bounds))
        assert accepted(bounds[:-1], lengths) == rises, bounds
        seen += rises
    assert seen > 10


@pytest.mark.parametrize("seed", range(3))
def test_any_starts_and_lengths_are_accepted_only_if_they_meet(seed: int) -> None:
    """As the raw operators take them, each by itself."""
    draw = random.Random(seed)
    for _ in range(600):
        count = draw.randint(1, 3)
        starts = [draw.choice([0, 0, 2, 4, *EDGES]) for _ in range(count)]
        lengths = [draw.choice([2, 4, *EDGES]) for _ in range(count)]
        ends = [s + n for s, n in zip(starts, lengths, strict=True)]
        meet = starts[0] == 0 and ends[-1] == STEPS and ends[:-1] == starts[1:]
        right = meet and all(0 <= n <= STEPS for n in lengths)
        assert accepted(starts, lengths) == right, (starts, lengths)


def test_no_sequence_is_accepted_for_no_step_only() -> None:
    check_values(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), 0)
    assert not accepted([], [])
