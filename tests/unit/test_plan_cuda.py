"""Plan for CUDA: which level a shape runs at, and how requests are rounded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import rnncc
from rnncc.errors import ArgumentError
from rnncc.ir.choices import AUTO, Choices
from rnncc.planner.cuda import Gpu, columns_of, plan, steps_saved
from rnncc.planner.gpu_constants import MEASURED
from rnncc.planner.plan import Cut, Plan
from rnncc.planner.ring import ring
from tests.support.cells import cell_from, source_of
from tests.support.runs import compiled

H100 = Gpu(132, 1700.0)


def planned(shape: tuple[int, int, int], cell: str = "para_gru", **choices: object) -> Plan:
    chosen = Choices(**choices) if choices else AUTO  # type: ignore[arg-type]
    return plan(compiled(cell).spec, shape, 4, H100, chosen)


def test_many_channels_run_in_one_pass() -> None:
    found = planned((8, 2048, 4096))
    assert found.solver == "sequential"
    assert found.forward.tiling.segment == found.backward.tiling.segment == 2048


def test_few_channels_and_many_steps_run_in_segments_of_the_grid() -> None:
    found = planned((1, 65536, 64))
    assert found.solver == "segmented"
    assert not found.forward.in_block
    assert 128 <= found.forward.tiling.segment < 65536


def test_few_channels_and_few_steps_run_in_segments_of_a_block() -> None:
    spec = compiled("rg_lru").spec
    found = plan(spec, (1, 128, 64), 4, with_constants(barrier=20.0))
    assert found.forward.in_block
    assert found.backward.in_block
    assert found.forward.tiling.segment == spec.ahead


def test_a_block_sweeps_too_often_for_a_chain_of_slow_functions() -> None:
    found = planned((1, 128, 64))
    assert found.solver == "sequential"
    assert found.backward.in_block


def test_a_single_step_runs_in_one_pass() -> None:
    found = planned((4, 1, 512))
    assert found.solver == "sequential"
    assert not found.forward.in_block


def test_a_spiking_cell_runs_forward_in_one_pass() -> None:
    assert planned((1, 65536, 64), "lif").solver == "sequential"


@pytest.mark.parametrize(("asked", "got"), [(1, 8), (8, 8), (9, 16), (104, 104), (105, 112)])
def test_a_segment_is_rounded_up_to_whole_blocks_of_steps(asked: int, got: int) -> None:
    found = planned((2, 4096, 32), solver="segmented", segment=asked)
    assert found.forward.tiling.segment == got
    assert found.forward.in_block == (got == 8)


def test_a_segment_as_long_as_the_sequence_is_one_pass() -> None:
    found = planned((2, 100, 32), solver="segmented", segment=100)
    assert found.forward.tiling.segment == 100
    assert not found.forward.in_block


@pytest.mark.parametrize(("asked", "got"), [(None, 8), (1, 8), (9, 16), (2**31, 2**30)])
def test_saved_states_lie_at_whole_blocks_of_steps(asked: int | None, got: int) -> None:
    assert steps_saved(compiled("para_gru").spec, Choices(checkpoint=asked)) == got


def test_segments_of_the_way_back_begin_at_saved_states() -> None:
    found = planned((1, 65536, 4), checkpoint=48)
    assert found.checkpoint == 48
    assert not found.backward.in_block
    assert found.backward.tiling.segment % 48 == 0


def test_newton_takes_every_step_by_itself() -> None:
    found = planned((2, 300, 8), solver="newton", iterations=5)
    assert found.forward.tiling.segment == 1
    assert found.forward.sweeps == 6


@pytest.mark.parametrize(("groups", "columns"), [(1, 1), (2, 2), (3, 4), (31, 32), (4096, 32)])
def test_lanes_of_a_run_are_a_power_of_two(groups: int, columns: int) -> None:
    assert columns_of(groups) == columns


def test_a_larger_gpu_takes_one_pass_less_often() -> None:
    spec = compiled("para_gru").spec
    shape = (64, 2048, 256)
    small, large = (plan(spec, shape, 4, Gpu(n, 13.0 * n)) for n in (20, 2000))
    assert small.solver == "sequential"
    assert large.solver == "segmented"


# --- the model -------------------------------------------------------------------------------


def with_constants(**changes: float) -> Gpu:
    return Gpu.of(132, replace(MEASURED, **changes))


def times(cell: str, shape: tuple[int, int, int], gpu: Gpu, io: int = 4, **choices: object) -> Cut:
    chosen = Choices(**choices)  # type: ignore[arg-type]
    return plan(compiled(cell).spec, shape, 4, gpu, chosen, io=io).forward


@pytest.mark.parametrize("shape", [(2, 2048, 1024), (1, 2048, 4096)])
def test_a_gated_cell_that_half_fills_the_gpu_runs_in_segments_of_the_grid(
    shape: tuple[int, int, int],
) -> None:
    """One sweep without the product suffices where the warm-up finds the initial states."""
    found = planned(shape)
    assert found.solver == "segmented"
    assert not found.forward.in_block
    assert found.forward.predicted < 0.5 * found.forward.one_pass


def test_an_affine_cell_is_charged_the_product_of_its_jacobians() -> None:
    spec, shape = compiled("lru").spec, (8, 32768, 256)
    nonlinear = spec.model_copy(
        update={"structure": spec.structure.model_copy(update={"affine": False})}
    )
    asked = Choices(solver="segmented", segment=1024)
    affine, other = (plan(s, shape, 4, H100, asked) for s in (spec, nonlinear))
    assert affine.forward.predicted > 1.2 * other.forward.predicted
    assert affine.backward.predicted > 1.2 * other.backward.predicted


def test_a_thread_waits_for_memory_unless_enough_steps_are_under_way() -> None:
    """Little's law: latency over the steps ahead, where nothing else takes longer."""
    shape = (1, 16384, 64)  # as few warps as there are
    at = [times("para_gru", shape, with_constants(latency=c)).one_pass for c in (4, 4000, 8000)]
    launch = MEASURED.launch / MEASURED.clock
    ahead = ring(compiled("para_gru").spec, 4, 4, back=False).steps
    assert ahead == 16  # of 12 bytes: at least BYTES_AHEAD in blocks of 8
    assert at[0] < at[1]
    assert at[2] - launch == pytest.approx(2 * (at[1] - launch))
    assert at[1] - launch == pytest.approx((16384 / ahead + 1) * 4000 / MEASURED.clock)


def test_a_wave_of_warps_comes_after_another() -> None:
    gpu = with_constants(latency=1e5)
    one, two = (times("para_gru", (batch, 2048, 4096), gpu).one_pass for batch in (16, 32))
    start = (MEASURED.launch + 1e5) / MEASURED.clock
    assert two - start == pytest.approx(2 * (one - start))


def test_rings_that_fill_a_processor_leave_room_for_fewer_warps() -> None:
    roomy, tight = (H100._replace(shared=kb * 1024) for kb in (227, 64))
    shape = (64, 2048, 1024)  # 4 warps of block_elman for each processor
    one, two = (times("block_elman", shape, gpu).one_pass for gpu in (roomy, tight))
    assert two > 1.5 * one


def test_halves_move_half_the_bytes() -> None:
    gpu = with_constants(bytes_per_cycle=10.0)
    shape = (8, 2048, 4096)
    single, half = (times("para_gru", shape, gpu, io).one_pass for io in (4, 2))
    assert half == pytest.approx(single / 2, rel=0.01)


def test_many_borders_cost_their_walk_through_memory() -> None:
    asked = {"solver": "segmented", "segment": 128}
    slow, fast = (
        times("para_gru", (1, 131072, 64), with_constants(border=b), **asked) for b in (400, 300)
    )
    assert slow.predicted - fast.predicted == pytest.approx(1024 * 100 / MEASURED.clock)


def test_a_faster_clock_is_faster() -> None:
    slow, fast = (times("para_gru", (8, 2048, 256), with_constants(clock=c)) for c in (1.0, 2.0))
    assert slow.predicted == pytest.approx(2 * fast.predicted)


def test_calibrated_constants_change_the_plan() -> None:
    spec, shape = compiled("para_gru").spec, (8, 2048, 256)
    shipped = plan(spec, shape, 4, with_constants())
    dear = plan(spec, shape, 4, with_constants(barrier=1e4, launch=1e6))
    assert (shipped.solver, dear.solver) == ("segmented", "sequential")


def test_explain_gives_the_plan_for_a_gpu_by_name() -> None:
    text = compiled("para_gru").explain(1, 65536, 64, device="H100")
    assert "over the grid" in text
    assert "threads" not in text


def test_more_tensors_than_a_gpu_takes_are_refused_and_fewer_outputs_run(tmp_path: Path) -> None:
    signature = "h: State, x: Input(size=32), a: Param"
    body = "h = tanh(a * h + x[0])\nreturn {'h': h, 'y': x[:%d] * h, 'z': sum(x)}"
    wide = rnncc.compile(cell_from(tmp_path, source_of(body % 32, signature)))
    with pytest.raises(ArgumentError, match=r"has 65 inputs.*\n.*at most 63.\nFix: fewer outputs"):
        wide.explain(2, 64, 8, device="H100")
    narrow = rnncc.compile(cell_from(tmp_path, source_of(body % 30, signature), "narrow.py"))
    assert "one pass over time" in narrow.explain(2, 64, 8, device="H100")
