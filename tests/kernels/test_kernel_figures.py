"""The figures of the CUDA kernels that are committed in docs/kernels.json: none gets worse."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from rnncc.inspect import sass
from rnncc.inspect.binary import WALKING
from rnncc.inspect.figures import PASSES, figures
from tests.support.catalogue import tool
from tests.support.runs import CORE, compiled

needs_tools = pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None or sass.find_disassembler() is None,
    reason='needs pip install "rnncc[cuda13,inspect]"',
)
DTYPES = ("float32", "bfloat16")
DAILY = (("para_gru", "float32"), ("slstm", "bfloat16"), ("min_gru", "bfloat16"))
CASES = [
    pytest.param(name, dtype, marks=() if (name, dtype) in DAILY else pytest.mark.slow)
    for name in CORE
    for dtype in DTYPES
]
OTHER = 1.1  # times as many registers and instructions, if another NVRTC chose them
UPDATE = "Fix: make it better again; or, where the loss is wanted, python tools/kernel_figures.py"


@needs_tools
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_no_figure_of_a_kernel_is_worse_than_committed(name: str, dtype: str) -> None:
    data = tool("kernel_figures").read()
    committed, found = data["after"][name][dtype], figures(compiled(name), dtype)
    slack = 1.0 if tool("kernel_figures").version() == data["nvrtc"] else OTHER
    worse = [*worse_kernels(committed, found, slack), *worse_passes(committed, found)]
    assert worse == [], UPDATE


def worse_kernels(committed: Any, found: Any, slack: float) -> list[str]:
    pairs = {name: (k, found["kernels"][name]) for name, k in committed["kernels"].items()}
    figures = {
        f"{name}, {what}": (before[what], after[what])
        for name, (before, after) in pairs.items()
        for what in ("registers", "spilled", "stack")
    } | {
        f"{name}, instructions": (before["instructions"]["all"], after["instructions"]["all"])
        for name, (before, after) in pairs.items()
    }
    return [f"{n}: {was} -> {now}" for n, (was, now) in figures.items() if now > was * slack]


def worse_passes(committed: Any, found: Any) -> list[str]:
    pairs = {n: (committed["passes"][n], found["passes"][n]) for n in PASSES}
    return [
        f"{name}, bytes in flight: {was['in_flight']} -> {now['in_flight']}"
        for name, (was, now) in pairs.items()
        if now["in_flight"] < was["in_flight"]
    ]


def test_a_worse_figure_is_found() -> None:
    committed = tool("kernel_figures").read()["after"]["para_gru"]["float32"]
    assert worse_kernels(committed, committed, 1.0) == worse_passes(committed, committed) == []
    kernels = {
        name: k | {"registers": k["registers"] + 1} for name, k in committed["kernels"].items()
    }
    found = {"kernels": kernels, "passes": {name: {"in_flight": 1} for name in PASSES}}
    assert len(worse_kernels(committed, found, 1.0)) == len(WALKING)
    assert worse_kernels(committed, found, OTHER) == []
    assert len(worse_passes(committed, found)) == len(PASSES)


def test_the_file_has_all_core_cells_before_and_after_in_the_tools_form() -> None:
    figures_tool = tool("kernel_figures")
    data = figures_tool.read()
    assert figures_tool.as_json(data) == figures_tool.FILE.read_text(encoding="utf-8")
    for found in (data["before"], data["after"]):
        assert {name: set(dtypes) for name, dtypes in found.items()} == {
            name: set(DTYPES) for name in CORE
        }


def test_the_page_has_the_table_of_the_file() -> None:
    figures_tool = tool("kernel_figures")
    page = figures_tool.PAGE.read_text(encoding="utf-8")
    assert figures_tool.with_table(page, figures_tool.read()) == page
