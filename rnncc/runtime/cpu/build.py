"""Build: emitted text -> loaded library. System C++ compiler and ctypes, cached by content."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rnncc.cache import VARIABLE, beside, cache_dir, cpu_identity, make_cache_dir, write_private
from rnncc.errors import BuildError
from rnncc.runtime.cpu import stored, waiting

IO_TYPES = {
    "float32": "float",
    "float64": "double",
    "bfloat16": "rnncc::bfloat16",
    "float16": "rnncc::float16",
}
# no -fno-signed-zeros: with it, g++ makes x * (c ? 1 : 0) a mask, and NaN * 0 becomes 0
FLAGS = (
    "-std=c++17 -O3 -fPIC -shared -fopenmp-simd -fno-math-errno -fno-trapping-math "
    "-ffp-contract=fast -fvisibility=hidden"
).split()
VERSION_SECONDS = 30.0


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: how it is called and where it was found."""

    command: tuple[str, ...]
    origin: str

    def version(self) -> str:
        task = f"asking {self.command[0]} for its version"
        with contextlib.suppress(OSError):
            _, said = waiting.run([*self.command, "--version"], task, VERSION_SECONDS)
            return said.strip().partition("\n")[0] or "unknown version"
        return "unknown version"


def find_compiler() -> Compiler | None:
    """CXX, else g++, else clang++, else the ziglang wheel."""
    given = os.environ.get("CXX", "").strip()
    if given:
        try:
            return Compiler(tuple(shlex.split(given)), "the variable CXX")
        except ValueError as error:
            raise BuildError(
                f"the variable CXX is not a command: {given!r}: {error}.\nFix: CXX=g++"
            ) from error
    for name in ("g++", "clang++"):
        path = shutil.which(name)
        if path:
            return Compiler((path,), "PATH")
    if importlib.util.find_spec("ziglang") is not None:
        # not `zig c++`, which spends a minute on a C++ library that kernels don't use
        command = (sys.executable, "-m", "ziglang", "cc", "-x", "c++")
        return Compiler(command, "the wheel ziglang")
    return None


@functools.cache
def _native_flags() -> tuple[str, ...]:
    if platform.machine().lower() in ("arm64", "aarch64"):
        return ("-mcpu=native",)
    wide = ("-mprefer-vector-width=512",) if "avx512f" in cpu_identity() else ()
    return ("-march=native", *wide)


def library_path(name: str, source: str, dtype: str) -> Path:
    """Where the library of this source and dtype lies, or will lie, in the cache."""
    flags = (*FLAGS, *_native_flags(), f"-DRNNCC_IO={IO_TYPES[dtype]}")
    parts = (source, *flags, cpu_identity(), os.environ.get("CXX", ""))
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]
    return cache_dir() / f"{name}-{dtype}-{digest}.so"


def load(name: str, source: str, dtype: str) -> ctypes.CDLL:
    """The library of one kernel source for one dtype, built at most once.

    Safe under concurrent processes: a lock that dies with its process, and a rename at the end.
    Nothing is loaded that isn't as it was built.

    Raises:
        BuildError: no compiler was found, it refused the source or doesn't end, the cache can't be
            written, or nothing may run from there.
    """
    path = library_path(name, source, dtype)
    whole = stored.is_whole(path)
    if whole:
        with contextlib.suppress(OSError):  # of another system with the same home: rebuild it
            return ctypes.CDLL(str(path))
    return ctypes.CDLL(str(_build_locked(name, source, dtype, replace=whole)))


def _build_locked(name: str, source: str, dtype: str, replace: bool) -> Path:
    task, seconds = f"the kernel '{name}' for {dtype}", waiting.limit()
    end = time.monotonic() + seconds  # of waiting and building: several that fail don't add up
    try:
        folder = make_cache_dir()
        path = library_path(name, source, dtype)
        lock = path.with_suffix(stored.LOCK)
        try:
            with waiting.locked(lock, f"waiting for another process to build {task}", seconds):
                if replace or not stored.is_whole(path):
                    _build(name, source, dtype, path, end - time.monotonic())
                    stored.trim(folder, path)
        except TimeoutError:
            raise BuildError(
                f"another process is building {task}, and has not ended within {seconds:.0f} s; it "
                f"holds {lock}.\nFix: end that process, or set {waiting.LIMIT_VARIABLE} to more "
                f"seconds, or {VARIABLE} to another folder"
            ) from None
        return path
    except OSError as error:
        raise BuildError(
            f"the kernel cache {cache_dir()} can't be written: {error}.\n"
            f"Fix: set {VARIABLE} to a folder that can"
        ) from error


def _build(name: str, source: str, dtype: str, path: Path, seconds: float) -> None:
    compiler = find_compiler()
    if compiler is None:
        raise BuildError(
            f"no C++ compiler was found to build the kernel '{name}' for {dtype}.\n"
            "Looked for: the variable CXX, g++, clang++, the wheel ziglang.\n"
            'Fix: pip install "rnncc[zig]", or install g++ or clang++, or set CXX'
        )
    stored.sweep(path.parent, held=path)
    text = path.with_suffix(stored.SOURCE)
    write_private(text, source.encode())
    with beside(path) as temporary:
        flags = [*FLAGS, *_native_flags(), f"-DRNNCC_IO={IO_TYPES[dtype]}"]
        command = [*compiler.command, *flags, str(text), "-o", str(temporary), "-lpthread"]
        task = f"{compiler.command[0]} builds the kernel '{name}' for {dtype}"
        said = _run(compiler, command, task, seconds)
        if said is not None:
            raise BuildError(_refusal(name, dtype, source, text, command, said))
        temporary.chmod(0o700)
        _check_library(compiler, temporary)
        stored.keep(temporary, path)


def _check_library(compiler: Compiler, library: Path) -> None:
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        if nothing_runs(library.parent, str(error)):
            raise BuildError(
                f"the kernel cache {library.parent} is on a file system from which nothing may be "
                f"run (noexec): {error}.\nFix: set {VARIABLE} to a folder on another one"
            ) from error
        raise BuildError(
            f"the compiler '{compiler.command[0]}' (from {compiler.origin}) succeeded, but its "
            f"output can't be loaded: {error}.\nFix: correct CXX, or unset it to use g++ or clang++"
        ) from error


def nothing_runs(folder: Path, said: str = "") -> bool:
    """By the file system's flag, or by the words of the loader where there is no such flag."""
    flag = getattr(os, "ST_NOEXEC", 0)
    words = ("failed to map segment", "not permitted")
    return bool(os.statvfs(folder).f_flag & flag) or any(word in said for word in words)


def _run(compiler: Compiler, command: list[str], task: str, seconds: float) -> str | None:
    """The compiler's complaint, or None if it succeeded."""
    try:
        status, said = waiting.run(command, task, seconds)
    except TimeoutError:
        raise BuildError(
            f"the compiler '{compiler.command[0]}' (from {compiler.origin}) has not ended within "
            f"{waiting.limit():.0f} s, and was stopped.\nCommand: {shlex.join(command)}\n"
            f"Fix: correct CXX, or set {waiting.LIMIT_VARIABLE} to more seconds"
        ) from None
    except OSError as error:
        raise BuildError(
            f"the compiler '{compiler.command[0]}' (from {compiler.origin}) can't be run: "
            f"{error.strerror}.\nFix: correct CXX, or unset it to use g++ or clang++"
        ) from error
    return said if status else None


def _refusal(
    name: str, dtype: str, source: str, text: Path, command: list[str], stderr: str
) -> str:
    return (
        f"the compiler refused the kernel '{name}' for {dtype}.\n{equations_of(source)}\n"
        f"Full source: {text}\nCommand: {shlex.join(command)}\n{stderr.strip()[:2000]}\n"
        "Fix: try another compiler (CXX=clang++); if the message names rnncc's own code, report it"
    )


def equations_of(source: str) -> str:
    """The recurrence and the Jacobian, from the head of an emitted text."""
    head = source.splitlines()[:60]
    return "\n".join(line.removeprefix("// ") for line in head if line.startswith("//   "))


@functools.cache
def thread_pool() -> int:
    """The address of GOMP_parallel in the OpenMP that PyTorch has loaded; 0 if there is none."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value or 0
    except (AttributeError, OSError, TypeError):
        return 0
