"""Calls of cells, for tools that look at a process from outside: ncu, compute-sanitizer, a timer.

python tools/gpu_call.py run CELL... [--shape 8x2048x4096] [--dtype float32] [--profile]
python tools/gpu_call.py load CELL... [--dtype float32 bfloat16] [--cpu]

Each prints a line of JSON when a call, or a part of a kernel, is done.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from campaign.setting import Setting, compiled

DTYPES = ("float32", "float64", "bfloat16", "float16")


def main() -> int:
    """Run or load."""
    parser = argparse.ArgumentParser(prog="gpu_call", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("run", "load"))
    parser.add_argument("cells", nargs="+")
    parser.add_argument("--shape", type=_shape, default=(3, 70, 37), help="BxTxN")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["float32"])
    parser.add_argument("--choices", nargs="+", type=_choices, default=[{}],
        metavar="solver=NAME,segment=N")  # fmt: skip
    parser.add_argument("--profile", action="store_true", help="only a second call is profiled")
    parser.add_argument("--cpu", action="store_true", help="also build the CPU's kernels")
    parser.add_argument("--rehearse", action="store_true", help="emulate the GPU")
    options = parser.parse_args()
    setting = Setting(options.rehearse)
    with setting.running():
        for line in (_run if options.what == "run" else _load)(options, setting):
            print(json.dumps(line), flush=True)
    return 0


def _shape(text: str) -> tuple[int, int, int]:
    batch, steps, channels = map(int, text.split("x"))
    return batch, steps, channels


def _choices(text: str) -> dict[str, Any]:
    pairs = (pair.split("=") for pair in text.split(","))
    return {name: int(value) if value.isdigit() else value for name, value in pairs}


# --- calls -----------------------------------------------------------------------------------


def _run(options: argparse.Namespace, setting: Setting) -> Iterator[dict[str, Any]]:
    for cell in options.cells:
        for dtype in options.dtype:
            for choices in options.choices:
                _call(cell, options.shape, dtype, choices, options.profile, setting)
                yield {"ran": cell, "dtype": dtype, **choices}


def _call(
    cell: str,
    shape: tuple[int, int, int],
    dtype: str,
    choices: dict[str, Any],
    profile: bool,
    setting: Setting,
) -> None:
    """Forward and backward."""
    import torch

    from rnncc.bench import workload

    found = compiled(cell)
    group = found.structure.group
    batch, steps, channels = shape
    fitting = (batch, steps, -(-channels // group) * group)
    kind: torch.dtype = getattr(torch, dtype)
    there = setting.device
    arguments = workload.random_arguments(found.spec, fitting, dtype=kind, device=there)

    def loop(given: Any) -> list[torch.Tensor]:
        y = found(**given, **choices)
        return [y] if isinstance(y, torch.Tensor) else list(y)

    both = workload.forward_backward(loop, arguments)
    if profile:
        both()
    with _profiled(profile and not setting.rehearsal):
        both()


@contextlib.contextmanager
def _profiled(wanted: bool) -> Iterator[None]:
    import torch

    if not wanted:
        yield
    else:
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        yield
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


# --- loading ---------------------------------------------------------------------------------


def _load(options: argparse.Namespace, setting: Setting) -> Iterator[dict[str, Any]]:
    """Every part of the kernels, first a tiny kernel: NVRTC itself has to be loaded."""
    import torch

    from rnncc.ir.spec import CUDA_KERNELS
    from rnncc.runtime.backend import backend_of

    if not setting.rehearsal:
        from rnncc.runtime.cuda import module

        torch.zeros(1, device=setting.device)
        yield {"cell": "a tiny kernel", **_timed(lambda: module.self_test(setting.device))}
    backend: Any = backend_of(setting.device)
    for cell in options.cells:
        kernel = compiled(cell).kernel
        for dtype in options.dtype:
            kind: torch.dtype = getattr(torch, dtype)
            for part, names in CUDA_KERNELS.items():
                first = next(iter(names))

                def load(first: str = first, kind: torch.dtype = kind, kernel: Any = kernel) -> Any:
                    return backend.module(kernel, first, kind, setting.device)

                yield {"cell": cell, "dtype": dtype, "part": part, **_timed(load)}
            if options.cpu:  # last: there may be no compiler
                _build_for_cpu(kernel, kind)


def _build_for_cpu(kernel: Any, dtype: Any) -> None:
    import torch

    from rnncc.runtime.cpu.backend import CpuBackend

    CpuBackend().warmup(kernel, dtype, torch.device("cpu"))


def _timed(run: Any) -> dict[str, float]:
    start = time.perf_counter()
    run()
    return {"seconds": round(time.perf_counter() - start, 4)}


if __name__ == "__main__":
    sys.exit(main())
