"""Emulation: the text of kernel.cu, built as C++ and run on the host, a fiber for each thread.

emulation/cuda.h gives it CUDA's names; emulation/machine.cpp runs it and looks for faults. Three
builds of the same text find three sorts of them:

- plain: barriers, votes, shuffles and launches that a GPU does not allow, and, by their results,
  reads of shared memory that was never written and threads that came in another order;
- `races=True`: any two accesses that nothing orders, for any order of the threads;
- `sanitize=True`: accesses out of bounds or unaligned, and undefined behaviour. Only in a process
  that `run_sanitized` started.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rnncc.errors import BuildError
from rnncc.runtime.cpu.build import find_compiler
from tests.support.emulation_build import library_of, mode_of
from tests.support.sanitizers import EmulationError, under_sanitizer

if TYPE_CHECKING:  # torch takes 5 s to import under the sanitizers
    from torch import Tensor

KERNEL = re.compile(r"^RNNCC_KERNEL\(([^()]+)\)\s+(\w+)\([^()]*\)", re.MULTILINE)
DYNAMIC = re.compile(r"extern\s+__shared__\s+__align__\(16\)\s+unsigned\s+char\s+(\w+)\[\]")

MOST_BLOCKS = 2**31 - 1
MOST_THREADS = 1024
SHARED = 48 * 1024  # bytes of a block, on every GPU
SHARED_ON_REQUEST = 227 * 1024  # of compute capability 9.0 and 10.0; 163 of 8.0, 99 of 8.6 and 8.9

RUNNING = threading.Lock()  # a library runs one launch at a time
HOLDING: list[ctypes.CDLL] = []  # the one library whose threads still have their stacks


def _keep_stacks_of(library: ctypes.CDLL) -> None:
    """Take them from the library that ran before; a process can't map those of all."""
    if HOLDING and HOLDING[0] is not library:
        HOLDING.pop().emulation_release()
    HOLDING[:] = [library]


class _Request(ctypes.Structure):
    """As in machine.cpp."""

    _fields_ = (
        ("argument", ctypes.c_void_p),
        ("seed", ctypes.c_uint64),
        ("shared", ctypes.c_uint64),
        ("grid", ctypes.c_uint32),
        ("block_x", ctypes.c_uint32),
        ("block_y", ctypes.c_uint32),
        ("kernel", ctypes.c_int32),
        ("flush", ctypes.c_int32),
        ("seconds", ctypes.c_int32),
    )


@dataclass(frozen=True)
class _Kernel:
    """One kernel of a library.

    Attributes:
        threads: of a block at most, its launch bound.
        bytes: of the struct that it takes.
    """

    number: int
    threads: int
    bytes: int


@dataclass
class EmulatedModule:
    """The kernels of one source for one dtype.

    Attributes:
        seed: draws the order of blocks and threads; may change between launches.
        most_shared: bytes of shared memory that a block may have; SHARED, or up to
            SHARED_ON_REQUEST for kernels that were given it by cuFuncSetAttribute.
        flush: floats below the smallest normal one become 0, as CuPy compiles kernels.
        seconds: of processor time that a launch may take.
    """

    source: str
    path: Path
    library: ctypes.CDLL = field(repr=False)
    kernels: Mapping[str, _Kernel] = field(repr=False)
    seed: int = 0
    most_shared: int = SHARED
    flush: bool = True
    seconds: int = 120

    def launch(
        self,
        kernel: str,
        grid: int,
        block: tuple[int, int],
        shared: int,
        args: int,
        size: int | None = None,
    ) -> None:
        """Run a kernel to its end.

        Args:
            grid: blocks along x.
            block: threads along x and y.
            shared: bytes of dynamic shared memory.
            args: the address of the struct that the kernel takes; it is copied.
            size: bytes of that struct, to be compared with what the kernel takes.

        Raises:
            EmulationError: a fault was found. Results that were written before it are there.
        """
        known = self._known(kernel)
        for wrong, seen, expected in self._limits(known, grid, block, shared, size):
            if wrong:
                raise EmulationError(
                    f"kernel '{kernel}' is launched with {seen}.\nExpected: {expected}"
                )
        request = _Request(
            args, self.seed, shared, grid, *block, known.number, self.flush, self.seconds
        )
        with RUNNING:
            _keep_stacks_of(self.library)
            fault = self.library.emulation_launch(ctypes.byref(request))
            text = fault.decode() if fault else ""
        if text:
            raise EmulationError(self._explained(text))

    def _known(self, kernel: str) -> _Kernel:
        if kernel not in self.kernels:
            known = ", ".join(self.kernels)
            raise EmulationError(f"no kernel '{kernel}'.\nExpected: one of {known}")
        return self.kernels[kernel]

    def _limits(
        self, kernel: _Kernel, grid: int, block: tuple[int, int], shared: int, size: int | None
    ) -> Iterator[tuple[bool, str, str]]:
        """The limits of CUDA: whether the launch exceeds one, what was seen, what was expected."""
        threads = block[0] * block[1]
        # that of all kernels of the file: at least what this one has
        static = int(self.library.emulation_static_bytes())
        blocks, most = f"a grid of {grid} blocks", self.most_shared
        yield not 1 <= grid <= MOST_BLOCKS, blocks, f"1 to {MOST_BLOCKS} blocks"
        sides = f"a block of {block} threads"
        yield min(block) < 1 or threads > MOST_THREADS, sides, f"1 to {MOST_THREADS} in all"
        yield threads > kernel.threads, sides, f"at most its launch bound, {kernel.threads}"
        bytes_asked = f"{shared} bytes of dynamic shared memory beside {static} static ones"
        yield not 0 <= shared <= most - static, bytes_asked, f"at most {most} (most_shared) in all"
        given = f"a struct of {size} bytes"
        yield size not in (None, kernel.bytes), given, f"{kernel.bytes} bytes"

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
    path = library_of(compiler, _host_text(source), dtype, mode_of(compiler, sanitize, races))
    library = ctypes.CDLL(str(path))
    library.emulation_name.restype = library.emulation_launch.restype = ctypes.c_char_p
    library.emulation_argument_bytes.restype = ctypes.c_size_t
    library.emulation_static_bytes.restype = ctypes.c_size_t
    kernels = {
        library.emulation_name(i).decode(): _Kernel(
            i, library.emulation_threads(i), library.emulation_argument_bytes(i)
        )
        for i in range(library.emulation_kernels())
    }
    # a GPU converts subnormal halves as they are; on the host their floats are subnormal on the way
    flush = dtype not in ("float64", "float16")
    return EmulatedModule(source, path, library, kernels, seed, flush=flush)


def _host_text(source: str) -> str:
    """The text as C++: nothing of it is visible outside, and its kernels register themselves.

    Only the dynamic memory can't be said by a macro, since `__shared__` alone means an array.
    """
    source = DYNAMIC.sub(r"unsigned char*& \1 = emulation::dynamic_shared", source)
    source = KERNEL.sub(r"\g<0>; EMULATION_KERNEL(\2, \1) \g<0>", source)
    return f'namespace {{\n#line 1 "kernel.cu"\n{source}\n}}\n'


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
        f"'{name}' depends on the order of threads: entry {at} (counted flat) is "
        f"{one[at].item()!r} under seed {first_seed} and {two[at].item()!r} under seed {seed}; "
        f"{int(differs.sum())} of {differs.numel()} entries differ.\n"
        "Expected: the same bits. load(..., races=True) may say which accesses meet"
    )
