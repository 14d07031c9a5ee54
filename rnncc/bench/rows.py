"""Rows: the table of times on a CPU, away from the shape that kernels were tuned at; its suites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rnncc.bench.baselines import Shape

FORWARD, BOTH = DIRECTIONS = ("forward", "forward+backward")
SINGLE, BFLOAT, HALF = "float32", "bfloat16", "float16"
# What is called: the function, with inputs by themselves or as a layer has them, in one tensor; a
# whole layer; one step of it, as in decoding.
FUNCTION, PACKED, LAYER, STEP = "function", "packed", "layer", "step"

BASE: Shape = (8, 2048, 256)
ALIKE: tuple[Shape, ...] = (  # as many channels at once as fill the machine, in other ways
    *[(16, 512, 512), (2, 2048, 1024), (8, 2048, 255), (8, 2048, 272), (32, 128, 528)],
)
LARGE: Shape = (4, 4096, 1024)
OTHERS: tuple[Shape, ...] = ((1, 16384, 64), (32, 128, 512), (64, 512, 64), (1, 64, 64))
ONE_STEP: tuple[Shape, ...] = ((1, 1, 128), (1, 1, 512))


class Row(NamedTuple):
    """One row: what is called, [B, T, N], the dtype of its inputs, and the pass."""

    work: str
    shape: Shape
    dtype: str
    direction: str

    @property
    def size(self) -> int:
        """B * T * N."""
        batch, steps, channels = self.shape
        return batch * steps * channels

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.work} {'x'.join(map(str, self.shape))} {self.dtype} {self.direction}"


def rows(
    work: str,
    shapes: Sequence[Shape],
    dtypes: Sequence[str] = (SINGLE,),
    directions: Sequence[str] = DIRECTIONS,
) -> tuple[Row, ...]:
    """All of them."""
    return tuple(
        Row(work, shape, dtype, direction)
        for dtype in dtypes
        for shape in shapes
        for direction in directions
    )


SUITES: dict[str, tuple[Row, ...]] = {
    "wide": rows(FUNCTION, (BASE, *ALIKE, LARGE, *OTHERS)),
    "packed": rows(PACKED, (BASE, *ALIKE, LARGE)),
    "short": rows(FUNCTION, ONE_STEP),
    "decode": rows(STEP, ONE_STEP, directions=(FORWARD,)),
    "layer": rows(LAYER, (BASE,)),
    "half": (
        *rows(FUNCTION, (BASE, LARGE), (BFLOAT, HALF)),
        *rows(LAYER, (BASE,), (BFLOAT,)),
    ),
}


def of_suites(
    names: Sequence[str], shapes: Sequence[Shape] = (), dtype: str | None = None
) -> dict[str, list[Row]]:
    """The rows of suites by name, at other shapes or in another dtype if they are given."""
    found = {}
    for name in names:
        wanted = (
            row._replace(shape=_fitted(row, shape), dtype=dtype or row.dtype)
            for shape in shapes or (None,)
            for row in SUITES[name]
        )
        found[name] = list(dict.fromkeys(wanted))
    return found


def _fitted(row: Row, shape: Shape | None) -> Shape:
    if shape is None:
        return row.shape
    return (shape[0], 1, shape[2]) if row.work == STEP else shape
