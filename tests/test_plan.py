"""How a call is cut into tiles: everything is covered once, in whole vectors, for every thread."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnncc import ArgumentError
from rnncc.plan import LANE_BYTES, STEPS_SAVED, WORTH_A_THREAD, Plan, plan
from tests.runs import compiled

SPECS = {name: compiled(name).kernel.spec for name in ("para_gru", "block_elman")}

batches = st.integers(1, 300)
channels = st.integers(1, 3000)
threads = st.integers(1, 64)
itemsizes = st.sampled_from([4, 8])


def plan_for(batch: int, groups: int, itemsize: int, threads: int, steps: int = 1000) -> Plan:
    return plan(SPECS["para_gru"], (batch, steps, groups), itemsize, threads)


def tiles(batch: int, groups: int, p: Plan) -> list[tuple[range, range]]:
    """Rows and columns of each tile, as the driver of the kernels cuts them."""
    return [
        (range(row, min(row + p.rows, batch)), range(column, min(column + p.columns, groups)))
        for row in range(0, batch, p.rows)
        for column in range(0, groups, p.columns)
    ]


@given(batches, channels, itemsizes, threads)
def test_tiles_cover_every_channel_of_every_sequence_once(
    batch: int, groups: int, itemsize: int, threads: int
) -> None:
    p = plan_for(batch, groups, itemsize, threads)
    covered = sum(len(rows) * len(columns) for rows, columns in tiles(batch, groups, p))
    assert covered == batch * groups
    assert 1 <= p.rows <= batch


@given(batches, channels, itemsizes, threads)
def test_a_tile_fits_the_arrays_of_the_kernel(
    batch: int, groups: int, itemsize: int, threads: int
) -> None:
    p = plan_for(batch, groups, itemsize, threads)
    lanes = LANE_BYTES // itemsize
    largest = SPECS["para_gru"].tile * 4 // itemsize
    for rows, columns in tiles(batch, groups, p)[:200]:
        assert -(-len(rows) * len(columns) // lanes) * lanes <= largest


@given(batches, channels, itemsizes, threads)
def test_tiles_of_many_channels_start_at_whole_vectors(
    batch: int, groups: int, itemsize: int, threads: int
) -> None:
    """The sums over vectors of a shared input's gradient then don't depend on the threads."""
    p = plan_for(batch, groups, itemsize, threads)
    lanes = LANE_BYTES // itemsize
    if groups >= lanes:
        assert p.rows == 1
        assert p.columns % lanes == 0
    else:
        assert p.columns == groups


@given(st.integers(1, 64), channels, itemsizes, st.integers(2, 16))
def test_no_thread_idles_where_there_is_a_vector_for_each(
    batch: int, groups: int, itemsize: int, threads: int
) -> None:
    lanes = LANE_BYTES // itemsize
    if groups < lanes or batch * 4096 * groups < WORTH_A_THREAD:
        return
    p = plan_for(batch, groups, itemsize, threads, steps=4096)
    vectors = batch * (groups // lanes)
    # rounding a tile up to whole vectors may leave half of the threads without one, not more
    assert len(tiles(batch, groups, p)) >= min(threads, vectors) / 2


@given(batches, st.integers(1, 15), threads)
def test_few_channels_put_several_sequences_into_a_vector(
    batch: int, groups: int, threads: int
) -> None:
    p = plan_for(batch, groups, 4, threads)
    full = 16 // groups
    assert p.rows >= min(batch, full)


def test_a_small_call_takes_one_thread_and_a_large_one_all() -> None:
    assert plan_for(1, 8, 4, 8, steps=10).threads == 1
    assert plan_for(8, 256, 4, 8, steps=2048).threads == 8


def test_groups_of_channels_count_as_one_lane() -> None:
    spec = SPECS["block_elman"]
    p = plan(spec, (2, 1000, 400), 4, 1)
    assert p.columns == 112  # 400 channels are 100 groups, rounded up to whole vectors


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 8), (2, 5, 0), (0, 0, 0)])
def test_an_empty_call_has_a_plan(shape: tuple[int, int, int]) -> None:
    p = plan(SPECS["para_gru"], shape, 4, 2)
    assert p.rows >= 1


def test_an_unknown_solver_is_refused() -> None:
    with pytest.raises(ArgumentError) as error:
        plan(SPECS["para_gru"], (1, 1, 1), 4, 1, solver="segmented")
    assert str(error.value) == (
        "solver: got 'segmented', expected one of auto, sequential.\nFix: solver='auto'"
    )


def test_explain_says_what_runs_and_why() -> None:
    text = compiled("para_gru").explain(batch=8, steps=2048, channels=256)
    assert text.startswith("[8, 2048, 256] float32: sequential: one fused pass over time")
    assert f"a state saved every {STEPS_SAVED} steps" in text
    assert "tiles of 1 x" in text
