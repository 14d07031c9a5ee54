"""Steps of the campaign on a GPU: the order of tests, what tools say, what can't be had."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.campaign import process, record, sink
from tests.support.catalogue import tool

Ended, Result = process.Ended, record.Result
SMALL = tool("campaign.setting").Setting(True)


def test_tests_that_tell_most_run_first() -> None:
    agreement = tool("campaign.steps.agreement")
    ids = [
        "tests/gpu/test_gpu_modules.py::test_the_self_test_passes",
        "tests/gpu/test_gpu.py::test_large_calls_equal_those_of_the_cpu[lstm-float32]",
        "tests/gpu/test_gpu.py::test_large_calls_equal_those_of_the_cpu[lstm-bfloat16]",
        "tests/kernels/test_oracle.py::test_outputs_states[gpu-lstm-float32-few]",
        "tests/gpu/test_gpu_modules.py::test_two_streams_run_side_by_side",
        "tests/gpu/test_gpu.py::test_threads_train_side_by_side",
        "tests/kernels/test_segments.py::test_one[gpu-lstm-bfloat16]",
        "tests/gpu/test_gpu.py::test_large_calls_equal_those_of_the_cpu[lstm-float64]",
        "tests/gpu/test_gpu.py::test_large_calls_equal_those_of_the_cpu[pair-float32]",
        "tests/gpu/test_gpu.py::test_a_compiled_layer_trains[lstm-default]",
    ]
    ranks = [agreement.rank(test, {"pair"}) for test in ids]
    assert sorted(ranks[:8]) == ranks[:8]
    assert len(set(ranks[:8])) == 8
    assert min(ranks[8:]) > max(ranks[:8])


def test_ncus_page_is_read_in_fixed_units() -> None:
    counters = tool("campaign.steps.counters")
    said = (
        '==PROF== Connected\n"ID","Kernel Name","t","b"\n"","","ms","Gbyte"\n'
        '"0","lstm_forward(Args)","1.5","2,000"\n"1","lstm_scan","n/a","1"\n'
    )
    assert counters.kernels_of(said, {"microseconds": "t", "bytes": "b", "other": "o"}) == [
        {"kernel": "lstm_forward", "microseconds": 1500.0, "bytes": 2e12},
        {"kernel": "lstm_scan", "bytes": 1e9},
    ]
    assert counters.kernels_of("==ERROR== nothing", {}) == []


def test_metrics_that_a_gpu_lacks_are_left_out() -> None:
    counters = tool("campaign.steps.counters")
    metrics = dict(counters.METRICS)
    lacking = "==ERROR== Failed to find metric regex:^dram__bytes_read.sum(\\.|$)"
    assert counters._known(metrics, "all well") == metrics
    assert metrics.keys() - counters._known(metrics, lacking).keys() == {"dram_read"}
    unnamed = counters._known(metrics, "==ERROR== Failed to find metric !")
    assert len(unnamed) == counters.FEW


def test_a_metric_that_a_gpu_lacks_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counters, given = tool("campaign.steps.counters"), []
    lacking = "==ERROR== Failed to find metric regex:^dram__bytes_read.sum(\\.|$)\n"
    page = '"ID","Kernel Name","gpu__time_duration.sum"\n"","","us"\n"0","lstm_scan","5"\n'

    def answer(command: list[str], log: Path, limit: float) -> Any:
        given.append(limit)
        asked = command[command.index("--metrics") + 1]
        log.write_text(lacking if "dram__bytes_read" in asked else page)
        return Ended(0, "", "")

    monkeypatch.setattr(counters, "run_inside", answer)
    monkeypatch.setattr(counters, "command_of", str)
    metrics = dict(counters.METRICS)
    for _ in range(2):
        found = counters.count("lstm", "1x1x1", "float32", 9.0, SMALL, metrics)
        assert (found["unknown"], len(found["kernels"])) == (["dram_read"], 1)
    assert len(given) == 3
    assert given[1] < given[0] < 9.0  # all tries together take no longer than one


def test_counters_that_cannot_be_had_are_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("counters", 500.0), ("sanitizer", 500.0)):
        step = tool(f"campaign.steps.{name}")
        monkeypatch.setattr(step, "command_of", none_there)
        found = sink.Sink(tmp_path / name, seconds)
        step.run(found, tool("campaign.setting").Setting(False))
        assert [r.state for r in found.known.values()] == ["unavailable"]


def none_there(name: str) -> str:
    raise sink.UnavailableError(f"{name} is not here")


def test_all_builds_together_take_no_longer_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    agreement, given = tool("campaign.steps.agreement"), []

    def build(command: list[str], log: Path, limit: float) -> Any:
        given.append(limit)
        time.sleep(0.02)
        return Ended(0, "", "")

    monkeypatch.setattr(agreement, "run_inside", build)
    monkeypatch.setattr(agreement, "MOST_BUILDS", 1)
    agreement.build(["elman", "lstm"], SMALL, 9.0)
    assert given[1] < given[0] - 0.01


def test_a_pass_of_regret_is_measured_even_if_the_other_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rnncc.bench import regret

    def rows(*_: Any, shapes: Any, passes: Any) -> Any:
        for shape in shapes:
            for direction in passes:
                yield regret.Regret(shape, direction, 2.0, {"one pass": 1.0})

    monkeypatch.setattr(regret, "regret", rows)
    constants = tool("campaign.steps.constants")
    monkeypatch.setattr(constants, "compiled", str)
    file = tmp_path / "constants.jsonl"
    record.write_lines(file, [Result("regret shipped 1x64x8 forward", "ok")])
    found = sink.Sink(file, 9.0)
    constants.regrets(found, SMALL, "shipped")
    (_, row) = found.known.values()
    assert (row.key, row.data["pass"]) == ("regret shipped 1x64x8 backward", "backward")
