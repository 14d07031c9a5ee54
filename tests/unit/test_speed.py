"""tools/speed.py: docs/speed.md and README's table say what was measured; times are made up."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rnncc.bench import cpu, suite
from rnncc.bench.programs import COPY, LOOP, RNNCC
from rnncc.bench.rows import SUITES, Row
from tests.support.catalogue import DOCS, ROOT, tool

speed: Any = tool("speed")
pages: Any = tool("speed_page")
MACHINE = {"device": "a CPU", "threads": 2, "torch": "2.13.0"}


def result(job: Any, commit: str = "abc1234", **seconds: float) -> dict[str, Any]:
    taken = {RNNCC: 2e-3, **seconds}
    found = suite.Found(job.row, taken, {}, 3, 8, 0.0)
    return {"cell": job.cell, "suite": job.suite, "commit": commit, **found.data()}


def as_if_measured() -> dict[str, Any]:
    results = [result(job, **{COPY: 1e-3, LOOP: 30e-3}) for job in speed.jobs(())]
    return {"machine": MACHINE, "results": results}


# --- the committed page ----------------------------------------------------------------------


def test_the_page_and_the_readme_say_what_was_measured() -> None:
    measured = json.loads(speed.FILE.read_text(encoding="utf-8"))
    bounds = json.loads(speed.BOUNDS.read_text(encoding="utf-8"))
    fix = "Fix: python tools/speed.py"
    assert (DOCS / "speed.md").read_text(encoding="utf-8") == pages.page(measured, bounds), fix
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert speed.with_block(readme, pages.readme_block(measured)) == readme, fix


def test_every_row_was_measured() -> None:
    measured = json.loads(speed.FILE.read_text(encoding="utf-8"))
    assert [speed.key_of(r) for r in measured["results"]] == speed.KEYS
    assert {"device", "threads", "torch", "python", "system"} <= set(measured["machine"])
    for r in measured["results"]:
        assert r["ns_per_element"] > 0, r
        assert len(r["commit"].rstrip("+")) >= 7


# --- its text --------------------------------------------------------------------------------


def test_all_tables_are_rendered() -> None:
    bounds = {
        "name": "copy: function 8x2048x256 float32 forward",
        **{"figure": "time / copy", "sign": "<=", "limit": 1.6, "reason": "", "others": None},
    }
    held = [
        {**bounds, "measured": 1.234, "verdict": "ok"},
        {**bounds, "measured": 2.0, "verdict": "FAILS", "others": 0.1},
        {**bounds, "measured": None, "verdict": "skipped", "reason": "none yet"},
    ]
    measured = as_if_measured()
    for r in measured["results"]:
        r["others"] = 0.1 if r["shape"] == [4, 4096, 1024] else 0.0
    page = pages.page(measured, {"bounds": held})
    for line in (
        "para_gru on 2 threads, a CPU, PyTorch 2.13.0, commit abc1234.",
        "| 8x2048x256 | forward | 2 | 0.477 | 50 % | - | 30, 15x |",
        "| 8x2048x255 | forward | 2 | 0.479 | 50 % |",
        "| bfloat16 | 8x2048x256 | forward | 2 | 0.477 | 50 % | 30, 15x |",
        "| 1x1x128 | forward | 2000 | 30000, 15x | - |",
        "| 4x4096x1024 | forward | 2\\* | 0.119 | 50 % | - | 30, 15x |",
        "| 1x1x512 | 2000 | - | - | - | - |",
        "| bfloat16 | 8x2048x256 | forward+backward | 2 | - | - | - |",
        "| copy: function 8x2048x256 float32 forward | time / copy | <= 1.6 | 1.23 |",
        "| copy: function 8x2048x256 float32 forward | time / copy | <= 1.6 | 2\\*, **fails** |",
        "| copy: function 8x2048x256 float32 forward | time / copy | <= 1.6 | none yet |",
    ):
        assert line in page.splitlines(), f"{line}\nnot in\n{page}"


def test_the_readme_has_the_worst_row_of_each_pass() -> None:
    measured = as_if_measured()
    slow = Row("function", (2, 2048, 1024), "float32", "forward")
    small = Row("function", (1, 64, 64), "float32", "forward")
    for r in measured["results"]:
        if r["suite"] == "wide" and r["pass"] == "forward":
            share = {slow.shape: 0.2, small.shape: 0.01}.get(tuple(r["shape"]), 0.5)
            r["share_of_copy"] = share
    lines = pages.readme_block(measured).splitlines()
    assert "| para_gru | 2x2048x1024 | forward | 2 | 0.477 | 20 % | - | 30, 15x |" in lines
    assert not any("1x64x64" in line for line in lines)
    assert sum("| slstm |" in line for line in lines) == 2
    assert len(lines) == len(set(lines))


# --- measuring -------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows take a second each, and nothing is compiled."""
    now = [0.0]

    def measure(_: Any, row: Row, *__: Any) -> suite.Found:
        now[0] += 1.0
        return suite.Found(row, {RNNCC: now[0]}, {}, 3, 8, 0.0)

    monkeypatch.setattr(suite, "measure", measure)
    monkeypatch.setattr(speed.rnncc, "compile", lambda name: name)
    monkeypatch.setattr(cpu, "machine", lambda: MACHINE)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return tmp_path / "deep" / "speed.json"


def times_of(file: Path) -> list[float]:
    return [r["ms"][RNNCC] / 1e3 for r in json.loads(file.read_text())["results"]]


def test_measuring_goes_on_where_it_ended(file: Path) -> None:
    jobs = speed.jobs(["layer", "decode"])
    assert speed.measure_into(file, jobs, "one", 1.5) == len(jobs) - 2
    assert speed.measure_into(file, jobs, "one", 1e9) == 0
    assert sorted(times_of(file)) == [1, 2, 3, 4]
    assert speed.measure_into(file, jobs, "one", 1e9) == 0
    assert sorted(times_of(file)) == [1, 2, 3, 4]
    assert speed.measure_into(file, jobs[:1], "two", 1e9) == 0
    assert sorted(times_of(file)) == [2, 3, 4, 5]


def test_what_was_disturbed_is_measured_again(file: Path) -> None:
    jobs = speed.jobs(["layer"])
    speed.measure_into(file, jobs, "one", 1e9)
    found = json.loads(file.read_text())
    found["results"][1]["others"] = 0.5
    file.write_text(json.dumps(found))
    assert speed.measure_into(file, jobs, "one", 1e9) == 0
    assert times_of(file) == [1, 3]


def test_results_stand_in_the_order_of_the_suites(file: Path) -> None:
    for name in reversed(SUITES):
        speed.measure_into(file, speed.jobs([name]), "one", 1e9)
    keys = [speed.key_of(r) for r in json.loads(file.read_text())["results"]]
    assert keys == [key for key in speed.KEYS if key[1] != "cells"]


def test_what_another_machine_measured_is_dropped(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed.measure_into(file, speed.jobs(["layer"]), "one", 1e9)
    monkeypatch.setattr(cpu, "machine", lambda: {**MACHINE, "device": "another"})
    speed.measure_into(file, speed.jobs(["decode"]), "one", 1e9)
    found = json.loads(file.read_text())
    assert found["machine"]["device"] == "another"
    assert {r["suite"] for r in found["results"]} == {"decode"}


def test_the_command_writes_both_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    for name in ("FILE", "BOUNDS", "PAGE", "README"):
        monkeypatch.setattr(speed, name, tmp_path / name)
    speed.FILE.write_text(json.dumps(as_if_measured()))
    speed.README.write_text(f"before\n{pages.BEGIN}\nold\n{pages.END}\nafter\n")
    assert CliRunner().invoke(speed.main, []).output == "PAGE, README: written\n"
    assert speed.PAGE.read_text().startswith("# Speed on a CPU\n")
    assert "Not measured yet." in speed.PAGE.read_text()
    text = speed.README.read_text()
    assert text.startswith(f"before\n{pages.BEGIN}\nFloat32, 2 threads, a CPU")
    assert text.endswith(f"|\n{pages.END}\nafter\n")
