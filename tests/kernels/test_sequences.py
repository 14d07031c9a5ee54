"""Sequences as users have them: padded, joined, reset, reversed, with states, or all at once."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.runs import (
    CELLS,
    Call,
    assert_agree,
    assert_same_bits,
    by_kernel,
    by_oracle,
    compiled,
    fitting,
    is_spiking,
    listed,
    random_call,
    solve,
    solve_all,
)
from tests.support.tolerances import assert_close

EVERY_TARGET = True  # see conftest.py
STEPS = 41
FEW = ["para_gru", "lstm", "crossed"]
SMOOTH = [name for name in CELLS if not is_spiking(name)]

each_cell = pytest.mark.parametrize("name", CELLS)


def masks(batch: int, steps: int, density: float = 0.1) -> Tensor:
    """Random resets, and some at the first step, next to each other, and where segments meet."""
    mask = torch.rand(batch, steps, generator=torch.Generator().manual_seed(steps)) < density
    for row, step in ((0, 0), (-1, 7), (-1, 8), (-1, 16), (0, 14), (0, 15), (0, 32), (-1, -1)):
        if steps > step:
            mask[row, step] = True
    return mask


# Batch, and what the sequences in it are.
KINDS: dict[str, tuple[int, dict[str, Any]]] = {
    "whole": (2, {}),
    "padded": (4, {"lengths": [0, STEPS, 17, 16]}),
    "reset": (2, {"reset": masks(2, STEPS)}),
    "reversed": (2, {"reverse": True}),
    "joined": (1, {"cu_seqlens": [0, 5, 5, 21, STEPS, STEPS]}),
    "one joined": (1, {"cu_seqlens": [0, STEPS]}),
    "always reset": (2, {"reset": torch.ones(2, STEPS, dtype=torch.bool)}),
    "padded, reset and reversed": (
        3,
        {"lengths": [STEPS, 0, 23], "reset": masks(3, STEPS), "reverse": True},
    ),
    "joined, reset and reversed": (
        1,
        {"cu_seqlens": [0, 0, 8, 33, STEPS], "reset": masks(1, STEPS, 0.2), "reverse": True},
    ),
    "nothing": (3, {"lengths": [0, 0, 0], "reset": masks(3, STEPS)}),
}

SOLVERS: dict[str, dict[str, Any]] = {
    "auto": {},
    "sequential": {"solver": "sequential"},
    **{f"segments of {k}": {"solver": "segmented", "segment": k} for k in (1, 7, 16, 64)},
    "newton": {"solver": "newton", "iterations": STEPS},
}

each_kind = pytest.mark.parametrize("kind", KINDS)
each_solver = pytest.mark.parametrize("solver", SOLVERS)


def call_of(
    name: str, kind: str, dtype: torch.dtype, channels: int = 9, start: bool = True
) -> Call:
    batch, sequences = KINDS[kind]
    shape = (batch, STEPS, fitting(name, channels))
    return random_call(name, shape, dtype, start=start, states=True, **sequences)


def dtypes(*several: torch.dtype) -> Any:
    return pytest.mark.parametrize("dtype", several, ids=lambda d: str(d).removeprefix("torch."))


in_float64 = dtypes(torch.float64)  # said so that tests.support.tiers knows what is built


# --- against sequences cut out and run one by one ----------------------------------------------


@each_kind
@each_cell
def test_outputs_states_and_all_gradients_equal_the_oracle(name: str, kind: str) -> None:
    call = call_of(name, kind, torch.float32)
    expected = by_oracle(name, call)
    for solver, choices in SOLVERS.items():
        got = by_kernel(name, call, **choices)
        assert_agree(name, call, got, expected, f"{name}, {kind}, {solver}")


@pytest.mark.parametrize("kind", ["padded, reset and reversed", "joined, reset and reversed"])
@in_float64
@each_cell
def test_double_precision_equals_the_oracle_from_the_inits_too(
    name: str, kind: str, dtype: torch.dtype
) -> None:
    for start in (True, False):
        call = call_of(name, kind, dtype, channels=5, start=start)
        expected = by_oracle(name, call)
        for solver in ("auto", "sequential", "segments of 7"):
            got = by_kernel(name, call, **SOLVERS[solver])
            assert_agree(name, call, got, expected, f"{name}, {kind}, {solver}")


@dtypes(torch.bfloat16, torch.float16)
@pytest.mark.parametrize("kind", ["padded, reset and reversed", "joined, reset and reversed"])
@pytest.mark.parametrize("name", FEW)
def test_half_precision_equals_the_oracle_within_its_limits(
    name: str, kind: str, dtype: torch.dtype
) -> None:
    call = call_of(name, kind, dtype)
    expected = by_oracle(name, call)
    for solver in ("auto", "segments of 7"):
        got = by_kernel(name, call, **SOLVERS[solver])
        assert_agree(name, call, got, expected, f"{name}, {kind}, {solver}")
        assert all(z.dtype == dtype for z in got.z)
        assert all(h.dtype == torch.float32 for h in got.h)


@each_cell
def test_many_channels_and_long_sequences_equal_the_oracle(name: str) -> None:
    several = [
        ((3, 150, 40), {"lengths": [150, 33, 64], "reset": masks(3, 150, 0.02), "reverse": True}),
        ((1, 300, 3), {"cu_seqlens": [0, 170, 171, 300], "reset": masks(1, 300, 0.01)}),
    ]
    for (batch, steps, channels), sequences in several:
        shape = (batch, steps, fitting(name, channels))
        call = random_call(name, shape, torch.float32, **sequences)
        expected = by_oracle(name, call)
        for choices in ({}, {"solver": "segmented", "segment": 32, "checkpoint": 5}):
            assert_agree(name, call, by_kernel(name, call, **choices), expected, name)


@each_cell
def test_no_steps_at_all_give_the_initial_state_as_the_last_state(name: str) -> None:
    for batch, sequences in (
        (2, {"lengths": [0, 0], "reset": torch.ones(2, 0, dtype=torch.bool)}),
        (1, {"cu_seqlens": [0, 0, 0], "reverse": True}),
        (1, {"cu_seqlens": [0]}),
    ):
        call = random_call(
            name, (batch, 0, fitting(name, 8)), torch.float32, states=True, **sequences
        )
        for solver in ("auto", "segments of 7"):
            got = by_kernel(name, call, **SOLVERS[solver])
            assert call.h0 is not None
            for last, first in zip(got.h, call.h0, strict=True):
                assert torch.equal(last, first)
            for state, dh in zip(compiled(name).stages.cell.states, call.dh, strict=True):
                assert torch.equal(got.gradients[f"h0 ({state.name})"], dh)
            assert all(v.shape == (batch, 0, fitting(name, 8)) for v in (*got.y, *got.z))


# --- padding ---------------------------------------------------------------------------------


@each_solver
@each_cell
def test_after_its_end_a_sequence_gives_zeros_and_takes_no_gradient(name: str, solver: str) -> None:
    call = call_of(name, "padded", torch.float32)
    got = by_kernel(name, call, **SOLVERS[solver])
    inputs = [got.gradients[x.name] for x in compiled(name).stages.cell.inputs]
    for row, length in enumerate(call.sequences["lengths"]):
        for rows in (*got.y, *got.z, *inputs):
            assert not rows[row, length:].any()


@pytest.mark.parametrize("kind", ["padded", "padded, reset and reversed"])
@each_solver
@each_cell
def test_values_in_the_padding_reach_nothing(name: str, solver: str, kind: str) -> None:
    call = call_of(name, kind, torch.float32)
    clean = by_kernel(name, call, **SOLVERS[solver])
    cell = compiled(name).stages.cell
    spoilt = Call(**vars(call))
    spoilt.arguments = {n: t.clone() for n, t in call.arguments.items()}
    spoilt.dy, spoilt.dz = ([g.clone() for g in part] for part in (call.dy, call.dz))
    spoilt.sequences = dict(call.sequences)
    reset = spoilt.sequences.setdefault("reset", torch.zeros(call.dy[0].shape[:2]).bool()).clone()
    spoilt.sequences["reset"] = reset
    for row, length in enumerate(call.sequences["lengths"]):
        for rows in (*(spoilt.arguments[x.name] for x in cell.inputs), *spoilt.dy, *spoilt.dz):
            rows[row, length:] = torch.nan
        reset[row, length:] = True
    assert_same_bits(clean, by_kernel(name, spoilt, **SOLVERS[solver]))


def test_lengths_come_as_a_list_a_tuple_or_integers_of_any_width() -> None:
    call = call_of("para_gru", "padded", torch.float32)
    lengths = call.sequences["lengths"]
    expected = solve("para_gru", call.arguments, call.h0, lengths=torch.tensor(lengths))
    for given in (
        *(lengths, tuple(lengths), torch.tensor(lengths, dtype=torch.int32)),
        *(torch.tensor(lengths, dtype=torch.uint8), torch.tensor([lengths] * 2).T[:, 0]),
    ):
        got = solve("para_gru", call.arguments, call.h0, lengths=given)
        for a, b in zip((*got[0], *got[1]), (*expected[0], *expected[1]), strict=True):
            assert torch.equal(a, b)


def test_boundaries_come_as_a_list_or_integers_and_inputs_with_or_without_a_batch() -> None:
    call = call_of("lstm", "joined", torch.float32)
    bounds = call.sequences["cu_seqlens"]
    y, h = solve("lstm", call.arguments, call.h0, cu_seqlens=torch.tensor(bounds))
    assert y[0].shape == (1, STEPS, 9)
    assert h[0].shape == (5, 9)
    again, h_again = solve(
        "lstm", call.arguments, call.h0, cu_seqlens=torch.tensor(bounds, dtype=torch.int32)
    )
    flat = {n: t[0] if t.dim() == 3 else t for n, t in call.arguments.items()}
    y_flat, h_flat = solve("lstm", flat, call.h0, cu_seqlens=bounds)
    for a, b, c in zip((*y, *h), (*again, *h_again), (y_flat[0][None], *h_flat), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_more_leading_dimensions_and_none_give_the_same_rows() -> None:
    name = "pair"
    batch, sequences = 6, {"lengths": [3, 0, STEPS, 9, 16, 20], "reset": masks(6, STEPS)}
    call = random_call(name, (batch, STEPS, 5), torch.float32)
    params = {"w": call.arguments["w"]}
    x = call.arguments["drive"]
    assert call.h0 is not None
    y, z, h = solve_all(name, {"drive": x} | params, call.h0, **sequences)
    folded = {
        "lengths": torch.tensor(sequences["lengths"]).unflatten(0, (2, 3)),
        "reset": sequences["reset"].unflatten(0, (2, 3)),
    }
    start = [v.unflatten(0, (2, 3)) for v in call.h0]
    several = solve_all(name, {"drive": x.unflatten(0, (2, 3))} | params, start, **folded)
    for a, b in zip((*y, *z, *h), itertools.chain(*several), strict=True):
        assert torch.equal(a.unflatten(0, (2, 3)), b)
    row = 3
    alone = {"lengths": torch.tensor(9), "reset": sequences["reset"][row]}
    one = solve_all(name, {"drive": x[row]} | params, [v[row] for v in call.h0], **alone)
    for a, b in zip((*y, *z, *h), itertools.chain(*one), strict=True):
        assert torch.equal(a[row], b)


# --- resets ----------------------------------------------------------------------------------


@in_float64
@each_cell
def test_no_gradient_passes_a_reset(name: str, dtype: torch.dtype) -> None:
    reset = torch.zeros(2, STEPS, dtype=torch.bool)
    reset[:, 16] = True
    call = random_call(name, (2, STEPS, fitting(name, 5)), dtype, reset=reset)
    for dy in call.dy:
        dy[:, :16] = 0
    expected = by_oracle(name, call)
    for solver, choices in SOLVERS.items():
        got = by_kernel(name, call, **choices)
        assert_agree(name, call, got, expected, f"{name}, {solver}")
        for x in compiled(name).stages.cell.inputs:
            assert not got.gradients[x.name][:, :16].any()


@pytest.mark.parametrize("layout", ["expanded", "transposed", "every second step"])
def test_a_mask_of_any_layout_is_read_right(layout: str) -> None:
    call = random_call("para_gru", (3, STEPS, 9), torch.float32)
    mask = masks(3, STEPS)
    laid = {
        "expanded": mask[:1].expand(3, STEPS),
        "transposed": mask.T.contiguous().T,
        "every second step": torch.stack([mask, ~mask], -1).flatten(-2)[:, ::2],
    }[layout]
    call.sequences = {"reset": laid, "reverse": True}
    for solver in ("sequential", "segments of 7"):
        got = by_kernel("para_gru", call, **SOLVERS[solver])
        call.sequences = {"reset": laid.clone(), "reverse": True}
        assert_same_bits(got, by_kernel("para_gru", call, **SOLVERS[solver]))
        assert_agree("para_gru", call, got, by_oracle("para_gru", call), layout)


# --- states along the way ----------------------------------------------------------------------


@each_cell
def test_states_after_each_step_go_with_the_outputs_and_the_last_one(
    name: str, target: str
) -> None:
    call = random_call(name, (2, STEPS, fitting(name, 5)), torch.float32)
    y, z, h = solve_all(name, call.arguments, call.h0)
    without, last = solve(name, call.arguments, call.h0)
    for a, b in zip((*y, *h), (*without, *last), strict=True):
        if target == "cpp":
            assert torch.equal(a, b)
        else:  # other code, in which a GPU's compiler may fuse otherwise
            assert_close(a, b, torch.float32, name)
    for along, end in zip(z, h, strict=True):
        assert along.shape == (2, STEPS, fitting(name, 5))
        assert torch.equal(along[:, -1], end)


def test_states_are_a_tensor_for_one_and_a_tuple_for_several() -> None:
    for name, several in (("para_gru", False), ("lstm", True)):
        call = random_call(name, (2, 5, 4), torch.float32)
        y, z = compiled(name)(**call.arguments, return_states=True)
        assert isinstance(y, Tensor)
        assert isinstance(z, tuple) is several
        assert all(states.shape == (2, 5, 4) for states in listed(z))


@pytest.mark.parametrize("solver", ["sequential", "segments of 16"])
@pytest.mark.parametrize("used", [(0,), (1,), (0, 1)])
def test_a_loss_of_some_states_alone_has_the_oracles_gradient(
    used: tuple[int, ...], solver: str
) -> None:
    call = call_of("pair", "padded, reset and reversed", torch.float64)
    call.dy = [torch.zeros_like(g) for g in call.dy]
    call.dh = [torch.zeros_like(g) for g in call.dh]
    call.dz = [g if i in used else torch.zeros_like(g) for i, g in enumerate(call.dz)]
    expected = by_oracle("pair", call)
    leaves = {n: t.clone().requires_grad_() for n, t in call.arguments.items()}
    assert call.h0 is not None
    options = call.sequences | SOLVERS[solver]
    _, z, _ = solve_all("pair", leaves, call.h0, **options)
    torch.autograd.backward([z[i] for i in used], [call.dz[i] for i in used])
    for argument, leaf in leaves.items():
        assert leaf.grad is not None
        wanted = expected.gradients[argument]
        assert_close(leaf.grad, wanted, torch.float64, argument, gradient=True)


# --- one recurrence, however it is run ---------------------------------------------------------


def inputs_between(name: str, call: Call, first: int, last: int) -> dict[str, Tensor]:
    inputs = {i.name for i in compiled(name).stages.cell.inputs}
    return {n: t[:, first:last] if n in inputs else t for n, t in call.arguments.items()}


CUTS = [(0, 1, 17, 30, STEPS), (0, 16, 32, STEPS), tuple(range(STEPS + 1))]


@pytest.mark.parametrize("reverse", [False, True], ids=["ahead", "reversed"])
@pytest.mark.parametrize("solver", ["sequential", "segments of 7"])
@each_cell
def test_chunks_with_carried_state_equal_one_run(name: str, solver: str, reverse: bool) -> None:
    """Each chunk has what is left of each sequence; reversed, the last chunk comes first."""
    lengths = torch.tensor([STEPS, 0, 23, 16])
    call = random_call(name, (4, STEPS, fitting(name, 9)), torch.float32)
    options = SOLVERS[solver] | {"reverse": reverse}
    y, z, h = solve_all(name, call.arguments, call.h0, lengths=lengths, **options)
    for cuts in CUTS:
        chunks = list(itertools.pairwise(cuts))
        state: Any = call.h0
        rows = []
        for first, last in reversed(chunks) if reverse else chunks:
            left = (lengths - first).clamp(0, last - first)
            given = inputs_between(name, call, first, last)
            out, along, state = solve_all(name, given, state, lengths=left, **options)
            rows.append([*out, *along])
        pieces = [torch.cat(c, 1) for c in zip(*(rows[::-1] if reverse else rows), strict=True)]
        for whole, parts in zip((*y, *z, *h), (*pieces, *state), strict=True):
            if solver == "sequential":
                assert torch.equal(whole, parts)
            assert_close(parts, whole, torch.float32, f"{name}, {cuts}")


@each_cell
def test_steps_from_the_initial_state_at_resets_equal_one_run(name: str) -> None:
    call = random_call(name, (3, STEPS, fitting(name, 9)), torch.float32)
    reset = masks(3, STEPS)
    assert call.h0 is not None
    y, h = solve(name, call.arguments, call.h0, reset=reset)
    state: Any = call.h0
    rows = []
    for t in range(STEPS):
        now = [
            torch.where(reset[:, t, None], first, before)
            for first, before in zip(call.h0, state, strict=True)
        ]
        out, state = solve(name, inputs_between(name, call, t, t + 1), now)
        rows.append(out)
    pieces = [torch.cat(column, 1) for column in zip(*rows, strict=True)]
    for whole, parts in zip((*y, *h), (*pieces, *state), strict=True):
        assert torch.equal(whole, parts)


@each_cell
def test_joined_sequences_give_the_bits_of_padded_ones(name: str) -> None:
    lengths = [5, 0, 16, 20]
    channels = fitting(name, 9)
    call = random_call(name, (4, 20, channels), torch.float32, lengths=lengths)
    inputs = {i.name for i in compiled(name).stages.cell.inputs}
    joined = {
        n: torch.cat([row[:k] for row, k in zip(t, lengths, strict=True)]) if n in inputs else t
        for n, t in call.arguments.items()
    }
    bounds = [0, *itertools.accumulate(lengths)]
    for reverse in (False, True):
        padded_y, padded_h = solve(
            name, call.arguments, call.h0, lengths=lengths, reverse=reverse, solver="sequential"
        )
        y, h = solve(name, joined, call.h0, cu_seqlens=bounds, reverse=reverse, solver="sequential")
        for a, b in zip(padded_h, h, strict=True):
            assert torch.equal(a, b)
        for a, b in zip(padded_y, y, strict=True):
            cut = torch.cat([row[:k] for row, k in zip(a, lengths, strict=True)])
            assert torch.equal(cut, b)


# --- layouts, gradients, bits ------------------------------------------------------------------

LAYOUTS = ["time first", "channels not last", "every third step", "expanded batch", "one value"]


def laid_out(x: Tensor, layout: str) -> Tensor:
    """In another layout; an expanded one repeats its first sequence, or its first value."""
    return {
        "time first": lambda: x.transpose(0, 1).contiguous().transpose(0, 1),
        "channels not last": lambda: x.mT.contiguous().mT,
        "every third step": lambda: torch.stack([x, -x, x], 2).flatten(1, 2)[:, ::3],
        "expanded batch": lambda: x[:1].expand_as(x),
        "one value": lambda: x.flatten()[0].expand_as(x),
    }[layout]()


@pytest.mark.parametrize("kind", ["padded, reset and reversed", "joined, reset and reversed"])
@pytest.mark.parametrize("layout", LAYOUTS)
@dtypes(torch.float32, torch.bfloat16)
def test_inputs_of_any_layout_give_the_bits_of_contiguous_ones(
    layout: str, kind: str, dtype: torch.dtype
) -> None:
    for channels in (7, 32):
        call = call_of("para_gru", kind, dtype, channels)
        moved = {n: laid_out(call.arguments[n], layout) for n in ("xz", "xr", "xc")}
        for solver in ("sequential", "segments of 7"):
            runs = []
            for inputs in (moved, {n: x.contiguous() for n, x in moved.items()}):
                leaves = {n: x.detach().requires_grad_() for n, x in inputs.items()}
                options = call.sequences | SOLVERS[solver]
                y, z, h = solve_all("para_gru", call.arguments | leaves, call.h0, **options)
                upstream = [*call.dy, *call.dz, *call.dh]
                dx = torch.autograd.grad([*y, *z, *h], list(leaves.values()), upstream)
                runs.append((*y, *z, *h, *dx))
            for a, b in zip(*runs, strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("solver", ["sequential", "segments of 7", "newton"])
@pytest.mark.parametrize("kind", ["padded, reset and reversed", "joined, reset and reversed"])
@in_float64
@pytest.mark.parametrize("name", SMOOTH)
def test_gradcheck_passes_through_lengths_resets_initial_and_all_states(
    name: str, dtype: torch.dtype, kind: str, solver: str
) -> None:
    steps = 12
    sequences: dict[str, Any] = {"reset": masks(3, steps), "lengths": [steps, 0, 5]}
    batch = 3
    if kind.startswith("joined"):
        sequences, batch = {"reset": masks(1, steps), "cu_seqlens": [0, 5, 5, steps]}, 1
    call = random_call(name, (batch, steps, fitting(name, 2)), dtype, **sequences)
    assert call.h0 is not None
    leaves = {n: t.clone().requires_grad_() for n, t in call.arguments.items()}
    start = [h.clone().requires_grad_() for h in call.h0]
    options = sequences | SOLVERS[solver] | {"reverse": True, "checkpoint": 2}

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(leaves, tensors, strict=False))
        y, z, h = solve_all(name, given, tensors[len(leaves) :], **options)
        return (*y, *z, *h)

    assert torch.autograd.gradcheck(function, (*leaves.values(), *start), fast_mode=True)


@pytest.mark.parametrize("solver", ["auto", "sequential", "segments of 16", "newton"])
@each_cell
def test_neither_repetition_nor_threads_change_a_bit(name: str, solver: str) -> None:
    threads = torch.get_num_threads()
    several: tuple[tuple[tuple[int, int, int], dict[str, Any]], ...] = (
        ((3, 300, 20), {"lengths": [300, 7, 233], "reset": masks(3, 300, 0.03)}),
        ((1, 1200, 14), {"cu_seqlens": [0, 400, 400, 1101, 1200], "reset": masks(1, 1200, 0.03)}),
    )
    choices = {} if solver == "auto" else SOLVERS[solver]
    if solver == "newton":
        choices = {"solver": "newton", "on_failure": "sequential"}
    try:
        for (batch, steps, channels), sequences in several:
            shape = (batch, steps, fitting(name, channels))
            call = random_call(name, shape, torch.float32, reverse=True, **sequences)
            call.dz = [torch.ones(shape) for _ in compiled(name).stages.cell.states]
            outcomes = []
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                outcomes.append(by_kernel(name, call, **choices))
            for other in outcomes[1:]:
                assert_same_bits(outcomes[0], other)
    finally:
        torch.set_num_threads(threads)
