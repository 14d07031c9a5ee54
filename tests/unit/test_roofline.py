"""Rooflines: seconds from a cell's cost, a shape and a datasheet, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

import rnncc
from rnncc import ArgumentError, Input, Param, State, cell, exp
from rnncc.calculus.fission import expensive
from rnncc.codegen.kernel_spec import kernel_spec
from rnncc.inspect import roofline
from rnncc.inspect.roofline import Roofline
from rnncc.ir.functions import TABLE
from rnncc.planner import devices as gpus
from rnncc.planner.devices import DEVICES, FLOAT32, FLOAT64, Device, find_device
from tests.support.runs import SHIPPED, compiled

# One multiprocessor at 1 Hz and 1 byte per second: seconds are clocks and bytes.
UNIT = Device("unit", "sm_90", 1, 1.0, 1.0, 64, 32)


@cell
def decay(h: State, x: Input, a: Param):
    rate = exp(a)  # of the params alone
    return rate * h + x


@cell
def squash(h: State, x: Input, a: Param):
    return rnncc.tanh(a * h + x)


@cell
def mixed(h: State, x: Input, R: rnncc.Matrix(block=4)):
    return rnncc.tanh(R @ h + x)


def estimate(
    name: rnncc.lang.dsl.Cell,
    shape: tuple[int, int, int] = (1, 1, 1),
    dtype: str = "float32",
    device: Device = UNIT,
) -> dict[str, Roofline]:
    stages = rnncc.compile(name).stages
    return roofline.estimate(stages, kernel_spec(stages), shape, dtype, device)


# --- bytes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "forward", "backward"),
    [
        # x and y; one state of each 16 steps; then x, dy, that state and dx
        ("float32", 4 + 4 + 4 / 16, 4 + 4 + 4 / 16 + 4),
        ("bfloat16", 2 + 2 + 4 / 16, 2 + 2 + 4 / 16 + 2),
        ("float64", 8 + 8 + 8 / 16, 8 + 8 + 8 / 16 + 8),
    ],
)
def test_bytes_are_those_of_the_tensors_and_of_the_saved_states(
    dtype: str, forward: float, backward: float
) -> None:
    found = estimate(decay, (2, 3, 5), dtype)
    assert found["forward"].bytes == found["forward"].memory == pytest.approx(30 * forward)
    assert found["backward"].bytes == pytest.approx(30 * backward)


# --- work ------------------------------------------------------------------------------------


def test_lets_that_depend_only_on_params_take_no_time_in_a_step() -> None:
    found = estimate(decay, (1, 64, 32))["forward"]
    assert found.special == 0
    # a product and a sum of 2048 values; 64 of them per clock
    assert found.arithmetic == 2 * 2048 / 64


def test_functions_count_with_their_instructions_and_special_ones() -> None:
    found, tanh = estimate(squash, (1, 64, 32))["forward"], FLOAT32["tanh"]
    by_issue, by_units = (2 + tanh.instructions) / 128, (2 + tanh.floating) / 64
    assert by_issue < by_units
    assert found.arithmetic == pytest.approx(2048 * by_units)
    assert found.special == 2048 * tanh.special / 16
    wide = estimate(squash, (1, 64, 32), device=replace(UNIT, float32=256))["forward"]
    assert wide.arithmetic == pytest.approx(2048 * by_issue)


def test_double_precision_has_its_own_units() -> None:
    found, tanh = estimate(squash, (1, 64, 32), "float64")["forward"], FLOAT64["tanh"]
    assert found.arithmetic == pytest.approx(2048 * (2 + tanh.floating) / 32)
    consumer = replace(UNIT, float64=2)
    assert estimate(squash, (1, 64, 32), "float64", consumer)["forward"].arithmetic == (
        pytest.approx(16 * found.arithmetic)
    )


def test_more_and_faster_multiprocessors_take_less_time() -> None:
    first = estimate(squash, (2, 64, 32))["forward"]
    second = estimate(
        squash, (2, 64, 32), device=replace(UNIT, multiprocessors=4, clock=2.0, bandwidth=5.0)
    )["forward"]
    assert second.arithmetic == pytest.approx(first.arithmetic / 8)
    assert second.special == pytest.approx(first.special / 8)
    assert second.memory == pytest.approx(first.memory / 5)
    assert second.chain == pytest.approx(first.chain / 2)


# --- the chain -------------------------------------------------------------------------------


def test_the_chain_is_the_way_from_state_to_state_times_the_steps() -> None:
    tanh = FLOAT32["tanh"].cycles
    assert estimate(decay, (9, 100, 7))["forward"].chain == 100 * (4 + 4)
    assert estimate(squash, (9, 100, 7))["forward"].chain == 100 * (4 + 4 + tanh)
    # back: the step again, then the slope times a, which waits for the gradient
    back = estimate(squash, (9, 100, 7))["backward"].chain / 100 - (4 + 4 + tanh)
    assert 4 <= back <= 3 * 4


def test_a_step_takes_at_least_a_clock_for_each_instruction_of_a_lane() -> None:
    found, tanh = estimate(mixed, (1, 10, 4))["forward"], FLOAT32["tanh"]
    # four channels in a lane: 4 x 4 products, as many sums, 4 functions
    assert found.chain == 10 * 4 * (2 * 4 + tanh.instructions)


def test_the_bound_is_the_largest() -> None:
    for name in ("memory", "arithmetic", "special", "chain"):
        times = dict.fromkeys(("memory", "arithmetic", "special", "chain"), 1.0) | {name: 2.0}
        found = Roofline(bytes=9.0, **times)
        assert (found.bound, found.seconds) == (name, 2.0)


# --- devices ---------------------------------------------------------------------------------

# float32 TFLOPS, float64 TFLOPS (two operations in a fused one) as the datasheets give them
PEAKS = {
    "H100": (67, 34),
    "H200": (67, 34),
    "A100": (19.5, 9.7),
    "RTX4090": (82.6, 1.29),
    "L4": (30.3, 0.47),
}


@pytest.mark.parametrize("name", DEVICES)
def test_devices_reach_the_peaks_of_their_datasheets(name: str) -> None:
    device, (single, double) = DEVICES[name], PEAKS[name]
    peak = 2 * device.multiprocessors * device.clock / 1e12
    assert peak * device.float32 == pytest.approx(single, rel=0.01)
    assert peak * device.float64 == pytest.approx(double, rel=0.02)


def test_a_device_is_found_however_its_name_is_written() -> None:
    assert find_device("h100") is find_device("NVIDIA H100") is DEVICES["H100"]
    assert find_device("rtx 4090") is find_device("RTX-4090") is DEVICES["RTX4090"]
    with pytest.raises(ArgumentError) as error:
        find_device("TPU")
    assert str(error.value) == (
        "device: got 'TPU', expected one of H100, H200, A100, RTX4090, L4.\nFix: --device H100"
    )


# --- functions -------------------------------------------------------------------------------


def test_every_expensive_function_has_its_count_in_both_precisions() -> None:
    known = {name for name in TABLE if expensive(name)} | {"div", "sqrt", "rsqrt", "softsign"}
    assert set(FLOAT32) == set(FLOAT64) == known


# --- for people and machines -----------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_cell_has_an_estimate_in_every_dtype(name: str) -> None:
    stages = compiled(name).stages
    spec = kernel_spec(stages)
    for dtype in roofline.SIZES:
        found = roofline.estimate(stages, spec, (8, 2048, 64), dtype, DEVICES["H100"])
        for roof in found.values():
            assert min(roof.bytes, roof.memory, roof.arithmetic, roof.chain) > 0
            assert roof.seconds < 0.1
        assert found["backward"].seconds > found["forward"].seconds


def test_the_table_and_the_data_tell_the_same() -> None:
    device = DEVICES["A100"]
    found = estimate(squash, (8, 2048, 1024), device=device)
    data = roofline.summary(found, device)
    rows = roofline.rows(found)
    assert [row[0] for row in rows] == ["forward", "backward"]
    assert {len(row) for row in rows} == {len(roofline.HEADERS)}
    for row in rows:
        assert row[2] == f"{data[row[0]]['memory'] * 1e3:.3g} ms"
        assert row[-1] == roofline.WORDS[data[row[0]]["bound"]]
    assert data["device"]["bandwidth"] == 2.039e12
    assert data["estimate"] is True
    assert "not a timing" in roofline.NOTE
    assert gpus.ISSUED == 128
