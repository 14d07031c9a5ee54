"""Modules on a real GPU: streams, threads, graphs, devices, memory, and how long loading takes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from rnncc.errors import BuildError, RnnccError
from rnncc.runtime.cuda import module as modules
from rnncc.runtime.cuda.launch import Launch, launch_one

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]
# `copy` takes a while, so that what is on the wrong stream comes too early or too late.
SOURCE = """\
struct Args {
  long long count, clocks;
  const float *from;
  float *to;
};

extern "C" __global__ void copy(const Args args) {
  const long long start = clock64();
  while (clock64() - start < args.clocks) {}
  for (long long i = threadIdx.x; i < args.count; i += blockDim.x) args.to[i] = args.from[i];
}

extern "C" __global__ void sum(const Args args) {
  extern __shared__ float parts[];
  for (int i = threadIdx.x; i < args.count; i += blockDim.x) parts[i] = args.from[i];
  __syncthreads();
  if (threadIdx.x == 0) {
    float total = 0;
    for (int i = 0; i < args.count; ++i) total += parts[i];
    args.to[0] = total;
  }
}

"""
LONG = 200_000_000  # clocks; about a tenth of a second


def load(device: str = "cuda:0") -> modules.Module:
    return modules.load("tests", SOURCE, "float32", torch.device(device))


def launch(
    module: modules.Module,
    kernel: str,
    source: torch.Tensor,
    to: torch.Tensor,
    *,
    clocks: int = 0,
    shared: int = 0,
) -> None:
    args = (source.numel(), clocks, source.data_ptr(), to.data_ptr())
    launch_one(module, Launch(kernel, 1, (32, 1), shared), *args)


def ones(device: str = "cuda:0", count: int = 1000) -> torch.Tensor:
    return torch.ones(count, device=device)


@pytest.fixture
def device() -> torch.device:
    """The GPU to test on, with nothing left to do."""
    torch.cuda.synchronize()
    return torch.device("cuda:0")


def test_the_self_test_passes(device: torch.device) -> None:
    assert modules.self_test(device).endswith("gave the right answer")


# --- streams and threads ---------------------------------------------------------------------


def test_a_kernel_runs_after_earlier_work_of_its_stream(device: torch.device) -> None:
    module = load()
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            first, second, third = torch.zeros(3, 1000, device=device).unbind()
            launch(module, "copy", ones(), first, clocks=LONG)
            second += first
            launch(module, "copy", second, third)
            result = third + 1
        torch.cuda.synchronize()
        assert torch.equal(result, 2 * ones())


def test_a_kernel_runs_on_the_current_stream_and_on_no_other(device: torch.device) -> None:
    module, side = load(), torch.cuda.Stream()
    source, to = ones(), torch.zeros(1000, device=device)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        launch(module, "copy", source, to, clocks=LONG)
    assert not side.query()  # still at it
    assert torch.cuda.current_stream().query()
    side.synchronize()
    assert torch.equal(to, source)


def test_two_streams_run_side_by_side(device: torch.device) -> None:
    module = load()
    streams = torch.cuda.Stream(), torch.cuda.Stream()
    source, to = ones(), [torch.zeros(1000, device=device) for _ in streams]
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()

    def elapsed(*order: torch.cuda.Stream) -> float:
        begin.record()
        for stream, target in zip(order, to, strict=True):
            stream.wait_event(begin)
            with torch.cuda.stream(stream):
                launch(module, "copy", source, target, clocks=LONG)
            torch.cuda.current_stream().wait_stream(stream)
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end)

    elapsed(*streams)
    assert elapsed(*streams) < 0.75 * elapsed(streams[0], streams[0])
    assert all(torch.equal(target, source) for target in to)


def test_a_launch_does_not_wait_for_its_kernel(device: torch.device) -> None:
    module, to = load(), torch.zeros(1000, device=device)
    source, done = ones(), torch.cuda.Event()
    launch(module, "copy", source, to, clocks=LONG)
    done.record()
    assert not done.query()
    done.synchronize()


class Copy(torch.autograd.Function):
    """y = x by a kernel of ours, backward as well."""

    threads: ClassVar[list[int]] = []

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros_like(x)
        launch(load(), "copy", x, y, clocks=LONG // 10)
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
        Copy.threads.append(threading.get_ident())
        dx = torch.zeros_like(dy)
        launch(load(), "copy", dy.contiguous(), dx, clocks=LONG // 10)
        return dx


@pytest.mark.parametrize("own_stream", [False, True])
def test_a_backward_runs_in_autograds_thread_on_the_forwards_stream(
    device: torch.device, own_stream: bool
) -> None:
    stream = torch.cuda.Stream() if own_stream else torch.cuda.current_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        x = ones().requires_grad_()
        (3 * Copy.apply(x)).sum().backward()
        assert x.grad is not None
        gradient = x.grad.clone()
    torch.cuda.synchronize()
    assert torch.equal(gradient, 3 * ones())
    assert threading.get_ident() not in Copy.threads


def test_a_thread_that_never_used_cuda_can_launch(device: torch.device) -> None:
    module, source, to = load(), ones(), torch.zeros(1000, device=device)
    torch.cuda.synchronize()
    raised: list[Exception] = []

    def work() -> None:
        try:
            launch(module, "copy", source, to)
        except RnnccError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    torch.cuda.synchronize()
    assert raised == []
    assert torch.equal(to, source)


# --- graphs ----------------------------------------------------------------------------------


def test_a_launch_can_be_captured_and_replayed(device: torch.device) -> None:
    module = load()
    source, to = ones(), torch.zeros(1000, device=device)
    total = torch.zeros(1, device=device)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        launch(module, "copy", source, to)
        launch(module, "sum", to, total, shared=64 * 1024)
    assert float(total) == 0  # recorded, not run
    for value in (1.0, 2.0):
        source.fill_(value)
        graph.replay()
        assert float(total) == 1000 * value


def test_loading_during_a_capture_raises_and_the_capture_continues(device: torch.device) -> None:
    new = SOURCE + "// never loaded before\n"
    source, to = ones(), torch.zeros(1000, device=device)
    module, graph = load(), torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        with pytest.raises(BuildError, match=r"call layer.warmup"):
            modules.load("tests", new, "float32", device)
        launch(module, "copy", source, to)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(to, source)


# --- shared memory, faults -------------------------------------------------------------------


def test_a_block_can_have_more_than_48_kib_of_shared_memory(device: torch.device) -> None:
    total = torch.zeros(1, device=device)
    launch(load(), "sum", ones(count=20_000), total, shared=80_000)
    assert float(total) == 20_000


def test_more_shared_memory_than_there_is_is_refused(device: torch.device) -> None:
    with pytest.raises(RnnccError, match=r"asks for 1000000 bytes of shared memory .* gives \d+"):
        launch(load(), "sum", ones(), ones(), shared=1_000_000)
    modules.self_test(device)  # no harm done


def test_a_block_too_large_is_refused_with_its_sizes(device: torch.device) -> None:
    source = ones()
    words = (0, 0, source.data_ptr(), source.data_ptr())
    with pytest.raises(RnnccError, match=r"1 blocks of 32 x 64 threads.*: CUDA_ERROR_INVALID_VAL"):
        launch_one(load(), Launch("copy", 1, (32, 64), 0), *words)
    modules.self_test(device)


def test_a_source_that_nvrtc_refuses_is_reported_with_its_line(device: torch.device) -> None:
    wrong = '//   h = q * h\nextern "C" __global__ void wrong() { q; }\n'
    with pytest.raises(BuildError) as error:
        modules.load("wrong", wrong, "float32", device)
    said = str(error.value)
    assert said.splitlines()[1].strip() == "h = q * h"
    assert 'wrong.cu(2): error: identifier "q" is undefined' in said


def test_a_forked_process_is_told_to_spawn() -> None:
    script = """
import os, torch
from rnncc import errors
from rnncc.runtime.cuda import module as modules
from rnncc.runtime.cuda.launch import Launch, launch_one
device = torch.device("cuda:0")
modules.self_test(device)
child = os.fork()
if child == 0:
    try:
        modules.load("self_test", modules.ADD_ONE, "float32", device)
    except errors.BuildError as error:
        os._exit(0 if "spawn" in str(error) else 1)
    os._exit(2)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


# --- several devices, memory -----------------------------------------------------------------


def test_a_second_device_has_its_own_module_and_leaves_the_current_one_current() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    results = []
    for name in ("cuda:0", "cuda:1", "cuda:0", "cuda:1"):
        to = torch.zeros(1, device=name)
        launch(load(name), "sum", ones(name, 15_000), to, shared=60_000)
        assert torch.cuda.current_device() == 0
        results.append(float(to))
    assert results == [15_000] * 4


def test_no_memory_comes_from_cupys_pool(device: torch.device) -> None:
    import cupy

    module, source, to = load(), ones(), torch.zeros(1000, device=device)
    before = cupy.get_default_memory_pool().total_bytes(), torch.cuda.memory_allocated()
    for _ in range(10):
        launch(module, "copy", source, to)
    torch.cuda.synchronize()
    assert (cupy.get_default_memory_pool().total_bytes(), torch.cuda.memory_allocated()) == before
    assert before[0] == 0


# --- the cache -------------------------------------------------------------------------------

SELF_TEST = """
import torch
from rnncc.runtime.cuda import module as modules
from rnncc.runtime.cuda.launch import Launch, launch_one
device = torch.device("cuda:0")
torch.zeros(1, device=device)
modules.import_cupy()
modules.self_test(device)
"""


def test_a_second_process_takes_the_binary_from_the_cache(tmp_path: Path) -> None:
    def binaries() -> dict[Path, int]:
        subprocess.run(
            [sys.executable, "-c", SELF_TEST],
            cwd=ROOT,
            env=os.environ | {"CUPY_CACHE_DIR": str(tmp_path)},
            check=True,
        )
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.cubin")}

    first = binaries()
    assert len(first) == 1
    assert binaries() == first
