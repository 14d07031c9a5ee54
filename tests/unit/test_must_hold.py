"""tools/must_hold.py: the bounds on the speed, picked, measured and judged; times are made up."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from rnncc.bench import suite
from rnncc.bench.programs import AT_BASE, CHUNKS, DECODER, EAGER, LINEAR, RECURRENCE, RNNCC
from rnncc.bench.rows import FORWARD, FUNCTION, SINGLE, STEP, Row
from tests.support.catalogue import ROOT, tool

held: Any = tool("must_hold")
MISSING = "it is not there"
TRAINING = (ROOT / "examples" / "train_bytes.py").read_text(encoding="utf-8")


class Measured:
    """As suite.measure: every program takes a millisecond, or as long as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
        self.seconds, self.others, self.calls = seconds, [0.0], 0
        monkeypatch.setattr(suite, "measure", self)
        monkeypatch.setattr(held, "_plans", lambda *_: {"one pass": None, "segments of 64": None})

    def __call__(self, _: Any, row: Row, wanted: Any, *__: Any) -> suite.Found:
        names = [name for name in wanted if name != DECODER]
        seconds = {name: self.seconds.get(name, 1e-3) for name in names}
        skipped = {DECODER: MISSING} if DECODER in wanted else {}
        others = self.others[min(self.calls, len(self.others) - 1)]
        self.calls += 1
        return suite.Found(row, seconds, skipped, 3, 8, others)


def call(*words: str) -> Any:
    return CliRunner().invoke(held.main, list(words))


def bound(figure: Any, limit: float, least: bool = False, shape: Any = (8, 2048, 512)) -> Any:
    return held.Bound("some", Row(FUNCTION, shape, SINGLE, FORWARD), figure, limit, least)


# --- bounds ----------------------------------------------------------------------------------


def test_every_bound_of_the_list_is_there_once() -> None:
    counts = Counter(b.group for b in held.BOUNDS)
    assert counts == {
        **{"elements": 10, "packed": 10, "chunks": 2, "copy": 4, "step": 2, "decoder": 2},
        **{"call": 2, "layer": 2, "demo": 1, "plans": 40},
    }
    assert len({b.name for b in held.BOUNDS}) == len(held.BOUNDS)
    assert len(set(held.PLANNED)) == 20
    assert set(held.MEDIANS) <= set(held.GROUPS)


@pytest.mark.parametrize(
    ("figure", "seconds", "expected"),
    [
        (held.share(RNNCC, "copy"), {RNNCC: 3e-3, "copy": 2e-3}, 1.5),
        (held.share(RNNCC, LINEAR, RECURRENCE), {RNNCC: 3.0, LINEAR: 4.0, RECURRENCE: 2.0}, 0.5),
        (held.times_as_fast(CHUNKS), {RNNCC: 1e-3, CHUNKS: 7e-3}, 7.0),
        (held.beyond(DECODER, LINEAR), {DECODER: 19e-6, LINEAR: 11e-6}, 8.0),
        (held.MICROSECONDS, {RNNCC: 15e-6}, 15.0),
        (held.PER_ELEMENT, {RNNCC: 3e-3, AT_BASE: 1e-3}, 1.5),
        (held.BYTES_PER_SECOND, {held.DEMO: 0.25}, 8192.0),
        (held.REGRET, {RNNCC: 3.0, "one pass": 2.0, "segments of 64": 4.0}, 1.5),
    ],
    ids=lambda value: getattr(value, "text", ""),
)
def test_a_figure_follows_from_times(figure: Any, seconds: Any, expected: float) -> None:
    assert set(figure.programs) <= set(seconds)
    assert figure.of(bound(figure, 1).row, seconds) == pytest.approx(expected)


def test_a_bound_is_the_most_or_the_least() -> None:
    most, least = bound(held.MICROSECONDS, 2), bound(held.MICROSECONDS, 2, least=True)
    assert [most.holds(x) for x in (1.9, 2, 2.1)] == [True, True, False]
    assert [least.holds(x) for x in (1.9, 2, 2.1)] == [False, True, True]
    assert (held.limit_text(most), held.limit_text(least)) == ("<= 2", ">= 2")


def test_bounds_are_picked_by_group_and_by_parts_of_their_names() -> None:
    assert held.picked([]) == list(held.BOUNDS)
    assert [b.group for b in held.picked(["step", "copy"])] == ["copy"] * 4 + ["step"] * 2
    assert [b.name for b in held.picked(["plans", "1x16384x64 "])] == [
        "plans: function 1x16384x64 float32 forward",
        "plans: function 1x16384x64 float32 forward+backward",
    ]
    with pytest.raises(click.UsageError, match=r"(?s)by 'stop', expected .*Fix: --list"):
        held.picked(["stop"])


# --- measuring -------------------------------------------------------------------------------


def test_what_fails_makes_the_command_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    Measured(monkeypatch, **{EAGER: 2e-3})
    assert call("step").exit_code == 0
    Measured(monkeypatch, **{EAGER: 1.2e-3})
    result = call("step")
    assert result.exit_code == 1
    first, second, last = result.stdout.splitlines()
    assert first.startswith("FAILS    step: step 1x1x128 float32 forward ")
    assert "0.833  <= 0.75   time / eager cell (rnncc 1 ms, eager cell 1.2 ms)" in first
    assert second.startswith("ok ")
    assert last.startswith("1 ok, 1 FAILS, 0 skipped; ")


def test_what_cannot_be_measured_is_skipped_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Measured(monkeypatch)
    result = call("decoder")
    assert result.exit_code == 0
    assert result.stdout.count(MISSING) == 2
    assert "0 ok, 0 FAILS, 2 skipped" in result.stdout


def test_the_median_of_all_plans_is_held_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    Measured(monkeypatch, **{RNNCC: 1.1e-3})
    result = call("plans")
    assert result.exit_code == 1
    assert "40 ok, 1 FAILS" in result.stdout
    assert "FAILS    plans: median of 40 rows" in result.stdout


def test_a_disturbed_row_is_measured_again_and_says_so_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = Measured(monkeypatch)
    fake.others = [0.3, 0.01]
    assert "disturbed" not in call("copy", "8x2048x256 float32 forward+").stdout
    assert fake.calls == 2
    fake = Measured(monkeypatch)
    fake.others = [0.3]
    said = call("copy", "8x2048x256 float32 forward+").stdout
    assert fake.calls == held.ATTEMPTS
    assert "; disturbed: other processes took 30% of the processors" in said


def test_results_are_data_and_are_put_among_earlier_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "held.json"
    Measured(monkeypatch, **{EAGER: 2e-3})
    for words in (["step"], ["copy"], ["step"]):
        result = call("--json", "--merge", str(file), *words)
    (first, _) = json.loads(result.stdout)["bounds"]
    assert first == {
        "name": "step: step 1x1x128 float32 forward",
        "figure": "time / eager cell",
        "measured": 0.5,
        "limit": 0.75,
        "sign": "<=",
        "verdict": "ok",
        "reason": "",
        "others": 0.0,
        "ms": {RNNCC: 1.0, EAGER: 2.0},
    }
    names = [b["name"] for b in json.loads(file.read_text())["bounds"]]
    assert names == [b.name for b in held.picked(["copy", "step"])]


def test_a_median_is_of_all_rows_in_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "held.json"
    for shape, seconds in (("8x2048x256 ", 1e-3), ("1x64x64 ", 1.02e-3)):
        Measured(monkeypatch, **{RNNCC: seconds})
        call("--merge", str(file), "plans", shape)
    last = json.loads(file.read_text())["bounds"][-1]
    assert last["name"] == "plans: median of 4 rows"
    assert last["measured"] == pytest.approx(1.01)


def test_the_list_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Measured(monkeypatch)
    lines = call("--list", "call").stdout.splitlines()
    assert lines[0] == "call: function 1x1x128 float32 forward: <= 15 us"
    assert (len(lines), fake.calls) == (2, 0)


def test_the_demo_samples_as_many_bytes_as_its_bound_is_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (demo,) = (b for b in held.BOUNDS if b.group == "demo")
    assert f"width: int = {demo.row.shape[2]}" in TRAINING
    assert f"sample: int = {demo.row.shape[1]}" in TRAINING
    for seconds, verdict in ((0.04, "ok"), (0.06, "FAILS")):
        found = suite.Found(demo.row, {held.DEMO: seconds}, {}, 3, 0, 0.0)
        monkeypatch.setattr(held, "sampled", lambda *_, found=found: found)
        assert call("demo").stdout.startswith(f"{verdict:<7}  demo: sample 1x400x128")


def test_rows_of_a_step_have_one_step() -> None:
    assert {b.row.shape[1] for b in held.BOUNDS if b.row.work == STEP} == {1}
