"""The text of kernel.cu, emulated: no races, nothing out of bounds, the same bits in any order.

That it computes what the oracle does is held by test_oracle, test_segments and test_sequences,
which run on every target. Kernels broken on purpose show that the emulation would notice.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

import rnncc
from rnncc.inspect import loops, sass
from rnncc.ir.spec import CUDA_KERNELS
from rnncc.lang.loader import find
from rnncc.planner.cuda import AUTO_ROUNDS
from rnncc.runtime.cuda import nvrtc
from tests.support.emulated import emulated
from tests.support.levels import LEVELS, broken, call_of
from tests.support.runs import (
    CELLS,
    CORE,
    Call,
    Outcome,
    assert_agree,
    by_kernel,
    by_oracle,
    compiled,
    random_call,
)
from tests.support.sanitizers import EmulationError, run_sanitized

each_cell = pytest.mark.parametrize("name", CELLS)
each_level = pytest.mark.parametrize("level", LEVELS)


def same_bits(one: Outcome, other: Outcome) -> bool:
    pairs = itertools.chain(
        zip([*one.y, *one.h, *one.z], [*other.y, *other.h, *other.z], strict=True),
        ((one.gradients[n], other.gradients[n]) for n in one.gradients),
    )
    return all(torch.equal(a, b) for a, b in pairs)


# --- order -----------------------------------------------------------------------------------


@each_level
@each_cell
def test_the_order_of_threads_and_blocks_changes_no_bit(name: str, level: str) -> None:
    if level == "newton" and name not in ("para_gru", "lru"):
        pytest.skip("may not converge")
    call, outcomes = call_of(name), []
    for seed in range(3):
        with emulated(seed):
            outcomes.append(by_kernel(name, call, **LEVELS[level]))
    assert same_bits(outcomes[0], outcomes[1])
    assert same_bits(outcomes[0], outcomes[2])


@each_level
@pytest.mark.parametrize("name", ["para_gru", "lstm", "block_elman", "clocked"])
def test_no_two_accesses_meet_unordered(name: str, level: str) -> None:
    if level == "newton" and name != "para_gru":
        pytest.skip("may not converge")
    sequences = {"lengths": [150, 61], "reset": torch.rand(2, 150) < 0.02}
    call = call_of(name, **sequences)
    with emulated(races=True):
        got = by_kernel(name, call, **LEVELS[level])
    assert_agree(name, call, got, by_oracle(name, call))


# --- bounds ----------------------------------------------------------------------------------

SANITIZED = """
import torch
from tests.support.emulated import emulated
from tests.support.runs import assert_agree, by_kernel, by_oracle, fitting, random_call
from tests.support.levels import LEVELS

for name, dtype in {cases}:
    for shape in ((1, 1, 1), (2, 37, 33), (3, 130, 5)):
        steps = shape[1]
        kinds = [{{}}, {{"lengths": [steps, 0, steps // 2][: shape[0]], "reverse": True}}]
        kinds += [{{"cu_seqlens": [0, steps // 3, steps]}}] if shape[0] == 1 else []
        for kind in kinds:
            size = (*shape[:2], fitting(name, shape[2]))
            call = random_call(name, size, getattr(torch, dtype), states=True, **kind)
            expected = by_oracle(name, call)
            for level, choices in LEVELS.items():
                if level == "newton" and name != "para_gru":
                    continue
                with emulated(sanitize=True):
                    got = by_kernel(name, call, **choices)
                assert_agree(name, call, got, expected, f"{{shape}} {{level}} {{kind}}")
print("all within bounds")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"), [("para_gru", "float16"), ("slstm", "float32"), ("crossed", "float64")]
)
def test_no_access_is_out_of_bounds_or_unaligned(name: str, dtype: str) -> None:
    code = SANITIZED.format(cases=[(name, dtype)])
    assert "all within bounds" in run_sanitized("-c", code)


# --- what is launched ------------------------------------------------------------------------


def test_a_step_of_decoding_is_one_launch() -> None:
    layer = compiled("para_gru").layer(3, 8)
    with emulated() as launches, torch.no_grad():
        layer.step(torch.randn(2, 3))
    assert launches == ["para_gru_forward"]


def test_one_pass_and_its_gradients_are_three_launches() -> None:
    with emulated() as launches:
        by_kernel("para_gru", call_of("para_gru"), solver="sequential")
    parts = [name.removeprefix("para_gru_") for name in launches]
    assert parts == ["forward", "backward", "reduce_params"]


def test_segments_of_a_block_are_one_launch_each_way() -> None:
    with emulated() as launches:
        by_kernel("para_gru", call_of("para_gru"), **LEVELS["segments of a block"])
    parts = [name.removeprefix("para_gru_") for name in launches]
    assert parts == ["tiles", "back_tiles", "reduce_params"]


@pytest.mark.parametrize(("name", "forward", "backward"), [("para_gru", 12, 12), ("lru", 13, 12)])
def test_segments_of_the_grid_are_as_many_launches_as_the_page_says(
    name: str, forward: int, backward: int
) -> None:
    choices = {"solver": "segmented", "segment": 16, "iterations": AUTO_ROUNDS}
    with emulated() as launches:
        by_kernel(name, call_of(name), **choices)
    assert len(launches) == forward + backward
    assert launches[forward] == f"{name}_number_runs"


def test_every_kernel_is_launched_by_some_call() -> None:
    launched: set[str] = set()
    for name, level in itertools.product(("clocked", "lru"), LEVELS):
        if level == "newton":
            continue
        with emulated() as launches:
            by_kernel(name, call_of(name), **LEVELS[level])
        launched |= {launch.removeprefix(f"{name}_") for launch in launches}
    with emulated() as launches:
        arguments = call_of("para_gru").arguments
        compiled("para_gru").jacobians(**arguments)
    launched |= {launch.removeprefix("para_gru_") for launch in launches}
    assert launched == {name for names in CUDA_KERNELS.values() for name in names}


@pytest.mark.parametrize("level", list(LEVELS)[:3])
def test_the_status_says_how_a_call_was_solved(level: str) -> None:
    seen: list[Any] = []
    call = call_of("para_gru")
    with emulated():
        compiled("para_gru")(**call.arguments, observe=seen.append, **LEVELS[level])
    (solve,) = seen
    spec = compiled("para_gru").spec
    segment = {"one pass": 150, "segments of a block": spec.ahead, "segments of the grid": 16}
    assert solve.solver == LEVELS[level]["solver"]
    assert solve.segment == segment[level]
    assert solve.converged
    assert solve.sequential_from is None
    assert 1 <= solve.sweeps <= 16
    assert solve.mismatch <= 1e-6


def test_one_pass_solves_the_rest_of_the_sweeps() -> None:
    seen: list[Any] = []
    call = random_call("elman", (1, 400, 3), torch.float32, weights=3.0)
    with emulated():
        y = compiled("elman")(
            **call.arguments,
            solver="segmented",
            segment=16,
            iterations=2,
            observe=seen.append,
        )
    assert seen[0].sequential_from is not None
    expected = by_oracle("elman", Call(call.dtype, call.arguments, None, call.dy, call.dh))
    torch.testing.assert_close(y.double(), expected.y[0], rtol=1e-5, atol=1e-5)


@each_level
def test_step_jacobians_equal_those_of_the_cpu(level: str) -> None:
    call = call_of("lstm")
    there = compiled("lstm").jacobians(**call.arguments)
    with emulated():
        here = compiled("lstm").jacobians(**call.arguments)
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)


def test_lengths_outside_of_the_tensor_are_cut_off() -> None:
    call = random_call("para_gru", (2, 40, 4), torch.float32, start=False)
    with emulated():
        got = compiled("para_gru")(**call.arguments, lengths=[90, -3])
        expected = compiled("para_gru")(**call.arguments, lengths=[40, 0])
    assert torch.equal(got, expected)


# --- broken on purpose -----------------------------------------------------------------------


BLOCK = LEVELS["segments of a block"]
FORWARD_BARRIER = "      __syncthreads();\n      if (warp == 0) worst = cross_borders"
FORWARD_WITHOUT = FORWARD_BARRIER.replace("__syncthreads();", "")
BACKWARD_BARRIER, BACKWARD_WITHOUT = "again = __syncthreads_or(again);", "again = false;"
SHUFFLE = "run_count = __shfl_sync(0xffffffffu, r.count, int(threadIdx.x) - turn);"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (FORWARD_BARRIER, FORWARD_WITHOUT),
        (BACKWARD_BARRIER, BACKWARD_WITHOUT),
    ],
    ids=["forward", "backward"],
)
def test_a_missing_barrier_is_a_race(old: str, new: str) -> None:
    with (
        emulated(races=True, edit=broken(old, new)),
        pytest.raises(EmulationError, match="race"),
    ):
        by_kernel("para_gru", call_of("para_gru"), **BLOCK)


@pytest.mark.parametrize(
    ("barrier", "without"),
    [(FORWARD_BARRIER, FORWARD_WITHOUT), (BACKWARD_BARRIER, BACKWARD_WITHOUT)],
    ids=["forward", "backward"],
)
def test_a_missing_barrier_changes_the_answer(barrier: str, without: str) -> None:
    call = call_of("para_gru")
    expected = by_oracle("para_gru", call)
    wrong = 0
    for seed in range(4):
        edit = broken(barrier, without)
        with emulated(seed, edit=edit):
            got = by_kernel("para_gru", call, **BLOCK)
        try:
            assert_agree("para_gru", call, got, expected)
        except AssertionError:
            wrong += 1
    assert wrong


def test_a_barrier_that_some_threads_skip_is_found() -> None:
    edit = broken(FORWARD_BARRIER, "if (warp != 1)" + FORWARD_BARRIER)
    with emulated(edit=edit), pytest.raises(EmulationError, match="barrier"):
        by_kernel("para_gru", call_of("para_gru"), **BLOCK)


def test_a_shuffle_with_absent_lanes_is_found() -> None:
    edit = broken(SHUFFLE, "if (threadIdx.x != 3) " + SHUFFLE)
    with emulated(edit=edit), pytest.raises(EmulationError, match="lane"):
        by_kernel("clocked", call_of("clocked"), solver="sequential")


OUT_OF_BOUNDS = """
from tests.support.emulated import emulated
from tests.support.levels import broken, call_of
from tests.support.runs import by_kernel
edit = broken("group -= beside, ", "")
with emulated(sanitize=True, edit=edit):
    by_kernel("para_gru", call_of("para_gru"), solver="sequential")
"""


@pytest.mark.slow
def test_a_read_beyond_the_last_channel_is_found() -> None:
    with pytest.raises(EmulationError, match="heap-buffer-overflow"):
        run_sanitized("-c", OUT_OF_BOUNDS)


# --- fast math -------------------------------------------------------------------------------


def test_fast_math_is_stated_in_every_file_and_changes_only_kernel_cu_else() -> None:
    cell = find("para_gru")
    plain, fast = rnncc.compile(cell), rnncc.compile(cell, fast_math=True)
    for name in ("__init__.py", "kernel.cpp", "kernel.cu"):
        head = fast.files[name][:3000]
        assert "--fast-math" in head
        assert "relative error of 2^-11" in head
        assert "ast math" not in plain.files[name][:3000]
    assert "#define RNNCC_FAST_MATH\n" in fast.files["kernel.cu"]
    assert "#define RNNCC_FAST_MATH\n" not in plain.files["kernel.cu"]
    assert fast.spec.fast_math


# --- NVRTC -----------------------------------------------------------------------------------

DAILY = ("para_gru", "slstm", "block_elman")  # NVRTC takes 3 s for each
MOST_STATES = 4  # that a thread must be able to hold without a spill


def compiled_by_nvrtc(name: str, dtype: str, arch: str) -> Any:
    pytest.importorskip("cupy")
    return nvrtc.compile(name, compiled(name).source("cuda"), dtype, arch)


@pytest.mark.parametrize(
    "name", [name if name in DAILY else pytest.param(name, marks=pytest.mark.slow) for name in CORE]
)
def test_nvrtc_compiles_every_kernel_without_a_warning_or_a_spill(name: str) -> None:
    dtype = "bfloat16" if name in ("lstm", "slstm") else "float32"
    made = compiled_by_nvrtc(name, dtype, "sm_90")
    assert made.warnings == ()
    spec = compiled(name).spec
    if spec.size <= MOST_STATES:
        spilled = {r.kernel: r.spill_stores + r.spill_loads for r in made.resources}
        assert {kernel for kernel, size in spilled.items() if size} == set()
    names = {f"{name}_{kernel}" for kernels in CUDA_KERNELS.values() for kernel in kernels}
    assert {r.kernel for r in made.resources} == names


@pytest.mark.parametrize(
    ("dtype", "arch"),
    [
        *[("float32", "sm_75"), ("float32", "sm_80"), ("float64", "sm_90")],
        *[("bfloat16", "sm_100"), ("float16", "sm_80")],
    ],
)
def test_nvrtc_compiles_for_every_dtype_and_architecture(dtype: str, arch: str) -> None:
    made = compiled_by_nvrtc("para_gru", dtype, arch)
    assert made.warnings == ()
    assert dtype == "float64" or not any(r.spill_stores for r in made.resources)


# --- instructions ----------------------------------------------------------------------------

BY_HAND = Path(__file__).parents[1] / "support" / "emulation" / "by_hand.cu"
ALLOWED = 1.05  # times the instructions of the same step written by hand; 1.01 to 1.02 were counted


def instructions(binary: Any, kernel: str) -> list[str]:
    """Of a trip of the loop over steps that computes a whole block and loads another one."""
    code = sass.read(sass.disassemble(binary.cubin))[kernel]
    return [instruction.opcode for instruction in loops.loops(code)[0].lightest]


@pytest.mark.parametrize("arch", ["sm_90", "sm_100"])
def test_a_step_takes_about_the_instructions_of_one_written_by_hand(arch: str) -> None:
    if sass.find_disassembler() is None:
        pytest.skip("needs nvdisasm")
    pytest.importorskip("cupy")
    by_hand = nvrtc.compile("by_hand", BY_HAND.read_text(), "float32", arch)
    ours = compiled_by_nvrtc("para_gru", "float32", arch)
    assert compiled("para_gru").spec.ahead == 8  # as by hand
    expected = instructions(by_hand, "by_hand_forward")
    assert expected.count("LDG") == 3 * 8  # inputs and steps
    found = instructions(ours, "para_gru_forward")
    assert found.count("LDGSTS") == 3 * 8 // 4  # in pieces of 16 bytes
    assert len(found) < ALLOWED * len(expected)
