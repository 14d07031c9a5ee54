"""GPU: this machine -> the place where runs are timed, and what is to be known of it."""

from __future__ import annotations

import platform
from typing import Any

import torch

from rnncc.bench.timing import CudaClock, Place
from rnncc.doctor.installed import look
from rnncc.errors import BuildError
from rnncc.runtime.cuda.module import import_cupy


def gpu() -> Place:
    """The current GPU.

    Raises:
        BuildError: PyTorch can use none, or CuPy is missing.
    """
    if not torch.cuda.is_available():
        built = torch.version.cuda
        raise BuildError(
            f"--device cuda: PyTorch {torch.__version__} can use no GPU here"
            f"{'' if built else '; it was built without CUDA'}.\n"
            "Fix: rnncc doctor says what is missing, and what to install"
        )
    import_cupy()
    device = torch.device("cuda", torch.cuda.current_device())
    return Place(device, CudaClock(device))


def machine() -> dict[str, Any]:
    """The GPU that was measured."""
    found, index = look(), torch.cuda.current_device()
    return {
        "device": found.gpus[index].name,
        "capability": found.gpus[index].capability,
        "driver": found.driver,
        "torch": found.torch,
        "cuda": found.torch_cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cupy": ", ".join(found.cupy.values()),
        "nvrtc": found.nvrtc,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
