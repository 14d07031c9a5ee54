"""Calibration and regret of the planner for GPUs, rehearsed: emulated kernels, a stub clock."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rnncc.bench import calibrate_gpu, gpu, regret, timing, workload
from rnncc.bench.calibrate_gpu import FEWEST, GpuCalibration, Job
from rnncc.bench.timing import Place, Sample
from rnncc.errors import RnnccError
from rnncc.planner.gpu_constants import MEASURED
from tests.support.clock import HERE, HostClock
from tests.support.doctor import call, data
from tests.support.emulated import emulated
from tests.support.runs import compiled

CELLS = ("elman", "para_gru")
JOBS = (
    Job((2, 64, 8)),
    Job((2, 64, 8), 1),
    Job((1, 256, 8), 128),
    Job((2, 64, 8), None, "bfloat16"),
)


@pytest.fixture(autouse=True)
def emulation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(timing, "MOST_ROUNDS", 3)
    monkeypatch.setattr(timing, "MOST_CALLS", 2)
    with emulated():
        yield


@functools.cache
def calibration() -> GpuCalibration:
    """Within the emulation."""
    return calibrate_gpu.calibrate(HERE, cells=CELLS, jobs=JOBS)


def test_a_calibration_times_both_directions_of_all_jobs() -> None:
    found = calibration()
    assert {t["cell"] for t in found.times} == set(CELLS)
    passes = [t["pass"] for t in found.times]  # noise may make a backward take no time here
    assert passes.count("forward") == len(CELLS) * len(JOBS) >= passes.count("backward") > 0
    assert all(t["ms"] > 0 and t["predicted_ms"] > 0 for t in found.times)
    assert all(value > 0 for value in vars(found.constants).values())
    assert found.error < found.error_before


def test_times_that_python_bounds_say_nothing() -> None:
    """Then the GPU waits."""
    idle = Place(HERE.device, HostClock(slower=1.0))
    with pytest.raises(RnnccError, match=f"got 0 times .* expected at least {FEWEST}.*\nFix: "):
        calibrate_gpu.calibrate(idle, cells=("elman",), jobs=JOBS[:1])


def test_a_job_beyond_the_gpus_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(workload, "random_arguments", full)
    with pytest.raises(RnnccError, match="got 0 times of kernels within 90 s"):
        calibrate_gpu.calibrate(HERE, cells=("elman",), jobs=JOBS)


def test_a_calibration_stops_when_its_time_is_up() -> None:
    with pytest.raises(RnnccError, match="got 0 times of kernels within 0 s"):
        calibrate_gpu.calibrate(HERE, budget=0.0)


def test_the_time_of_a_backward_is_what_it_adds_to_a_forward_that_keeps_states() -> None:
    arguments = workload.random_arguments(compiled("elman").spec, (2, 16, 8))
    loop = workload.fused_loop(compiled("elman"))
    runs = calibrate_gpu.recorded(loop, arguments, "backward")
    assert all(y.requires_grad for y in runs[calibrate_gpu.BEFORE]())
    assert len(runs["backward"]()) == len(arguments)
    assert runs.keys() == {"backward", calibrate_gpu.BEFORE}
    samples = {"backward": Sample(5.0, 1.0), calibrate_gpu.BEFORE: Sample(2.0, 0.5)}
    assert calibrate_gpu.added(samples, "backward").device == 3.0
    assert calibrate_gpu.recorded(loop, arguments, "forward").keys() == {"forward"}


def test_a_backward_that_noise_makes_take_no_time_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def alike(runs: Any, *_: Any) -> dict[str, Sample]:
        return dict.fromkeys(runs, Sample(1.0, 0.1))

    monkeypatch.setattr(timing, "replayed", alike)
    rows = list(regret.regret(compiled("elman"), HERE, shapes=((2, 16, 8),)))
    assert [row.reason for row in rows] == ["", "too noisy: a backward took no time"]
    with pytest.raises(RnnccError, match="got 1 times of kernels"):
        calibrate_gpu.calibrate(HERE, cells=("elman",), jobs=(Job((2, 16, 8)),))


# --- regret ----------------------------------------------------------------------------------


def test_regret_compares_auto_with_every_plan() -> None:
    shapes = ((2, 160, 8), (2, 16, 8))
    rows = list(regret.regret(compiled("elman"), HERE, shapes=shapes))
    assert [(r.shape, r.direction) for r in rows] == [
        (shape, direction) for shape in shapes for direction in ("forward", "backward")
    ]
    assert list(rows[0].plans) == ["one pass", "block", "128"]
    assert list(rows[2].plans) == ["one pass", "block"]
    for row in rows:
        found = row.data()
        assert found["regret"] == row.ratio >= 1
        assert found["plans_ms"][found["best"]] == min(found["plans_ms"].values()) > 0
        assert (found["auto_ms"] > 0, found["reason"]) == (True, "")
        assert found["predicted_ms"].keys() == {"auto", *found["plans_ms"]}
        assert found["predicted_ms"]["auto"] == found["predicted_ms"][found["chosen"]]


def test_a_row_of_regret_that_fails_says_why_and_the_others_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = workload.random_arguments

    def full(spec: Any, shape: Any, **options: Any) -> Any:
        if shape[0] == 3:
            raise torch.OutOfMemoryError
        if shape[0] == 4:
            raise RuntimeError("a fault")
        return real(spec, shape, **options)

    monkeypatch.setattr(workload, "random_arguments", full)
    shapes = ((3, 8, 8), (4, 8, 8), (2, 8, 8))
    rows = list(regret.regret(compiled("elman"), HERE, shapes=shapes))
    reasons = ["the GPU's memory is too small", "a fault", ""]
    assert [r.data()["reason"] for r in rows[::2]] == reasons
    late = list(regret.regret(compiled("elman"), HERE, budget=-1.0, shapes=shapes[2:]))
    assert [r.data()["reason"] for r in late] == ["not reached within -1 s"] * 2


def test_regret_is_known_of_twelve_shapes() -> None:
    assert len(set(regret.SHAPES)) == 12
    assert regret.plans((8, 4096, 1)).keys() == {
        *("one pass", "block", "128", "256", "512", "1024", "2048")
    }


# --- the command -----------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU in name."""
    found = calibration()
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(gpu, "gpu", lambda: HERE)
    monkeypatch.setattr(gpu, "machine", lambda: {"device": "NVIDIA X1"})
    monkeypatch.setattr(calibrate_gpu, "calibrate", lambda place: found)


@pytest.mark.usefixtures("here")
def test_the_doctor_calibrates_a_gpu_and_saves_its_constants() -> None:
    found = data("--calibrate", "--device", "cuda")
    assert set(found["constants"]) == set(vars(MEASURED))
    assert len(found["times"]) == len(calibration().times)
    saved = json.loads(Path(found["file"]).read_text())
    assert saved == {"gpu": "NVIDIA X1", **found["constants"]}


@pytest.mark.usefixtures("here")
def test_the_doctor_prints_what_it_found_beside_what_ships() -> None:
    result = call("--calibrate", "--device", "cuda")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["constant", "NVIDIA", "X1", "shipped"]
    assert [line.split()[0] for line in lines[1 : 1 + len(vars(MEASURED))]] == list(vars(MEASURED))
    assert "Median error of the model: " in result.stdout
    assert result.stdout.endswith(": written; the planner reads it from the next process on.\n")


@pytest.mark.gpu
def test_a_gpu_is_calibrated() -> None:
    found = calibrate_gpu.calibrate(gpu.gpu())
    assert found.error < 0.5
    assert 0.3 < found.constants.clock < 10
