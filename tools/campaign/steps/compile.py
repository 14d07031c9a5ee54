"""Compile: seconds until kernels are there, compiled into an empty cache, then loaded from it."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from campaign.process import Ended, lines_of, run_inside
from campaign.record import Result
from campaign.setting import Setting
from campaign.sink import Sink

# First some that users have and that take long, then the others.
CELLS = ("para_gru", "slstm", "block_gru", "para_lstm", "hodgkin_huxley", "lstm", "min_gru",
         "elman", "lru", "lif", "block_elman", "fitzhugh_nagumo")  # fmt: skip
COLD = 0.75  # of the seconds
KINDS = ("cold", "cached")


def run(sink: Sink, setting: Setting) -> None:
    """One process for each of the two, so that neither has anything loaded."""
    cells = setting.choose(CELLS, CELLS[:1])
    wanted = [cell for cell in cells if _last(cell, "cached") not in sink.known]
    if not wanted:
        return
    done = wanted
    with TemporaryDirectory() as folder:
        log = Path(folder, "log")
        for kind in KINDS:
            seconds = sink.left * (COLD if kind == "cold" else 1.0)
            sink.begin(f"all {kind}", sink.left + 60)
            ended = run_inside(setting.call("load", *done), log, seconds, _environment(folder))
            done = _put(sink, kind, done, ended, log)
            if not done:
                break
    sink.left_out += len(wanted) - len(done)


def _environment(folder: str) -> dict[str, str]:
    return {**os.environ, "CUPY_CACHE_DIR": folder, "RNNCC_CACHE_DIR": f"{folder}/rnncc"}


def _last(cell: str, kind: str) -> str:
    """The key of a cell's last part."""
    from rnncc.ir.spec import CUDA_KERNELS

    return f"{cell} float32 {list(CUDA_KERNELS)[-1]} {kind}"


def _put(sink: Sink, kind: str, cells: list[str], ended: Ended, log: Path) -> list[str]:
    """A result for each line of the process; the cells that it came to the end of."""
    for line in lines_of(log):
        seconds = line.pop("seconds")
        key = " ".join([*line.values(), kind])
        sink.put(Result(key, "ok", seconds, data={**line, "kind": kind, "seconds": seconds}))
    done = [cell for cell in cells if _last(cell, kind) in sink.known]
    # one that its time cut off is no fault; the cells that it didn't reach are left
    state = "failed" if ended.status else "ok"
    reason = ended.tail if ended.status else ended.reason
    sink.put(Result(f"all {kind}", state, reason=reason, data={"cells": len(done)}))
    return done
