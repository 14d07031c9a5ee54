"""Times: para_gru -> the rows of the table of docs/cuda.md, against a copy, the loop and cuDNN."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from campaign.setting import Setting, compiled, name_of
from campaign.sink import Sink

CELL = "para_gru"
NEEDS = 4.0  # seconds of a row


def run(sink: Sink, setting: Setting) -> None:
    """Measure row after row."""
    from rnncc.bench.table import ROWS, Row

    directions = ("forward", "forward+backward")
    small = [Row((2, 70, 8), "float32", direction) for direction in directions]
    small.append(Row((2, 1, 8), "bfloat16", "decode"))
    measure_rows(sink, setting, CELL, setting.choose(ROWS, small))


def measure_rows(sink: Sink, setting: Setting, cell: str, rows: Sequence[Any]) -> None:
    """Each row of a cell's table that isn't known yet."""
    for row in rows:
        find = partial(measure, cell, row, setting)
        sink.take(key_of(cell, row), find, needs=setting.choose(NEEDS, 0.0))


def measure(cell: str, row: Any, setting: Setting) -> dict[str, Any]:
    """One row, without what compiles for long: the step `peers` has that.

    Raises:
        RuntimeError: it can't be measured.
    """
    from rnncc.bench import table

    (found,) = table.measure(compiled(cell), setting.place, table.COMPILING, (row,))
    if found.timing is None:
        raise RuntimeError(found.reason)
    data: dict[str, Any] = found.data()
    return data


def key_of(cell: str, row: Any) -> str:
    """The cell, shape, dtype and pass."""
    return f"{cell} {name_of(row.shape)} {row.dtype} {row.direction}"
