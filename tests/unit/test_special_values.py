"""The plain PyTorch of a cell at zeros, ties, tiny, huge and infinite values and NaN."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rnncc.export.torch_loop import plain_step
from rnncc.lang.trace import trace
from tests.support.cells import cell_from
from tests.support.special import (
    ALL_ROWS,
    by_torch,
    differences,
    groups,
    most_points,
    points,
    source,
)

# a surrogate is the derivative of its integral there, which cancels far out
GROUPS = [[row for row in group if not row.text.startswith("spike")] for group in groups()]


@pytest.mark.parametrize("group", range(len(GROUPS)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_plain_step_has_pytorchs_derivatives(
    dtype: torch.dtype, group: int, tmp_path: Path
) -> None:
    rows, count = GROUPS[group], most_points()
    step = plain_step(trace(cell_from(tmp_path, source(rows))), dtype)
    at = [points(row, dtype, count) for row in rows]
    leaves = [[x.clone().requires_grad_() for x in some] for some in at]
    _, ys = step(torch.zeros(count, dtype=dtype), *(x for some in leaves for x in some))
    wrong: dict[str, list[str]] = {}
    for row, some, leaf, y in zip(rows, at, leaves, ys, strict=True):
        found = torch.autograd.grad(y, leaf, torch.ones_like(y), allow_unused=True)
        slopes = [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaf, strict=True)]
        wrong |= differences(row, some, [y.detach(), *slopes], 1.0)
    assert wrong == {}


def test_a_wrong_derivative_is_noticed() -> None:
    row = next(row for row in ALL_ROWS if row.text == "x / p")
    at = points(row, torch.float32, most_points())
    y, dx, dp = by_torch(row, at, 1.0)
    assert differences(row, at, [y, dx, dp], 1.0) == {}
    assert differences(row, at, [y, dx, dp.nan_to_num()], 1.0) != {}
    assert differences(row, at, [y, 1.01 * dx, dp], 1.0) != {}
