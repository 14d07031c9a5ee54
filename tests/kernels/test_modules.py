"""Modules without a GPU: a CuPy and a CUDA that record their calls.

tests/gpu/test_gpu_modules.py has the real ones.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rnncc.errors import BuildError, RnnccError
from rnncc.ir.spec import CUDA_KERNELS
from rnncc.runtime.cpu.build import find_compiler
from rnncc.runtime.cuda import module as modules
from rnncc.runtime.cuda.launch import Launch, Module, launch_one
from tests.support.runs import compiled

ROOT = Path(__file__).parents[2]
SOURCE = """\
// Generated. The recurrence:
//   z = sigmoid(az * h + xz)
//   h = (1 - z) * h + z * c
struct Args { long long words[2]; };
extern "C" __global__ void forward(const Args args) {}
extern "C" __global__ void __launch_bounds__(1024) backward(const Args args) {}
"""
CUDA0, CUDA1 = torch.device("cuda", 0), torch.device("cuda", 1)


# --- a machine that records ------------------------------------------------------------------


class DriverError(RuntimeError):
    """As CuPy's CUDADriverError."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(text)


class CompileError(Exception):
    """As CuPy's CompileException: the file's name, and NVRTC's log as its text."""

    def __init__(self, log: str, name: str) -> None:
        self.name = name
        super().__init__(log)


@dataclass
class Launched:
    """One launch: what the driver was given, and the bytes of the kernel's parameter."""

    kernel: str
    device: int
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int
    stream: int
    args: bytes
    extra: int


class Here(threading.local):
    """The state of a thread: current device, context (0: none), a stream for each device."""

    device, context = 0, 0

    def __init__(self) -> None:
        self.streams = {0: 0, 1: 0}


def context_of(device: int) -> int:
    return 0x1000 + device


@dataclass
class Machine:
    """Two GPUs, PyTorch's view of them and CuPy's, as far as rnncc uses either."""

    here: Here = field(default_factory=Here)
    launches: list[Launched] = field(default_factory=list)
    compiled: list[tuple[str, tuple[str, ...], int]] = field(default_factory=list)
    raised: list[tuple[str, int, int]] = field(default_factory=list)
    handles: dict[int, tuple[str, int]] = field(default_factory=dict)
    keywords: list[dict[str, Any]] = field(default_factory=list)
    capturing: bool = False
    size: int = 16
    driver_version: int = 13000
    nvrtc_version: tuple[int, int] = (13, 0)
    capability: tuple[int, int] = (9, 0)
    most_shared: int = 227 * 1024
    seconds: float = 0  # that a compilation takes
    fail: dict[str, Exception] = field(default_factory=dict)
    run: Callable[[Launched], None] = lambda launch: None

    def check(self, what: str) -> None:
        if what in self.fail:
            raise self.fail[what]

    @contextlib.contextmanager
    def device(self, index: int) -> Iterator[SimpleNamespace]:
        """Both torch.cuda.device and cupy.cuda.Device; only `use` binds a context."""
        before = self.here.device, self.here.context
        self.here.device = index

        def use() -> None:
            self.here.context = context_of(index)

        yield SimpleNamespace(use=use)
        self.here.device, self.here.context = before

    # the driver, under CuPy's names

    def ctxGetCurrent(self) -> int:  # noqa: N802
        return self.here.context

    def ctxSetCurrent(self, context: int) -> None:  # noqa: N802
        self.here.context = context

    def launchKernel(self, handle: int, *rest: int) -> None:  # noqa: N802
        self.check("launch")
        kernel, device = self.handles[handle]
        assert self.here.context == context_of(device), "launched outside the module's context"
        *sizes, shared, stream, params, extra = rest
        address = ctypes.c_uint64.from_address(params).value
        args = ctypes.string_at(address, self.size)
        launch = Launched(
            kernel, device, tuple(sizes[:3]), tuple(sizes[3:]), shared, stream, args, extra
        )
        self.launches.append(launch)
        self.run(launch)

    # RawModule and RawKernel

    def raw_module(self, **keywords: Any) -> SimpleNamespace:
        self.keywords.append(keywords)
        source, options = keywords["code"], keywords["options"]

        def compile() -> None:
            time.sleep(self.seconds)
            self.compiled.append((source, options, self.here.device))
            self.check("compile")

        def get_function(name: str) -> RawKernel:
            if f"{name}(" not in source:
                raise DriverError(500, "CUDA_ERROR_NOT_FOUND: named symbol not found")
            self.check(name)
            handle = 100 + len(self.handles)
            self.handles[handle] = name, self.here.device
            return RawKernel(self, handle)

        return SimpleNamespace(compile=compile, get_function=get_function)

    def cupy(self) -> SimpleNamespace:
        driver = SimpleNamespace(
            CUDADriverError=DriverError,
            ctxGetCurrent=self.ctxGetCurrent,
            ctxSetCurrent=self.ctxSetCurrent,
            launchKernel=self.launchKernel,
        )
        compiler = SimpleNamespace(CompileException=CompileError)
        cuda = SimpleNamespace(
            driver=driver,
            Device=self.device,
            compiler=compiler,
            runtime=SimpleNamespace(driverGetVersion=lambda: self.driver_version),
            nvrtc=SimpleNamespace(getVersion=lambda: self.nvrtc_version),
        )
        return SimpleNamespace(cuda=cuda, RawModule=self.raw_module)


@dataclass
class RawKernel:
    """As CuPy's: a handle, and one attribute that can be set, for the current device."""

    machine: Machine
    handle: int
    shared: int = 48 * 1024

    @property
    def kernel(self) -> SimpleNamespace:
        return SimpleNamespace(ptr=self.handle)

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self.shared

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if size > self.machine.most_shared:
            raise DriverError(1, "CUDA_ERROR_INVALID_VALUE: invalid argument")
        name, device = self.machine.handles[self.handle]
        assert self.machine.here.device == device
        assert self.machine.here.context == context_of(device)
        self.shared = size
        self.machine.raised.append((name, device, size))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """The recording machine in place of CuPy and of PyTorch's CUDA; nothing is loaded."""
    made = Machine()
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "cupy"))
    monkeypatch.setitem(sys.modules, "cupy", made.cupy())
    monkeypatch.setattr(modules, "_loaded", {})
    monkeypatch.setattr(modules, "current_stream", lambda index: made.here.streams[index])
    for name, stand_in in {
        "init": lambda: None,
        "current_device": lambda: made.here.device,
        "device": made.device,
        "is_current_stream_capturing": lambda: made.capturing,
        "get_device_name": lambda index: "NVIDIA H100",
        "get_device_capability": lambda index: made.capability,
        "get_device_properties": lambda index: SimpleNamespace(
            name="NVIDIA H100", shared_memory_per_block_optin=made.most_shared
        ),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return made


def load(source: str = SOURCE, dtype: str = "float32", device: torch.device = CUDA0) -> Any:
    return modules.load("para_gru", source, dtype, device)


def launch(module: Module, kernel: str = "forward", **changes: Any) -> None:
    call = {"grid": 3, "block": (32, 4), "shared": 256, "words": (7, -1)} | changes
    words = call.pop("words")
    launch_one(module, Launch(kernel, **call), *words)


def in_a_thread(work: Callable[[], None]) -> None:
    """Run in a new thread, and raise here what is raised there."""
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


# --- a launch --------------------------------------------------------------------------------


def test_the_struct_reaches_the_kernel_by_value_as_its_only_parameter(machine: Machine) -> None:
    launch(load())
    assert machine.launches == [
        Launched("forward", 0, (3, 1, 1), (32, 4, 1), 256, 0, array("q", (7, -1)).tobytes(), 0)
    ]


def test_the_current_stream_is_asked_for_at_every_launch(machine: Machine) -> None:
    module = load()
    for stream in (0, 0x77, 0x99):
        machine.here.streams[0] = stream
        launch(module)
    assert [launched.stream for launched in machine.launches] == [0, 0x77, 0x99]


def test_without_torchs_quick_way_the_stream_comes_from_its_public_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def current(index: int) -> SimpleNamespace:
        return SimpleNamespace(cuda_stream=0x70 + index)

    monkeypatch.setattr(torch.cuda, "current_stream", current)
    assert modules._public_stream(1) == 0x71


def test_the_stream_is_that_of_the_modules_device_and_not_of_the_current_one(
    machine: Machine,
) -> None:
    machine.here.streams = {0: 0x70, 1: 0x71}
    launch(load(device=CUDA1))
    assert machine.here.device == 0
    assert machine.launches[0].stream == 0x71


def test_a_backward_thread_has_its_own_stream_and_needs_no_context(machine: Machine) -> None:
    module = load()

    def backward() -> None:
        machine.here.streams[0] = 0xBAC
        assert machine.here.context == 0
        launch(module, "backward")
        assert machine.here.context == 0  # left as it was found

    in_a_thread(backward)
    assert [(found.kernel, found.stream) for found in machine.launches] == [("backward", 0xBAC)]


def test_another_devices_context_is_current_again_after_a_launch(machine: Machine) -> None:
    module = load(device=CUDA1)
    machine.here.context = context_of(0)
    launch(module)
    assert machine.launches[0].device == 1
    assert machine.here.context == context_of(0)


def test_a_failed_launch_leaves_the_context_as_it_was(machine: Machine) -> None:
    module = load(device=CUDA1)
    machine.here.context = context_of(0)
    machine.fail["launch"] = DriverError(1, "CUDA_ERROR_INVALID_VALUE: invalid argument")
    with pytest.raises(RnnccError):
        launch(module)
    assert machine.here.context == context_of(0)


def test_an_empty_grid_launches_nothing(machine: Machine) -> None:
    launch(load(), grid=0)
    assert machine.launches == []


@pytest.mark.parametrize(
    "error",
    [
        DriverError(701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: too many resources requested"),
        OverflowError("value too large to convert to unsigned int"),
    ],
)
def test_a_launch_that_cuda_refuses_names_kernel_device_and_sizes(
    machine: Machine, error: Exception
) -> None:
    module = load()
    machine.fail["launch"] = error
    message = (
        "the kernel forward of 'para_gru' for float32 can't be launched on cuda:0 "
        f"(3 blocks of 32 x 4 threads, 256 bytes of shared memory): {error}.\nFix: if an earlier "
        "kernel failed, CUDA_LAUNCH_BLOCKING=1 shows which"
    )
    with pytest.raises(RnnccError, match=re.escape(message)):
        launch(module)


@pytest.mark.parametrize(
    ("older", "most", "fix"),
    [
        ({}, 32764, r"a cell with fewer inputs and parameters\Z"),
        ({"driver_version": 12000}, 4096, "parameters, or a driver and NVRTC of CUDA 12.1 or late"),
        ({"nvrtc_version": (12, 0)}, 4096, "or a driver and NVRTC of CUDA 12.1 or later"),
        ({"capability": (6, 1)}, 4096, "a cell with fewer inputs"),
    ],
)
def test_more_arguments_than_cuda_passes_are_refused(
    machine: Machine, older: dict[str, Any], most: int, fix: str
) -> None:
    for name, value in older.items():
        setattr(machine, name, value)
    module = load()
    launch(module, words=range(most // 8))
    over = 8 * (most // 8 + 1)
    message = rf"takes {over} bytes of arguments; CUDA passes at most {most} here.\nFix: .*{fix}"
    with pytest.raises(RnnccError, match=message):
        launch(module, words=range(over // 8))
    assert len(machine.launches) == 1


def test_a_kernel_that_the_source_lacks_is_named_with_those_it_has(machine: Machine) -> None:
    message = (
        r"the source of 'para_gru' for float32 has no kernel scan; it has backward, forward."
        r"\nFix: regenerate the folder"
    )
    with pytest.raises(RnnccError, match=message):
        launch(load(), "scan")


# --- shared memory ---------------------------------------------------------------------------


def test_shared_memory_above_the_limit_is_asked_for_once_for_each_kernel_and_device(
    machine: Machine,
) -> None:
    one, other = load(), load(device=CUDA1)
    for shared in (0, 48 * 1024, 64 * 1024, 50 * 1024, 64 * 1024, 96 * 1024):
        launch(one, shared=shared)
    assert machine.raised == [("forward", 0, 64 * 1024), ("forward", 0, 96 * 1024)]
    launch(one, "backward", shared=64 * 1024)
    launch(other, shared=64 * 1024)
    assert machine.raised[2:] == [("backward", 0, 64 * 1024), ("forward", 1, 64 * 1024)]


def test_more_shared_memory_than_the_device_has_is_refused(machine: Machine) -> None:
    message = (
        "the kernel forward of 'para_gru' for float32 asks for 262144 bytes of shared memory for "
        "each block; NVIDIA H100 (cuda:0) gives 232448: CUDA_ERROR_INVALID_VALUE"
    )
    with pytest.raises(RnnccError, match=re.escape(message)):
        launch(load(), shared=256 * 1024)
    assert machine.launches == []


# --- loading ---------------------------------------------------------------------------------


def test_a_source_is_loaded_once_for_each_dtype_and_device(machine: Machine) -> None:
    first = load()
    assert load() is first
    other = [load(dtype="bfloat16"), load(device=CUDA1), load(SOURCE + "\n")]
    assert first not in other
    assert [(options[-1], device) for _, options, device in machine.compiled] == [
        ("-DRNNCC_IO=float", 0),
        ("-DRNNCC_IO=rnncc::bfloat16", 0),
        ("-DRNNCC_IO=float", 1),
        ("-DRNNCC_IO=float", 0),
    ]


def test_a_device_without_an_index_is_the_current_one(machine: Machine) -> None:
    modules_of = [load(), load(device=CUDA1)]
    for machine.here.device in (0, 1):
        assert load(device=torch.device("cuda")) is modules_of[machine.here.device]


def test_cupy_is_given_the_text_the_options_and_nothing_that_it_deprecates(
    machine: Machine,
) -> None:
    load()
    options = ("-std=c++17", "-DRNNCC_IO=float")
    assert machine.keywords == [{"code": SOURCE, "options": options, "backend": "nvrtc"}]


def test_threads_that_load_at_once_compile_once(machine: Machine) -> None:
    machine.seconds = 0.05
    gate, found = threading.Barrier(8), []

    def work() -> None:
        gate.wait()
        found.append(load())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1
    assert len(machine.compiled) == 1


def test_threads_that_launch_at_once_each_pass_their_own_arguments(machine: Machine) -> None:
    module = load()

    def work(number: int) -> None:
        for _ in range(50):
            one = Launch("forward", 1, (32, 1), 0)
            launch_one(module, one, number, number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = sorted(tuple(array("q", launched.args)) for launched in machine.launches)
    assert found == sorted((number, number) for number in range(8) for _ in range(50))


def test_a_load_that_failed_is_retried(machine: Machine) -> None:
    machine.fail["compile"] = RuntimeError("out of memory")
    with pytest.raises(BuildError):
        load()
    machine.fail.clear()
    launch(load())
    assert len(machine.launches) == 1


@pytest.mark.parametrize(
    "declared",
    [
        'extern "C" __global__ void scan(Args args)',
        'extern "C" __global__ void __launch_bounds__(1024) scan(Args args)',
        'extern "C" __global__ __launch_bounds__(32 * WARPS, (2)) void scan(Args args)',
        'extern "C" __global__ void __launch_bounds__(at_most(8))\nscan(Args args)',
        'extern "C" __global__ void\n    scan(Args args)',
        "RNNCC_KERNEL(32 * 4) scan(rnncc::Args a)",
    ],
)
def test_kernels_are_found_in_the_text_however_they_are_declared(declared: str) -> None:
    macro = '#define RNNCC_KERNEL(n) extern "C" __global__ void __launch_bounds__(n, 1)\n#endif'
    text = f"{macro}\n__device__ void helper(int x);\n{declared} {{}}\n"
    text += declared.replace("scan", "last")
    assert modules.KERNEL.findall(text) == ["scan", "last"]


def test_all_kernels_of_an_emitted_text_are_found() -> None:
    kernel = compiled("para_gru").kernel
    names = [f"para_gru_{name}" for part in CUDA_KERNELS.values() for name in part]
    assert modules.KERNEL.findall(kernel.source("cuda")) == names


def test_a_kernel_that_the_preprocessor_removed_does_not_stop_the_others(machine: Machine) -> None:
    machine.fail["backward"] = DriverError(500, "CUDA_ERROR_NOT_FOUND: named symbol not found")
    launch(load())
    assert [found.kernel for found in machine.launches] == ["forward"]


def test_a_kernel_whose_code_does_not_load_stops_the_loading(machine: Machine) -> None:
    machine.fail["backward"] = DriverError(2, "CUDA_ERROR_OUT_OF_MEMORY: out of memory")
    message = (
        "the kernel backward of 'para_gru' for float32 can't be loaded on cuda:0: "
        "CUDA_ERROR_OUT_OF_MEMORY: out of memory.\nFix: rnncc doctor"
    )
    with pytest.raises(BuildError, match=re.escape(message)):
        load()


# --- CUDA graphs -----------------------------------------------------------------------------


def test_loading_during_a_capture_says_to_warm_up_first(machine: Machine) -> None:
    machine.capturing = True
    message = (
        r"the kernels of 'para_gru' for float32 are not loaded yet, and nothing can be while a "
        r"CUDA graph is being captured.\nFix: before the capture call layer.warmup\(...\)"
    )
    with pytest.raises(BuildError, match=message):
        load()
    assert machine.compiled == []


def test_loaded_kernels_can_be_launched_during_a_capture(machine: Machine) -> None:
    load()
    handles = len(machine.handles)
    machine.capturing = True
    for kernel in ("forward", "backward"):
        launch(load(), kernel, shared=64 * 1024)
    assert [found.kernel for found in machine.launches] == ["forward", "backward"]
    assert len(machine.handles) == handles  # all kernels were looked up when the source was loaded


def test_a_kernel_that_was_not_found_in_the_text_is_not_looked_up_during_a_capture(
    machine: Machine,
) -> None:
    source = SOURCE + "#define KERNEL(name) __global__ void name\nKERNEL(scan) (); // scan("
    module = load(source)
    machine.capturing = True
    with pytest.raises(BuildError, match=r"the kernel scan of .* is not loaded yet"):
        launch(module, "scan")
    machine.capturing = False
    launch(module, "scan")
    assert [found.kernel for found in machine.launches] == ["scan"]


# --- what goes wrong -------------------------------------------------------------------------


def test_a_text_that_nvrtc_refuses_is_reported_with_equation_path_and_reason(
    machine: Machine,
) -> None:
    machine.fail["compile"] = CompileError(
        '/tmp/tmpx1/0a.cubin.cu(9): error: identifier "q" is undefined', "/tmp/tmpx1/0a.cubin.cu"
    )
    with pytest.raises(BuildError) as error:
        load()
    said = str(error.value)
    first, *_ = said.splitlines()
    assert first == "NVRTC refused the kernel 'para_gru' for float32 on NVIDIA H100 (cuda:0)."
    assert said.index("z = sigmoid(az * h + xz)") < said.index("Full source: ")
    assert 'para_gru.cu(9): error: identifier "q" is undefined' in said
    assert "/tmp/tmpx1" not in said
    assert "\nFix: " in said
    path = re.search(r"Full source: (.+)", said)
    assert path
    assert Path(path.group(1)).read_text() == SOURCE


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (DriverError(209, "CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image"), "no kernel image"),
        (RuntimeError("Failed to find CUDA headers. Please install"), "Failed to find CUDA head"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (AssertionError("\n*** not supported\n***\n"), r"\*\*\* not supported \*\*\*"),
    ],
)
def test_a_text_that_can_not_be_loaded_points_to_doctor(
    machine: Machine, error: Exception, words: str
) -> None:
    machine.fail["compile"] = error
    message = rf"'para_gru' for float32 can't be loaded on cuda:0: .*{words}.*\.\nFix: rnncc doctor"
    with pytest.raises(BuildError, match=message):
        load()


@pytest.mark.parametrize(
    ("cuda", "extra"), [("12.8", "cuda12"), ("13.0", "cuda13"), (None, "cuda13")]
)
def test_a_missing_cupy_is_reported_with_the_command_for_pytorchs_cuda(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, cuda: str | None, extra: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it weren't installed
    with pytest.raises(BuildError) as error:
        load()
    assert str(error.value) == (
        "CuPy, through which CUDA kernels are compiled and loaded, is not installed.\n"
        f'Fix: pip install "rnncc[{extra}]"'
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise ImportError('\\n====\\nFailed to import CuPy.\\n====\\n')", "Failed to import"),
        ("raise ValueError('numpy.dtype size changed')", "numpy.dtype size changed"),
        ("import fastrlock_that_is_missing", "No module named 'fastrlock_that_is_missing'"),
    ],
)
def test_a_cupy_that_can_not_be_imported_is_reported_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "cupy.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    message = rf"CuPy is installed but can't be imported: {words}[^=]*\.\nFix: rnncc doctor"
    with pytest.raises(BuildError, match=message):
        modules.import_cupy()


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (RuntimeError("Cannot re-initialize CUDA in forked subprocess."), 'method "spawn"'),
        (RuntimeError("Found no NVIDIA driver on your system."), "rnncc doctor"),
        (AssertionError("Torch not compiled with CUDA enabled"), "rnncc doctor"),
    ],
)
@pytest.mark.parametrize("device", [CUDA0, torch.device("cuda")])
def test_a_process_that_can_not_use_cuda_gets_the_reason(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    fix: str,
    device: torch.device,
) -> None:
    def init() -> None:
        raise error

    monkeypatch.setattr(torch.cuda, "init", init)
    words = str(error).rstrip(".")
    with pytest.raises(BuildError, match=rf"CUDA can't be used here: {words}\.\nFix: .*{fix}"):
        load(device=device)


def test_a_forked_process_forgets_what_was_loaded_and_the_lock() -> None:
    script = """
import os, threading
from rnncc.runtime.cuda import module as modules
modules._loaded["source", "float32", 0] = "a module"
held = threading.Event(), threading.Event()
def hold():
    with modules._lock:
        held[0].set(); held[1].wait()
threading.Thread(target=hold).start()
held[0].wait()
child = os.fork()
if child == 0:
    os._exit(0 if not modules._loaded and modules._lock.acquire(blocking=False) else 7)
held[1].set()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(modules._loaded))
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "0 1\n"


# --- the self-test ---------------------------------------------------------------------------


def add_one(launched: Launch) -> None:
    """The kernel of the self-test, on the host."""
    count, address = array("q", launched.args)
    threads = launched.grid[0] * launched.block[0] * launched.block[1]
    values = (ctypes.c_float * count).from_address(address)
    for i in range(min(count, threads)):
        values[i] += 1


def test_the_self_test_reports_its_action(machine: Machine) -> None:
    machine.run = add_one
    said = modules.self_test(torch.device("cpu"))
    assert re.fullmatch(r"compiled and loaded in \d+\.\d\d s, and gave the right answer", said)
    assert [found.kernel for found in machine.launches] == ["rnncc_add_one"]


def test_the_self_test_fails_where_nothing_was_added(machine: Machine) -> None:
    with pytest.raises(RnnccError, match=r"gave \[0.0, 1.0, 2.0, 3.0\], ...\nFix: "):
        modules.self_test(torch.device("cpu"))


def test_nvrtc_compiles_the_kernel_of_the_self_test() -> None:
    pytest.importorskip("cupy")
    from rnncc.runtime.cuda import nvrtc

    found = nvrtc.compile("self_test", modules.ADD_ONE, "float32")
    assert [row.kernel for row in found.resources] == modules.KERNEL.findall(modules.ADD_ONE)
    assert re.findall(r"\.param \.align 8 \.b8 \w+\[16\]", found.ptx)


# --- CuPy's own launch -----------------------------------------------------------------------

LIBCUDA = """
#include <string.h>
extern "C" {
long long seen[11];
unsigned char bytes[16];
thread_local void *current;
int cuCtxGetCurrent(void **context) { *context = current; return 0; }
int cuCtxSetCurrent(void *context) { current = context; return 0; }
int cuGetErrorName(int, const char **text) { *text = "CUDA_ERROR_OF_OURS"; return 0; }
int cuGetErrorString(int, const char **text) { *text = "refused"; return 0; }
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void *stream, void **params, void **extra) {
  const long long now[] = {(long long)function, gx, gy, gz, bx, by, bz, shared, (long long)stream,
                           (long long)extra, (long long)current};
  memcpy(seen, now, sizeof now);
  memcpy(bytes, params[0], sizeof bytes);
  return bx > 1024;
}
}
"""
LAUNCH = """
import ctypes
from array import array
from types import SimpleNamespace
import cupy
from rnncc import errors
from rnncc.runtime.cuda import module as modules
from rnncc.runtime.cuda.launch import Launch, launch_one
libcuda = ctypes.CDLL("libcuda.so.1")
raw = SimpleNamespace(kernel=SimpleNamespace(ptr=0xABC), max_dynamic_shared_size_bytes=49152)
modules.current_stream = lambda index: 0x77
cupy.cuda.driver.ctxSetCurrent(0x1000)
module = modules._Loaded(cupy, SimpleNamespace(get_function=lambda name: raw), 0, "'tiny'")
module.find("tiny")
cupy.cuda.driver.ctxSetCurrent(0)
launch_one(module, Launch("tiny", 3, (32, 4), 256), 7, -1)
print(*(ctypes.c_longlong * 11).in_dll(libcuda, "seen"))
print(*array("q", bytes((ctypes.c_ubyte * 16).in_dll(libcuda, "bytes"))))
print(cupy.cuda.driver.ctxGetCurrent())
try:
    launch_one(module, Launch("tiny", 3, (2048, 1), 0), 7, -1)
except errors.RnnccError as error:
    print(str(error).splitlines()[0])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libcuda.so.1 is Linux's name")
def test_cupys_own_launch_passes_the_driver_the_same_arguments(tmp_path: Path) -> None:
    """The real CuPy, above a libcuda that writes down what arrives."""
    pytest.importorskip("cupy")
    compiler = find_compiler()
    assert compiler
    (tmp_path / "libcuda.cpp").write_text(LIBCUDA)
    flags = ["-shared", "-fPIC", str(tmp_path / "libcuda.cpp"), "-o", f"{tmp_path}/libcuda.so.1"]
    subprocess.run([*compiler.command, *flags], check=True)
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH],
        cwd=ROOT,
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "CUPY_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    seen, args, context, refused = done.stdout.splitlines()
    sizes = [3, 1, 1, 32, 4, 1, 256]
    assert [int(number) for number in seen.split()] == [0xABC, *sizes, 0x77, 0, 0x1000]
    assert args == "7 -1"
    assert context == "0"
    assert refused == (
        "the kernel tiny of 'tiny' can't be launched on cuda:0 (3 blocks of 2048 x 1 threads, "
        "0 bytes of shared memory): CUDA_ERROR_OF_OURS: refused."
    )
