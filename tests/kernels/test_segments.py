"""Segments of time, however long, give the sequential answer; Newton gives it or says it hasn't."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

import rnncc
from rnncc import ConvergenceError, Input, Param, State, cell, tanh
from rnncc.ir.choices import Choices
from rnncc.lang.loader import find
from rnncc.nn.status import Solve
from rnncc.planner.cpu import steps_saved
from rnncc.runtime.call import shapes_of
from tests.support.runs import (
    CELLS,
    Call,
    Outcome,
    assert_agree,
    assert_same_bits,
    by_kernel,
    by_oracle,
    compiled,
    fitting,
    forward_by_oracle,
    is_spiking,
    random_call,
    solve,
)
from tests.support.tolerances import TOLERANCES, assert_close

EVERY_TARGET = True  # see conftest.py
SHAPES = [(2, 100, 20), (1, 65, 5), (3, 33, 40)]
SMOOTH = [name for name in CELLS if not is_spiking(name)]
AFFINE = [name for name in CELLS if compiled(name).structure.affine]

each_cell = pytest.mark.parametrize("name", CELLS)
each_smooth_cell = pytest.mark.parametrize("name", SMOOTH)


def dtypes(*several: torch.dtype) -> Any:
    return pytest.mark.parametrize("dtype", several, ids=lambda d: str(d).removeprefix("torch."))


each_dtype = dtypes(torch.float32, torch.float64, torch.bfloat16)
each_wide_dtype = dtypes(torch.float32, torch.float64)
in_float64 = dtypes(torch.float64)  # said so that tests.support.tiers knows what is built


def fitted(name: str, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return (*shape[:2], fitting(name, shape[2]))


def observed(name: str, call: Call, **choices: Any) -> tuple[Outcome, Solve]:
    """The results, and how they were solved."""
    solves: list[Solve] = []
    outcome = by_kernel(name, call, observe=solves.append, **choices)
    return outcome, solves[0]


# --- the sequential answer -------------------------------------------------------------------


def rounded(name: str, segment: int, target: str) -> int:
    """On a GPU segments are whole blocks of the steps that a thread holds."""
    ahead = compiled(name).spec.ahead if target != "cpp" else 1
    return -(-segment // ahead) * ahead


@each_dtype
@each_cell
def test_segments_of_any_length_give_the_sequential_answer_and_its_gradients(
    name: str, dtype: torch.dtype, target: str
) -> None:
    for seed, shape in enumerate(fitted(name, shape) for shape in SHAPES):
        call = random_call(name, shape, dtype, seed=seed, states=seed == 1)
        expected = by_oracle(name, call)
        steps = shape[1]
        for segment in (1, 7, 16, 32, steps - 1, steps + 5):
            got, status = observed(name, call, solver="segmented", segment=segment)
            assert_agree(name, call, got, expected, f"{name} {shape}, segments of {segment}")
            assert status.solver == "segmented"
            assert status.segment == min(rounded(name, segment, target), steps)
            assert status.converged


@each_wide_dtype
@each_cell
def test_segments_of_a_length_that_the_planner_chooses_give_it_too(
    name: str, dtype: torch.dtype
) -> None:
    call = random_call(name, fitted(name, (1, 600, 2)), dtype)
    got, status = observed(name, call, solver="segmented")
    assert_agree(name, call, got, by_oracle(name, call), name)
    assert status.solver == "segmented"


@each_cell
def test_auto_gives_the_results_of_one_pass(name: str) -> None:
    for shape in ((1, 5000, 1), (2, 2100, 3), (40, 30, 40)):
        call = random_call(name, fitted(name, shape), torch.float32)
        got, status = observed(name, call)
        one_pass = by_kernel(name, call, solver="sequential")
        for a, b in zip((*got.y, *got.h), (*one_pass.y, *one_pass.h), strict=True):
            assert_close(a, b, torch.float32, f"{name} {shape} {status}")
        for argument, gradient in got.gradients.items():
            e = one_pass.gradients[argument]
            assert_close(gradient, e, torch.float32, f"{name} {argument}", gradient=True)
        assert status.solver in ("sequential", "segmented")


@pytest.mark.parametrize("iterations", [1, 2, 3])
@each_wide_dtype
@each_cell
def test_one_pass_over_time_solves_the_rest_of_few_sweeps(
    name: str, dtype: torch.dtype, iterations: int
) -> None:
    call = random_call(name, fitted(name, (2, 90, 6)), dtype)
    expected = by_oracle(name, call)
    choices = {"solver": "segmented", "iterations": iterations, "segment": 3, "tol": 0.0}
    got, status = observed(name, call, **choices)
    assert_agree(name, call, got, expected, f"{name}: {status}")
    assert status.sweeps <= max(iterations, 2 if name in AFFINE else 1)  # an affine cell takes two
    assert status.converged


def test_the_first_segments_are_solved_after_as_many_sweeps_and_one_pass_does_the_rest(
    target: str,
) -> None:
    segment = rounded("elman", 10, target)
    call = random_call("elman", (1, 90, 40), torch.float64, weights=3.0)
    call.arguments["x"] *= 0.1
    for iterations in (1, 2, 3):
        choices = {"solver": "segmented", "iterations": iterations, "segment": 10, "tol": 0.0}
        got, status = observed("elman", call, **choices)
        assert_agree("elman", call, got, by_oracle("elman", call), str(status))
        assert status.sweeps == iterations
        assert status.sequential_from is not None
        assert status.sequential_from >= segment * iterations
        assert status.sequential_from % segment == 0
        assert f"one pass from step {status.sequential_from} on" in repr(status)


# --- hard ones -------------------------------------------------------------------------------


@each_smooth_cell
def test_with_large_weights_segments_agree_wherever_a_float32_loop_does(name: str) -> None:
    limit = TOLERANCES[torch.float32].output
    compared = 0
    for seed, segment in itertools.product(range(2), (1, 8, 32)):
        shape = (2, 150, 40)
        call = random_call(name, shape, torch.float32, seed=seed, start=False, weights=5.0)
        exact = forward_by_oracle(name, call.arguments, None)
        spread = [forward_by_oracle(name, call.arguments, None, seed=s) for s in range(3)]
        y, h = solve(name, call.arguments, None, solver="sequential")
        spread.append([*y, *h])
        y, h = solve(name, call.arguments, None, solver="segmented", segment=segment)
        for got, e, *others in zip([*y, *h], exact, *spread, strict=True):
            errors = torch.stack([(o - e).abs() / e.abs().clamp(min=1) for o in others])
            steady = errors.reshape(-1, shape[2]).amax(0) < limit / 4
            compared += int(steady.sum())
            what = f"{name}, seed {seed}, segments of {segment}"
            assert_close(got[..., steady], e[..., steady], torch.float32, what)
            assert bool(got.isfinite().all()) == bool(others[-1].isfinite().all())
    assert compared > 60


@cell
def nerve(v: State, w: State, current: Input, threshold: Param):
    """FitzHugh-Nagumo by Euler's method: a limit cycle, which segments can't guess."""
    v_new = v + 0.2 * (v - v**3 / 3 - w + current)
    w_new = w + 0.2 * 0.08 * (v + threshold - 0.8 * w)
    return {"v": v_new, "w": w_new}


@pytest.mark.parametrize("segment", [1, 4, 16, 50])
def test_a_limit_cycle_gives_the_sequential_answer_and_no_nan(segment: int) -> None:
    current = 0.5 + 0.1 * torch.randn(2, 400, 6, dtype=torch.float64)
    current.requires_grad_()
    threshold = torch.full((6,), 0.7, dtype=torch.float64, requires_grad=True)
    c = rnncc.compile(nerve)
    runs = []
    for choices in ({"solver": "sequential"}, {"solver": "segmented", "segment": segment}):
        y = c(current, threshold, **choices)
        runs.append((y, *torch.autograd.grad(y.pow(2).sum(), (current, threshold))))
    v = w = torch.zeros(2, 6, dtype=torch.float64)
    rows = []
    for t in range(400):
        x = current[:, t]
        v, w = v + 0.2 * (v - v**3 / 3 - w + x), w + 0.2 * 0.08 * (v + threshold - 0.8 * w)
        rows.append(w)
    y = torch.stack(rows, 1)
    loop = (y, *torch.autograd.grad(y.pow(2).sum(), (current, threshold)))
    assert (y.detach().amax(1) - y.detach().amin(1)).min() > 1, "it does cycle"
    for run in runs:
        for i, (got, e) in enumerate(zip(run, loop, strict=True)):
            assert_close(got, e, torch.float64, f"result {i}", gradient=i > 0)


@each_wide_dtype
def test_a_bistable_cell_gives_the_sequential_answer(dtype: torch.dtype) -> None:
    for seed in range(3):
        call = random_call("elman", (2, 256, 50), dtype, seed=seed, weights=3.0)
        call.arguments["x"] *= 0.1
        got, status = observed("elman", call, solver="segmented", segment=8)
        assert_agree("elman", call, got, by_oracle("elman", call), str(status))
        assert status.sweeps > 4, "its starts are hard to guess"


# --- how many sweeps -------------------------------------------------------------------------


@pytest.mark.parametrize("segment", [1, 5, 16, 100])
@pytest.mark.parametrize("name", AFFINE)
def test_an_affine_cell_takes_few_sweeps(name: str, segment: int, target: str) -> None:
    for dtype in (torch.float32, torch.float64):
        call = random_call(name, (2, 300, 8), dtype)
        got, status = observed(name, call, solver="segmented", segment=segment)
        # for M, the solve and a correction; on a GPU a guess may be in vain too
        assert status.sweeps <= (3 if target == "cpp" else 4)
        assert status.sequential_from is None
        assert_agree(name, call, got, by_oracle(name, call), str(status))


@pytest.mark.parametrize("kept", [0.8, 0.83, 0.84, 0.85, 0.9])
def test_an_affine_cells_guesses_are_held_to_the_limits_of_all_cells(kept: float) -> None:
    """`driven` multiplies its state by exp(-a * a): nearly forgotten is not forgotten."""
    arguments = {"dt": torch.ones(1, 1000), "a": torch.full((3,), (-math.log(kept)) ** 0.5)}
    exact = forward_by_oracle("driven", arguments, None)
    y, h = solve("driven", arguments, None, solver="segmented", segment=64)
    for got, e in zip((*y, *h), exact, strict=True):
        assert ((got - e).abs() / e.abs().clamp(min=1)).max() < TOLERANCES[torch.float32].output / 5


@cell
def delayed(h: State, r: State, x: Input, a: Param):
    h_new = tanh(a * h + x)
    return {"h": h_new, "r": 1e6 * h_new, "y": h_new, "before": r}


def test_a_state_that_only_an_output_reads_is_right_at_the_borders() -> None:
    x, a, h0 = torch.randn(2, 200, 9), 2 * torch.rand(9), torch.randn(2, 2, 9)
    c = rnncc.compile(delayed)
    assert c.structure.readouts == ("r",)
    (y, before), (h, r) = c(x, a, h0=tuple(h0), return_state=True, solver="segmented", segment=5)
    assert torch.equal(before[:, 0], h0[1])
    assert_close(before[:, 1:], 1e6 * y[:, :-1], torch.float32, "before")
    assert torch.equal(r, 1e6 * h)
    assert torch.equal(h, y[:, -1])


def test_a_looser_tolerance_takes_fewer_sweeps() -> None:
    call, tols = random_call("para_gru", (2, 200, 9), torch.float64, weights=2.0), (0.0, 1e-6, 1.0)
    solves = [observed("para_gru", call, solver="segmented", segment=4, tol=tol)[1] for tol in tols]
    sweeps = [s.sweeps for s in solves]
    assert sweeps == sorted(sweeps, reverse=True)
    assert len(set(sweeps)) == 3
    for s, tol in zip(solves, tols, strict=True):
        assert s.mismatch <= tol
        assert s.sequential_from is None


# --- Newton as in the papers -----------------------------------------------------------------


@each_wide_dtype
@each_cell
def test_newton_gives_the_sequential_answer_given_as_many_iterations_as_steps(
    name: str, dtype: torch.dtype
) -> None:
    for seed, shape in enumerate(((2, 40, 20), (1, 65, 3), (3, 1, 7))):
        call = random_call(name, fitted(name, shape), dtype, seed=seed)
        got, status = observed(name, call, solver="newton", iterations=max(1, shape[1] - 1))
        assert_agree(name, call, got, by_oracle(name, call), f"{name} {shape}: {status}")
        assert (status.solver, status.segment) == ("newton", 1)
        assert status.converged


def test_newton_stops_as_soon_as_it_is_within_its_tolerance() -> None:
    call = random_call("para_gru", (2, 100, 20), torch.float64)
    sweeps = []
    for tol in (1e-1, 1e-5, 1e-12):
        _, status = observed("para_gru", call, solver="newton", iterations=50, tol=tol)
        assert status.mismatch <= tol
        assert status.converged
        sweeps.append(status.sweeps)
    assert sweeps[0] < sweeps[1] < sweeps[2] < 12


def test_newton_with_a_tolerance_of_0_continues_until_nothing_changes() -> None:
    call = random_call("para_gru", (2, 100, 20), torch.float64)
    got, status = observed("para_gru", call, solver="newton", iterations=100, tol=0.0)
    assert status.mismatch == 0
    assert_agree("para_gru", call, got, by_oracle("para_gru", call), str(status))


UNSOLVED = {"slstm": None, "para_gru": 3.0}  # the weights' bound; their own if None


@pytest.mark.parametrize("name", UNSOLVED)
def test_newton_raises_where_it_has_not_converged(name: str) -> None:
    call = random_call(name, (2, 200, 20), torch.float32, weights=UNSOLVED[name])
    for asked, iterations in (({}, 3), ({"iterations": 2}, 2)):
        with pytest.raises(ConvergenceError) as failure:
            by_kernel(name, call, solver="newton", **asked)
        message = re.fullmatch(
            rf"solver: newton on '{name}' has not converged within (\d+) iterations: residual "
            r"(\S+), expected at most 5e-07\.\nFix: solver='auto', which doesn't depend on "
            r"convergence; or iterations=, tol=, on_failure='sequential'",
            str(failure.value),
        )
        assert message, str(failure.value)
        assert int(message[1]) == iterations
        assert not float(message[2]) <= 5e-7


@pytest.mark.parametrize("name", UNSOLVED)
def test_newton_warns_if_that_is_wanted_and_gives_what_it_has(name: str) -> None:
    call = random_call(name, (2, 200, 20), torch.float32, weights=UNSOLVED[name])
    with pytest.warns(UserWarning, match=rf"newton on '{name}' has not converged within 3"):
        got, status = observed(name, call, solver="newton", on_failure="warn")
    assert not status.converged
    assert status.sweeps == 4
    assert not status.mismatch <= 5e-7
    assert repr(status).endswith("not converged>")
    assert all(y.shape == (2, 200, 20) for y in got.y)


@pytest.mark.parametrize("name", UNSOLVED)
def test_newton_goes_over_to_one_pass_if_that_is_wanted(name: str) -> None:
    call = random_call(name, (2, 200, 20), torch.float32, weights=UNSOLVED[name], states=True)
    got, status = observed(name, call, solver="newton", on_failure="sequential")
    assert status.converged
    assert status.sequential_from == 0
    one_pass = by_kernel(name, call, solver="sequential")
    for a, b in zip((*got.y, *got.z, *got.h), (*one_pass.y, *one_pass.z, *one_pass.h), strict=True):
        assert torch.equal(a, b)
    assert_agree(name, call, got, by_oracle(name, call), name)


@pytest.mark.parametrize("on_failure", ["raise", "warn", "sequential"])
def test_newton_that_converges_says_nothing(on_failure: str) -> None:
    call = random_call("para_gru", (2, 50, 20), torch.float32)
    _, status = observed("para_gru", call, solver="newton", iterations=20, on_failure=on_failure)
    assert status.converged
    assert status.sequential_from is None


@pytest.mark.parametrize("scale", [2.0**-20, 1.0, 2.0**20])
def test_newton_converges_in_the_units_of_the_state(scale: float) -> None:
    @cell
    def in_units(h: State, x: Input, a: Param):
        return scale * tanh(a * (h / scale) + x)

    torch.manual_seed(0)
    x, a = torch.randn(3, 64, 2), torch.tensor([1.2, -0.9])
    run = rnncc.compile(in_units)
    expected = run(x.double(), a.double(), solver="sequential")
    seen: list[Solve] = []
    y = run(x, a, solver="newton", iterations=60, observe=seen.append)
    assert seen[0].converged
    assert float((y - expected).abs().max()) <= 2e-6 * scale
    with pytest.raises(ConvergenceError):
        run(x, a, solver="newton", iterations=2)


# --- gradients -------------------------------------------------------------------------------

SOLVERS: dict[str, dict[str, Any]] = {
    "sequential": {"solver": "sequential", "checkpoint": 4},
    "segmented": {"solver": "segmented", "segment": 4, "checkpoint": 2},
    "newton": {"solver": "newton", "iterations": 12, "checkpoint": 1},
}


@pytest.mark.parametrize("solver", SOLVERS)
@in_float64
@each_smooth_cell
def test_gradcheck_passes_under_every_solver(name: str, dtype: torch.dtype, solver: str) -> None:
    call = random_call(name, (2, 12, fitting(name, 2)), dtype)
    assert call.h0 is not None
    leaves = {n: t.clone().requires_grad_() for n, t in call.arguments.items()}
    start = [h.clone().requires_grad_() for h in call.h0]

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(leaves, tensors, strict=False))
        y, h = solve(name, given, tensors[len(leaves) :], **SOLVERS[solver])
        return (*y, *h)

    assert torch.autograd.gradcheck(function, (*leaves.values(), *start), fast_mode=True)


@pytest.mark.parametrize("segment", [16, 64])
@in_float64
@each_cell
def test_gradients_of_the_last_state_alone_equal_the_oracles(
    name: str, dtype: torch.dtype, segment: int
) -> None:
    call = random_call(name, fitted(name, (2, 150, 5)), dtype)
    call.dy = [torch.zeros_like(g) for g in call.dy]
    got = by_kernel(name, call, solver="segmented", segment=segment)
    assert_agree(name, call, got, by_oracle(name, call), name)


@cell
def scaled(h: State, x: Input):
    return x * h


@pytest.mark.parametrize("growth", [1.0, 10.0, 1000.0])
@each_wide_dtype
def test_gradients_that_vanish_and_grow_again_arrive(dtype: torch.dtype, growth: float) -> None:
    """And a product over a segment that overflows spoils nothing."""
    c = rnncc.compile(scaled)
    x = torch.ones(1, 192, 3, dtype=dtype)
    x[:, :64:4], x[:, 64:128:4] = growth, 1 / growth
    found = []
    for choices in ({"solver": "sequential"}, {"solver": "segmented", "segment": 64}):
        leaf = x.clone().requires_grad_()
        start = torch.full((1, 3), 1e-20, dtype=dtype, requires_grad=True)
        _, h = c(leaf, h0=start, return_state=True, **choices)
        found.append((h, *torch.autograd.grad(h.sum(), (leaf, start))))
    for i, (e, got) in enumerate(zip(*found, strict=True)):
        assert_close(got, e, dtype, f"result {i}", gradient=i > 0)


def test_gradients_through_products_beyond_all_numbers_stay_finite() -> None:
    x = torch.ones(1, 256, 3)
    x[:, :128:4], x[:, 128::4] = 16.0, 1 / 16  # together 2^128; all is exact
    x[:, 1], x[:, 255] = 8.0, 0.125
    c = rnncc.compile(scaled)
    for segment in (32, 64, 128):
        found = []
        for choices in ({"solver": "sequential"}, {"solver": "segmented", "segment": segment}):
            leaf = x.clone().requires_grad_()
            start = torch.full((1, 3), 1e-20, requires_grad=True)
            _, h = c(leaf, h0=start, return_state=True, **choices)
            found.append((h, *torch.autograd.grad(h.sum(), (leaf, start))))
        for i, (e, got) in enumerate(zip(*found, strict=True)):
            assert_close(got, e, torch.float32, f"result {i}", gradient=i > 0)


@pytest.mark.parametrize("choices", [{}, {"solver": "segmented", "segment": 32}], ids=str)
@in_float64
@each_cell
def test_checkpoints_change_no_output_and_only_the_rounding_of_gradients(
    name: str, dtype: torch.dtype, choices: dict[str, Any]
) -> None:
    call = random_call(name, fitted(name, (2, 100, 6)), dtype)
    default, expected = by_kernel(name, call, **choices), by_oracle(name, call)
    for checkpoint in (1, 4, 16, 37, 64, 1000):
        got = by_kernel(name, call, checkpoint=checkpoint, **choices)
        for a, b in zip((*got.y, *got.h), (*default.y, *default.h), strict=True):
            assert torch.equal(a, b)
        assert_agree(name, call, got, expected, f"{name}, checkpoint {checkpoint}")


def test_a_larger_checkpoint_saves_less_for_the_backward() -> None:
    kernel = compiled("lstm").kernel
    call = random_call("lstm", (2, 1000, 6), torch.float32)
    spec = kernel.spec
    inputs = [call.arguments[a.name] for a in spec.inputs]
    params = [call.arguments[a.name] for a in spec.params]
    sizes = [
        shapes_of(spec, inputs, params, steps_saved(spec, Choices(checkpoint=every))).saved[0]
        for every in (1, 4, 16, 64, 1000)
    ]
    for every, size in zip((1, 4, 16, 64, 1000), sizes, strict=True):
        one_state = len(spec.states) * 6
        assert size <= (2 * 1000 / every + 2) * one_state
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 50 * sizes[-1]


# --- NaN and infinity ------------------------------------------------------------------------

PARALLEL: dict[str, dict[str, Any]] = {
    "segments of 4": {"solver": "segmented", "segment": 4},
    "segments of 16": {"solver": "segmented", "segment": 16},
    "newton": {"solver": "newton", "iterations": 40},
}


@pytest.mark.parametrize("solver", PARALLEL)
@each_cell
def test_nan_stays_in_its_sequence_and_group_from_that_step_on(name: str, solver: str) -> None:
    channels, step = fitting(name, 24), 9
    group = compiled(name).structure.group
    call = random_call(name, (2, 40, channels), torch.float32)
    for x in compiled(name).stages.cell.inputs:
        spoilt = dict(call.arguments)
        spoilt[x.name] = spoilt[x.name].clone()
        spoilt[x.name][(1, step) if x.shared else (1, step, 13)] = torch.nan
        reached = torch.zeros(2, 40, channels, dtype=torch.bool)
        first = 0 if x.shared else 13 // group * group
        reached[1, step:, first : channels if x.shared else first + group] = True
        exact = forward_by_oracle(name, spoilt, call.h0)
        y, h = solve(name, spoilt, call.h0, **PARALLEL[solver])
        for got, e in zip([*y, *h], exact, strict=True):
            assert_close(got, e, torch.float32, f"{name}: NaN in {x.name}")
        for got in y:
            assert not got[~reached].isnan().any()


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
@pytest.mark.parametrize("solver", PARALLEL)
@each_cell
def test_infinite_inputs_equal_the_oracle(name: str, solver: str, value: float) -> None:
    call = random_call(name, (2, 40, fitting(name, 8)), torch.float32)
    for x in compiled(name).stages.cell.inputs:
        spoilt = dict(call.arguments)
        spoilt[x.name] = spoilt[x.name].clone()
        spoilt[x.name][(1, 9) if x.shared else (1, 9, 5)] = value
        y, h = solve(name, spoilt, call.h0, **PARALLEL[solver])
        for got, e in zip([*y, *h], forward_by_oracle(name, spoilt, call.h0), strict=True):
            assert_close(got, e, torch.float32, f"{name}: {x.name} = {value}")


# --- bits ------------------------------------------------------------------------------------

REPEATED: dict[str, dict[str, Any]] = {
    "auto": {},
    "sequential": {"solver": "sequential"},
    "segmented": {"solver": "segmented", "segment": 48},
    "newton": {"solver": "newton", "on_failure": "sequential"},
}


@pytest.mark.parametrize("solver", REPEATED)
@each_cell
def test_neither_repetition_nor_threads_change_a_bit(name: str, solver: str) -> None:
    threads = torch.get_num_threads()
    try:
        for shape in ((1, 3000, 1), (2, 700, 5), (3, 90, 70)):
            call = random_call(name, fitted(name, shape), torch.float32)
            outcomes = []
            for count in (1, 2, 3, 2):
                torch.set_num_threads(count)
                outcomes.append(by_kernel(name, call, **REPEATED[solver]))
            for other in outcomes[1:]:
                assert_same_bits(outcomes[0], other)
    finally:
        torch.set_num_threads(threads)


# --- elsewhere -------------------------------------------------------------------------------


def test_a_status_says_how_a_call_was_solved(target: str) -> None:
    call = random_call("para_gru", (1, 100, 3), torch.float32)
    _, status = observed("para_gru", call, solver="sequential")
    assert repr(status) == "<sequential: 1 sweep over segments of 100 steps, mismatch 0>"
    assert status.sequential_from is None
    _, status = observed("para_gru", call, solver="segmented", segment=30)
    assert re.fullmatch(
        rf"<segmented: \d sweeps? over segments of {rounded('para_gru', 30, target)} steps, "
        r"mismatch \S+>",
        repr(status),
    )


@pytest.mark.filterwarnings("ignore")  # of torch's own making
def test_compile_with_full_graph_takes_every_choice_of_solver() -> None:
    torch._dynamo.reset()
    fresh = rnncc.compile(find("para_gru"))
    call = random_call("para_gru", (2, 20, 6), torch.float64)
    chosen = [
        *({"solver": "segmented", "segment": 5, "tol": 0.0}, {"checkpoint": 4, "reverse": True}),
        {"solver": "newton", "iterations": 30, "tol": 1e-9, "on_failure": "sequential"},
    ]
    for choices in chosen:

        def loss(arguments: dict[str, Tensor], choices: dict[str, Any] = choices) -> Tensor:
            return fresh(**arguments, **choices).pow(2).sum()  # type: ignore[no-any-return]

        eager, traced = (
            {n: t.clone().requires_grad_() for n, t in call.arguments.items()} for _ in range(2)
        )
        loss(eager).backward()
        torch.compile(loss, fullgraph=True, backend="aot_eager")(traced).backward()
        for n, leaf in eager.items():
            assert leaf.grad is not None
            assert traced[n].grad is not None
            assert torch.equal(leaf.grad, traced[n].grad)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["lru", "min_gru", "para_gru"])
def test_a_loss_on_one_step_reaches_all_steps_before_it(name: str) -> None:
    """However long a cell remembers, and wherever in a segment the step lies."""
    steps = 1024
    for loss in (steps - 1, steps - 10, steps - 100, steps // 2 + 130):
        expected: dict[str, Tensor] = {}
        for choices in (
            {"solver": "sequential"},
            {},
            *({"solver": "segmented", "segment": k} for k in (96, 256)),
        ):
            call = random_call(name, (1, steps, 1), torch.float64, start=False)
            leaves = {n: t.clone() for n, t in call.arguments.items()}
            if name != "lru":  # nearly closed gates
                leaves[next(iter(leaves))] -= 8
            leaves = {n: t.requires_grad_() for n, t in leaves.items()}
            compiled(name)(**leaves, **choices)[:, loss].sum().backward()
            found = {n: t.grad for n, t in leaves.items() if t.grad is not None}
            expected = expected or found
            for n, gradient in found.items():
                what = f"{name} {n}, loss at {loss}, {choices}"
                assert_close(gradient, expected[n], torch.float64, what, gradient=True)
