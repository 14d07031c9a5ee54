"""NVRTC: emitted CUDA text -> binary for any architecture, on a machine with or without a GPU.

For people and tests that look at kernels. Those that run are compiled by CuPy, with the same flags.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnncc.cache import cache_dir, exposed, make_cache_dir, write_private
from rnncc.errors import ArgumentError, BuildError
from rnncc.runtime.cpu.build import IO_TYPES, equations_of

# Flags of all kernels. No fast math of our own: the numerics are those of the text.
OPTIONS = ("-std=c++17",)
# Flags that CuPy (13 and 14) appends to every compilation, so ours must have them. The first makes
# float32 denormals 0. Without the second, a function that isn't marked __device__ is refused.
CUPY_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")
# Makes ptxas report the resources of each kernel; the code stays the same.
VERBOSE = "--ptxas-options=-v"

INSTALL = (
    'Fix: pip install "rnncc[cuda13]", or "rnncc[cuda12]" where torch.version.cuda is 12; '
    "no GPU is needed"
)


@dataclass(frozen=True)
class Resources:
    """The resources of one kernel, as ptxas reports them.

    Attributes:
        threads: of a block, at most.
        registers: of a thread.
        spill_stores, spill_loads: bytes that a thread moves because its registers ran out.
        stack: bytes of a thread's local memory.
        static_shared: bytes of a block; a launch's dynamic ones are added.
        barriers: of a block.
    """

    kernel: str
    threads: int
    registers: int
    spill_stores: int
    spill_loads: int
    stack: int
    static_shared: int
    barriers: int


@dataclass(frozen=True)
class Binary:
    """One kernel text, compiled for one dtype and architecture.

    Attributes:
        seconds: that NVRTC took, without loading it.
        log: all messages of NVRTC and ptxas, and `warnings` the warnings among them.
        resources: a row for each kernel, in the order of the text.
    """

    arch: str
    dtype: str
    cubin: bytes
    ptx: str
    log: str
    warnings: tuple[str, ...]
    resources: tuple[Resources, ...]
    seconds: float


def options(dtype: str) -> tuple[str, ...]:
    """The options for CuPy with an emitted text; CuPy itself adds `CUPY_OPTIONS`.

    Args:
        dtype: of the tensors: float32, float64, bfloat16 or float16.
    """
    return (*OPTIONS, f"-DRNNCC_IO={IO_TYPES[dtype]}")


def compile(name: str, source: str, dtype: str, arch: str = "sm_90") -> Binary:
    """Compile an emitted text with the flags that it runs with.

    Args:
        name: of the cell, for messages.
        arch: sm_80 for an A100, sm_90 for an H100, ...; one of `architectures()`.
    Raises:
        ArgumentError: this NVRTC doesn't know the architecture.
        BuildError: CuPy or NVRTC isn't installed, or NVRTC refused the text.
    """
    nvrtc = _load()
    if arch not in architectures():
        version = ".".join(map(str, nvrtc.getVersion()))
        raise ArgumentError(
            f"arch: got {arch!r}, but NVRTC {version} compiles for {', '.join(architectures())}.\n"
            "Fix: arch='sm_90' (H100), or install an NVRTC that knows it"
        )
    flags = (*options(dtype), *CUPY_OPTIONS, f"-arch={arch}")
    program = nvrtc.createProgram(source, f"{name}.cu", (), ())
    try:
        start = time.perf_counter()
        try:
            nvrtc.compileProgram(program, (*flags, VERBOSE))
        except nvrtc.NVRTCError as error:
            log = nvrtc.getProgramLog(program) or str(error)
            raise BuildError(refusal(name, source, dtype, arch, flags, log)) from None
        seconds = time.perf_counter() - start
        log = nvrtc.getProgramLog(program)
        cubin, ptx = _complete(nvrtc.getCUBIN(program)), nvrtc.getPTX(program).decode()
    finally:
        nvrtc.destroyProgram(program)
    return Binary(arch, dtype, cubin, ptx, log, warnings(log), resources(log, ptx), seconds)


def architectures() -> tuple[str, ...]:
    """Those that the installed NVRTC compiles for: sm_75, sm_80, ...

    Raises:
        BuildError: CuPy or NVRTC isn't installed.
    """
    return tuple(f"sm_{number}" for number in _load().getSupportedArchs())


# --- CuPy ------------------------------------------------------------------------------------


def _load() -> Any:
    """CuPy's binding of NVRTC."""
    give_cupy_a_cache()
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()  # the library itself is loaded at the first call
    except (ImportError, OSError, RuntimeError) as error:
        raise BuildError(
            f"NVRTC, which compiles CUDA kernels, can't be loaded through CuPy: {error}.\n{INSTALL}"
        ) from error
    return nvrtc


def give_cupy_a_cache() -> None:
    """Call before CuPy is imported: where the home can't be written, its import would fail.

    Sets CUPY_CACHE_DIR to a folder of rnncc's cache then, and where others can write to CuPy's own;
    leaves a value that was given.
    """
    if "CUPY_CACHE_DIR" in os.environ:
        return
    try:
        folder = Path.home() / ".cupy" / "kernel_cache"
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        usable = not exposed(folder)
    except (OSError, RuntimeError):
        usable = False
    if not usable:
        with contextlib.suppress(OSError):
            make_cache_dir()
        os.environ["CUPY_CACHE_DIR"] = str(cache_dir() / "cupy")


def _complete(cubin: bytes) -> bytes:
    """With the last byte, which CuPy takes for the end of a text and drops.

    The CUDA driver doesn't need it; nvdisasm says that the file isn't an ELF.
    """
    programs, sections = struct.unpack_from("<QQ", cubin, 0x20)
    each_program, count_programs, each_section, count_sections = struct.unpack_from(
        "<4H", cubin, 0x36
    )
    ends = programs + each_program * count_programs, sections + each_section * count_sections
    return cubin.ljust(max(ends), b"\0")


# --- messages of NVRTC -----------------------------------------------------------------------


def warnings(log: str) -> tuple[str, ...]:
    """The warnings in a log, a line each, without the lines of source that they quote."""
    return tuple(line for line in log.splitlines() if re.match(r"\S.*\bwarning\b", line))


def resources(log: str, ptx: str) -> tuple[Resources, ...]:
    """ptxas' report of each kernel; spills of functions that it calls count with it."""
    _, *parts = re.split(r"Compiling entry function '(\w+)' for '\w+'", log)
    said = dict(zip(parts[::2], parts[1::2], strict=True))
    kernels = re.findall(r"\.entry (\w+)\(.*?\)\s*(?:\.maxntid (\d+))?", ptx, re.DOTALL)
    return tuple(_resources(name, int(threads or 1024), said[name]) for name, threads in kernels)


def _resources(kernel: str, threads: int, text: str) -> Resources:
    def found(pattern: str) -> list[int]:
        return [0, *map(int, re.findall(pattern, text))]

    return Resources(
        kernel,
        threads,
        registers=max(found(r"Used (\d+) registers")),
        spill_stores=sum(found(r"(\d+) bytes spill stores")),
        spill_loads=sum(found(r"(\d+) bytes spill loads")),
        stack=max(found(r"(\d+) bytes (?:stack frame|cumulative stack size)")),
        static_shared=max(found(r"(\d+) bytes smem")),
        barriers=max(found(r"used (\d+) barriers")),
    )


def refusal(name: str, source: str, dtype: str, arch: str, flags: tuple[str, ...], log: str) -> str:
    """The message for a refused text: its equation, its file, and NVRTC's own message."""
    return (
        f"NVRTC refused the kernel '{name}' for {dtype} on {arch}.\n{equations_of(source)}\n"
        f"Full source: {_keep(name, source, dtype)}\nOptions: {' '.join(flags)}\n"
        f"{log.strip()[:2000]}\n"
        "Fix: install the NVRTC that rnncc's constraints.txt names; if the message names rnncc's "
        "own code, report it"
    )


def _keep(name: str, source: str, dtype: str) -> Path | str:
    """Save the refused text, and say where."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:20]
    file = f"{name}-{dtype}-{digest}.cu"
    try:
        path = make_cache_dir() / file
        write_private(path, source.encode())
    except OSError as error:
        return f"not saved, {cache_dir() / file} can't be written: {error.strerror}"
    return path
