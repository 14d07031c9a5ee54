"""Calibration of the planner's model of a GPU: from times that known constants predict, no GPU."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rnncc.bench import calibrate_gpu, gpu
from rnncc.bench.calibrate_gpu import JOBS, Job, Timed, as_modelled, calibrated
from rnncc.bench.table import ROWS
from rnncc.nn.status import Solve
from rnncc.planner import gpu_constants
from rnncc.planner.cuda import Gpu
from rnncc.planner.gpu_constants import MEASURED, GpuConstants
from rnncc.runtime.cuda import backend
from tests.support.doctor import call
from tests.support.runs import compiled

PROCESSORS = 132
# Each constant but the clock is half again as large.
TRUE = GpuConstants(*(v * (1.5 if n else 1.0) for n, v in enumerate(astuple(MEASURED))))
SOME = JOBS[::3]
OTHERS = (Job((8, 2048, 1024)), Job((16, 4096, 512), 512), Job((8, 512, 256), 1))


def timed(jobs: tuple[Job, ...], noise: float = 0.0) -> list[Timed]:
    """As if kernels of a GPU of the true constants had been timed."""
    gpu = Gpu.of(PROCESSORS, TRUE)
    found = [
        Timed(compiled(cell), job, direction, 0.0)
        for cell in ("para_gru", "lru")
        for job in jobs
        for direction in ("forward", "backward")
    ]
    return [
        replace(t, seconds=t.predicted(gpu) * math.exp(noise * math.sin(7 * n)))
        for n, t in enumerate(found)
    ]


def test_a_calibration_predicts_times_that_it_has_not_seen() -> None:
    found = calibrated(timed(SOME, noise=0.03), PROCESSORS)
    assert found.error < 0.03 < found.error_before
    gpu = Gpu.of(PROCESSORS, found.constants)
    for t in timed(OTHERS):
        assert t.predicted(gpu) == pytest.approx(t.seconds, rel=0.1), t
    row = found.times[0]
    assert (row["cell"], row["shape"], row["pass"]) == ("para_gru", [8, 2048, 4096], "forward")
    assert row["predicted_ms"] == pytest.approx(row["ms"], rel=0.1)


@pytest.mark.parametrize(
    ("name", "solver", "segment", "sweeps", "rest", "expected"),
    [
        ("para_gru", 0, 100, 1, -1, True),  # one pass
        ("para_gru", 1, 256, 1, -1, True),
        ("para_gru", 1, 256, 2, -1, False),  # the warm-up did not find the initial states
        ("para_gru", 1, 256, 1, 512, False),  # one pass over time solved the rest
        ("lru", 1, 256, 2, -1, True),
        ("lru", 1, 256, 1, -1, False),
        ("para_gru", 1, 4, 3, -1, True),  # of a block
    ],
)
def test_times_that_the_model_does_not_describe_are_left_out(
    name: str, solver: int, segment: int, sweeps: int, rest: int, expected: bool
) -> None:
    solve = Solve(torch.zeros(1))
    names = {0: "sequential", 1: "segmented"}
    solve.__dict__["_values"] = {
        **{"solver": 1.0, "segment": segment, "sweeps": sweeps, "sequential_from": rest}
    }
    cls = type("Known", (Solve,), {"solver": property(lambda _: names[solver])})
    solve.__class__ = cls
    assert as_modelled(compiled(name), solve) is expected


def test_jobs_are_bounded_by_all_that_the_model_knows() -> None:
    """A constant that no job depends on could never be fitted.

    The latency stays what it was: kernels read so far ahead that no job waits for it.
    """
    gpu = Gpu.of(PROCESSORS, MEASURED)
    rows = [replace(t, seconds=t.predicted(gpu)) for t in timed(JOBS)]
    for n, name in enumerate(vars(MEASURED)):
        if name == "latency":
            continue
        changed = [v * (1.3 if k == n else 1.0) for k, v in enumerate(astuple(MEASURED))]
        other = Gpu.of(PROCESSORS, GpuConstants(*changed))
        assert any(abs(t.predicted(other) / t.seconds - 1) > 0.01 for t in rows), name


# --- the file --------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(tmp_path / "cache"))
    gpu_constants.constants_of.cache_clear()
    yield tmp_path / "cache"
    gpu_constants.constants_of.cache_clear()


@pytest.mark.usefixtures("cache")
def test_calibrated_constants_are_those_of_gpus_of_that_name() -> None:
    assert gpu_constants.constants_of("NVIDIA H100") == MEASURED
    file = gpu_constants.save("NVIDIA H100", TRUE)
    assert json.loads(file.read_text())["gpu"] == "NVIDIA H100"
    assert gpu_constants.constants_of("NVIDIA H100") == MEASURED  # until the next process
    gpu_constants.constants_of.cache_clear()
    assert gpu_constants.constants_of("NVIDIA H100") == TRUE
    assert gpu_constants.constants_of("NVIDIA A100") == MEASURED


@pytest.mark.usefixtures("cache")
def test_calls_are_planned_by_the_constants_of_their_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_constants.save("NVIDIA H100", TRUE)
    known = SimpleNamespace(name="NVIDIA H100", multi_processor_count=PROCESSORS)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: known)
    found = backend._gpu.__wrapped__(torch.device("cuda", 0))
    assert found == Gpu.of(PROCESSORS, TRUE)
    assert found.bytes_per_cycle == TRUE.bytes_per_cycle


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("text", ["", "{}", '{"clock": 1}', "[]"])
def test_a_calibration_that_is_not_whole_is_passed_over(text: str) -> None:
    gpu_constants.save("NVIDIA H100", TRUE).write_text(text)
    assert gpu_constants.constants_of("NVIDIA H100") == MEASURED


@pytest.mark.usefixtures("cache")
def test_constants_that_are_not_positive_are_passed_over() -> None:
    gpu_constants.save("NVIDIA H100", replace(TRUE, clock=0.0))
    assert gpu_constants.constants_of("NVIDIA H100") == MEASURED


# --- the command -----------------------------------------------------------------------------


def test_a_device_is_for_calibration_only() -> None:
    result = call("--device", "cuda")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith(
        "--device cuda: got no --calibrate, and all devices are looked at without it.\n"
        "Fix: rnncc doctor --calibrate --device cuda, or rnncc doctor\n"
    )


def test_without_a_gpu_its_calibration_exits_with_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = call("--calibrate", "--device", "cuda")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "can use no GPU here" in result.stderr
    assert "Fix: rnncc doctor says what is missing" in result.stderr


# --- the rows of the table -------------------------------------------------------------------


def test_the_rows_of_the_table_are_those_of_the_page() -> None:
    doubled = {(8, 512 * 2**n, 256) for n in range(7)}
    wide = {(8, 2048, 4096), (1, 32768, 2048), (1, 131072, 64), (64, 1024, 1024)}
    assert len(set(ROWS)) == len(ROWS) == 50
    for dtype in ("float32", "bfloat16"):
        for direction in ("forward", "forward+backward"):
            of = {r.shape for r in ROWS if (r.dtype, r.direction) == (dtype, direction)}
            assert of == doubled | wide
        decoded = {r.shape for r in ROWS if (r.dtype, r.direction) == (dtype, "decode")}
        assert decoded == {(1, 1, 4096), (64, 1, 4096), (512, 1, 4096)}


def test_cells_of_the_calibration_are_shipped() -> None:
    assert all(compiled(name).name == name for name in calibrate_gpu.CELLS)


def test_a_cache_that_cannot_be_written_is_told_before_a_calibration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def calibrate(place: object) -> None:
        raise AssertionError("timed already")

    monkeypatch.setenv("RNNCC_CACHE_DIR", "/proc/rnncc")
    monkeypatch.setattr(gpu, "gpu", lambda: None)
    monkeypatch.setattr(gpu, "machine", lambda: {"device": "NVIDIA X1"})
    monkeypatch.setattr(calibrate_gpu, "calibrate", calibrate)
    result = call("--calibrate", "--device", "cuda")
    assert (result.exit_code, "/proc/rnncc" in result.stderr) == (3, True)
