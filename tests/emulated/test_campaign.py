"""`make gpu` rehearsed: every step runs on emulated kernels; none that fails stops another."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.campaign import STEPS, campaign, cuda_tools, plan, record, report, tables

COMMITTED = ("--commit", "0123456789ab")


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The folder and the exit status of a whole rehearsal."""
    tools, folder = tmp_path_factory.mktemp("tools"), tmp_path_factory.mktemp("out")
    cuda_tools(tools)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
        status = campaign.main(
            ["--rehearse", "--out", str(folder), "--seconds", "2000", *COMMITTED]
        )
    return folder, status


def test_every_step_runs_and_finds_something(rehearsed: tuple[Path, int]) -> None:
    folder, status = rehearsed
    found = record.load(folder)
    assert list(found.steps) == list(plan.NAMES)
    for step in found.steps.values():
        assert (step.state, step.reason, step.tail) == ("complete", "", ""), step
        assert [r for r in step.results if r.state in ("failed", "killed")] == []
        assert "ok" in {r.state for r in step.results}, step
    assert status == 0
    assert {p.name for p in folder.iterdir()} == {record.FILE, "report.md"}


def test_its_report_has_every_table_and_is_marked(rehearsed: tuple[Path, int]) -> None:
    folder, _ = rehearsed
    text = (folder / "report.md").read_text()
    assert text == tables.page(record.load(folder))
    assert text.startswith("# Rehearsal of a campaign on a GPU\n\n**Rehearsal**")
    for part in (
        "Agreement with the CPU and the oracle: ",
        "Times of para_gru, ms:",
        "| 2x70x8 | float32 | forward+backward | ",
        "| plain loop | nn.GRU | nn.LSTM |",
        "Short calls of para_gru, us:",
        "| by place | by name | forward+backward | layer.step | decoder | decoder, no graph | nn.",
        "| plain loop | torch.compile |",
        "Times of min_gru, ms:",
        "| para_gru | float32 | ",
        "| 2x70x8 | float32 | para_gru_forward | 1234 | ",
        "| memcheck | para_gru | 3 | 0 |",
        "| racecheck | para_gru | 3 | 0 |",
        "The planner's constants, fitted to ",
        "| shipped | 1x64x8 | forward | ",
        "| fitted | 1x64x8 | backward | ",
    ):
        assert part in text, f"{part}\nnot in\n{text}"


def test_it_never_goes_into_a_page(rehearsed: tuple[Path, int], tmp_path: Path) -> None:
    page = tmp_path / "cuda.md"
    page.write_text(f"{report.BEGIN}\n{report.END}\n")
    assert report.main([str(rehearsed[0]), "--docs", str(page)]) == report.WRONG


def test_metrics_that_ncu_does_not_know_are_left_out(rehearsed: tuple[Path, int]) -> None:
    (counted,) = record.load(rehearsed[0]).steps["counters"].results
    assert counted.data["unknown"] == ["local_read"]
    assert [k["kernel"] for k in counted.data["kernels"]] == [
        "para_gru_forward",
        "para_gru_backward",
    ]


# --- with steps that stand in for real ones --------------------------------------------------


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "steps.py"
    script.write_text(STEPS)
    monkeypatch.setattr(campaign, "STEPS", script)


def call(folder: Path, *arguments: str) -> tuple[int, Any]:
    status = campaign.main(["--rehearse", "--out", str(folder), *COMMITTED, *arguments])
    return status, record.load(folder)


@pytest.mark.usefixtures("stand_in")
def test_steps_that_raise_hang_or_die_stop_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    status, found = call(folder, "--seconds", "14", "--json")
    assert status == 1
    assert {name: step.state for name, step in found.steps.items()} == {
        **dict.fromkeys(plan.NAMES, "complete"),
        **{"doctor": "failed", "agreement": "killed"},
    }
    assert "the doctor is out" in found.steps["doctor"].tail
    hung = found.steps["agreement"]
    assert hung.tail == "hanging"
    assert {r.key: r.state for r in hung.results} == {"first": "ok", "second": "killed"}
    assert hung.seconds < hung.limit + 3 * 2
    died = found.steps["times"]
    assert {r.key: r.state for r in died.results} == {"first": "killed", "second": "ok"}
    said = capsys.readouterr()
    assert json.loads(said.out)["steps"]["times"]["restarts"] == 1
    assert "agreement: killed in" in said.err

    parts = ("--part", "agreement", "--part", "peers", "--seconds", "4")
    _, again = call(folder, "--resume", *parts)
    assert again.steps["agreement"].state == "killed"  # it hangs again
    assert again.steps["peers"] == found.steps["peers"]
    assert "peers: complete already" in capsys.readouterr().out
    _, again = call(folder, "--resume", *parts)
    assert again.steps["agreement"].state == "complete"
    assert again.steps["agreement"].limit == pytest.approx(hung.limit + 4 + 4, abs=0.5)


@pytest.mark.usefixtures("stand_in")
def test_one_step_runs_by_itself_with_all_the_time(tmp_path: Path) -> None:
    status, found = call(tmp_path / "out", "--part", "peers", "--seconds", "30")
    assert status == 0
    assert list(found.steps) == ["peers"]
    assert found.steps["peers"].limit == pytest.approx(30, abs=1)
