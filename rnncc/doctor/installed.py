"""Installed: this machine -> its CUDA installation: GPUs, driver, PyTorch, CuPy, NVRTC, headers."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rnncc.errors import RnnccError

# The oldest driver for each major version, by docs.nvidia.com/deploy/cuda-compatibility.
OLDEST_DRIVER = {"12": 525, "13": 580}
CUPY = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")
# From CUDA 13 on the wheels' names carry no version.
NVRTC = {"12": "nvidia-cuda-nvrtc-cu12", "13": "nvidia-cuda-nvrtc"}
HEADERS = {"12": "nvidia-cuda-runtime-cu12", "13": "nvidia-cuda-runtime"}
TOOLKIT = "/usr/local/cuda"
DRIVER_FILE = "/proc/driver/nvidia/version"


@dataclass(frozen=True)
class Gpu:
    """One GPU: its name, compute capability ("9.0") and bytes of memory."""

    name: str
    capability: str
    memory: int

    def __str__(self) -> str:
        return f"{self.name} (sm_{self.capability.replace('.', '')}, {self.memory / 2**30:.0f} GiB)"


@dataclass(frozen=True)
class Cuda:
    """The CUDA installation.

    Attributes:
        torch: PyTorch's version, and `torch_cuda` the CUDA version it was built for, if any.
        rocm: the ROCm version it was built for instead, if so.
        gpus: those that PyTorch can use; if it can use none, those that the driver shows.
        driver: version of the NVIDIA driver, if there is one.
        usable: whether PyTorch can use a GPU, and if not `why`, in its own words.
        cupy: the CuPy wheels that are installed, each with its version.
        cupy_cuda: the major CUDA version that CuPy was built for, or `cupy_error` why it can't be
            imported.
        nvrtc: version of the NVRTC that CuPy loads, or `nvrtc_error` why it can't.
        nvrtc_wheels, header_wheels: the wheels that are installed, each with its version.
        toolkit: where a CUDA toolkit is, which has both as well.
    """

    torch: str
    torch_cuda: str | None = None
    rocm: str | None = None
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    usable: bool = False
    why: str = ""
    cupy: dict[str, str] = field(default_factory=dict)
    cupy_cuda: str | None = None
    cupy_error: str = ""
    nvrtc: str | None = None
    nvrtc_error: str = ""
    nvrtc_wheels: dict[str, str] = field(default_factory=dict)
    header_wheels: dict[str, str] = field(default_factory=dict)
    toolkit: str | None = None

    @property
    def major(self) -> str:
        """The CUDA version to install for, "12" or "13": PyTorch's, else the driver's newest."""
        if self.torch_cuda and major(self.torch_cuda) in OLDEST_DRIVER:
            return major(self.torch_cuda)
        return "12" if self.driver and int(major(self.driver)) < OLDEST_DRIVER["13"] else "13"


def major(version: str) -> str:
    """The first number of a version: "13" of "13.0.88"."""
    return version.partition(".")[0]


def look() -> Cuda:
    """Find what is installed and works; imports CuPy, which loads NVRTC."""
    import torch

    usable, why = _usable()
    shown, driver = _driver()
    gpus = tuple(map(_gpu, range(torch.cuda.device_count()))) if usable else shown
    return Cuda(
        torch=torch.__version__,
        torch_cuda=torch.version.cuda,
        rocm=torch.version.hip,
        gpus=gpus,
        driver=driver,
        usable=usable,
        why=why,
        cupy=_installed(CUPY),
        nvrtc_wheels=_installed(NVRTC.values()),
        header_wheels=_installed(HEADERS.values()),
        toolkit=_toolkit(),
        **_cupy(),
    )


def _usable() -> tuple[bool, str]:
    """Whether PyTorch, if built for CUDA, can use a GPU; and why not."""
    import torch

    if torch.version.cuda is None:
        return False, ""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    return usable, "" if usable else " ".join(str(w.message).partition("\n")[0] for w in said)


def _gpu(index: int) -> Gpu:
    import torch

    found = torch.cuda.get_device_properties(index)
    return Gpu(found.name, f"{found.major}.{found.minor}", found.total_memory)


def _driver() -> tuple[tuple[Gpu, ...], str | None]:
    """The GPUs and the version that the NVIDIA driver reports, without PyTorch."""
    query = "--query-gpu=name,compute_cap,memory.total,driver_version"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        rows = [line.split(", ") for line in done.stdout.splitlines() if not done.returncode]
        gpus = tuple(Gpu(name, sm, int(mib) * 2**20) for name, sm, mib, _ in rows)
        if gpus:
            return gpus, rows[0][3]
    except (OSError, ValueError, subprocess.TimeoutExpired):
        pass  # no such command, or no usable answer: ask the kernel
    try:
        text = Path(DRIVER_FILE).read_text(encoding="utf-8")
    except OSError:
        return (), None
    version = re.search(r"Kernel Module .*?(\d+\.\d+[.\d]*)", text)
    return (), version.group(1) if version else None


def _cupy() -> dict[str, Any]:
    """The members of Cuda that only CuPy itself can tell."""
    from rnncc.runtime.cuda.module import import_cupy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of several CuPys, for one, which is reported below
        try:
            cupy = import_cupy()
        except RnnccError as error:
            return {"cupy_error": str(error).partition("\nFix")[0].rstrip(".")}
        built = {"cupy_cuda": str(cupy.cuda.driver.get_build_version() // 1000)}
        try:
            return built | {"nvrtc": ".".join(map(str, cupy.cuda.nvrtc.getVersion()))}
        except (ImportError, OSError, RuntimeError, AssertionError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return built | {"nvrtc_error": lines[0] if lines else type(error).__name__}


def _installed(names: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _toolkit() -> str | None:
    for place in (os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), TOOLKIT):
        if place and Path(place, "include", "cuda_runtime.h").is_file():
            return place
    compiler = shutil.which("nvcc")
    return str(Path(compiler).resolve().parents[1]) if compiler else None
