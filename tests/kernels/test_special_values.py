"""Every function at zeros, ties, tiny, huge and infinite values and NaN: as PyTorch, both ways."""

from __future__ import annotations

import functools
import itertools
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

import rnncc
from rnncc.compiler import CompiledCell
from rnncc.ir.functions import TABLE, Opaque
from tests.support import runs
from tests.support.cells import cell_from
from tests.support.special import COTANGENTS, differences, groups, most_points, points, source

GROUPS = groups()
DAILY = {*(("cpp", group, torch.float32) for group in range(len(GROUPS))),
         ("emulated", 1, torch.float32)}  # fmt: skip
MARKS = {"gpu": [pytest.mark.gpu]}
CASES = [
    pytest.param(*case, marks=MARKS.get(case[0], [] if case in DAILY else [pytest.mark.slow]))
    for case in itertools.product(
        ("cpp", "emulated", "gpu"), range(len(GROUPS)), (torch.float32, torch.float64)
    )
]


@functools.cache
def compiled(group: int) -> CompiledCell:
    """The functions of a group in one cell, an output each: one kernel for a dtype."""
    with tempfile.TemporaryDirectory() as folder:
        return rnncc.compile(cell_from(Path(folder), source(GROUPS[group])))


@pytest.mark.parametrize(("target", "group", "dtype"), CASES, indirect=["target"], ids=str)
def test_every_function_and_its_derivative_are_pytorchs(
    target: str, group: int, dtype: torch.dtype
) -> None:
    rows, count = GROUPS[group], most_points()
    at = [points(row, dtype, count, denormal=target == "cpp") for row in rows]
    for cotangent in COTANGENTS:
        leaves = [[x.clone().requires_grad_() for x in some] for some in at]
        inputs = [x.reshape(1, 1, -1).to(runs.DEVICE) for some in leaves for x in some]
        ys = [y.cpu() for y in compiled(group)(*inputs, solver="sequential")]
        torch.autograd.backward(ys, [torch.full_like(y, cotangent) for y in ys])
        wrong: dict[str, list[str]] = {}
        for row, some, leaf, y in zip(rows, at, leaves, ys, strict=True):
            got: list[Tensor] = [y.detach().flatten(), *(gradient(x) for x in leaf)]
            wrong |= differences(row, some, got, cotangent)
        assert wrong == {}


def gradient(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


def test_every_function_of_the_language_is_among_them() -> None:
    used: set[str] = set()
    for group in range(len(GROUPS)):
        lets = compiled(group).stages.program.lets
        used |= {type(o).__name__ for let in lets for o in let.expr.atoms(Opaque)}
    assert used == TABLE.keys() - {"exprel_slope", "atan2_slope", "absent"}
