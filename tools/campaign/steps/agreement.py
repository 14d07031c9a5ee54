"""Agreement: the tests that need a GPU -> the outcome of each, the most telling ones first."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from campaign.process import run_inside
from campaign.setting import Setting
from campaign.sink import AGAIN, Sink

BUILT = "kernels built"
LATER = ("block_gru",)  # no core cell, but the step `counters` takes it
MOST_BUILDS = 12  # at once; each holds half a GiB of the GPU
# Tests passed, failed; none was left to run.
EXPECTED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
LIMIT = 60.0  # seconds of a test
LEAST = 2.0  # seconds that a test is worth beginning for
TESTS = (
    "tests/gpu",
    *(f"tests/kernels/test_{name}.py" for name in "oracle segments sequences".split()),
)
REHEARSED = ("tests/kernels/test_oracle.py", "-k", "emulated and para_gru and float32 and few")
FLAGS = (
    "-q",
    "--no-header",
    "-p",
    "no:cacheprovider",
    "-o",
    "filterwarnings=default",
    "--continue-on-collection-errors",
)
# Not among the tests: they are a step of their own.
LEFT_OUT = "test_the_sanitizer"
# The first of these that a test's id contains is its place in the order.
ORDER = (
    r"test_the_self_test",
    r"test_large_calls.*float32",
    r"test_large_calls.*bfloat16",
    r"test_outputs_states.*float32-few",
    r"tests/gpu/test_gpu_modules",
    r"test_outputs_states.*bfloat16-few",
    r"tests/gpu/(?!.*test_large_calls)",
    r"^(?!.*\bfloat(16|64)\b)",  # of the others no kernel was built: seconds for each test
    r"",
)
LATE = re.compile(r"two_thousand_million|compiled_layer")  # they take long


def run(sink: Sink, setting: Setting) -> None:
    """Build what the first tests need, all processors at once; then test."""
    from tests.support.runs import CELLS, CORE, SHIPPED

    cells = setting.choose([*CORE, *LATER], ["para_gru"])
    sink.take(BUILT, lambda: build(cells, setting, sink.left / 2), limit=sink.left)
    plugin = Plugin(sink, {*CELLS, *SHIPPED} - {*CORE})
    chosen = setting.choose(("-m", "gpu", *TESTS), REHEARSED)
    status = pytest.main([*FLAGS, *chosen], plugins=[plugin])
    if plugin.broken:
        raise SystemExit(AGAIN)
    if status not in EXPECTED and not plugin.stopped:
        raise SystemExit(f"pytest ended with status {status}: see its output")


def build(cells: list[str], setting: Setting, seconds: float) -> dict[str, Any]:
    """Fill the caches: kernels of the CPU, which is the reference, and of the GPU."""
    workers = max(1, min(MOST_BUILDS, (os.cpu_count() or 1) * 3 // 4))
    dtypes = setting.choose(("float32", "bfloat16"), ("float32",))
    until = time.monotonic() + seconds
    with TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:

        def one(cell: str) -> tuple[str, str]:
            command = setting.call("load", cell, "--dtype", *dtypes, "--cpu")
            left = max(0.0, until - time.monotonic())
            ended = run_inside(command, Path(folder, f"{cell}.log"), left)
            return cell, "" if ended.status == 0 else (ended.reason or ended.tail[-200:])

        failed = [f"{cell}: {reason}" for cell, reason in pool.map(one, cells) if reason]
    if failed:
        raise RuntimeError("\n".join(failed))
    return {"cells": len(cells), "workers": workers}


def rank(test: str, others: Collection[str]) -> tuple[bool, int]:
    """Where a test stands in the order, by its id; lower is earlier.

    Args:
        others: cells that aren't among the core.
    """
    place = next(i for i, pattern in enumerate(ORDER) if re.search(pattern, test))
    given = re.split(r"[\[\]-]", test)
    return bool(LATE.search(test)) or any(name in others for name in given), place


class Plugin:
    """Of pytest: puts tests in order, and each outcome into the sink.

    Attributes:
        stopped: the time was up.
        broken: nothing more can run in this process.
    """

    def __init__(self, sink: Sink, others: Collection[str]) -> None:
        self._sink, self._others = sink, others
        self._reports: list[pytest.TestReport] = []
        self.broken = self.stopped = False

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [
            item
            for item in items
            if LEFT_OUT not in item.nodeid and item.nodeid not in self._sink.known
        ]
        items.sort(key=lambda item: rank(item.nodeid, self._others))
        self._sink.left_out += len(items)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        if self._sink.left < LEAST:
            self.stopped = True
            raise item.session.Interrupted("the time is up")
        self._reports = []
        self._sink.begin(item.nodeid, LIMIT)
        result = yield
        self._put(item)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)

    def _put(self, item: pytest.Item) -> None:
        state, reason = outcome(self._reports)
        self._sink.finish(item.nodeid, state, reason)
        self._sink.left_out -= 1
        if state == "failed" and self._sink.is_broken():
            self.broken = True
            item.session.shouldstop = "CUDA can't be used in this process any more"


def outcome(reports: list[pytest.TestReport]) -> tuple[str, str]:
    """State and reason of a test, from the reports of its three phases."""
    for report in reports:
        if report.failed:
            return "failed", f"{report.when}: {report.longreprtext}"
    for report in reports:
        if report.skipped:
            found = report.longrepr
            return "unavailable", str(found[2] if isinstance(found, tuple) else found)
    return "ok", ""
