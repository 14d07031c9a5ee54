"""Peers: cells that other projects have too, and the loop in compiled chunks -> times of all."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from campaign.setting import Setting, compiled
from campaign.sink import Sink
from campaign.steps.times import CELL, key_of, measure_rows

# Cells with peers that compute something comparable; those of para_gru are in the step `times`.
CELLS = ("min_gru", "para_lstm", "slstm")
COMPILING = 40.0  # seconds that torch.compile takes for a pass, roughly


def run(sink: Sink, setting: Setting) -> None:
    """The loop in chunks, the cells at the first shape, the chunks' backward, the other shapes."""
    if setting.rehearsal:
        os.environ["TORCH_COMPILE_DISABLE"] = "1"  # the same program, without the minutes
    from rnncc.bench.table import CHUNKED, WIDE, Row

    shapes = setting.choose(WIDE, ((2, 64, 64),))
    passes = setting.choose(("forward", "forward+backward"), ("forward",))
    cells = setting.choose(CELLS, CELLS[:1])
    dtypes = setting.choose(("float32", "bfloat16"), ("float32",))

    def measure(cell: str, shape: Any) -> None:
        rows = [Row(shape, dtype, direction) for dtype in dtypes for direction in passes]
        measure_rows(sink, setting, cell, rows)

    def measure_chunks(direction: str) -> None:
        row = Row(setting.choose(CHUNKED, (2, 70, 8)), "float32", direction)
        needs, key = setting.choose(COMPILING, 0.0), f"{key_of(CELL, row)}, compiled"
        sink.take(key, partial(with_builds, row, setting), limit=5 * COMPILING, needs=needs)

    measure_chunks(passes[0])
    for cell in cells:
        measure(cell, shapes[0])
    for direction in passes[1:]:
        measure_chunks(direction)
    for shape in shapes[1:]:
        for cell in cells:
            measure(cell, shape)


def with_builds(row: Any, setting: Setting) -> dict[str, Any]:
    """A row with all that compiles for long: the loop in chunks, and some peers."""
    import torch

    from rnncc.bench.cuda import Case
    from rnncc.bench.table import SAMPLED, Measured

    dtype: torch.dtype = getattr(torch, row.dtype)
    case = Case(compiled(CELL), row.shape, dtype, setting.place, SAMPLED, COMPILING)
    data: dict[str, Any] = Measured(row, case.time(row.direction, True)).data()
    return data
