"""The command line where it builds kernels: probe, build, bench, calibration, stages by NVRTC."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rnncc
from rnncc.bench import timing
from rnncc.lang.loader import find
from tests.support.command_line import ROOT, UNITS, data, good, refused


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


SMALL_PROBE = ("--probe", "--steps", "64", "--channels", "4")


def test_check_probes_a_cell_and_prints_the_verdict() -> None:
    text = good("check", "elman", *SMALL_PROBE, "--weights", "0.5", "--seed", "3")
    for line in (
        r"^Probe of 64 steps and 4 channels, float64$",
        r"^  inputs: typical of the cell; params: uniform in \[-0.5, 0.5\]; seed 3$",
        r"^Sweeps until neighbours agree to 1e-12$",
        r"^  16 +4 +\d$",
        r"^  32 +2 +\d$",
        r"^  64 +1 +\d +Newton over all steps; after 6 iterations off by \S+$",
        r"^  -[\d.]+ at most, -[\d.]+ in the median channel$",
        r"^  contracting: the initial state is forgotten after \d+ steps\.$",
        r"^  auto takes sequential \(one pass over time: .*\)\.$",
        r"^Next: rnncc compile elman$",
    ):
        assert re.search(line, text, re.MULTILINE), f"{line}\n{text}"


def test_check_as_data_holds_the_probe_only_where_it_was_asked_for() -> None:
    found = data("check", "elman", *SMALL_PROBE)["probe"]
    assert (found["verdict"], found["steps"], found["weights"]) == ("contracting", 64, None)
    assert [cut["segments"] for cut in found["sweeps"]] == [16, 32]
    assert "probe" not in data("check", "elman")


def test_check_draws_the_probe() -> None:
    pytest.importorskip("matplotlib")
    drawn = ("--plot", "seen.png", *SMALL_PROBE[1:])
    assert good("check", "elman", *drawn).count("\nseen.png: written.\n") == 1
    assert Path("seen.png").read_bytes().startswith(b"\x89PNG")
    assert data("check", "elman", *drawn)["plot"] == "seen.png"


def test_compile_and_build_fills_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(folder / "cache"))
    (first,) = data("compile", "elman", "--build")["cells"]
    assert (first["cached"], Path(first["kernel"]).parent) == (False, folder / "cache")
    assert Path(first["kernel"]).is_file()
    assert "kernel from the cache in" in good("compile", "elman", "--build")


def test_the_code_that_show_prints_runs() -> None:
    Path("membrane.py").write_text(UNITS)
    good("compile", "membrane.py")
    lines = data("show", "membrane.py")["use"]
    assert lines[2:] == ["(a, b), (v, w, h) = layer(x, dt=dt)", "a, b = membrane(I, g, dt)"]
    made = (
        "import torch; x, dt = torch.ones(2, 5, 256), torch.ones(2, 5); I = g = x.repeat(1, 1, 2)"
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([made, *lines, "print(a.shape, v.shape)"])],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("torch.Size([2, 5, 512]) torch.Size([2, 512])\n", "")


@pytest.fixture
def nvrtc() -> None:
    """CuPy, NVRTC and nvdisasm, which look at CUDA kernels without a GPU."""
    from rnncc.inspect.sass import find_disassembler

    pytest.importorskip("cupy")
    if find_disassembler() is None:
        pytest.skip("needs nvdisasm")


@pytest.mark.usefixtures("nvrtc")
def test_show_prints_a_gpus_code_without_a_gpu() -> None:
    options = ("--arch", "sm_80", "--dtype", "bfloat16")
    assert ".target sm_80" in good("show", "elman", "--stage", "ptx", *options)
    found = data("show", "elman", "--stage", "sass", *options)
    assert found["arch"] == "sm_80"
    assert found["dtype"] == "bfloat16"
    assert "MUFU.EX2" in found["text"]


@pytest.mark.usefixtures("nvrtc")
def test_show_prints_registers_and_instructions_of_every_kernel() -> None:
    found = data("show", "elman", "--stage", "resources")
    kernels = {kernel["kernel"]: kernel for kernel in found["kernels"]}
    forward = kernels["elman_forward"]
    assert 20 < forward["registers"] < 128
    assert forward["spill_stores"] == 0
    assert forward["steps"] == rnncc.compile(find("elman")).spec.ahead
    text = good("show", "elman", "--stage", "resources")
    assert re.search(rf"elman_forward +128 +{forward['registers']} +none", text)


@pytest.mark.usefixtures("nvrtc")
def test_an_architecture_that_there_is_not_is_refused() -> None:
    message = refused(1, "show", "elman", "--stage", "ptx", "--arch", "sm_1")
    assert "arch: got 'sm_1', but NVRTC" in message


def test_bench_measures_both_passes_at_every_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MOST_ROUNDS", 3)
    found = data("bench", "elman", "--shape", "2x20x8", "--shape", "1x33x16")
    passes = [(result["shape"], result["pass"]) for result in found["results"]]
    both = ("forward", "forward+backward")
    assert passes == [(shape, name) for shape in ([2, 20, 8], [1, 33, 16]) for name in both]
    for result in found["results"]:
        assert result["ratio"] == pytest.approx(result["loop_ms"] / result["fused_ms"])
        assert (result["compiled_ms"], result["copy_ms"] > 0) == (None, True)
    assert [r["bytes"] for r in found["results"][:2]] == [4 * 2 * 20 * 8 * n for n in (2, 5)]
    assert set(found["machine"]) == {"device", "threads", "torch", "python", "system"}


@pytest.mark.usefixtures("two_threads")
def test_bench_prints_a_row_for_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MOST_ROUNDS", 3)
    text = good("bench", "elman", "--shape", "2x20x8", "--threads", "1")
    assert text.startswith("elman, float32, ")
    assert " 1 threads, PyTorch " in text
    assert re.search(r"^  2x20x8  forward+ .* \d+\.\dx ", text, re.MULTILINE)


def test_bench_times_each_solver() -> None:
    (forward, both) = data("bench", "elman", "--shape", "2x64x8", "--solvers")["results"]
    for result in (forward, both):
        assert {"sequential", "segmented"} <= set(result["solvers_ms"])
        assert all(ms > 0 for ms in result["solvers_ms"].values())
        assert result["solver"] == "sequential"
    assert "segmented" in good("bench", "elman", "--shape", "2x64x8", "--solvers")


def test_bench_refuses_channels_that_do_not_fill_a_group() -> None:
    message = refused(1, "bench", "block_elman", "--shape", "1x4x7")
    assert message == (
        "--shape: got 7 channels, expected a multiple of 4, the group that 'block_elman' mixes.\n"
        "Fix: 8 channels\n"
    )


@pytest.mark.slow
def test_doctor_calibrates_the_planner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(tmp_path))
    found = data("doctor", "--calibrate")
    assert all(value >= 0 for value in found["machine"].values())
    assert found["machine"]["function"] + found["machine"]["operation"] > 0
    assert json.loads(Path(found["file"]).read_text()) == found["machine"]
