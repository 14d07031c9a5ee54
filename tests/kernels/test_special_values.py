"""Every function at zeros, ties, tiny, huge and infinite values and NaN: as PyTorch, both ways."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import rnncc
from rnncc.compiler import CompiledCell
from rnncc.ir.functions import TABLE, Opaque
from tests.support.cells import cell_from
from tests.support.special import ALL_ROWS, COTANGENTS, differences, most_points, points, source


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> CompiledCell:
    """All functions in one cell, an output each: one kernel for a dtype."""
    return rnncc.compile(cell_from(tmp_path_factory.mktemp("special"), source(ALL_ROWS)))


@pytest.mark.parametrize("cotangent", COTANGENTS)
@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)]
)
def test_every_function_and_its_derivative_are_pytorchs(
    dtype: torch.dtype, cotangent: float, compiled: CompiledCell
) -> None:
    at = [points(row, dtype, most_points()) for row in ALL_ROWS]
    leaves = [[x.clone().requires_grad_() for x in some] for some in at]
    ys = compiled(*(x.reshape(1, 1, -1) for some in leaves for x in some), solver="sequential")
    torch.autograd.backward(ys, [torch.full_like(y, cotangent) for y in ys])
    wrong: dict[str, list[str]] = {}
    for row, some, leaf, y in zip(ALL_ROWS, at, leaves, ys, strict=True):
        got: list[Tensor] = [y.detach().flatten(), *(gradient(x) for x in leaf)]
        wrong |= differences(row, some, got, cotangent)
    assert wrong == {}


def gradient(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


def test_every_function_of_the_language_is_among_them(compiled: CompiledCell) -> None:
    lets = compiled.stages.program.lets
    used = {type(o).__name__ for let in lets for o in let.expr.atoms(Opaque)}
    assert used == TABLE.keys() - {"exprel_slope", "absent"}
