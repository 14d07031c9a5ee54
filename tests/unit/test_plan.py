"""Which solver a call runs, and how it is cut: everything covered once, in whole vectors."""

from __future__ import annotations

import json
from dataclasses import astuple, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnncc import ArgumentError
from rnncc.bench.calibrate import fit
from rnncc.ir.choices import Choices
from rnncc.planner import machine
from rnncc.planner.cpu import (
    AFFINE_SWEEPS,
    ALIKE,
    BACK_WALKS,
    SHORTEST,
    STEPS_SAVED,
    WORTH_A_THREAD,
    plan,
)
from rnncc.planner.cpu_model import LANE_BYTES, Load, counts, span_of
from rnncc.planner.machine import MEASURED, Machine
from rnncc.planner.plan import WARM_UP, Plan, Problem, Tiling
from tests.support.runs import CORE, compiled

SPECS = {name: compiled(name).kernel.spec for name in CORE}
MANY_STATES = compiled("moog_saved").kernel.spec
WIDE, NARROW = (8, 2048, 256), (1, 131072, 4)

batches = st.integers(1, 300)
channels = st.integers(1, 3000)
threads = st.integers(1, 64)
itemsizes = st.sampled_from([4, 8])
SEQUENTIAL = Choices(solver="sequential")


def plan_for(
    shape: tuple[int, int, int],
    itemsize: int = 4,
    threads: int = 2,
    choices: Choices = SEQUENTIAL,
    name: str = "para_gru",
) -> Plan:
    return plan(SPECS[name], shape, itemsize, threads, choices, cores=2, machine=MEASURED)


# --- tiles -----------------------------------------------------------------------------------


def cuts(whole: int, most: int) -> list[int]:
    """Rows, or columns, of each tile, as the driver of the kernels cuts them."""
    return [min(most, whole - first) for first in range(0, whole, most)]


@given(batches, channels, itemsizes, threads, st.sampled_from([None, 7, 64, 149]))
def test_tiles_cover_every_channel_of_every_run_once_and_fit_the_kernels_arrays(
    batch: int, groups: int, itemsize: int, threads: int, segment: int | None
) -> None:
    choices = SEQUENTIAL if segment is None else Choices("segmented", segment)
    p = plan_for((batch, 150, groups), itemsize, threads, choices)
    lanes = LANE_BYTES // itemsize
    for cut in (p.forward, p.backward):
        runs = batch * -(-150 // cut.tiling.segment)
        rows, columns = cuts(runs, cut.tiling.rows), cuts(groups, cut.tiling.columns)
        assert (sum(rows), sum(columns)) == (runs, groups)
        assert 1 <= cut.tiling.rows <= runs
        padded = -(-max(rows) * span_of(max(columns), lanes) // lanes) * lanes
        most = SPECS["para_gru"].tile if max(rows) > 1 else SPECS["para_gru"].widest
        assert padded <= most * 4 // itemsize


@given(st.integers(16, 4096), st.integers(1, 16), threads, st.sampled_from([1, 3]))
def test_a_tile_takes_whole_rows_where_these_are_enough_for_all_threads(
    groups: int, each: int, threads: int, steps: int
) -> None:
    batch = each * threads
    t = plan_for((batch, 4096 * steps, groups), 4, threads).forward.tiling
    assert t.columns >= groups
    assert t.rows == 1 or t.rows * groups <= SPECS["para_gru"].tile


@given(batches, channels, itemsizes, threads)
def test_tiles_start_at_whole_vectors(batch: int, groups: int, itemsize: int, threads: int) -> None:
    """The sums over vectors of a shared input's gradient then don't depend on the threads."""
    t = plan_for((batch, 1000, groups), itemsize, threads).forward.tiling
    assert t.columns == groups or (t.rows == 1 and t.columns % (LANE_BYTES // itemsize) == 0)


@given(st.integers(1, 64), channels, itemsizes, st.integers(2, 16))
def test_no_thread_idles_where_there_is_a_vector_for_each(
    batch: int, groups: int, itemsize: int, threads: int
) -> None:
    lanes = LANE_BYTES // itemsize
    if groups < lanes or batch * 4096 * groups < WORTH_A_THREAD:
        return
    t = plan_for((batch, 4096, groups), itemsize, threads).forward.tiling
    vectors = batch * (groups // lanes)
    # rounding a tile up to whole vectors may leave half of the threads without one, not more
    count = len(cuts(batch, t.rows)) * len(cuts(groups, t.columns))
    assert count >= min(threads, vectors) / 2


@given(batches, st.integers(1, 15), threads)
def test_few_channels_put_several_sequences_into_a_vector(
    batch: int, groups: int, threads: int
) -> None:
    t = plan_for((batch, 1000, groups), 4, threads).forward.tiling
    assert t.rows >= min(batch, 16 // groups)


def test_a_small_call_takes_one_thread_and_a_large_one_all() -> None:
    assert plan_for((1, 10, 8), threads=8).threads == 1
    assert plan_for(WIDE, threads=8).threads == 8


def test_groups_of_channels_count_as_one_lane() -> None:
    t = plan_for((1, 1000, 400), 4, 1, name="block_elman").forward.tiling
    assert t.columns == 112  # 400 channels are 100 groups, rounded up to whole vectors


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8), (2, 5, 0), (0, 0, 0)])
def test_an_empty_call_has_a_plan(shape: tuple[int, int, int]) -> None:
    assert plan_for(shape, choices=Choices()).forward.tiling.rows >= 1


# --- the solver ------------------------------------------------------------------------------


def test_auto_takes_segments_where_channels_are_few_and_steps_many() -> None:
    assert plan_for(WIDE, choices=Choices()).solver == "sequential"
    p = plan_for(NARROW, choices=Choices())
    assert p.solver == "segmented"
    assert p.forward.predicted < p.forward.one_pass / 3
    assert not p.patient


@given(
    st.sampled_from(CORE),
    st.integers(1, 64),
    st.integers(1, 200_000),
    st.integers(1, 600),
    itemsizes,
)
def test_auto_expects_what_it_chooses_to_be_the_faster(
    name: str, batch: int, steps: int, groups: int, itemsize: int
) -> None:
    shape = (batch, steps, groups * SPECS[name].group)
    p = plan_for(shape, itemsize, choices=Choices(), name=name)
    for cut in (p.forward, p.backward):
        segment = cut.tiling.segment
        assert cut.predicted <= cut.one_pass
        assert segment == steps or (segment >= SHORTEST and segment % STEPS_SAVED == 0)


@given(st.integers(1, 64))
def test_the_number_of_threads_does_not_change_the_choice(threads: int) -> None:
    for shape in (WIDE, NARROW, (1, 16384, 16), (4, 5000, 20)):
        one, other = (plan_for(shape, 4, n, Choices()) for n in (1, threads))
        assert one.solver == other.solver
        assert one.forward.tiling.segment == other.forward.tiling.segment
        assert one.backward.tiling.segment == other.backward.tiling.segment


def test_a_spiking_cell_runs_forward_in_one_pass() -> None:
    p = plan_for(NARROW, choices=Choices(), name="lif")
    assert p.solver == "sequential"
    assert "spike" in p.reason


def test_what_a_user_names_is_done() -> None:
    p = plan_for(WIDE, choices=Choices("segmented", segment=100, iterations=7, tol=1e-3))
    assert (p.solver, p.forward.tiling.segment, p.forward.sweeps) == ("segmented", 100, 7)
    assert p.tolerance == 1e-3
    assert p.patient
    p = plan_for(WIDE, choices=Choices("newton", iterations=4))
    assert (p.solver, p.forward.tiling.segment, p.forward.sweeps) == ("newton", 1, 5)
    assert p.forward.warm_up == 1
    assert p.backward.warm_up == WARM_UP[4]
    assert plan_for(NARROW, choices=SEQUENTIAL).solver == "sequential"
    assert plan_for(NARROW, choices=SEQUENTIAL).backward.tiling.segment == NARROW[1]


def test_segments_of_the_backward_begin_at_saved_states() -> None:
    for every in (1, 7, 16, 40):
        for segment in (1, 5, 16, 100):
            choices = Choices("segmented", segment=segment, checkpoint=every)
            p = plan_for((2, 1000, 8), choices=choices)
            assert p.checkpoint == every
            assert p.backward.tiling.segment % every == 0 or p.backward.tiling.segment == 1000


@pytest.mark.parametrize("itemsize", [4, 8])
def test_the_tolerance_is_some_units_in_the_last_place_however_long_a_segment(
    itemsize: int,
) -> None:
    unit = {4: 2.0**-23, 8: 2.0**-52}[itemsize]
    for segment in (16, 65536):
        found = plan_for(NARROW, itemsize, choices=Choices("segmented", segment=segment))
        assert 2 * unit < found.tolerance < 5 * unit
        assert found.settled == pytest.approx(unit**0.5, rel=0.02)


def test_a_tolerance_of_the_users_is_the_only_one() -> None:
    assert plan_for(NARROW, choices=Choices("segmented", tol=1e-3)).settled == 0


def test_a_slow_affine_cell_takes_segments_only_where_all_its_sweeps_are_worth_it() -> None:
    long = plan_for((1, 131072, 1), choices=Choices(), name="lru")
    assert long.forward.sweeps > AFFINE_SWEEPS
    assert long.backward.sweeps == BACK_WALKS
    wide = plan_for((1, 16384, 64), choices=Choices(), name="lru")
    assert wide.forward.sweeps == wide.backward.sweeps == 1  # one pass, unless a guess is enough


# --- the model -------------------------------------------------------------------------------


def counted(batch: int, groups: int, rows: int, columns: int) -> Machine:
    """The counts of one pass over 1000 steps, by two threads."""
    load = Load(Problem(batch, 1000, batch * 1000, groups), LANE_BYTES // 4, 2)
    effort = SPECS["para_gru"].effort.step
    return counts(load, Tiling(1000, rows, columns), 1000, [effort], 4)


def test_rows_that_fill_no_vector_are_copied_in_two_pieces_or_by_value() -> None:
    pieces = {groups: counted(16, groups, 8, groups) for groups in (1, 2, 4, 8, 12, 16)}
    copies = 1000 * 8 * 4
    assert [pieces[g].piece / copies for g in pieces] == [1, 2, 2, 2, 2, 0]
    assert [pieces[g].row / copies for g in pieces] == [0, 1, 1, 1, 1, 0]
    assert plan_for((4, 8192, 8), choices=Choices()).backward.tiling.segment < 8192


def test_of_lengths_that_cost_about_the_same_segments_are_the_longest() -> None:
    shape = (1, 16384, 64)  # 703 us by segments of 2048, 718 by those of 4096, 767 by those of 8192
    costs = {
        n: plan_for(shape, choices=Choices("segmented", n)).forward for n in (2048, 4096, 8192)
    }
    least = costs[2048].predicted
    assert least < costs[4096].predicted < ALIKE * least < costs[8192].predicted
    assert plan_for(shape, choices=Choices()).forward.tiling.segment == 4096


def test_the_fit_finds_the_constants_that_made_the_times() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.rand(40, 7, generator=generator, dtype=torch.float64) + 0.1
    true = torch.tensor([12.0, 0.4, 6.0, 0.5, 0.0, 40.0, 900.0], dtype=torch.float64)
    assert torch.allclose(fit(counts, counts @ true), true, rtol=1e-6, atol=1e-6)


def test_the_fit_has_no_negative_constants() -> None:
    counts = torch.tensor([[1.0, 2.0], [2.0, 3.0], [3.0, 5.0]], dtype=torch.float64)
    found = fit(counts, torch.tensor([1.0, 3.0, 4.0], dtype=torch.float64))
    assert bool((found >= 0).all())
    assert bool((found > 0).any())


def test_a_slower_machine_takes_longer() -> None:
    slow = Machine(*(3 * value for value in astuple(MEASURED)))
    cuts = [
        plan(SPECS["lstm"], NARROW, 4, 2, SEQUENTIAL, machine=m).forward.predicted
        for m in (MEASURED, slow)
    ]
    assert cuts[1] == pytest.approx(3 * cuts[0])


def test_calibrated_constants_are_read_where_they_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(tmp_path / "cache"))
    found = replace(MEASURED, step=99.0)
    machine.this_machine.cache_clear()
    try:
        assert machine.this_machine() == MEASURED
        file = machine.save(found)
        assert json.loads(file.read_text())["step"] == 99.0
        machine.this_machine.cache_clear()
        assert machine.this_machine() == found
        file.write_text('{"step": 1}')
        machine.this_machine.cache_clear()
        assert machine.this_machine() == MEASURED
    finally:
        machine.this_machine.cache_clear()


# --- explain ---------------------------------------------------------------------------------


def test_explain_says_what_runs_why_how_long_and_how_much_memory() -> None:
    text = compiled("para_gru").explain(*WIDE)
    assert text.startswith("[8, 2048, 256] float32: sequential\n  why       one pass over time")
    assert "forward   one pass over time, tiles of 1 x" in text
    assert "memory    inputs 48 MiB, outputs 16 MiB" in text
    assert f"the states of every {STEPS_SAVED} steps" in text
    text = compiled("para_gru").explain(1, 4096, 8, "float64", solver="segmented", segment=256)
    assert "forward   16 segments of 256 steps" in text
    assert "borders between segments" in text
    found = compiled("para_gru").explanation(2, 100, 8, "bfloat16")
    assert found["bytes"]["inputs"] == 3 * 2 * 100 * 8 * 2
    assert found["forward"]["segments"] == 1


def test_explain_refuses_what_there_is_not() -> None:
    with pytest.raises(ArgumentError, match="steps: got 0, expected an int of at least 1"):
        compiled("para_gru").explain(1, 0, 4)
    with pytest.raises(ArgumentError, match="dtype: got 'int8', expected one of float32"):
        compiled("para_gru").explain(1, 1, 4, "int8")
    with pytest.raises(ArgumentError, match="channels: got 6, expected a multiple of 4"):
        compiled("block_elman").explain(1, 1, 6)


# --- many states -----------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["auto", "sequential"])
def test_a_cell_of_more_than_8_values_takes_one_pass(solver: str) -> None:
    spec = MANY_STATES
    found = plan(spec, NARROW, 4, 2, Choices(solver=solver), cores=2, machine=MEASURED)
    assert found.solver == "sequential"
    assert found.forward.tiling.segment == found.backward.tiling.segment == NARROW[1]


@pytest.mark.parametrize("solver", ["segmented", "newton"])
def test_a_solver_by_products_is_refused_for_more_than_8_values(solver: str) -> None:
    spec = MANY_STATES
    with pytest.raises(ArgumentError, match=r"9 values in a channel.*\nFix: solver='auto'"):
        plan(spec, NARROW, 4, 2, Choices(solver=solver), cores=2, machine=MEASURED)
