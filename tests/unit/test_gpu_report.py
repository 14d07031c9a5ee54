"""The report of a campaign on a GPU: every table; a page never says more than was found."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.support.campaign import campaign, measured, record, report, tables
from tests.support.catalogue import DOCS

PAGE = f"# On a GPU\n\n{report.BEGIN}\nold\n{report.END}\n\nmore\n"


def test_all_tables_are_rendered() -> None:
    page = tables.page(measured())
    for line in (
        "# Campaign on a GPU",
        "NVIDIA Test, driver 580.1, torch 2.11.0, Python 3.12.3; 2026-11-27, commit 0123456789ab. "
        "The clock of its processors, seen every 15 s: 990 MHz to 1755 MHz (at most 1980 MHz).",
        "| times | complete | 9 of 20 | 1 ok, 1 failed |  |",
        "Agreement with the CPU and the oracle: 1 tests passed, 1 failed, 1 hung or crashed, "
        "0 skipped.",
        "| shape | dtype | pass | solver | rnncc | in Python | in a graph | GB/s | of copy "
        "| plain loop | nn.GRU | FlashRNN |",
        "| 8x2048x4096 | float32 | forward | sequential | 0.75 | 0.1 | - | 2400 | 80% "
        "| 250 | 31 | 40 |",
        "Left out: ml-pararnn in 1 of 1 rows (not in a registry).",
        "Times of min_gru, ms:",
        "| cell | dtype | passes cold | passes cached |",
        "| para_gru | float32 | 2 | 0.1 |",
        "| 8x2048x4096 | float32 | para_gru_forward | 750 | 80 | - | - | - | 64 | 3 | wait 1.5 |",
        "| memcheck | para_gru | 3 | 0 |",
        "The planner's constants, fitted to 9 times (median error 12%, 50% with those that ship):",
        "| clock | 1.7 |",
        "The planner's regret: median 1.50, at most 1.50 with the shipped constants.",
        "| shipped | 1x64x8 | forward | 64 | 3 | one pass | 2 | 1.50 |",
        "- agreement, tests/gpu/test_gpu.py::test_two: failed. E   assert 1 == 2",
        "- times, para_gru 64x1024x1024 float32 forward: failed. out of memory",
    ):
        assert line in page.splitlines(), f"{line}\nnot in\n{page}"


def test_the_median_regret_of_two_is_between_them() -> None:
    found = [{"constants": "shipped", "regret": regret} for regret in (1.0, 2.0)]
    assert tables._worst(found) == "median 1.50, at most 2.00 with the shipped constants"


def test_a_step_that_was_under_way_when_all_was_ended_is_in_the_report(tmp_path: Path) -> None:
    found = measured()
    results = found.steps.pop("times").results
    found.save(tmp_path)
    record.write_lines(tmp_path / "times.jsonl", results)
    again = record.load(tmp_path)
    assert again.steps["times"].results == results
    assert again.steps["times"].reason == "it was under way when the campaign was ended"
    assert "| 8x2048x4096 | float32 | forward | sequential | 0.75 |" in tables.page(again)


def test_a_campaign_survives_its_file(tmp_path: Path) -> None:
    found = measured()
    found.save(tmp_path)
    assert record.load(tmp_path) == found
    assert report.main([str(tmp_path)]) == 0


def test_the_times_go_between_the_marks_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "cuda.md"
    page.write_text(PAGE)
    measured().save(tmp_path)
    assert report.main([str(tmp_path), "--docs", str(page)]) == 0
    text = page.read_text()
    assert (
        text == f"# On a GPU\n\n{report.BEGIN}\n{tables.block(measured())}\n{report.END}\n\nmore\n"
    )
    assert "commit 0123456789ab" in text
    assert "| 8x2048x4096 | float32 | forward |" in text


def test_a_rehearsal_is_marked_and_never_goes_into_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = dataclasses.replace(measured(), rehearsal=True)
    assert tables.page(found).count("**Rehearsal**") == 1
    page = tmp_path / "cuda.md"
    page.write_text(PAGE)
    found.save(tmp_path)
    assert report.main([str(tmp_path), "--docs", str(page)]) == report.WRONG
    assert page.read_text() == PAGE
    message = capsys.readouterr().err
    assert "this was a rehearsal, which measures nothing.\nFix: make gpu on a machine" in message


def test_without_results_the_page_says_so() -> None:
    assert tables.block(record.Campaign()) == tables.NOTHING
    assert tables.NOTHING in tables.block(record.Campaign(machine={"name": "NVIDIA Test"}))


@pytest.mark.parametrize(
    "text", ["none", report.BEGIN, f"{report.END}{report.BEGIN}", PAGE + report.BEGIN]
)
def test_a_page_without_its_marks_is_refused(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "cuda.md"
    page.write_text(text)
    measured().save(tmp_path)
    assert report.main([str(tmp_path), "--docs", str(page)]) == report.WRONG
    assert f"expected one line '{report.BEGIN}' and one '{report.END}'" in capsys.readouterr().err
    assert page.read_text() == text


def test_a_page_or_folder_that_is_missing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([str(tmp_path)]) == report.WRONG
    assert "campaign.json: is missing.\nFix: make gpu ARGS=" in capsys.readouterr().err
    measured().save(tmp_path)
    assert report.main([str(tmp_path), "--docs", str(tmp_path / "none.md")]) == report.WRONG
    assert "No such file or directory.\nFix: --docs docs/cuda.md" in capsys.readouterr().err


def test_the_page_of_this_repository_has_the_marks() -> None:
    text = (DOCS / "cuda.md").read_text(encoding="utf-8")
    assert report.with_block(text, "new", DOCS) != text


def test_a_campaign_that_found_something_wrong_fails() -> None:
    found = measured()
    wrong = [name for name in found.steps if campaign.wrong(found, name)]
    assert wrong == ["agreement", "times"]
