"""Emulation: the text of kernel.cu, built as C++ and run on the host, a fiber for each CUDA thread.

emulation/cuda.h gives it CUDA's names, emulation/machine.cpp runs it and looks for faults. Three builds
of the same text find three sorts of faults:

- plain: barriers, votes, shuffles and launches that a GPU does not allow, and, by their results,
  reads of shared memory that was never written and threads that came in another order;
- `races=True`: any two accesses that nothing orders, whatever order the threads ran in;
- `sanitize=True`: accesses out of bounds or unaligned, and undefined behaviour. Only in a process
  that `run_sanitized` started.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
from rnncc.build import IO_TYPES, Compiler, cache_dir, find_compiler
from rnncc.errors import BuildError

if TYPE_CHECKING:  # torch takes 5 s to import under the sanitizers
    from torch import Tensor

FOLDER = Path(__file__).parent / "emulation"
HEADER = FOLDER / "cuda.h"
KERNEL = re.compile(r"^RNNCC_KERNEL\(([^()]+)\)\s+(\w+)\(", re.MULTILINE)
DYNAMIC = re.compile(r"extern\s+__shared__\s+__align__\(16\)\s+unsigned\s+char\s+(\w+)\[\]")

# What CUDA allows on every device that rnncc supports, and what it has to be asked for.
MOST_BLOCKS = 2**31 - 1
MOST_THREADS = 1024
SHARED = 48 * 1024  # bytes a block
SHARED_ON_REQUEST = 227 * 1024  # of compute capability 9.0 and 10.0; see opt_in

BOTH = "-std=c++17 -fPIC -fvisibility=hidden -fno-strict-aliasing".split()
FOR_KERNELS = (
    "-O1 -fno-math-errno -fno-trapping-math -ffp-contract=fast -w -fno-gnu-unique"
).split()
SANITIZE = (
    "-g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
).split()
RACES = "-g1 -fsanitize=thread".split()
PRELOADED = "RNNCC_EMULATION_SANITIZER"
RUNNING = threading.Lock()  # a library runs one launch at a time


class EmulationError(AssertionError):
    """A kernel did what a GPU does not allow, or what it need not do the same way each time."""


class _Request(ctypes.Structure):
    """As in machine.cpp."""

    _fields_ = (
        ("kernel", ctypes.c_char_p),
        ("argument", ctypes.c_void_p),
        ("seed", ctypes.c_uint64),
        ("shared", ctypes.c_uint64),
        ("grid", ctypes.c_uint32),
        ("block_x", ctypes.c_uint32),
        ("block_y", ctypes.c_uint32),
        ("flush", ctypes.c_int32),
        ("seconds", ctypes.c_int32),
    )


@dataclass
class EmulatedModule:
    """The kernels of one source for one dtype.

    Attributes:
        kernels: their names.
        seed: draws the order of blocks and threads; may change between launches.
        flush: floats below the smallest normal one become 0, as CuPy compiles kernels.
        seconds: of processor time that a launch may take.
    """

    source: str
    library: ctypes.CDLL = field(repr=False)
    path: Path
    kernels: tuple[str, ...]
    seed: int = 0
    flush: bool = True
    seconds: int = 120
    _opted_in: dict[str, int] = field(default_factory=dict)

    def argument_bytes(self, kernel: str) -> int:
        """The size of the struct that a kernel takes."""
        return int(self.library.emulation_argument_bytes(self._known(kernel)))

    def opt_in(self, kernel: str, shared: int) -> None:
        """Allow so many bytes of dynamic shared memory, as cuFuncSetAttribute does."""
        self._known(kernel)
        if shared + self._static_bytes() > SHARED_ON_REQUEST:
            raise EmulationError(
                f"kernel '{kernel}' asks for {shared} bytes of dynamic shared memory beside "
                f"{self._static_bytes()} static ones.\nExpected: at most {SHARED_ON_REQUEST} together"
            )
        self._opted_in[kernel] = shared

    def launch(
        self, kernel: str, grid: int, block: tuple[int, int], shared: int, args: int
    ) -> None:
        """Run a kernel to its end.

        Args:
            grid: blocks along x.
            block: threads along x and y.
            shared: bytes of dynamic shared memory.
            args: the address of the struct that the kernel takes; it is copied.

        Raises:
            EmulationError: a fault was found. What the kernel wrote before it is there.
        """
        self._check(kernel, grid, block, shared)
        request = _Request(
            kernel.encode(), args, self.seed, shared, grid, *block, self.flush, self.seconds
        )
        with RUNNING:
            fault = self.library.emulation_launch(ctypes.byref(request))
        if fault:
            raise EmulationError(self._explained(fault.decode()))

    def _known(self, kernel: str) -> bytes:
        if kernel not in self.kernels:
            raise EmulationError(f"there is no kernel '{kernel}'.\nExpected: one of {self.kernels}")
        return kernel.encode()

    def _static_bytes(self) -> int:
        """Of all kernels of the file together: at least what each has."""
        return int(self.library.emulation_static_bytes())

    def _check(self, kernel: str, grid: int, block: tuple[int, int], shared: int) -> None:
        bound = self.library.emulation_threads(self._known(kernel))
        threads = block[0] * block[1]
        allowed = max(SHARED - self._static_bytes(), self._opted_in.get(kernel, 0))
        faults = [
            (not 1 <= grid <= MOST_BLOCKS, f"a grid of {grid} blocks", f"1 to {MOST_BLOCKS}"),
            (min(block) < 1, f"a block of {block} threads", "at least 1 each way"),
            (threads > MOST_THREADS, f"a block of {block} threads", f"at most {MOST_THREADS}"),
            (threads > bound, f"a block of {block} threads", f"at most its launch bound, {bound}"),
            (
                not 0 <= shared <= allowed,
                f"{shared} bytes of dynamic shared memory",
                f"at most {allowed} beside {self._static_bytes()} static ones; more after opt_in",
            ),
        ]
        for wrong, seen, expected in faults:
            if wrong:
                raise EmulationError(
                    f"kernel '{kernel}' is launched with {seen}.\nExpected: {expected}"
                )

    def _explained(self, fault: str) -> str:
        """With lines for addresses in the code, and the text of each line that is named."""
        fault = re.sub(r"<code (\w+)>", lambda found: _line_of(self.path, found[1]), fault)
        lines = self.source.splitlines()
        named = sorted({int(n) for n in re.findall(r"kernel\.cu:(\d+)", fault)})
        quoted = [f"  {n}: {lines[n - 1].strip()}" for n in named if 1 <= n <= len(lines)]
        return "\n".join([fault, *quoted])


def load(
    source: str, dtype: str, *, seed: int = 0, sanitize: bool = False, races: bool = False
) -> EmulatedModule:
    """The kernels of a source for one dtype, built at most once.

    Args:
        source: the text of kernel.cu.
        dtype: "float32", "float64", "bfloat16" or "float16".
        sanitize: look for accesses out of bounds and undefined behaviour; see `run_sanitized`.
        races: look for accesses that nothing orders.

    Raises:
        BuildError: no compiler was found, or it refused the source.
        EmulationError: sanitize outside of `run_sanitized`.
    """
    if sanitize and not under_sanitizer():
        raise EmulationError("sanitize=True works only in a process that run_sanitized started")
    compiler = find_compiler()
    if compiler is None:
        raise BuildError("no C++ compiler was found.\nFix: install g++ or clang++")
    path = _library(compiler, _host_text(source), dtype, _mode(compiler, sanitize, races))
    names = tuple(name for _, name in KERNEL.findall(source))
    library = ctypes.CDLL(str(path))
    library.emulation_launch.restype = ctypes.c_char_p
    library.emulation_argument_bytes.restype = ctypes.c_size_t
    library.emulation_static_bytes.restype = ctypes.c_size_t
    return EmulatedModule(source, library, path, names, seed, flush=dtype != "float64")


def _host_text(source: str) -> str:
    """The text as C++: nothing of it is seen outside, and a table names its kernels.

    Only `extern __shared__` can't be said by a macro, since `__shared__` alone means an array.
    """
    source = DYNAMIC.sub(r"unsigned char*& \1 = emulation::dynamic_shared", source)
    rows = "\n".join(
        f'    emulation::Entry<{name}>::named("{name}", {threads}),'
        for threads, name in KERNEL.findall(source)
    )
    return (
        f'namespace {{\n#line 1 "kernel.cu"\n{source}\n#line 1 "the table of kernels"\n}}\n'
        f"const emulation::Kernel emulation::kernels[] = {{\n{rows}\n}};\n"
        "const int emulation::kernel_count = sizeof kernels / sizeof *kernels;\n"
    )


# --- building --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mode:
    """What the faults that are looked for add to the compiler's flags."""

    machine: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()


def _mode(compiler: Compiler, sanitize: bool, races: bool) -> _Mode:
    if sanitize:
        shared = ("-shared-libasan",) if _is_clang(compiler) else ()
        return _Mode(("-DEMULATION_SANITIZE",), (*SANITIZE, *shared))
    return _Mode(("-DEMULATION_RACES",), RACES) if races else _Mode()


@functools.cache
def _is_clang(compiler: Compiler) -> bool:
    return "clang" in compiler.version()


@functools.cache
def _headers() -> str:
    return "\0".join(file.read_text() for file in sorted(FOLDER.glob("*.h")))


def _library(compiler: Compiler, text: str, dtype: str, mode: _Mode) -> Path:
    """The library of a text: its object between two bounds, and the machine."""

    def part(name: str, *flags: str) -> Path:
        return _object(compiler, (FOLDER / name).read_text(), (f"-I{FOLDER}", *flags))

    begin, end = (
        part("bound.cpp", f"-DEMULATION_BOUND=emulation_static_{side}") for side in ("begin", "end")
    )
    machine = part("machine.cpp", "-O2", *mode.machine)
    flags = (*FOR_KERNELS, *mode.kernels, f"-DRNNCC_IO={IO_TYPES[dtype]}", "-include", str(HEADER))
    kernels = _object(compiler, text, flags)
    # no -fsanitize=thread here: what its calls find is in the machine, not in ThreadSanitizer
    linked = [flag for flag in mode.kernels if flag != "-fsanitize=thread"]
    parts = [str(path) for path in (begin, kernels, end, machine)]
    return _cached(
        ".so", compiler, [*BOTH, *linked, "-shared", *parts, "-lm", "-lpthread"], "".join(parts)
    )


def _object(compiler: Compiler, text: str, flags: tuple[str, ...]) -> Path:
    return _cached(".o", compiler, [*BOTH, *flags, "-c"], text)


def _cached(suffix: str, compiler: Compiler, flags: list[str], text: str) -> Path:
    """What the compiler makes of a text, built at most once, also by concurrent processes."""
    command = [*compiler.command, *flags]
    key = "\0".join((text, _headers(), *command, compiler.version()))
    path = cache_dir() / "emulation" / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}{suffix}"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                made, source = Path(folder, f"made{suffix}"), Path(folder, "text.cpp")
                source.write_text(text, encoding="utf-8")
                given = [str(source)] if suffix == ".o" else []
                _run([*command, *given, "-o", str(made)])
                os.replace(made, path)
    return path


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise BuildError(
            f"the compiler refused the emulated kernels.\nCommand: {' '.join(command)}\n"
            f"{result.stderr.strip()[:4000]}"
        )


def _line_of(library: Path, offset: str) -> str:
    """file:line of an offset in the code, of the kernel's text if any of it was inlined there."""
    tool = shutil.which("addr2line")
    if tool is None:
        return f"offset 0x{offset} of {library}"
    command = [tool, "-i", "-e", str(library), f"0x{offset}"]
    frames = subprocess.run(command, capture_output=True, text=True).stdout.split("\n")
    names = [frame.split(" ")[0].rpartition("/")[2] for frame in frames if frame]
    return next((name for name in names if name.startswith("kernel.cu")), names[0])


# --- several seeds ---------------------------------------------------------------------------


def same_under_seeds(
    module: EmulatedModule, run: Callable[[], Mapping[str, Tensor]], seeds: Iterable[int] = range(5)
) -> Mapping[str, Tensor]:
    """The results of a series of launches, found equal bit for bit under several seeds.

    Args:
        run: makes fresh results, launches kernels of the module, and returns the results by name.

    Raises:
        EmulationError: a result depends on the order in which threads or blocks ran.
    """
    first: Mapping[str, Tensor] | None = None
    first_seed = before = module.seed
    try:
        for seed in seeds:
            module.seed = seed
            results = run()
            if first is None:
                first, first_seed = results, seed
            for name, result in results.items():
                _compare(name, first[name], result, first_seed, seed)
    finally:
        module.seed = before
    assert first is not None, "no seeds"
    return first


def _compare(name: str, first: Tensor, other: Tensor, first_seed: int, seed: int) -> None:
    import torch

    one, two = (t.detach().contiguous().flatten() for t in (first, other))
    size = one.element_size()
    differs = (one.view(torch.uint8) != two.view(torch.uint8)).view(-1, size).any(1)
    if not differs.any():
        return
    at = int(differs.nonzero()[0])
    raise EmulationError(
        f"'{name}' depends on the order of threads: entry {at} (counted flat) is {one[at].item()!r} "
        f"under seed {first_seed} and {two[at].item()!r} under seed {seed}; "
        f"{int(differs.sum())} of {differs.numel()} entries differ.\n"
        "Expected: the same bits. load(..., races=True) may say which accesses meet"
    )


# --- under AddressSanitizer and UndefinedBehaviorSanitizer -------------------------------------


def under_sanitizer() -> bool:
    """Whether this process can load what was built with sanitize=True."""
    return PRELOADED in os.environ


def run_sanitized(*arguments: str, timeout: float = 600) -> str:
    """Run Python with the sanitizers loaded: ("-c", code) or ("-m", "pytest", "tests/test_x.py").

    Returns:
        What it printed.

    Raises:
        EmulationError: it failed; the message holds the sanitizer's report.
    """
    compiler = find_compiler()
    if compiler is None:
        raise BuildError("no C++ compiler was found.\nFix: install g++ or clang++")
    environment = os.environ | {
        "LD_PRELOAD": " ".join(_sanitizers(compiler)),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1",
        PRELOADED: "1",
    }
    result = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if result.returncode:
        raise EmulationError(_report(result.stderr) or result.stdout[-4000:])
    return result.stdout


def _report(stderr: str) -> str:
    """The sanitizer's report without the part on its shadow memory, or the last lines."""
    found = re.search(r"^.*(runtime error:|ERROR: AddressSanitizer)", stderr, re.MULTILINE)
    if not found:
        return stderr[-4000:]
    shadow = stderr.find("Shadow bytes around", found.start())
    report = stderr[found.start() : shadow if shadow > 0 else None][:6000]
    places = re.findall(r"^kernel '.*$", stderr, re.MULTILINE)
    return "\n".join([*places, report])


def _sanitizers(compiler: Compiler) -> list[str]:
    if _is_clang(compiler):
        names = [f"libclang_rt.asan-{os.uname().machine}.so", "libstdc++.so.6"]
    else:
        names = ["libasan.so", "libstdc++.so.6"]
    paths = []
    for name in names:
        command = [*compiler.command, f"-print-file-name={name}"]
        found = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        if not Path(found).exists():
            raise BuildError(f"the compiler has no {name}.\nFix: install its sanitizers")
        paths.append(str(Path(found).resolve()))
    return paths
