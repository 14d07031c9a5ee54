"""Counters: calls -> what ncu counts in each kernel: throughput, occupancy, stalls, conflicts."""

from __future__ import annotations

import csv
import re
import shutil
import time
from collections.abc import Iterable
from glob import glob
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from campaign.process import Ended, run_inside
from campaign.setting import Setting
from campaign.sink import Sink, TimeUpError, UnavailableError

# The cells of issue 12; the wide shape takes one pass over time, the narrow one segments.
CELLS = ("para_gru", "para_lstm", "slstm", "block_gru")
WIDE, NARROW, SMALL = "8x2048x4096", "1x131072x64", "2x70x8"
LIMIT = 60.0
NEEDS = 12.0

STALLS = ("long_scoreboard", "short_scoreboard", "wait", "math_pipe_throttle", "barrier",
          "lg_throttle", "mio_throttle", "no_instruction", "not_selected", "imc_miss",
          "branch_resolve", "dispatch_stall", "membar")  # fmt: skip
STALL = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
METRICS = {
    "microseconds": "gpu__time_duration.sum",
    "dram_percent": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "dram_read": "dram__bytes_read.sum",
    "dram_written": "dram__bytes_write.sum",
    "l2_hit_percent": "lts__t_sector_hit_rate.pct",
    "occupancy_percent": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "issue_percent": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "xu_percent": "sm__inst_executed_pipe_xu.avg.pct_of_peak_sustained_active",
    "fma_percent": "sm__inst_executed_pipe_fma.avg.pct_of_peak_sustained_active",
    "alu_percent": "sm__inst_executed_pipe_alu.avg.pct_of_peak_sustained_active",
    "instructions": "smsp__inst_executed.sum",
    "registers": "launch__registers_per_thread",
    "conflicts_read": "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum",
    "conflicts_written": "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_st.sum",
    "local_read": "smsp__inst_executed_op_local_ld.sum",
    **{f"stall_{name}": STALL.format(name) for name in STALLS},
}
# Factors to the units above.
UNITS = {
    **{"ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3},
    **{"s": 1e6, "second": 1e6},
    **{"byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9},
}
# What ncu says where counters can't be read.
REFUSED = ("ERR_NVGPUCTRPERM", "Failed to initialize the profiler", "LibraryNotLoaded",
           "Profiling is not supported")  # fmt: skip
NO_METRIC = "Failed to find metric"
UNKNOWN = re.compile(rf"{NO_METRIC} (?:regex:)?\^?([\w.]+)")
FEW = 6


def run(sink: Sink, setting: Setting) -> None:
    """Each call by itself: ncu repeats every kernel once for each group of counters."""
    metrics = dict(METRICS)
    calls = [(cell, WIDE, "float32") for cell in CELLS]
    calls += [("para_gru", NARROW, "float32")]
    calls += [(cell, WIDE, "bfloat16") for cell in CELLS]
    calls += [(cell, NARROW, "float32") for cell in CELLS[1:]]
    for cell, shape, dtype in setting.choose(calls, [("para_gru", SMALL, "float32")]):

        def find(cell: str = cell, shape: str = shape, dtype: str = dtype) -> dict[str, Any]:
            return count(cell, shape, dtype, min(LIMIT, sink.left), setting, metrics)

        key = f"{cell} {shape} {dtype}"
        sink.take(key, find, limit=LIMIT + 10, needs=setting.choose(NEEDS, 0.0))
        if sink.is_unavailable(key):  # nor are the others
            return


def count(
    cell: str, shape: str, dtype: str, seconds: float, setting: Setting, metrics: dict[str, str]
) -> dict[str, Any]:
    """The counters of every kernel of a forward and a backward.

    Args:
        metrics: by name; loses those that this GPU lacks.
    Raises:
        UnavailableError: ncu isn't there, or may not read counters.
        TimeUpError: it takes too long.
        RuntimeError: it failed.
    """
    ncu, until = command_of("ncu"), time.monotonic() + seconds
    call = setting.call("run", cell, "--shape", shape, "--dtype", dtype, "--profile")
    with TemporaryDirectory() as folder:
        log = Path(folder, "log")
        for _ in range(3):
            left = max(0.0, until - time.monotonic())
            ended = run_inside(_command(ncu, cell, metrics.values(), call), log, left)
            said = log.read_text(encoding="utf-8", errors="replace")
            kept = _known(metrics, said)
            if len(kept) == len(metrics):
                break
            for name in metrics.keys() - kept.keys():
                del metrics[name]
    kernels = kernels_of(said, metrics)
    _check(ended, said, kernels)
    return {"cell": cell, "shape": shape, "dtype": dtype, "kernels": kernels,
            "unknown": sorted(METRICS.keys() - metrics.keys())}  # fmt: skip


def _known(metrics: dict[str, str], said: str) -> dict[str, str]:
    """Without those that this GPU lacks, by what ncu said; the first few if it named none."""
    if NO_METRIC not in said:
        return metrics
    named = [name.rstrip(".") for name in UNKNOWN.findall(said)]
    kept = {n: metric for n, metric in metrics.items() if not metric.startswith(tuple(named))}
    return kept if len(kept) < len(metrics) else dict(list(metrics.items())[:FEW])


def _command(ncu: str, cell: str, metrics: Iterable[str], call: list[str]) -> list[str]:
    """The GPU's clocks are left as they are; only kernels of the cell, of the profiled call."""
    return [
        *(ncu, "--csv", "--page", "raw", "--clock-control", "none", "--profile-from-start", "off"),
        *("--print-units", "base"),
        *("--target-processes", "all", "--kernel-name", f"regex:^{cell}_.*"),
        *("--metrics", ",".join(metrics), *call),
    ]


def _check(ended: Ended, said: str, kernels: list[dict[str, Any]]) -> None:
    refusal = next((reason for reason in REFUSED if reason in said), None)
    if refusal and not kernels:
        raise UnavailableError(f"ncu: {refusal}")
    if ended.status is None:
        raise TimeUpError
    if ended.status or not kernels:
        raise RuntimeError(f"ncu ended with status {ended.status}: {ended.tail}")


def command_of(name: str) -> str:
    """Where a tool of CUDA is.

    Raises:
        UnavailableError: nowhere.
    """
    places = ("/usr/local/cuda/bin", "/usr/local/cuda*/bin", "/opt/nvidia/nsight-compute/*")
    found = [shutil.which(name), *sorted(f for p in places for f in glob(f"{p}/{name}"))]
    first = next((place for place in found if place), None)
    if first is None:
        raise UnavailableError(f"{name} is neither on the PATH nor where CUDA puts it")
    return first


def kernels_of(said: str, metrics: dict[str, str]) -> list[dict[str, Any]]:
    """The rows of ncu's raw page: a header, the units, then a row for each launch."""
    rows = list(csv.reader(line for line in said.splitlines() if line.startswith('"')))
    if len(rows) < 3:
        return []
    head, units = rows[0], rows[1]
    found = []
    for row in rows[2:]:
        given = dict(zip(head, zip(row, units, strict=False), strict=False))
        values = {n: _number(*given[metric]) for n, metric in metrics.items() if metric in given}
        name = given.get("Kernel Name", ("?", ""))[0].partition("(")[0]
        found.append({"kernel": name, **{n: v for n, v in values.items() if v is not None}})
    return found


def _number(text: str, unit: str) -> float | None:
    try:
        return round(float(text.replace(",", "")) * UNITS.get(unit, 1.0), 4)
    except ValueError:
        return None
