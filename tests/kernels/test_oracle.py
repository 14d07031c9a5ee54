"""Every shipped cell against the oracle: outputs, states, gradients, special values."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import rnncc
from rnncc import Input, State, cell, where
from rnncc.runtime.backend import backend_of
from rnncc.runtime.cpu.backend import CpuBackend
from rnncc.runtime.kernel import COMPUTE
from tests.support import runs
from tests.support.emulated import Emulation
from tests.support.runs import (
    CELLS,
    DTYPES,
    Call,
    assert_agree,
    by_kernel,
    by_oracle,
    compiled,
    fitting,
    forward_by_oracle,
    is_spiking,
    random_call,
    solve,
)
from tests.support.small import SMALL
from tests.support.tolerances import TOLERANCES, assert_close

EVERY_TARGET = True  # see conftest.py
SHAPES = [
    *itertools.product((0, 1, 3), (0, 1, 2, 31, 63, 64), (1, 7, 32, 100)),
    *((0, 1000, 7), (1, 1000, 32), (3, 1000, 1)),
]
FEW = [*itertools.product((0, 1, 3), (0, 1, 31, 64), (7, 100)), (3, 300, 18)]
SMOOTH = [name for name in CELLS if not is_spiking(name)]

each_cell = pytest.mark.parametrize("name", CELLS)


def dtypes(*several: torch.dtype) -> Any:
    return pytest.mark.parametrize("dtype", several, ids=lambda d: str(d).removeprefix("torch."))


each_dtype = dtypes(*DTYPES)
in_float64 = dtypes(torch.float64)  # said so that tests.support.tiers knows what is built


def has_all_shapes(name: str, dtype: torch.dtype, target: str) -> bool:
    """Not cells that are there for a feature, nor an emulated GPU, nor float16 and bfloat16, which
    are float32 once they are read."""
    return not (name in SMALL or target == "emulated" or COMPUTE[dtype] != dtype)


def fitted(name: str, chosen: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Rounded up to whole groups of channels."""
    rounded = [(batch, steps, fitting(name, n)) for batch, steps, n in chosen]
    return list(dict.fromkeys(rounded))


def test_calls_run_where_the_target_says(target: str) -> None:
    backend = backend_of(torch.device("cpu"))
    assert isinstance(backend, Emulation if target == "emulated" else CpuBackend)
    assert ("cuda" if target == "gpu" else "cpu") == runs.DEVICE


@pytest.mark.parametrize("shapes", ["few", pytest.param("all", marks=pytest.mark.slow)])
@each_dtype
@each_cell
def test_outputs_states_and_all_gradients_equal_the_oracle(
    name: str, dtype: torch.dtype, shapes: str, target: str
) -> None:
    if shapes == "all" and not has_all_shapes(name, dtype, target):
        pytest.skip("a few tell as much")
    for seed, shape in enumerate(fitted(name, FEW if shapes == "few" else SHAPES)):
        call = random_call(name, shape, dtype, seed=seed)
        got, expected = by_kernel(name, call), by_oracle(name, call)
        assert_agree(name, call, got, expected, f"{name} {shape}")


@each_cell
def test_the_cells_inits_equal_the_oracles(name: str) -> None:
    for shape in ((1, 1, 4), (3, 17, 20), (2, 40, 64)):
        call = random_call(name, (*shape[:2], fitting(name, shape[2])), torch.float32, start=False)
        got, expected = by_kernel(name, call), by_oracle(name, call)
        assert_agree(name, call, got, expected, f"{name} {shape}")


@pytest.mark.parametrize("name", SMOOTH)
def test_with_large_weights_it_agrees_wherever_a_float32_loop_does(name: str) -> None:
    limit = TOLERANCES[torch.float32].output
    compared = 0
    for seed in range(2):
        shape = (2, 150, 40)
        call = random_call(name, shape, torch.float32, seed=seed, start=False, weights=5.0)
        exact = forward_by_oracle(name, call.arguments, None)
        # what the last bit of an argument can do, rounding within the loop can do as well
        spread = [forward_by_oracle(name, call.arguments, None, seed=s) for s in range(4)]
        loop = by_oracle(name, call, torch.float32)
        spread.append([*loop.y, *loop.h])
        y, h = solve(name, call.arguments, None)
        for got, e, *others in zip([*y, *h], exact, *spread, strict=True):
            errors = torch.stack([(o - e).abs() / e.abs().clamp(min=1) for o in others])
            steady = errors.reshape(-1, shape[2]).amax(0) < limit / 4
            compared += int(steady.sum())
            assert_close(got[..., steady], e[..., steady], torch.float32, f"{name}, seed {seed}")
            assert bool(got.isfinite().all()) == bool(e.isfinite().all())
    assert compared > 20


# --- one recurrence, however it is run -------------------------------------------------------


@each_dtype
@each_cell
def test_chunks_with_carried_state_equal_one_run(
    name: str, dtype: torch.dtype, target: str
) -> None:
    call = random_call(name, (2, 67, fitting(name, 23)), dtype, start=False)
    y, h = solve(name, call.arguments, None, solver="sequential")
    for cuts in ((0, 1, 17, 49, 67), (0, 32, 64, 67), tuple(range(68))):
        rows, state = [], None
        for first, last in itertools.pairwise(cuts):
            part = _between(name, call, first, last)
            out, state = solve(name, part, state, solver="sequential")
            rows.append(out)
        pieces = [torch.cat(column, 1) for column in zip(*rows, strict=True)]
        assert state is not None
        for whole, parts in zip((*y, *h), (*pieces, *state), strict=True):
            if target == "cpp":
                assert torch.equal(whole, parts)
            else:  # a GPU's compiler may fuse what it walks step by step otherwise than blocks
                assert_close(whole, parts, whole.dtype, name)


def _between(name: str, call: Call, first: int, last: int) -> dict[str, Tensor]:
    inputs = {i.name for i in compiled(name).stages.cell.inputs}
    return {n: t[:, first:last] if n in inputs else t for n, t in call.arguments.items()}


@in_float64
@each_cell
def test_gradients_through_chunks_equal_those_through_one_run(
    name: str, dtype: torch.dtype
) -> None:
    call = random_call(name, (2, 50, fitting(name, 9)), dtype)
    assert call.h0 is not None
    expected = by_kernel(name, call)
    leaves = {n: t.clone().requires_grad_() for n, t in call.arguments.items()}
    start = [h.clone().requires_grad_() for h in call.h0]
    halves = Call(dtype, leaves, None)
    first, middle = solve(name, _between(name, halves, 0, 21), start)
    second, h = solve(name, _between(name, halves, 21, 50), middle)
    y = [torch.cat(pair, 1) for pair in zip(first, second, strict=True)]
    torch.autograd.backward([*y, *h], [*call.dy, *call.dh])
    for n, leaf in leaves.items():
        assert leaf.grad is not None
        assert_close(leaf.grad, expected.gradients[n], dtype, f"{name} {n}", gradient=True)
    for state, leaf in zip(compiled(name).stages.cell.states, start, strict=True):
        assert leaf.grad is not None
        wanted = expected.gradients[f"h0 ({state.name})"]
        assert_close(leaf.grad, wanted, dtype, f"{name} h0", gradient=True)


# --- NaN and infinity ------------------------------------------------------------------------


@each_cell
def test_nan_stays_in_its_sequence_and_group_from_that_step_on(name: str) -> None:
    channels, step = fitting(name, 24), 9
    group = compiled(name).structure.group
    call = random_call(name, (2, 20, channels), torch.float32)
    clean = solve(name, call.arguments, call.h0)[0]
    for x in compiled(name).stages.cell.inputs:
        spoilt = dict(call.arguments)
        spoilt[x.name] = spoilt[x.name].clone()
        spoilt[x.name][(1, step) if x.shared else (1, step, 13)] = torch.nan
        reached = torch.zeros(2, 20, channels, dtype=torch.bool)
        first, last = (
            (0, channels) if x.shared else (13 // group * group, (13 // group + 1) * group)
        )
        reached[1, step:, first:last] = True
        exact = forward_by_oracle(name, spoilt, call.h0)
        for got, before, e in zip(solve(name, spoilt, call.h0)[0], clean, exact, strict=False):
            assert torch.equal(got[~reached], before[~reached])
            assert torch.equal(got.isnan(), e.isnan())


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
@each_cell
def test_infinite_inputs_equal_the_oracle(name: str, value: float) -> None:
    call = random_call(name, (2, 20, fitting(name, 8)), torch.float32)
    for x in compiled(name).stages.cell.inputs:
        spoilt = dict(call.arguments)
        spoilt[x.name] = spoilt[x.name].clone()
        spoilt[x.name][(1, 9) if x.shared else (1, 9, 5)] = value
        y, h = solve(name, spoilt, call.h0)
        for got, e in zip([*y, *h], forward_by_oracle(name, spoilt, call.h0), strict=True):
            assert_close(got, e, torch.float32, f"{name}: {x.name} = {value}")


def test_a_choice_of_0_does_not_mask_nan_or_infinity() -> None:
    """As g++ does with -fno-signed-zeros: it turns x * (c ? 1 : 0) into a mask."""

    @cell
    def masked(h: State, x: Input, s: Input):
        return 0.5 * h + where(s > 0, 1.0, 0.0) * x

    s = torch.tensor([1.0, -1.0]).repeat(20).expand(1, 3, 40)
    for value in (torch.nan, torch.inf):
        for dtype in (torch.float32, torch.float64):
            x = torch.full((1, 3, 40), value, dtype=dtype)
            y = rnncc.compile(masked)(x, s.to(dtype))
            assert y[..., 1::2].isnan().all()
            assert torch.equal(y[..., ::2].isnan(), x[..., ::2].isnan())


@each_cell
def test_a_nan_in_the_initial_state_reaches_only_its_channel(name: str) -> None:
    channels = fitting(name, 24)
    call = random_call(name, (2, 5, channels), torch.float32)
    assert call.h0 is not None
    clean = solve(name, call.arguments, call.h0)[0]
    group = compiled(name).structure.group
    outside = torch.ones(2, channels, dtype=torch.bool)
    outside[0, 7 // group * group : (7 // group + 1) * group] = False
    for s in range(len(call.h0)):
        start = [h.clone() for h in call.h0]
        start[s][0, 7] = torch.nan
        exact = forward_by_oracle(name, call.arguments, start)
        spoilt = solve(name, call.arguments, start)[0]
        for got, before, e in zip(spoilt, clean, exact, strict=False):
            kept = outside.unsqueeze(1).expand_as(got)
            assert torch.equal(got[kept], before[kept])
            assert torch.equal(got.isnan(), e.isnan())


# --- bits ------------------------------------------------------------------------------------


@dtypes(torch.float32, torch.bfloat16)
@each_cell
def test_neither_repetition_nor_threads_change_a_bit(name: str, dtype: torch.dtype) -> None:
    threads = torch.get_num_threads()
    try:
        for shape in ((1, 80, 300), (70, 40, 7), (3, 90, 70)):
            call = random_call(name, (*shape[:2], fitting(name, shape[2])), dtype)
            outcomes = []
            for count in (1, 2, 3, 2):
                torch.set_num_threads(count)
                outcomes.append(by_kernel(name, call))
            for other in outcomes[1:]:
                for a, b in zip(
                    (*outcomes[0].y, *outcomes[0].h), (*other.y, *other.h), strict=True
                ):
                    assert torch.equal(a, b)
                for argument, gradient in outcomes[0].gradients.items():
                    assert torch.equal(gradient, other.gradients[argument]), argument
    finally:
        torch.set_num_threads(threads)


def test_states_of_half_inputs_come_back_in_float32() -> None:
    for dtype in DTYPES:
        call = random_call("para_gru", (2, 3, 5), dtype)
        y, h = solve("para_gru", call.arguments, call.h0)
        assert y[0].dtype == dtype
        assert h[0].dtype == COMPUTE[dtype]
