"""The ring through which kernels read: rows in pieces of 16 bytes, of 4, and each scalar by itself.

Which of them a warp takes depends on the channels, their alignment and the dtype, and never changes
a result.
"""

from __future__ import annotations

from array import array
from typing import Any

import pytest
import torch

from rnncc.ir.abi import WORD
from rnncc.planner import ring as planner
from rnncc.runtime.args import layout_of
from rnncc.runtime.kernel import COMPUTE
from tests.support.emulate import load
from tests.support.emulated import emulated
from tests.support.levels import broken
from tests.support.runs import (
    Call,
    assert_agree,
    by_kernel,
    by_oracle,
    compiled,
    fitting,
    random_call,
)
from tests.support.sanitizers import EmulationError, run_sanitized

# Steps that fill the ring and leave a rest. Channels: whole warps, rows of whole pieces that fill
# none, rows of pieces of 4 bytes in half precision, odd ones, and several runs in a warp.
STEPS = 101
CHANNELS = (64, 40, 34, 33, 12, 3)
LEVELS: dict[str, dict[str, Any]] = {
    "one pass": {"solver": "sequential"},
    "a block": {"solver": "segmented", "segment": 1},
    "the grid": {"solver": "segmented", "segment": 24},
    "few states saved": {"solver": "sequential", "checkpoint": 24},
}
RAGGED = {"lengths": [STEPS, 17, 0]}
# Each way through `fill` by the text that it can't do without.
PIECES_OF_16 = "copy_rows<16, true>(a, t);"
REST_OF_16 = "copy_rows<16, false>(a, t);"
PIECES_OF_4 = "copy_rows<4, false>(a, t);"
OWN = "copy_own(a, t);"
OF_ALL = "copy_shared(a, t);"
SUMS = "shared.sum(first, count);"  # of the gradients of such inputs


def call_at(name: str, channels: int, dtype: torch.dtype, **sequences: Any) -> Call:
    return random_call(name, (3, STEPS, fitting(name, channels)), dtype, **sequences)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["para_gru", "block_elman", "clocked"])
def test_every_way_to_copy_agrees_with_the_oracle(
    name: str, level: str, dtype: torch.dtype
) -> None:
    for channels in CHANNELS:
        for sequences in ({}, RAGGED | {"reverse": True}):
            call = call_at(name, channels, dtype, **sequences)
            with emulated():
                got = by_kernel(name, call, **LEVELS[level])
            assert_agree(name, call, got, by_oracle(name, call), f"{channels} {sequences}")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["para_gru", "lstm", "block_elman", "slstm"])
def test_every_way_to_copy_agrees_in_other_dtypes(name: str, dtype: torch.dtype) -> None:
    for level, choices in LEVELS.items():
        for channels in CHANNELS:
            call = call_at(name, channels, dtype, **RAGGED)
            with emulated():
                got = by_kernel(name, call, **choices)
            assert_agree(name, call, got, by_oracle(name, call), f"{level} {channels}")


@pytest.mark.parametrize("level", LEVELS)
def test_inputs_that_begin_anywhere_agree(level: str) -> None:
    call = call_at("para_gru", 64, torch.float32)
    wide = torch.zeros(3, STEPS, 3 * 64 + 1)
    for n, name in enumerate(("xz", "xr", "xc")):
        wide[..., 64 * n + 1 : 64 * n + 65] = call.arguments[name]
        call.arguments[name] = wide[..., 64 * n + 1 : 64 * n + 65]  # 4 bytes off
    with emulated():
        got = by_kernel("para_gru", call, **LEVELS[level])
    assert_agree("para_gru", call, got, by_oracle("para_gru", call))


@pytest.mark.parametrize(
    ("name", "cut", "channels", "dtype"),
    [
        ("para_gru", PIECES_OF_16, 64, torch.float32),
        ("para_gru", REST_OF_16, 64, torch.float32),
        ("para_gru", PIECES_OF_4, 34, torch.bfloat16),
        ("para_gru", OWN, 33, torch.float32),
        ("para_gru", OWN, 33, torch.bfloat16),
        ("clocked", OF_ALL, 64, torch.float32),
        ("clocked", SUMS, 64, torch.float32),
    ],
)
def test_each_way_to_copy_is_taken_where_it_should_be(
    name: str, cut: str, channels: int, dtype: torch.dtype
) -> None:
    call = call_at(name, channels, dtype)
    with emulated(edit=broken(cut, ";")):
        got = by_kernel(name, call, solver="sequential")
    with pytest.raises(AssertionError):
        assert_agree(name, call, got, by_oracle(name, call))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["para_gru", "clocked"])
def test_no_copy_meets_another_access(name: str, level: str) -> None:
    for channels in (64, 12):
        call = call_at(name, channels, torch.float32, **RAGGED)
        with emulated(races=True):
            got = by_kernel(name, call, **LEVELS[level])
        assert_agree(name, call, got, by_oracle(name, call))


WAIT = "      feed.wait();\n      __syncwarp();"


def test_a_missing_wait_is_found() -> None:
    call = call_at("para_gru", 64, torch.float32)
    with (
        emulated(edit=broken(WAIT, "      __syncwarp();")),
        pytest.raises(EmulationError, match="without waiting"),
    ):
        by_kernel("para_gru", call, solver="sequential")


def test_a_missing_barrier_is_a_race() -> None:
    call = call_at("para_gru", 64, torch.float32)
    with (
        emulated(races=True, edit=broken(WAIT, "      feed.wait();")),
        pytest.raises(EmulationError, match="race"),
    ):
        by_kernel("para_gru", call, solver="sequential")


def test_sums_of_what_lanes_have_not_written_yet_are_a_race() -> None:
    call = call_at("clocked", 64, torch.float32)
    with (
        emulated(races=True, edit=broken("__syncwarp(mask);", "")),
        pytest.raises(EmulationError, match="race"),
    ):
        by_kernel("clocked", call, solver="sequential")


SANITIZED = """
import torch
from tests.emulated.test_ring import CHANNELS, LEVELS, call_at
from tests.support.emulated import emulated
from tests.support.runs import assert_agree, by_kernel, by_oracle
for channels in CHANNELS:
    call = call_at("para_gru", channels, torch.{dtype}, lengths=[101, 17, 0])
    for choices in LEVELS.values():
        with emulated(sanitize=True):
            got = by_kernel("para_gru", call, **choices)
        assert_agree("para_gru", call, got, by_oracle("para_gru", call))
print("all within bounds")
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_copy_is_out_of_bounds(dtype: str) -> None:
    assert "all within bounds" in run_sanitized("-c", SANITIZED.format(dtype=dtype))


# --- sizes -----------------------------------------------------------------------------------

SIZES = """
RNNCC_KERNEL(32) sizes(rnncc::Args a) {
  using namespace rnncc;
  typedef WalkBack::Feed Back;
  if (threadIdx.x) return;
  a.control[0] = Walk<true>::Feed::kBytes, a.control[1] = Back::Blocks::kBytes;
  a.control[2] = Ring<Inputs, kStagesOfTiles>::kBytes;
  a.control[3] = FeedBack<kStagesOfTiles>::Blocks::kBytes;
  a.control[4] = ParamSums::kBytes + SharedSums::kBytes;
}
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["para_gru", "clocked", "block_elman", "selective_ssm"])
def test_the_planner_and_the_kernels_count_the_same_bytes(name: str, dtype: torch.dtype) -> None:
    cell = compiled(name)
    layout, zeros = layout_of(cell.spec)
    words, found = array("q", zeros), torch.zeros(5, dtype=torch.int64)
    words[layout.offsets["control"]] = found.data_ptr()
    module = load(cell.source("cuda") + SIZES, str(dtype).removeprefix("torch."))
    module.launch("sizes", 1, (32, 1), 0, words.buffer_info()[0], WORD * len(words))
    sizes = dtype.itemsize, COMPUTE[dtype].itemsize
    tiles = planner.STAGES_OF_TILES
    expected = [planner.ring(cell.spec, *sizes, back).bytes for back in (False, True)]
    expected += [planner.ring(cell.spec, *sizes, back, tiles).bytes for back in (False, True)]
    assert found.tolist() == [*expected, planner.bytes_of_sums(cell.spec, sizes[1])]
