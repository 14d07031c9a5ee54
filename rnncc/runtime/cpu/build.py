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
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import filelock

from rnncc.cache import cache_dir, cpu_identity
from rnncc.errors import BuildError

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
CACHE_LIMIT = 512 * 2**20  # bytes


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: how it is called and where it was found."""

    command: tuple[str, ...]
    origin: str

    def version(self) -> str:
        result = subprocess.run([*self.command, "--version"], capture_output=True, text=True)
        return result.stdout.splitlines()[0] if result.stdout else "unknown version"


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

    Raises:
        BuildError: no compiler was found, it refused the source, or the cache can't be written.
    """
    path = library_path(name, source, dtype)
    if path.exists():
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # truncated or damaged: rebuild it
            _remove(path)
    _build_locked(name, source, dtype, path)
    return ctypes.CDLL(str(path))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise BuildError(
            f"the cached kernel {path} is damaged and can't be deleted: {error}.\n"
            "Fix: delete it, or set RNNCC_CACHE_DIR to a folder that can be written"
        ) from error


def _build_locked(name: str, source: str, dtype: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{path}.lock"):
            if not path.exists():
                _build(name, source, dtype, path)
                _trim(path.parent, keep=path)
    except OSError as error:
        raise BuildError(
            f"the kernel cache {path.parent} can't be written: {error}.\n"
            "Fix: set RNNCC_CACHE_DIR to a folder that can"
        ) from error


def _build(name: str, source: str, dtype: str, path: Path) -> None:
    compiler = find_compiler()
    if compiler is None:
        raise BuildError(
            f"no C++ compiler was found to build the kernel '{name}' for {dtype}.\n"
            "Looked for: the variable CXX, g++, clang++, the wheel ziglang.\n"
            'Fix: pip install "rnncc[zig]", or install g++ or clang++, or set CXX'
        )
    text = path.with_suffix(".cpp")
    text.write_text(source, encoding="utf-8")
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=path.stem, suffix=".tmp", delete=False
    ) as file:
        temporary = Path(file.name)
    flags = [*FLAGS, *_native_flags(), f"-DRNNCC_IO={IO_TYPES[dtype]}"]
    command = [*compiler.command, *flags, str(text), "-o", str(temporary), "-lpthread"]
    try:
        stderr = _run(compiler, command)
        if stderr is not None:
            raise BuildError(_refusal(name, dtype, source, text, command, stderr))
        os.chmod(temporary, 0o755)
        _check_library(compiler, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_library(compiler: Compiler, library: Path) -> None:
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        raise BuildError(
            f"the compiler '{compiler.command[0]}' (from {compiler.origin}) succeeded, but its "
            f"output can't be loaded: {error}.\nFix: correct CXX, or unset it to use g++ or clang++"
        ) from error


def _run(compiler: Compiler, command: list[str]) -> str | None:
    """The compiler's complaint, or None if it succeeded."""
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise BuildError(
            f"the compiler '{compiler.command[0]}' (from {compiler.origin}) can't be run: "
            f"{error.strerror}.\nFix: correct CXX, or unset it to use g++ or clang++"
        ) from error
    return result.stderr if result.returncode else None


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


def _trim(folder: Path, keep: Path) -> None:
    """Delete the least recently used libraries beyond the limit."""
    found = []
    for file in folder.glob("*.so"):
        with contextlib.suppress(FileNotFoundError):  # another process trims as well
            found.append((file.stat(), file))
    total = 0
    for stat, file in sorted(found, key=lambda pair: pair[0].st_atime, reverse=True):
        total += stat.st_size
        if total > CACHE_LIMIT and file != keep:
            for suffix in (".so", ".cpp"):
                file.with_suffix(suffix).unlink(missing_ok=True)


@functools.cache
def thread_pool() -> int:
    """The address of GOMP_parallel in the OpenMP that PyTorch has loaded; 0 if there is none."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value or 0
    except (AttributeError, OSError, TypeError):
        return 0
