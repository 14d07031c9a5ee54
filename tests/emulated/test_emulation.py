"""The emulation itself: right kernels run right, and each fault of broken ones is found."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rnncc.errors import BuildError
from rnncc.runtime.cuda import nvrtc
from tests.support import emulate, emulation_build
from tests.support.emulate import EmulatedModule, load, same_under_seeds
from tests.support.emulation_build import FOLDER
from tests.support.sanitizers import EmulationError, run_sanitized

SHAPES = [(128, 1), (32, 4)]
SEEDS = [0, 1, 2]
GRID = 3
COUNT = GRID * 128
POINTERS = ("x", "y", "marks", "bits")


class Args(ctypes.Structure):
    """As in right.cu and broken.cu."""

    _fields_ = (*((name, ctypes.c_void_p) for name in POINTERS), ("count", ctypes.c_int64))


def wave(count: int = COUNT) -> Tensor:
    return torch.sin(torch.arange(count) * 0.7)


@dataclass
class Run:
    """The tensors that one launch reads and writes."""

    x: Tensor = field(default_factory=wave)
    y: Tensor = field(default_factory=lambda: torch.full((COUNT,), math.nan))
    marks: Tensor = field(default_factory=lambda: torch.zeros(6 * COUNT, dtype=torch.int32))
    bits: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.int64))

    def launch(
        self,
        module: EmulatedModule,
        kernel: str,
        grid: int = 1,
        block: tuple[int, int] = (64, 1),
        shared: int = 1024,
        count: int = 0,
    ) -> Run:
        pointers = (getattr(self, name).data_ptr() for name in POINTERS)
        args = Args(*pointers, count)
        module.launch(kernel, grid, block, shared, ctypes.addressof(args), ctypes.sizeof(args))
        return self


@functools.cache
def text(name: str) -> str:
    return (FOLDER / f"{name}.cu").read_text(encoding="utf-8")


@functools.cache
def built(name: str, dtype: str = "float32", races: bool = False) -> EmulatedModule:
    return load(text(name), dtype, races=races)


@pytest.fixture
def right() -> EmulatedModule:
    return load(text("right"), "float32")


@pytest.fixture
def broken() -> EmulatedModule:
    return load(text("broken"), "float32")


def fault_of(call: Callable[[], object]) -> str:
    with pytest.raises(EmulationError) as caught:
        call()
    return str(caught.value)


# --- right kernels ---------------------------------------------------------------------------
# Each also under the race detector, which must find nothing.


@pytest.fixture(params=[False, True], ids=["plain", "races"])
def launch(request: pytest.FixtureRequest) -> Callable[..., Run]:
    def run(kernel: str, block: tuple[int, int], seed: int, **others: int) -> Run:
        module = load(text("right"), "float32", seed=seed, races=request.param)
        return Run().launch(module, kernel, GRID, block, **others)

    return run


both = pytest.mark.parametrize("block", SHAPES, ids=str)
seeded = pytest.mark.parametrize("seed", SEEDS)


@both
@seeded
def test_a_block_adds_up_by_shuffles(
    launch: Callable[..., Run], block: tuple[int, int], seed: int
) -> None:
    run = launch("block_sum", block, seed)
    torch.testing.assert_close(run.y[:GRID], run.x.view(GRID, -1).sum(1))
    assert run.y[GRID:].isnan().all()


@both
@seeded
def test_a_block_scans_through_shared_memory(
    launch: Callable[..., Run], block: tuple[int, int], seed: int
) -> None:
    run = launch("block_scan", block, seed)
    torch.testing.assert_close(run.y, run.x.view(GRID, -1).cumsum(1).view(-1))


@both
@seeded
def test_a_grid_finds_its_extremes_by_atomics(
    launch: Callable[..., Run], block: tuple[int, int], seed: int
) -> None:
    run = launch("grid_extremes", block, seed, count=COUNT - 5)
    assert run.bits.view(torch.float64)[0] == wave(COUNT - 5).double().abs().max()
    assert run.marks[:3].tolist() == [-100, COUNT - 5, 2**31 - 1]


@both
@seeded
def test_votes_count_the_lanes_and_the_threads(
    launch: Callable[..., Run], block: tuple[int, int], seed: int
) -> None:
    run = launch("votes", block, seed)
    votes = (run.x > 0).tolist()
    for warp, row in enumerate(run.marks.view(-1, 32, 6).tolist()):
        mine, all_of = votes[32 * warp :][:32], votes[128 * (warp // 4) :][:128]
        ballot = ctypes.c_int32(sum(vote << lane for lane, vote in enumerate(mine))).value
        of_warp = [ballot, any(mine), all(mine)]
        assert row == [[*of_warp, sum(all_of), any(all_of), all(all_of)]] * 32


@both
@pytest.mark.parametrize("width", [8, 32])
def test_shuffles_read_the_lane_that_cuda_says(
    launch: Callable[..., Run], block: tuple[int, int], width: int
) -> None:
    run = launch("shuffles", block, 0, count=width)
    for lane, row in enumerate(run.marks[: 5 * COUNT].view(-1, 32, 5)[5].tolist()):
        first, last = lane // width * width, lane // width * width + width - 1
        up = lane - 3 if lane - 3 >= first else lane
        down = lane + 3 if lane + 3 <= last else lane
        assert row == [first + (lane * 7 + 3) % width, up, down, lane ^ 5, 0]


@both
@seeded
def test_the_halves_of_a_warp_go_their_own_ways(
    launch: Callable[..., Run], block: tuple[int, int], seed: int
) -> None:
    run = launch("halves", block, seed)
    expected = torch.tensor([sum(range(16, 32))] * 16 + [sum(range(16))] * 16)
    assert torch.equal(run.marks[:COUNT].view(-1, 32).long(), expected.expand(COUNT // 32, 32))


@both
@seeded
def test_lanes_exchange_through_memory_with_syncwarp(
    launch: Callable[..., Run], block: tuple[int, int], seed: int
) -> None:
    run = launch("neighbours", block, seed)
    assert torch.equal(run.y.view(-1, 32), run.x.view(-1, 32).roll(-3, 1))


@both
@seeded
def test_the_block_that_ends_last_reads_the_results_of_the_others(
    launch: Callable[..., Run], block: tuple[int, int], seed: int
) -> None:
    run = launch("grid_sum", block, seed)
    assert run.y[0] == (run.y[1] + run.y[2]) + run.y[3]
    torch.testing.assert_close(run.y[1 : 1 + GRID], run.x.view(GRID, -1).sum(1))


@both
def test_threads_may_write_the_same_value(
    launch: Callable[..., Run], block: tuple[int, int]
) -> None:
    run = launch("same_value", block, 0, count=9)
    assert [run.marks[0], run.bits[0]] == [7, 9]


@both
def test_each_thread_has_its_own_copy_of_the_arguments(
    launch: Callable[..., Run], block: tuple[int, int]
) -> None:
    assert not launch("own_arguments", block, 0, count=7).marks.any()


def test_results_are_equal_bit_for_bit_under_several_seeds(right: EmulatedModule) -> None:
    results = same_under_seeds(right, lambda: {"y": Run().launch(right, "grid_sum", 3, (32, 4)).y})
    assert results["y"][0].isfinite()
    assert right.seed == 0


def test_hardware_functions_are_as_inexact_as_the_guide_says() -> None:
    outcomes = {}
    for dtype, io in (("float32", torch.float32), ("float64", torch.float64)):
        run = Run(x=wave().to(io), y=torch.full((COUNT,), math.nan, dtype=io))
        run.x[0] = 1.5
        outcomes[dtype] = run.launch(built("right", dtype), "hardware_functions", 1, (32, 1)).y
    expected = [0, math.exp(1.5), 1 / 1.5, 3.25, 1.5**-0.5, 2, 0, 1.5]
    for dtype, below_normal in (("float32", 0.0), ("float64", 1.5)):
        expected[6] = below_normal
        found = outcomes[dtype][: len(expected)].double()
        torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-6, atol=0)


def test_floats_below_normal_stay_where_they_are_not_flushed(right: EmulatedModule) -> None:
    right.flush = False
    run = Run()
    run.x[0] = 1.5
    assert run.launch(right, "hardware_functions", 1, (32, 1)).y[6] == 1.5
    assert torch.tensor(1e-40) * 1e3 != 0  # and not after a launch either


# --- barriers, votes and shuffles ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        ("barrier_in_a_branch", ["has exited, but thread", "waits at __syncthreads (kernel.cu:"]),
        ("exit_before_a_barrier", ["(40, 0, 0)", "exited", "all threads of a block come to the"]),
        ("two_barriers", ["waits at __syncthreads (", "waits at __syncthreads_or ("]),
        ("shuffle_after_an_exit", ["names lane 5, but that thread has exited"]),
        ("shuffle_against_a_barrier", ["waits at __syncthreads (kernel.cu:", "(3, 0, 0)"]),
        ("shuffle_against_a_vote", ["__any_sync (kernel.cu:", "waits at", "__shfl_down_sync"]),
        ("mask_without_the_caller", ["0x7fffffff, which leaves out lane 31, the caller's own"]),
        ("different_masks", ["with mask 0xffffffff", "with mask 0xffff0001", "with this mask"]),
        ("lane_outside_of_the_mask", ["reads from lane 20", "0x0000ffff leaves that out"]),
        ("odd_width", ["width 5", "1, 2, 4, 8, 16 or 32"]),
        ("ring", ["__syncwarp", "with mask 0x0000000", "which names lane", "waits at __syncwarp"]),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_threads_that_do_not_meet_are_found(
    broken: EmulatedModule, kernel: str, said: list[str], seed: int
) -> None:
    broken.seed = seed
    fault = fault_of(lambda: Run().launch(broken, kernel))
    assert fault.startswith(f"kernel '{kernel}', block (0, 0, 0), thread (")
    assert "\nExpected: " in fault
    assert [words for words in said if words not in fault] == []


def test_lanes_that_a_block_does_not_have_are_found(broken: EmulatedModule) -> None:
    fault = fault_of(lambda: Run().launch(broken, "lanes_beyond_the_block", block=(16, 1)))
    assert "names lane 16, but the block has no thread there" in fault


def test_a_shuffle_that_a_lane_misses_at_a_barrier_is_found_in_one_warp(
    broken: EmulatedModule,
) -> None:
    fault = fault_of(lambda: Run().launch(broken, "shuffle_against_a_barrier", block=(32, 1)))
    assert "names lane 3, but that waits at __syncthreads (kernel.cu:" in fault


def test_the_lines_that_a_fault_names_are_quoted(broken: EmulatedModule) -> None:
    fault = fault_of(lambda: Run().launch(broken, "barrier_in_a_branch"))
    number = 1 + text("broken").splitlines().index("  if (threadIdx.x != 7) __syncthreads();")
    assert f"kernel.cu:{number})" in fault
    assert fault.endswith(f"\n  {number}: if (threadIdx.x != 7) __syncthreads();")


def test_after_a_fault_other_kernels_run_as_before(broken: EmulatedModule) -> None:
    for _ in range(3):
        fault_of(lambda: Run().launch(broken, "barrier_in_a_branch", block=(256, 1)))
        run = Run().launch(broken, "lost_update", 1, (256, 1))
        assert run.marks[0] == 256


# --- the order of threads --------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["missing_barrier", "missing_second_barrier"])
def test_a_missing_barrier_shows_in_the_results_of_several_seeds(
    broken: EmulatedModule, kernel: str
) -> None:
    fault = fault_of(
        lambda: same_under_seeds(broken, lambda: {"y": Run().launch(broken, kernel).y})
    )
    assert "'y' depends on the order of threads: entry" in fault


def test_a_sum_in_any_order_shows_in_the_results_of_several_seeds(broken: EmulatedModule) -> None:
    def run() -> dict[str, Tensor]:
        return {"y": Run(y=torch.zeros(1)).launch(broken, "sum_in_any_order", 3).y}

    fault = fault_of(lambda: same_under_seeds(broken, run))
    assert "entry 0 (counted flat) is" in fault
    assert "1 of 1 entries differ" in fault


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        ("missing_barrier", "of dynamic shared memory"),
        ("missing_second_barrier", "of dynamic shared memory"),
        ("lost_update", "a race on static shared memory"),
        ("missing_syncwarp", "a race on static shared memory"),
        ("blocks_add_to_one_place", "a race on global memory"),
        ("different_values", "a race on global memory: it is written"),
        ("missing_fence", "a race on global memory"),
        ("atomic_and_plain", "atomically written"),
        ("local_variable_of_another", "uses a local variable of another thread"),
    ],
)
@seeded
def test_the_race_detector_finds_accesses_that_nothing_orders(
    kernel: str, said: str, seed: int
) -> None:
    module = load(text("broken"), "float32", seed=seed, races=True)
    fault = fault_of(lambda: Run().launch(module, kernel, 2 if "global" in said else 1))
    assert fault.startswith(f"kernel '{kernel}', block (")
    assert said in fault
    line = int(re.findall(r"kernel\.cu:(\d+)", fault)[0])
    assert f"\n  {line}: {text('broken').splitlines()[line - 1].strip()}" in fault


# --- memory ----------------------------------------------------------------------------------


def test_shared_memory_that_was_never_written_is_nan(broken: EmulatedModule) -> None:
    run = Run(y=torch.zeros(COUNT)).launch(broken, "shared_never_written")
    assert run.y[:64].isnan().all()


def test_a_block_does_not_find_what_another_left(broken: EmulatedModule) -> None:
    run = Run().launch(broken, "left_by_another_block", GRID)
    assert (run.y[:64] == 1).all()
    assert run.y[64 : 64 * GRID].isnan().all()


def test_the_first_access_beyond_dynamic_memory_is_found_without_a_sanitizer(
    broken: EmulatedModule,
) -> None:
    fault = fault_of(lambda: Run().launch(broken, "beyond_dynamic", shared=256))
    assert "thread (63, 0, 0)" in fault
    assert "0 bytes beyond its end; it has 256 bytes" in fault


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        ("no_memory_there", "accesses memory at address 0x10, where there is none"),
        ("too_many_locals", "needs more than 256 KiB for its local variables"),
        ("division_by_zero", "divides an integer by zero"),
    ],
)
@pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="elsewhere a division by 0 isn't a fault"
)
def test_processor_exceptions_are_faults_and_not_crashes(
    broken: EmulatedModule, kernel: str, said: str
) -> None:
    count = 0 if "division" in kernel else 16
    assert said in fault_of(lambda: Run().launch(broken, kernel, count=count))


@pytest.mark.parametrize("kernel", ["endless", "waits_for_a_later_block"])
def test_a_launch_without_an_end_is_a_fault(broken: EmulatedModule, kernel: str) -> None:
    broken.seconds = 1
    fault = fault_of(lambda: Run().launch(broken, kernel))
    assert f"kernel '{kernel}', block (0, 0, 0), thread (" in fault
    assert "the launch has taken more than 1 s" in fault


SANITIZED = """
import ctypes
from tests.support import emulate
from tests.support.emulation_build import FOLDER
module = emulate.load((FOLDER / "{file}.cu").read_text(), "float32", sanitize=True)
x, y = (ctypes.c_float * 64)(*range(64)), (ctypes.c_float * 64)()
marks, bits = (ctypes.c_int * 384)(), (ctypes.c_longlong * 4)()
pointers = [ctypes.addressof(a) for a in (x, y, marks, bits)]
args = (ctypes.c_longlong * 5)(*pointers, {count})
for kernel in {kernels}:
    module.launch(kernel, 1, (64, 1), 256, ctypes.addressof(args))
print(list(y), "done")
"""
sanitizers = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's")


def sanitized(file: str, *kernels: str, count: int = 8) -> str:
    return run_sanitized("-c", SANITIZED.format(file=file, kernels=kernels, count=count))


@sanitizers
@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        ("beyond_global", "AddressSanitizer: heap-buffer-overflow"),
        ("beyond_dynamic", "AddressSanitizer: heap-buffer-overflow"),
        ("beyond_static", "store to address|AddressSanitizer: global-buffer-overflow"),
        ("unaligned", "misaligned address"),
    ],
)
def test_the_sanitizers_find_accesses_out_of_bounds_and_unaligned(kernel: str, said: str) -> None:
    fault = fault_of(lambda: sanitized("broken", kernel, count=64))
    assert f"kernel '{kernel}', block (0, 0, 0), thread (" in fault
    assert "kernel.cu:" in fault
    assert any(words in fault for words in said.split("|"))


@sanitizers
def test_the_sanitizers_find_nothing_in_right_kernels_and_know_their_fibers() -> None:
    kernels = ("block_sum", "block_scan", "votes", "shuffles", "halves", "neighbours", "grid_sum")
    assert "done" in sanitized("right", *kernels)


@sanitizers
def test_other_faults_are_found_under_the_sanitizers_too() -> None:
    fault = fault_of(lambda: sanitized("broken", "barrier_in_a_branch"))
    assert "thread (7, 0, 0)" in fault
    assert "waits at __syncthreads" in fault


def test_a_sanitized_kernel_needs_a_process_of_its_own() -> None:
    assert "run_sanitized" in fault_of(lambda: load(text("right"), "float32", sanitize=True))


# --- launches --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"grid": 0}, "a grid of 0 blocks.\nExpected: 1 to 2147483647 blocks"),
        ({"grid": 2**31}, "a grid of 2147483648 blocks.\nExpected: 1 to 2147483647 blocks"),
        ({"block": (64, 17)}, "a block of (64, 17) threads.\nExpected: 1 to 1024 in all"),
        ({"block": (32, 0)}, "a block of (32, 0) threads.\nExpected: 1 to 1024 in all"),
        ({"shared": -1}, "-1 bytes of dynamic shared memory beside"),
        ({"shared": 48 * 1024}, "Expected: at most 49152 (most_shared) in all"),
    ],
    ids=str,
)
def test_a_launch_that_cuda_refuses_is_a_fault(
    right: EmulatedModule, wrong: dict[str, object], said: str
) -> None:
    run = Run()
    fault = fault_of(lambda: run.launch(right, "own_arguments", **wrong))  # type: ignore[arg-type]
    assert fault.startswith("kernel 'own_arguments' is launched with ")
    assert said in fault


def test_a_block_beyond_the_launch_bound_is_a_fault(right: EmulatedModule) -> None:
    assert Run().launch(right, "at_most_64_threads", block=(32, 2)).marks[0] == 1
    fault = fault_of(lambda: Run().launch(right, "at_most_64_threads", block=(32, 3)))
    assert "a block of (32, 3) threads.\nExpected: at most its launch bound, 64" in fault


def test_static_shared_memory_counts_as_well(right: EmulatedModule) -> None:
    arrays = 4 * (32 + 1024)  # sums and rows
    assert arrays < right.library.emulation_static_bytes() < arrays + 128
    Run().launch(right, "own_arguments", shared=48 * 1024 - arrays - 128)
    fault_of(lambda: Run().launch(right, "own_arguments", shared=48 * 1024 - arrays + 16))


def test_more_shared_memory_has_to_be_asked_for(right: EmulatedModule) -> None:
    right.most_shared = emulate.SHARED_ON_REQUEST
    run = Run().launch(right, "block_scan", 3, (32, 4), shared=200 * 1024)
    assert run.y.isfinite().all()
    assert "at most 232448" in fault_of(
        lambda: Run().launch(right, "block_scan", shared=emulate.SHARED_ON_REQUEST)
    )


def test_an_unknown_kernel_and_a_struct_of_another_size_are_faults(right: EmulatedModule) -> None:
    assert "no kernel 'other'.\nExpected: one of block_sum, " in fault_of(
        lambda: Run().launch(right, "other")
    )
    args = Args()
    assert "a struct of 48 bytes.\nExpected: 40 bytes" in fault_of(
        lambda: right.launch("votes", 1, (32, 1), 0, ctypes.addressof(args), 48)
    )


# --- building --------------------------------------------------------------------------------


def test_kernels_that_the_preprocessor_leaves_out_are_not_there() -> None:
    source = (
        text("right").replace("RNNCC_KERNEL(64)", "#ifdef LEFT_OUT\nRNNCC_KERNEL(64)") + "#endif"
    )
    kernels = load(source, "float32").kernels
    assert "own_arguments" in kernels
    assert "at_most_64_threads" not in kernels


@pytest.mark.parametrize("name", ["right", "broken", "names"])
@pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None, reason='needs pip install "rnncc[cuda13]"'
)
def test_nvrtc_takes_everything_that_the_emulation_takes(name: str) -> None:
    for dtype in ("float32", "float64"):
        assert nvrtc.compile(name, text(name), dtype).cubin


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_every_name_of_the_header_compiles(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    monkeypatch.setenv("CXX", compiler)
    kernels = load(text("names"), "float32").kernels
    assert list(kernels) == ["numbers", "atomics", "meetings", "memory"]


def test_text_that_leans_on_a_header_is_refused() -> None:
    source = 'extern "C" __global__ void lean(float* x) { *x = INFINITY; }\n'
    with pytest.raises(BuildError, match=r"INFINITY.* was not declared|undeclared identifier"):
        load(source, "float32")


def test_a_source_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(tmp_path))
    first = load(text("right"), "float32").path
    built_at = first.stat().st_mtime_ns
    assert load(text("right"), "float32").path == first
    assert first.stat().st_mtime_ns == built_at
    assert load(text("right"), "float64").path != first
    assert first.parent == tmp_path / "emulation"


def test_processes_that_build_the_same_do_not_clash(tmp_path: Path) -> None:
    code = (
        "from tests.support import emulate\n"
        "from tests.support.emulation_build import FOLDER\n"
        "text = (FOLDER / 'right.cu').read_text()\n"
        "print(emulate.load(text, 'float32').path)"
    )
    environment = os.environ | {"RNNCC_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    root = FOLDER.parents[2]
    running = [
        subprocess.Popen(command, env=environment, cwd=root, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    paths = {process.communicate()[0].strip() for process in running}
    assert paths == {str(path) for path in tmp_path.rglob("*.so")}
    assert len(paths) == 1


@pytest.mark.skipif(shutil.which("clang++") is None, reason="needs clang++")
def test_clang_builds_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "clang++")
    for races in (False, True):
        module = load(text("right"), "float32", races=races)
        run = Run().launch(module, "grid_sum", GRID, (32, 4))
        torch.testing.assert_close(run.y[0], run.x.sum(), atol=1e-5, rtol=0)


def test_fibers_switch_by_ucontext_where_no_other_way_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = built("right").path
    monkeypatch.setattr(emulation_build, "BOTH", [*emulation_build.BOTH, "-DEMULATION_UCONTEXT"])
    module = load(text("right"), "float32")
    assert module.path != usual
    run = Run().launch(module, "block_scan", GRID, (32, 4))
    torch.testing.assert_close(run.y, run.x.view(GRID, -1).cumsum(1).view(-1))
    fault = load(text("broken"), "float32")
    assert "has exited" in fault_of(lambda: Run().launch(fault, "exit_before_a_barrier"))
