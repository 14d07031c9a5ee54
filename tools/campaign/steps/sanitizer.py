"""Sanitizer: small calls by every solver -> the faults that compute-sanitizer finds."""

from __future__ import annotations

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from campaign.process import lines_of, run_inside
from campaign.setting import Setting
from campaign.sink import Sink, TimeUpError, UnavailableError
from campaign.steps.counters import command_of

TOOLS = ("memcheck", "racecheck")
# Two at a time, so that what time cuts off is known: one pass, segments of a block and of the grid.
GROUPS = (("para_gru", "selective_ssm"), ("lstm", "cfc"), ("lif", "block_elman"))
CHOICES = ("solver=sequential", "solver=segmented,segment=1", "solver=segmented,segment=32")
SHAPE, SMALL = "3x70x37", "2x40x4"
# API errors: to look for a kernel in a part that hasn't it is one, and is meant.
OPTIONS = ("--report-api-errors", "no", "--error-exitcode", "9")
FAULTS = re.compile(r"(?:ERROR SUMMARY: |RACECHECK SUMMARY: )(\d+)")
REFUSED = ("Device not supported", "Unable to find injection library", "Failed to initialize")


def run(sink: Sink, setting: Setting) -> None:
    """Each group under each tool."""
    groups = setting.choose(GROUPS, (("para_gru",),))
    for cells in groups:
        for tool in TOOLS:
            key = f"{tool} {' '.join(cells)}"

            def find(tool: str = tool, cells: tuple[str, ...] = cells) -> dict[str, Any]:
                return check(tool, cells, sink.left, setting)

            sink.take(key, find, limit=sink.left + 10, needs=setting.choose(8.0, 0.0))
            if sink.is_unavailable(key):  # nor are the others
                return


def check(tool: str, cells: tuple[str, ...], seconds: float, setting: Setting) -> dict[str, Any]:
    """Run calls under a tool.

    Raises:
        UnavailableError: it isn't there, or can't watch this GPU.
        TimeUpError: it takes too long.
        RuntimeError: it found something.
    """
    sanitizer = command_of("compute-sanitizer")
    shape = setting.choose(SHAPE, SMALL)
    calls = setting.call("run", *cells, "--shape", shape, "--choices", *CHOICES)
    # each tensor by itself, so that an access out of its bounds is one
    env = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    with TemporaryDirectory() as folder:
        log = Path(folder, "log")
        ended = run_inside([sanitizer, "--tool", tool, *OPTIONS, *calls], log, seconds, env)
        said, ran = log.read_text(encoding="utf-8", errors="replace"), lines_of(log)
    refusal = next((reason for reason in REFUSED if reason in said), None)
    if refusal:
        raise UnavailableError(f"compute-sanitizer: {refusal}")
    counted = FAULTS.search(said)
    wanted = len(cells) * len(CHOICES)
    if ended.status is None:
        raise TimeUpError
    if ended.status or counted is None or int(counted[1]):
        raise RuntimeError(f"{len(ran)} of {wanted} calls ran. {ended.tail}")
    return {"tool": tool, "cells": list(cells), "calls": len(ran), "faults": int(counted[1])}
