"""The doctor: its findings on this machine, and on made-up machines."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rnncc.doctor import cpu, cuda, installed
from rnncc.doctor.finding import Finding
from rnncc.doctor.installed import Cuda, Gpu
from rnncc.errors import BuildError, RnnccError
from rnncc.runtime.cuda import module
from tests.support.doctor import call, data

ROOT = Path(__file__).parents[2]


# --- this machine ----------------------------------------------------------------------------


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_doctor_exits_with_3_where_no_kernel_can_be_built(
    monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    monkeypatch.setenv("CXX", compiler)
    result = call()
    assert result.exit_code == 3
    said = f"{compiler} (from the variable CXX) does not build a tiny program"
    assert said in result.stdout
    assert "C++ compiler: correct or unset CXX" in result.stdout
    assert not data(exit_code=3)["healthy"]


def test_doctor_says_where_the_cache_can_not_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(tmp_path / "file" / "cache"))
    result = call()
    assert result.exit_code == 3
    assert "can't be written" in result.stdout
    assert "Kernel cache: set RNNCC_CACHE_DIR to a folder that can" in result.stdout


# --- machines that are made up ---------------------------------------------------------------

H100 = Gpu("NVIDIA H100", "9.0", 80 * 2**30)
GOOD = Cuda(
    torch="2.13.0+cu130",
    torch_cuda="13.0",
    gpus=(H100,),
    driver="580.65.06",
    usable=True,
    cupy={"cupy-cuda13x": "14.2.0"},
    cupy_cuda="13",
    nvrtc="13.0",
    nvrtc_wheels={"nvidia-cuda-nvrtc": "13.0.88"},
    header_wheels={"nvidia-cuda-runtime": "13.0.96"},
)
TWELVE = replace(
    GOOD,
    torch="2.13.0+cu126",
    torch_cuda="12.6",
    driver="535.104.05",
    cupy={"cupy-cuda12x": "14.2.0"},
    cupy_cuda="12",
    nvrtc="12.9",
    nvrtc_wheels={"nvidia-cuda-nvrtc-cu12": "12.9.86"},
    header_wheels={"nvidia-cuda-runtime-cu12": "12.9.79"},
)
BARE = Cuda(torch="2.13.0+cpu")
ON_A_CPU = replace(GOOD, torch="2.13.0+cpu", torch_cuda=None, gpus=(), driver=None, usable=False)
NO_CUPY: dict[str, Any] = {"cupy": {}, "cupy_cuda": None, "nvrtc": None}
TORCH = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/"


def judged(found: Cuda) -> dict[str, Finding]:
    return {finding.topic: finding for finding in cuda.judge(found)}


@pytest.mark.parametrize("found", [GOOD, TWELVE], ids=["13", "12"])
def test_a_gpu_with_all_that_fits_is_ok(found: Cuda) -> None:
    assert [(f.state, f.fix) for f in cuda.judge(found)] == [("ok", "")] * 4
    assert judged(found)["GPU"].seen.startswith("NVIDIA H100 (sm_90, 80 GiB); driver 5")


def test_without_a_gpu_nothing_is_a_fault_and_each_line_says_it_is_for_a_gpu() -> None:
    findings = cuda.judge(BARE)
    assert [finding.state for finding in findings] == ["optional"] * 4
    assert "can be inspected" in findings[0].seen
    assert all(f.fix.startswith("for a GPU: pip install ") for f in findings[1:])
    assert cpu.healthy(findings)


def test_without_a_gpu_installed_packages_are_ok() -> None:
    states = {topic: finding.state for topic, finding in judged(ON_A_CPU).items()}
    assert states == {"GPU": "optional", "CuPy": "ok", "NVRTC": "ok", "CUDA headers": "ok"}


def test_a_gpu_that_does_not_work_leaves_the_cpu_healthy() -> None:
    findings = cuda.judge(replace(GOOD, **NO_CUPY))
    assert "fault" in [finding.state for finding in findings]
    assert cpu.healthy(findings)


@pytest.mark.parametrize(
    ("found", "topic", "seen", "fix"),
    [
        (
            replace(GOOD, torch="2.13.0+cpu", torch_cuda=None, usable=False),
            "GPU",
            "NVIDIA H100 (sm_90, 80 GiB); driver 580.65.06; but PyTorch 2.13.0+cpu is built "
            "without CUDA",
            TORCH + "cu130",
        ),
        (
            replace(TWELVE, torch="2.13.0+cpu", torch_cuda=None, usable=False),
            "GPU",
            "is built without CUDA",
            TORCH + "cu126",
        ),
        (
            replace(GOOD, driver="535.104.05", usable=False),
            "GPU",
            "driver 535.104.05 is too old: PyTorch 2.13.0+cu130 is built for CUDA 13.0, which "
            "needs 580 or newer",
            f"update the NVIDIA driver to 580 or newer, or: {TORCH}cu126",
        ),
        (
            replace(TWELVE, driver="470.82", usable=False),
            "GPU",
            "too old: PyTorch 2.13.0+cu126 is built for CUDA 12.6, which needs 525",
            "update the NVIDIA driver to 525 or newer",
        ),
        (
            replace(GOOD, torch="2.6.0+cu118", torch_cuda="11.8"),
            "GPU",
            "PyTorch 2.6.0+cu118 is built for CUDA 11.8, and kernels need 12 or 13",
            TORCH + "cu130",
        ),
        (
            replace(GOOD, usable=False, why="CUDA unknown error."),
            "GPU",
            "PyTorch can't use it: CUDA unknown error.",
            "check CUDA_VISIBLE_DEVICES and the output of nvidia-smi",
        ),
        (
            replace(GOOD, cupy={"cupy-cuda12x": "14.2.0", "cupy-cuda13x": "14.2.0"}),
            "CuPy",
            "several, which overwrite each other: cupy-cuda12x 14.2.0, cupy-cuda13x 14.2.0",
            'pip uninstall -y cupy-cuda12x cupy-cuda13x && pip install "rnncc[cuda13]"',
        ),
        (
            replace(GOOD, cupy={"cupy-cuda12x": "14.2.0"}, cupy_cuda="12"),
            "CuPy",
            "cupy-cuda12x 14.2.0 is built for CUDA 12, but PyTorch for 13.0",
            'pip uninstall -y cupy-cuda12x && pip install "rnncc[cuda13]"',
        ),
        (
            replace(TWELVE, cupy={"cupy-cuda13x": "14.2.0"}, cupy_cuda="13"),
            "CuPy",
            "cupy-cuda13x 14.2.0 is built for CUDA 13, but PyTorch for 12.6",
            'pip uninstall -y cupy-cuda13x && pip install "rnncc[cuda12]"',
        ),
        (replace(GOOD, **NO_CUPY), "CuPy", "not found", 'pip install "rnncc[cuda13]"'),
        (replace(TWELVE, **NO_CUPY), "CuPy", "not found", 'pip install "rnncc[cuda12]"'),
        (
            replace(GOOD, cupy_cuda=None, nvrtc=None, cupy_error="can't be imported: no libx.so"),
            "CuPy",
            "cupy-cuda13x 14.2.0: can't be imported: no libx.so",
            "pip install --force-reinstall --no-deps cupy-cuda13x, or: "
            'pip uninstall -y cupy-cuda13x && pip install "rnncc[cuda13]"',
        ),
        (
            replace(GOOD, nvrtc=None, nvrtc_error="no libnvrtc.so.13", nvrtc_wheels={}),
            "NVRTC",
            "no wheel; can't be loaded: no libnvrtc.so.13",
            'pip install "rnncc[cuda13]"',
        ),
        (
            replace(GOOD, **NO_CUPY),
            "NVRTC",
            "nvidia-cuda-nvrtc 13.0.88; not tried without CuPy",
            'pip install "rnncc[cuda13]"',
        ),
        (
            replace(TWELVE, nvrtc="13.0", nvrtc_wheels={"nvidia-cuda-nvrtc": "13.0.88"}),
            "NVRTC",
            "13.0 (nvidia-cuda-nvrtc 13.0.88), but CuPy is built for CUDA 12",
            'pip install "nvidia-cuda-nvrtc-cu12>=12.2"',
        ),
        (
            replace(GOOD, nvrtc="12.9", nvrtc_wheels={}, toolkit="/usr/local/cuda"),
            "NVRTC",
            "12.9 (/usr/local/cuda), but CuPy is built for CUDA 13",
            'pip install "nvidia-cuda-nvrtc>=13,<14"',
        ),
        (
            replace(GOOD, header_wheels={}),
            "CUDA headers",
            "not found",
            'pip install "nvidia-cuda-runtime>=13,<14"',
        ),
        (
            replace(GOOD, header_wheels={"nvidia-cuda-runtime-cu12": "12.9.79"}),
            "CUDA headers",
            "nvidia-cuda-runtime-cu12 12.9.79, but CuPy is built for CUDA 13",
            'pip install "nvidia-cuda-runtime>=13,<14"',
        ),
    ],
)
def test_a_fault_comes_with_the_command_that_fixes_it(
    found: Cuda, topic: str, seen: str, fix: str
) -> None:
    finding = judged(found)[topic]
    assert finding.state == "fault"
    assert seen in finding.seen
    assert finding.fix == fix


def test_a_toolkit_has_the_headers_that_no_wheel_brought() -> None:
    finding = judged(replace(GOOD, header_wheels={}, toolkit="/usr/local/cuda"))["CUDA headers"]
    assert (finding.state, finding.seen) == ("ok", "/usr/local/cuda")


@pytest.mark.parametrize(
    ("found", "seen", "fix"),
    [
        (replace(BARE, driver="580.65"), "driver 580.65, but no GPU is visible", "--gpus all"),
        (replace(BARE, rocm="6.4"), "PyTorch is built for ROCm 6.4; kernels are for CUDA", ""),
    ],
)
def test_findings_without_a_fault_are_reported_too(found: Cuda, seen: str, fix: str) -> None:
    finding = judged(found)["GPU"]
    assert (finding.state, finding.seen) == ("optional", seen)
    assert fix in finding.fix


def test_the_wheels_are_those_of_pyproject() -> None:
    extras = {}
    for line in (ROOT / "pyproject.toml").read_text().splitlines():
        if line.startswith("cuda1"):
            name, _, wheels = line.partition(" = ")
            extras[name.removeprefix("cuda")] = json.loads(wheels)
    assert set(extras) == set(cuda.VERSIONS)
    for version, wheels in extras.items():
        for names in (installed.NVRTC, installed.HEADERS):
            assert names[version] + cuda.VERSIONS[version] in wheels
        assert wheels[0].startswith(f"cupy-cuda{version}x>=")


# --- looking ---------------------------------------------------------------------------------


@pytest.fixture
def gpu_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The queries of `look`, answered as on the machine of GOOD."""
    versions = GOOD.cupy | GOOD.nvrtc_wheels | GOOD.header_wheels

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    properties = SimpleNamespace(name=H100.name, major=9, minor=0, total_memory=H100.memory)
    driver = SimpleNamespace(get_build_version=lambda: 13020)
    nvrtc = SimpleNamespace(getVersion=lambda: (13, 0))
    cupy = SimpleNamespace(cuda=SimpleNamespace(driver=driver, nvrtc=nvrtc))
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(torch, "__version__", GOOD.torch)
    monkeypatch.setattr(torch.version, "cuda", GOOD.torch_cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(module, "import_cupy", lambda: cupy)
    monkeypatch.setattr(installed, "TOOLKIT", str(tmp_path / "none"))
    monkeypatch.setattr(installed, "DRIVER_FILE", str(tmp_path / "none"))
    for name in ("CUDA_PATH", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    smi(tmp_path, f"echo 'NVIDIA H100, 9.0, 81920, {GOOD.driver}'")
    return monkeypatch


def smi(folder: Path, script: str) -> None:
    """An nvidia-smi that answers what is wanted here, and nothing else."""
    wanted = "--query-gpu=name,compute_cap,memory.total,driver_version"
    path = folder / "nvidia-smi"
    path.write_text(f'#!/bin/sh\n[ "$1" = {wanted} ] || exit 1\n{script}\n')
    path.chmod(0o755)


def test_installed_packages_are_found(gpu_machine: pytest.MonkeyPatch) -> None:
    assert installed.look() == GOOD


def test_without_pytorchs_cuda_the_driver_reports_the_gpus(
    gpu_machine: pytest.MonkeyPatch,
) -> None:
    gpu_machine.setattr(torch.version, "cuda", None)
    found = installed.look()
    assert (found.usable, found.gpus, found.driver) == (False, (H100,), GOOD.driver)


def test_the_reason_why_pytorch_can_not_use_a_gpu_is_found_and_not_printed(
    gpu_machine: pytest.MonkeyPatch,
) -> None:
    def unavailable() -> bool:
        warnings.warn("CUDA initialization: the driver is too old.\nSee ...", stacklevel=1)
        return False

    gpu_machine.setattr(torch.cuda, "is_available", unavailable)
    found = installed.look()
    assert (found.usable, found.why) == (False, "CUDA initialization: the driver is too old.")


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.104.05  Release Build",
    ],
)
@pytest.mark.parametrize("script", ["echo No devices were found; exit 6", "echo a, b, c"])
def test_without_nvidia_smi_the_kernel_reports_the_driver(
    gpu_machine: pytest.MonkeyPatch, tmp_path: Path, text: str, script: str
) -> None:
    smi(tmp_path, script)
    (tmp_path / "version").write_text(text + "\nGCC version:  gcc version 12.3.0\n")
    gpu_machine.setattr(installed, "DRIVER_FILE", str(tmp_path / "version"))
    gpu_machine.setattr(torch.cuda, "is_available", lambda: False)
    found = installed.look()
    assert (found.gpus, found.driver) == ((), "535.104.05")


def test_a_machine_without_a_driver_has_none(
    gpu_machine: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nvidia-smi").unlink()
    gpu_machine.setattr(torch.cuda, "is_available", lambda: False)
    assert (installed.look().gpus, installed.look().driver) == ((), None)


def test_the_reason_why_cupy_can_not_be_imported_is_found(gpu_machine: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise BuildError("CuPy is installed but can't be imported: no libx.so.\nFix: rnncc doctor")

    gpu_machine.setattr(module, "import_cupy", broken)
    found = installed.look()
    assert (found.cupy_cuda, found.nvrtc) == (None, None)
    assert found.cupy_error == "CuPy is installed but can't be imported: no libx.so"


def test_the_reason_why_nvrtc_can_not_be_loaded_is_found(gpu_machine: pytest.MonkeyPatch) -> None:
    def version() -> None:
        raise RuntimeError("\nCuPy failed to load libnvrtc.so.13\nmore")

    module.import_cupy().cuda.nvrtc.getVersion = version
    found = installed.look()
    assert (found.cupy_cuda, found.nvrtc) == ("13", None)
    assert found.nvrtc_error == "CuPy failed to load libnvrtc.so.13"


@pytest.mark.parametrize("how", ["variable", "place", "nvcc"])
def test_a_toolkit_is_found(gpu_machine: pytest.MonkeyPatch, tmp_path: Path, how: str) -> None:
    folder = tmp_path / "cuda-13"
    for file in (folder / "include" / "cuda_runtime.h", folder / "bin" / "nvcc"):
        file.parent.mkdir(parents=True)
        file.touch(mode=0o755)
    if how == "variable":
        gpu_machine.setenv("CUDA_HOME", str(folder))
    elif how == "place":
        gpu_machine.setattr(installed, "TOOLKIT", str(folder))
    else:
        gpu_machine.setenv("PATH", str(folder / "bin"))
    assert installed.look().toolkit == str(folder)


# --- trying ----------------------------------------------------------------------------------


def test_where_all_is_there_a_kernel_is_run(gpu_machine: pytest.MonkeyPatch) -> None:
    gpu_machine.setattr(module, "self_test", lambda device: f"ran on {device}")
    last = cuda.examine()[-1]
    assert (last.topic, last.state, last.seen) == ("Kernel on cuda:0", "ok", "ran on cuda:0")


def test_a_kernel_that_does_not_run_is_a_fault_in_its_own_words(
    gpu_machine: pytest.MonkeyPatch,
) -> None:
    def self_test(device: torch.device) -> str:
        raise RnnccError("it can't\nbe loaded.\nFix: do this")

    gpu_machine.setattr(module, "self_test", self_test)
    last = cuda.examine()[-1]
    assert (last.state, last.seen, last.fix) == ("fault", "it can't be loaded.", "do this")


def test_no_kernel_is_run_where_something_is_wrong(gpu_machine: pytest.MonkeyPatch) -> None:
    gpu_machine.setattr(torch.version, "cuda", "12.6")
    assert [finding.topic for finding in cuda.examine()][-1] == "CUDA headers"


def test_without_pytorch_no_gpu_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch')")
    script = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
    script += "from rnncc.doctor import cuda; print(*cuda.examine())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "not looked for, as PyTorch can't be imported" in done.stdout, done.stderr
