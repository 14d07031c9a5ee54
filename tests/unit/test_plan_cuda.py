"""Plan for CUDA: which level a shape runs at, and how requests are rounded."""

from __future__ import annotations

import pytest

from rnncc.ir.choices import AUTO, Choices
from rnncc.planner.cuda import Gpu, columns_of, plan, steps_saved
from rnncc.planner.plan import Plan
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
    found = planned((1, 128, 64))
    assert found.forward.in_block
    assert found.backward.in_block
    assert found.forward.tiling.segment == compiled("para_gru").spec.ahead


def test_a_single_step_runs_in_one_pass() -> None:
    found = planned((4, 1, 512))
    assert found.solver == "sequential"
    assert not found.forward.in_block


def test_a_spiking_cell_runs_forward_in_one_pass() -> None:
    assert planned((1, 65536, 64), "lif").solver == "sequential"


@pytest.mark.parametrize(("asked", "got"), [(1, 4), (4, 4), (5, 8), (100, 100), (101, 104)])
def test_a_segment_is_rounded_up_to_whole_blocks_of_steps(asked: int, got: int) -> None:
    found = planned((2, 4096, 32), solver="segmented", segment=asked)
    assert found.forward.tiling.segment == got
    assert found.forward.in_block == (got == 4)


def test_a_segment_as_long_as_the_sequence_is_one_pass() -> None:
    found = planned((2, 100, 32), solver="segmented", segment=100)
    assert found.forward.tiling.segment == 100
    assert not found.forward.in_block


@pytest.mark.parametrize(("asked", "got"), [(None, 4), (1, 4), (9, 12), (2**31, 2**30)])
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


def test_explain_gives_the_plan_for_a_gpu_by_name() -> None:
    text = compiled("para_gru").explain(1, 65536, 64, device="H100")
    assert "over the grid" in text
    assert "threads" not in text
