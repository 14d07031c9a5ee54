"""Times: para_gru -> the rows of the table of docs/cuda.md, against a copy, the loop and cuDNN."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from campaign.setting import Setting, compiled, name_of
from campaign.sink import Sink

CELL = "para_gru"
NEEDS = 4.0  # seconds of a row


def run(sink: Sink, setting: Setting) -> None:
    """Measure row after row."""
    from rnncc.bench.table import CHUNKED, ROWS, Row

    # one that compiles chunks takes long: the step `peers` has it
    rows = [row for row in ROWS if row.shape != CHUNKED]
    directions = ("forward", "forward+backward")
    small = [Row((2, 70, 8), "float32", direction) for direction in directions]
    small.append(Row((2, 1, 8), "bfloat16", "decode"))
    measure_rows(sink, setting, CELL, setting.choose(rows, small))


def measure_rows(sink: Sink, setting: Setting, cell: str, rows: Sequence[Any]) -> None:
    """Each row of a cell's table that isn't known yet."""
    from rnncc.bench import table

    left = [row for row in rows if key_of(cell, row) not in sink.known]
    if not left:
        return
    found = table.measure(compiled(cell), setting.place, sink.left, left)
    for row in left:
        sink.take(key_of(cell, row), _next(found), needs=setting.choose(NEEDS, 0.0))


def _next(found: Iterator[Any]) -> Callable[[], dict[str, Any]]:
    def find() -> dict[str, Any]:
        measured = next(found)
        if measured.timing is None:
            raise RuntimeError(measured.reason)
        data: dict[str, Any] = measured.data()
        return data

    return find


def key_of(cell: str, row: Any) -> str:
    """The cell, shape, dtype and pass."""
    return f"{cell} {name_of(row.shape)} {row.dtype} {row.direction}"
