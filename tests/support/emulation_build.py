"""How the text of kernel.cu becomes a library of the host, built at most once."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock

from rnncc.cache import cache_dir
from rnncc.errors import BuildError
from rnncc.runtime.cpu.build import IO_TYPES, Compiler
from rnncc.runtime.cpu.stored import LIMIT

FOLDER = Path(__file__).parent / "emulation"
HEADER = FOLDER / "cuda.h"
BOTH = "-std=c++17 -fPIC -fvisibility=hidden -fno-strict-aliasing".split()
FOR_KERNELS = ("-O1 -fno-math-errno -fno-trapping-math -ffp-contract=fast -w").split()
SANITIZE = (
    *"-g1 -fno-omit-frame-pointer -fno-sanitize-recover=all".split(),
    "-fsanitize=address,undefined",
)
RACES = ("-g1", "-fsanitize=thread")


def library_of(compiler: Compiler, text: str, dtype: str, mode: Mode) -> Path:
    """The library of a text: its object between two bounds, and the machine."""
    begin, end = (
        _object(compiler, "bound.cpp", (f"-DEMULATION_BOUND=emulation_static_{side}",))
        for side in ("begin", "end")
    )
    machine = _object(compiler, "machine.cpp", ("-O2", *mode.machine))
    io = f"-DRNNCC_IO={IO_TYPES[dtype]}"
    compiling = (*BOTH, *FOR_KERNELS, *mode.kernels, io, "-include", str(HEADER), "-c")
    # no -fsanitize=thread here: its calls go to the machine, not to ThreadSanitizer
    linking = ("-shared", *(() if "-fsanitize=thread" in mode.kernels else mode.kernels))

    def build(folder: Path, made: Path) -> None:
        source, kernels = folder / "kernel.cpp", str(folder / "kernel.o")
        source.write_text(text, encoding="utf-8")
        _run([*compiler.command, *compiling, str(source), "-o", kernels])
        parts = (str(begin), kernels, str(end), str(machine), "-lm", "-lpthread")
        _run([*compiler.command, *linking, *parts, "-o", str(made)])

    return _cached(".so", build, compiler, text, *compiling, begin.name, end.name, machine.name)


@dataclass(frozen=True)
class Mode:
    """The compiler's flags for the faults that are looked for."""

    machine: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()


def mode_of(compiler: Compiler, sanitize: bool, races: bool) -> Mode:
    clang = is_clang(compiler)
    if sanitize:
        shared = ("-shared-libasan",) if clang else ()
        return Mode(("-DEMULATION_SANITIZE",), (*SANITIZE, *shared))
    if races:  # clang would leave out a read before a write to the same place
        all_reads = ("-mllvm", "-tsan-instrument-read-before-write=1") if clang else ()
        return Mode(("-DEMULATION_RACES",), (*RACES, *all_reads))
    return Mode()


@functools.cache
def _version(compiler: Compiler) -> str:
    return compiler.version()


def is_clang(compiler: Compiler) -> bool:
    return "clang" in _version(compiler)


@functools.cache
def _headers() -> str:
    return "\0".join(file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.h")))


def _object(compiler: Compiler, name: str, flags: tuple[str, ...]) -> Path:
    file = FOLDER / name
    compiling = (*BOTH, *flags, "-c")

    def build(_: Path, made: Path) -> None:
        _run([*compiler.command, *compiling, str(file), "-o", str(made)])

    return _cached(".o", build, compiler, file.read_text(encoding="utf-8"), *compiling)


def _cached(
    suffix: str, build: Callable[[Path, Path], None], compiler: Compiler, *key: str
) -> Path:
    """The output of `build` in an empty folder, made at most once, also by concurrent processes."""
    parts = (*key, _headers(), *compiler.command, _version(compiler))
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]
    path = cache_dir() / "emulation" / f"{name}{suffix}"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                made = Path(folder, f"made{suffix}")
                build(Path(folder), made)
                os.replace(made, path)
            _trim(path)
    return path


def _trim(kept: Path) -> None:
    """Delete the least recently used libraries beyond the limit of a cache."""
    total = 0
    for library in sorted(kept.parent.glob("*.so"), key=_last_used, reverse=True):
        total += library.stat().st_size if library.exists() else 0
        if total > LIMIT and library != kept:
            library.unlink(missing_ok=True)


def _last_used(file: Path) -> float:
    try:
        return file.stat().st_atime
    except FileNotFoundError:  # another process trims as well
        return 0.0


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise BuildError(
            f"the compiler refused the emulated kernels.\nCommand: {' '.join(command)}\n"
            f"{result.stderr.strip()[:4000]}"
        )
