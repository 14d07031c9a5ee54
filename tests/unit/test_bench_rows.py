"""The rows of `rnncc bench --suite`: which there are, their figures, and who else was busy."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rnncc.bench import watch
from rnncc.bench.programs import AT_BASE, COPY, LOOP, RNNCC
from rnncc.bench.rows import BASE, BOTH, DIRECTIONS, FORWARD, FUNCTION, STEP, SUITES, Row, of_suites
from rnncc.bench.suite import Found
from rnncc.cli import bench as command


def test_the_command_has_every_suite() -> None:
    assert tuple(SUITES) == command.SUITES


def test_suites_have_the_shapes_away_from_the_usual() -> None:
    shapes = {row.shape for row in SUITES["wide"]}
    assert len(shapes) == 11
    assert {row.direction for row in SUITES["packed"]} == set(DIRECTIONS)
    assert {row.shape[1] for name in ("short", "decode") for row in SUITES[name]} == {1}
    assert {row.dtype for row in SUITES["half"]} == {"bfloat16", "float16"}
    for rows in SUITES.values():
        assert len(set(rows)) == len(rows)


def test_other_shapes_and_dtypes_take_the_place_of_a_suites_own() -> None:
    found = of_suites(["wide", "decode"], [(2, 3, 4)], "float16")
    assert found == {
        "wide": [Row(FUNCTION, (2, 3, 4), "float16", direction) for direction in DIRECTIONS],
        "decode": [Row(STEP, (2, 1, 4), "float16", FORWARD)],
    }
    assert of_suites(["layer"])["layer"] == list(SUITES["layer"])


def test_the_figures_of_a_row() -> None:
    row = Row(FUNCTION, BASE, "float32", BOTH)
    seconds = {RNNCC: 4e-3, COPY: 1e-3, LOOP: 1.0, AT_BASE: 4e-3}
    found = Found(row, seconds, {}, 3, 8, None)
    assert found.per_element == pytest.approx(4e6 / (8 * 2048 * 256))
    assert found.share == pytest.approx(0.25)
    assert found.rivals == {LOOP: 1.0}
    data = found.data()
    assert data["ms"] == {name: pytest.approx(1e3 * s) for name, s in seconds.items()}
    assert data["share_of_copy"] == pytest.approx(0.25)
    assert row.name == "function 8x2048x256 float32 forward+backward"


def test_a_row_that_could_not_be_measured_has_no_figures() -> None:
    found = Found(Row(STEP, (1, 1, 8), "float32", FORWARD), {}, {RNNCC: "none"}, 0, 8, None)
    assert found.data()["ns_per_element"] is None
    assert found.data()["share_of_copy"] is None


def test_the_time_of_other_processes_is_what_is_not_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = {"wall": 0.0, "own": 0.0}
    stat = tmp_path / "stat"
    monkeypatch.setattr(watch, "STAT", stat)
    monkeypatch.setattr(watch, "_own", lambda: now["own"])
    monkeypatch.setattr(time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(watch.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(watch.os, "sysconf", lambda _: 100)
    stat.write_text("cpu 1000 0 0 5000 9 0 0 0 0 0\ncpu0 1\n")
    watched = watch.Watch()
    now.update(wall=10.0, own=12.0)
    stat.write_text("cpu 2500 50 40 5400 9 5 3 2 0 0\ncpu0 1\n")
    assert watched.others() == pytest.approx((16.0 - 12.0) / 20.0)
    stat.write_text("")
    assert watched.others() is None
