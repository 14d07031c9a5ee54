"""The one table of tolerances, read from docs/numerics.md, and the comparison that uses it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

NUMERICS = Path(__file__).parents[2] / "docs" / "numerics.md"
ROW = re.compile(r"^\| (\w*float\d+) +\| ([\d.e-]+) +\| ([\d.e-]+) +\|$", re.MULTILINE)


@dataclass(frozen=True)
class Tolerance:
    """How far a kernel may be from the oracle.

    Attributes:
        output: error relative to max(1, |expected|), entry by entry.
        gradient: error relative to the largest expected entry of the tensor.
    """

    output: float
    gradient: float


TOLERANCES: Final[dict[torch.dtype, Tolerance]] = {
    getattr(torch, name): Tolerance(float(output), float(gradient))
    for name, output, gradient in ROW.findall(NUMERICS.read_text(encoding="utf-8"))
}
assert set(TOLERANCES) == {torch.float64, torch.float32, torch.bfloat16, torch.float16}


def assert_close(
    actual: torch.Tensor,
    expected: torch.Tensor,
    dtype: torch.dtype,
    what: str,
    *,
    gradient: bool = False,
) -> None:
    """Hold actual to expected within the limits of dtype; NaN and infinities must coincide.

    A failure says how large the largest error is and where.
    """
    assert actual.shape == expected.shape, (
        f"{what}: shape {list(actual.shape)}, expected {list(expected.shape)}"
    )
    a, e = (t.detach().to("cpu", torch.float64) for t in (actual, expected))
    limit = limits(e, TOLERANCES[dtype], gradient)
    same = (a == e) | (a.isnan() & e.isnan())
    error = torch.where(same, 0.0, (a - e).abs()).nan_to_num(torch.inf, torch.inf)
    over = error > limit
    if over.any():
        raise AssertionError(_report(a, e, error, limit, over, f"{what} ({dtype})"))


def limits(expected: torch.Tensor, tolerance: Tolerance, gradient: bool) -> torch.Tensor:
    """The allowed error of each entry."""
    size = torch.where(expected.isfinite(), expected.abs(), 0.0)
    if not gradient:
        return tolerance.output * size.clamp(min=1.0)
    largest = size.max() if size.numel() else torch.tensor(0.0)
    return (tolerance.gradient * (largest if largest > 0 else torch.ones(()))).expand_as(expected)


def _report(
    a: torch.Tensor,
    e: torch.Tensor,
    error: torch.Tensor,
    limit: torch.Tensor,
    over: torch.Tensor,
    what: str,
) -> str:
    where = torch.unravel_index((error / limit).argmax(), error.shape)
    at = [int(i) for i in where]
    return (
        f"{what}: largest error {error[where]:.3g} at {at}, limit {limit[where]:.3g}: "
        f"got {a[where]:.9g}, expected {e[where]:.9g}; {int(over.sum())} of {over.numel()} over"
    )
