"""Modules: emitted CUDA text -> kernels that can be launched on PyTorch's streams.

CuPy compiles and loads, and stays hidden here; memory, streams and graphs are PyTorch's.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from rnncc.errors import BuildError, RnnccError
from rnncc.runtime.cuda.launch import Launch, Module, Ready, launch_one
from rnncc.runtime.cuda.nvrtc import give_cupy_a_cache, options, refusal

NOT_FOUND = 500  # CUDA_ERROR_NOT_FOUND
# Of a kernel's parameters: what every driver and GPU accepts; what CUDA 12.1 and sm_70 brought.
PARAMETER_BYTES, MORE_BYTES = 4096, 32764
# A kernel's name in its text: after the macro of templates/include/cuda, or written out.
BOUNDS = r"(?:__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)\s*)?"
KERNEL = re.compile(
    rf"(?:RNNCC_KERNEL\([^()]*\)|__global__\s+{BOUNDS}void\s)\s*{BOUNDS}"
    r"(?!__launch_bounds__)(\w+)\s*\("
)

ADD_ONE = """\
struct Args {
  long long count;
  float *values;
};

extern "C" __global__ void rnncc_add_one(const Args args) {
  const long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y;
  const long long i = row * blockDim.x + threadIdx.x;
  if (i < args.count) args.values[i] += 1.0f;
}
"""


def load(name: str, source: str, dtype: str, device: torch.device) -> Module:
    """The kernels of a source, compiled and loaded at most once for each dtype and device.

    Call it at every use rather than store its result: once loaded, it costs a dictionary lookup,
    and a process forked meanwhile gets its error here.

    Args:
        name: of the cell, for messages.
        dtype: of the tensors: float32, float64, bfloat16 or float16.
        device: a CUDA device; without an index, the current one.
    Raises:
        BuildError: CuPy is missing, NVRTC refuses the source, CUDA can't load it, the process is a
            fork of one that used CUDA, or a CUDA graph is being captured.
    """
    index = _current_device() if device.index is None else device.index
    found = _loaded.get((source, dtype, index))
    if found is not None:
        return found
    with _lock:
        if (source, dtype, index) not in _loaded:
            _loaded[source, dtype, index] = _load(name, source, dtype, index)
        return _loaded[source, dtype, index]


def self_test(device: torch.device) -> str:
    """Compile a kernel that adds 1 to a tensor, run it and check its answer.

    Returns:
        The action taken, in words.
    Raises:
        RnnccError: it can't be compiled or launched, or its answer is wrong.
    """
    start = time.perf_counter()
    module = load("self_test", ADD_ONE, "float32", device)
    seconds = time.perf_counter() - start
    values = torch.arange(1000, dtype=torch.float32, device=device)
    launch_one(module, Launch("rnncc_add_one", 8, (32, 4), 0), values.numel(), values.data_ptr())
    if not torch.equal(values, torch.arange(1, 1001, dtype=torch.float32, device=device)):
        raise RnnccError(
            f"a kernel that adds 1 to 0, 1, 2, ... on {device} gave {values[:4].tolist()}, ...\n"
            "Fix: this should not happen; report it with the output of rnncc doctor --json"
        )
    return f"compiled and loaded in {seconds:.2f} s, and gave the right answer"


# --- loading ---------------------------------------------------------------------------------


def pip_line() -> str:
    """The pip command for CuPy and NVRTC of PyTorch's CUDA version."""
    major = (torch.version.cuda or "13").partition(".")[0]
    return f'pip install "rnncc[cuda{"12" if major == "12" else "13"}]"'


def import_cupy() -> Any:
    """CuPy, with a kernel cache that can be written.

    Raises:
        BuildError: it isn't installed, or it can't be imported.
    """
    give_cupy_a_cache()
    try:
        import cupy
    except Exception as error:  # of any kind: wrong libraries, wrong NumPy, an unwritable folder
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            raise BuildError(
                "CuPy, through which CUDA kernels are compiled and loaded, is not installed.\n"
                f"Fix: {pip_line()}"
            ) from None
        raise BuildError(
            f"CuPy is installed but can't be imported: {_words(error)}.\n"
            "Fix: rnncc doctor says what is installed and what to change"
        ) from error
    return cupy


def _start_cuda() -> None:
    """Have PyTorch start CUDA, so that the device's context is PyTorch's own.

    Raises:
        BuildError: it can't; a process forked from one that used CUDA never can.
    """
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        fix = (
            'start the process by the method "spawn", as in '
            'torch.multiprocessing.set_start_method("spawn")'
            if "fork" in str(error)
            else "rnncc doctor says what is missing"
        )
        raise BuildError(f"CUDA can't be used here: {_words(error)}.\nFix: {fix}") from error


def _current_device() -> int:
    _start_cuda()
    return torch.cuda.current_device()


def _load(name: str, source: str, dtype: str, index: int) -> _Loaded:
    _start_cuda()
    with torch.cuda.device(index):
        _refuse_capture(f"the kernels of '{name}' for {dtype} are")
    cupy = import_cupy()
    flags = options(dtype)
    try:
        with _on(cupy, index):
            module = cupy.RawModule(code=source, options=flags, backend="nvrtc")
            module.compile()
            loaded = _Loaded(cupy, module, index, f"'{name}' for {dtype}")
            for kernel in KERNEL.findall(source):
                loaded.find(kernel)
            return loaded
    except cupy.cuda.compiler.CompileException as error:
        said = str(error).replace(error.name, f"{name}.cu")  # the file that NVRTC read is gone
        where = f"{torch.cuda.get_device_name(index)} (cuda:{index})"
        raise BuildError(refusal(name, source, dtype, where, flags, said)) from None
    except (RuntimeError, OSError, ImportError, AssertionError) as error:  # CuPy raises all these
        raise BuildError(
            f"the kernels of '{name}' for {dtype} can't be loaded on cuda:{index}: "
            f"{_words(error)}.\n"
            "Fix: rnncc doctor compares PyTorch, CuPy, NVRTC and the driver, and says what to "
            "install; where a folder can't be written, set CUPY_CACHE_DIR to one that can"
        ) from error


@contextlib.contextmanager
def _on(cupy: Any, index: int) -> Iterator[None]:
    """Make a device current for PyTorch and for CuPy, with its context bound to this thread."""
    with torch.cuda.device(index), cupy.cuda.Device(index) as device:
        device.use()  # binds the context even where the device was current and its context wasn't
        yield


def _refuse_capture(what: str) -> None:
    """Nothing can be compiled or loaded while the current stream is recorded into a graph."""
    if torch.cuda.is_current_stream_capturing():
        raise BuildError(
            f"{what} not loaded yet, and nothing can be while a CUDA graph is being captured.\n"
            "Fix: before the capture call layer.warmup(...), or run the layer forward and backward "
            "once, on the same device and in the same dtype"
        )


def _words(error: Exception) -> str:
    """The error on one line: CuPy frames its own in lines of ====."""
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip(" =-"))
    return (text or type(error).__name__).rstrip(".")


# --- launching -------------------------------------------------------------------------------


def _public_stream(index: int) -> int:
    return int(torch.cuda.current_stream(index).cuda_stream)


# torch.compile's own output calls this, 0.1 us; the public way makes a Stream object, 2 us.
current_stream: Callable[[int], int] = getattr(
    torch._C, "_cuda_getCurrentRawStream", _public_stream
)


class _Kernel(NamedTuple):
    """One kernel on one device.

    Attributes:
        raw: CuPy's object, which keeps the code loaded.
        handle: the driver's.
        shared: how many bytes of dynamic shared memory a launch may ask for so far.
    """

    raw: Any
    handle: int
    shared: int


class _Loaded:
    """The kernels of one source in the primary context of one device; see `Module`.

    Made inside `_on`. Launches go to the driver directly: CuPy's own call would look up CuPy's
    stream, which is not PyTorch's, and takes a struct only inside a NumPy array.
    """

    def __init__(self, cupy: Any, module: Any, index: int, title: str) -> None:
        self._cupy, self._module, self._index, self._title = cupy, module, index, title
        self._driver = cupy.cuda.driver
        self._context: int = self._driver.ctxGetCurrent()
        self._kernels: dict[str, _Kernel] = {}
        self._lock = threading.Lock()

    def find(self, kernel: str) -> None:
        """Look a kernel up, inside `_on`; one that the binary lacks (it is in an #if) is left out.

        Raises:
            BuildError: the driver can't load its code.
        """
        try:
            raw = self._module.get_function(kernel)
            # the query also makes a driver that loads lazily load the code now
            limit = raw.max_dynamic_shared_size_bytes
        except self._driver.CUDADriverError as error:
            if error.status == NOT_FOUND:
                return
            raise BuildError(
                f"the kernel {kernel} of {self._title} can't be loaded on cuda:{self._index}: "
                f"{_words(error)}.\nFix: rnncc doctor runs a kernel by itself, and says what fails"
            ) from error
        self._kernels[kernel] = _Kernel(raw, raw.kernel.ptr, limit)

    def ready(self, launch: Launch, size: int) -> Ready:
        if launch.grid == 0:
            return launch, None
        found = self._kernels.get(launch.kernel)
        if found is None or launch.shared > found.shared or size > PARAMETER_BYTES:
            found = self._prepare(launch.kernel, launch.shared, size)
        grid, block = (launch.grid, 1, 1), (*launch.block, 1)
        return launch, partial(
            self._driver.launchKernel, found.handle, *grid, *block, launch.shared
        )

    def run(self, series: Sequence[Ready], words: array[int]) -> None:
        # of each parameter; the driver reads them before a launch returns
        pointers = array("Q", (words.buffer_info()[0],))
        address = pointers.buffer_info()[0]
        driver, context = self._driver, self._context
        # a thread that has not used CUDA has no context; another device's has that one's
        before = driver.ctxGetCurrent()
        if before != context:
            driver.ctxSetCurrent(context)
        launch, _ = series[0]
        try:
            stream = current_stream(self._index)
            for launch, put in series:
                for place, value in launch.changes:
                    words[place] = value
                if put is not None:
                    put(stream, address, 0)
        except (RuntimeError, OverflowError) as error:
            kernel, grid, (x, y), shared, _ = launch
            raise RnnccError(
                f"the kernel {kernel} of {self._title} can't be launched on cuda:{self._index} "
                f"({grid} blocks of {x} x {y} threads, {shared} bytes of shared memory): "
                f"{_words(error)}.\n"
                "Fix: if an earlier kernel failed, CUDA_LAUNCH_BLOCKING=1 shows which; otherwise "
                "rnncc doctor runs a kernel by itself"
            ) from error
        finally:
            if before != context:
                driver.ctxSetCurrent(before)

    def _prepare(self, kernel: str, shared: int, size: int) -> _Kernel:
        """A kernel at its first launch, or one that asks for more shared memory than before."""
        most = _most_bytes(self._cupy, self._index) if size > PARAMETER_BYTES else size
        if size > most:
            raise RnnccError(
                f"the kernel {kernel} of {self._title} takes {size} bytes of arguments; CUDA "
                f"passes at most {most} here.\nFix: a cell with fewer inputs and parameters"
                + f", or a driver and NVRTC of CUDA 12.1 or later ({MORE_BYTES} bytes)"
                * (most < MORE_BYTES)
            )
        with self._lock, _on(self._cupy, self._index):
            if kernel not in self._kernels:
                _refuse_capture(f"the kernel {kernel} of {self._title} is")
                self.find(kernel)
            if kernel not in self._kernels:
                raise RnnccError(
                    f"the source of {self._title} has no kernel {kernel}; it has "
                    f"{', '.join(sorted(self._kernels)) or 'none'}.\n"
                    "Fix: regenerate the folder with rnncc compile"
                )
            found = self._kernels[kernel]
            if shared > found.shared:
                self._kernels[kernel] = found = self._allow(kernel, found, shared)
            return found

    def _allow(self, kernel: str, found: _Kernel, shared: int) -> _Kernel:
        """Above 48 KiB a block gets dynamic shared memory only on request, for each device."""
        try:
            found.raw.max_dynamic_shared_size_bytes = shared
        except RuntimeError as error:
            properties = torch.cuda.get_device_properties(self._index)
            most = getattr(properties, "shared_memory_per_block_optin", "fewer")
            raise RnnccError(
                f"the kernel {kernel} of {self._title} asks for {shared} bytes of shared memory "
                f"for each block; {properties.name} (cuda:{self._index}) gives {most}: "
                f"{_words(error)}.\n"
                "Fix: smaller groups of channels need less; report the cell and its shape"
            ) from error
        return found._replace(shared=shared)


def _most_bytes(cupy: Any, index: int) -> int:
    """Of a kernel's parameters, as the driver, the compiler and the GPU have it."""
    driver, compiler = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.nvrtc.getVersion()
    new = driver >= 12010 and compiler >= (12, 1)
    return (
        MORE_BYTES if new and torch.cuda.get_device_capability(index) >= (7, 0) else PARAMETER_BYTES
    )


# --- loaded modules --------------------------------------------------------------------------

_loaded: dict[tuple[str, str, int], _Loaded] = {}
_lock = threading.RLock()


def _forget() -> None:
    """In a forked child nothing is loaded: CUDA does not survive a fork."""
    global _lock
    _lock = threading.RLock()  # another thread of the parent may have held the old one
    _loaded.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
