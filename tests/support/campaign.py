"""tools/gpu_campaign.py and its modules; steps and tools of CUDA that stand in for real ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.support.catalogue import tool

campaign: Any = tool("gpu_campaign")
report: Any = tool("gpu_report")
plan: Any = tool("campaign.plan")
process: Any = tool("campaign.process")
record: Any = tool("campaign.record")
schedule: Any = tool("campaign.schedule")
sink: Any = tool("campaign.sink")
tables: Any = tool("campaign.tables")
machine: Any = tool("campaign.machine")

# As gpu_steps.py, without what it takes to import torch: one step raises, one hangs in the middle,
# one dies at its first result, the others find two things at once.
STEPS = """\
import argparse, json, os, sys, time

parser = argparse.ArgumentParser()
parser.add_argument("name")
for name in ("--out", "--seconds"):
    parser.add_argument(name)
parser.add_argument("--rehearse", action="store_true")
options = parser.parse_args()
known = open(options.out).read()

def write(**line):
    with open(options.out, "a") as file:
        file.write(json.dumps(line) + "\\n")

def find(key):
    if f'"key": "{key}"' in known:
        return
    write(begin=key, limit=60)
    if (options.name, key) == ("agreement", "second"):
        print("hanging", flush=True)
        time.sleep(600)
    if (options.name, key) == ("times", "first"):
        os.abort()
    write(key=key, state="ok")

if options.name == "doctor":
    raise RuntimeError("the doctor is out")
find("first")
find("second")
write(end=True, left=0)
"""

# Each prints what the real one prints, and runs the command that it is given.
RUNS = """\
#!{python}
import subprocess, sys
from pathlib import Path

arguments = sys.argv[1:]
at = next(i for i, text in enumerate(arguments) if text.endswith("gpu_call.py")) - 1
options, command = arguments[:at], arguments[at:]
"""
NCU = (
    RUNS
    + """
metrics = options[options.index("--metrics") + 1].split(",")
if "smsp__inst_executed_op_local_ld.sum" in metrics:
    print("==ERROR== Failed to find metric regex:^smsp__inst_executed_op_local_ld.sum(\\\\.|$)")
    sys.exit(1)
assert options[options.index("--clock-control") + 1] == "none"
print("==PROF== Connected to process 1")
status = subprocess.run(command).returncode
def row(*cells):
    print(",".join(f'"{{cell}}"' for cell in cells))
row("ID", "Kernel Name", *metrics)
row("", "", *("ns" if "duration" in m else "byte" if "bytes" in m else "%" for m in metrics))
row(0, "para_gru_forward(Args)", *("1,234,500" for _ in metrics))
row(1, "para_gru_backward", *("n/a" for _ in metrics))
sys.exit(status)
"""
)
SANITIZER = (
    RUNS
    + """
racecheck = options[options.index("--tool") + 1] == "racecheck"
status = subprocess.run(command).returncode
hazards = "RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)"
print("=========", hazards if racecheck else "ERROR SUMMARY: 0 errors")
sys.exit(status)
"""
)


def cuda_tools(folder: Path) -> None:
    """Put ncu and compute-sanitizer into a folder."""
    for name, text in (("ncu", NCU), ("compute-sanitizer", SANITIZER)):
        file = folder / name
        file.write_text(text.format(python=sys.executable), encoding="utf-8")
        file.chmod(0o755)


def measured() -> Any:
    """A campaign as if it had run on a GPU, with something of every kind in it."""
    result, step = record.Result, record.Step
    timing = {
        **{"shape": [8, 2048, 4096], "dtype": "float32", "pass": "forward", "solver": "sequential"},
        **{
            "fused_ms": 0.75,
            "python_ms": 0.1,
            "graph_ms": None,
            "bytes_per_second": 2.4e12,
            "share_of_copy": 0.8,
        },
        **{
            "baselines_ms": {"plain loop": 250.0, "nn.GRU": 31.0, "FlashRNN": 40.0},
            "skipped": {"ml-pararnn": "not in a registry"},
        },
    }
    load = {"cell": "para_gru", "dtype": "float32", "part": "passes"}
    kernel = {"kernel": "para_gru_forward", "microseconds": 750.0, "dram_percent": 80.0}
    kernel |= {
        "conflicts_read": 1.0,
        "conflicts_written": 2.0,
        "stall_wait": 1.5,
        "registers": 64.0,
    }
    counted = {"shape": "8x2048x4096", "dtype": "float32", "kernels": [kernel], "unknown": []}
    fitted = {"constants": {"clock": 1.7}, "error": 0.125, "error_before": 0.5, "times": [{}] * 9}
    regret = {"shape": [1, 64, 8], "pass": "forward", "constants": "shipped", "auto_ms": 3.0}
    regret |= {
        "plans_ms": {"one pass": 2.0, "128": 4.0},
        "best": "one pass",
        "regret": 1.5,
        "chosen": "64",
    }
    checked = {"tool": "memcheck", "cells": ["para_gru"], "calls": 3, "faults": 0}
    found = {
        "doctor": [result("GPU", "ok", 0, "NVIDIA Test")],
        "agreement": [
            result("tests/gpu/test_gpu.py::test_one[lstm]", "ok", 1.0),
            result("tests/gpu/test_gpu.py::test_two", "failed", 1.0, "call: x\nE   assert 1 == 2"),
            result("tests/gpu/test_gpu.py::test_three", "killed", 60.0, "took longer"),
        ],
        "times": [
            result("para_gru 8x2048x4096 float32 forward", "ok", 3.0, "", timing),
            result("para_gru 64x1024x1024 float32 forward", "failed", 3.0, "out of memory"),
        ],
        "compile": [
            result("a", "ok", 2.0, "", load | {"kind": "cold", "seconds": 2.0}),
            result("b", "ok", 0.1, "", load | {"kind": "cached", "seconds": 0.1}),
            result("all cold", "ok", 2.0, "", {"cells": 1}),
        ],
        "counters": [result("para_gru", "ok", 9.0, "", counted)],
        "sanitizer": [result("memcheck para_gru", "ok", 9.0, "", checked)],
        "constants": [
            result("fit", "ok", 9.0, "", fitted),
            result("regret shipped 1x64x8 forward", "ok", 1.0, "", regret),
        ],
        "peers": [result("min_gru 8x2048x4096 float32 forward", "ok", 3.0, "", timing)],
    }
    gpu = {"name": "NVIDIA Test", "driver_version": "580.1", "clocks.max.sm": "1980 MHz"}
    seen = {"before": "345", "15 s": "990", "30 s": "1755", "after": "210"}
    clocks = {when: {"clocks.sm": f"{speed} MHz"} for when, speed in seen.items()}
    return record.Campaign(
        began="2026-11-27T05:00:00+00:00",
        commit="0123456789ab",
        machine=gpu | {"torch": "2.11.0", "python": "3.12.3"},
        steps={
            name: step(name, "complete", seconds=9.0, limit=20.0, clocks=clocks, results=results)
            for name, results in found.items()
        },
    )
