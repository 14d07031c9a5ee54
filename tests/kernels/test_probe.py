"""Probe: verdicts on cells whose behaviour is known, counts that hold, and the picture."""

from __future__ import annotations

import importlib.util
import json
import math
import statistics
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import rnncc
from rnncc import Input, State, cell, exp, sqrt, tanh
from rnncc.analysis import plot
from rnncc.analysis.behaviour import lyapunov
from rnncc.analysis.probe import Probe, draw, probe
from rnncc.analysis.sweeps import (
    NEWTON_LIMIT,
    SEGMENTS,
    TOLERANCE,
    Newton,
    count_newton,
    count_sweeps,
    curves,
)
from rnncc.errors import ArgumentError, ConvergenceError
from tests.support.runs import compiled

ROOT = Path(__file__).parents[2]


@cell
def logistic(h: State(init=0.3), x: Input):
    return 1 - 1.9 * h**2 + 0.001 * tanh(x)


@cell
def integrator(h: State, x: Input):
    return h + 0.1 * x


@cell
def latch(h: State, x: Input):
    return tanh(3 * h + 0.3 * x)


@cell
def growing(h: State, x: Input):
    return 1.1 * h + tanh(x)


@cell
def turning(h: State(size=2), x: Input(size=2)):
    return [0.6 * h[0] - 0.8 * h[1] + x[0], 0.8 * h[0] + 0.6 * h[1] + x[1]]


@cell
def rooted(h: State, x: Input):
    return sqrt(h) + exp(x)


OWN = {c.name: c for c in (logistic, integrator, latch, growing, rooted)}


@cache
def compiled_here(name: str) -> rnncc.CompiledCell:
    return rnncc.compile(OWN[name]) if name in OWN else compiled(name)


@cache
def found(name: str) -> Probe:
    return probe(compiled_here(name), steps=512, channels=16)


# --- verdicts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "verdict", "reason"),
    [
        ("para_gru", "contracting", "the initial state is forgotten after "),
        ("latch", "multistable", "small differences fade, but "),
        ("integrator", "marginal", "differences hardly fade or grow over 512 steps; 16 of 16"),
        ("fitzhugh_nagumo", "limit cycle", "with its inputs held, 16 of 16 channels oscillate; "),
        ("logistic", "chaotic", "differences grow e-fold every "),
        ("lif", "spiking", "the Jacobian says nothing about its jumps; "),
        ("rooted", "undecided", "the Jacobian does not stay finite; the initial state is"),
        ("growing", "unstable", "states grow e-fold every 10.5 steps, without bound"),
    ],
)
def test_the_verdict_is_what_is_known_of_the_cell(name: str, verdict: str, reason: str) -> None:
    assert found(name).verdict == verdict
    assert found(name).reason.startswith(reason)


def test_states_that_do_not_stay_finite_are_unstable() -> None:
    overflown = probe(compiled_here("growing"), steps=8192, channels=4)
    assert overflown.verdict == "unstable"
    assert overflown.reason.startswith("the states do not stay finite, not even in one pass")
    assert overflown.forgotten is None


def test_exponents_are_those_that_theory_gives() -> None:
    assert found("integrator").exponent == pytest.approx(0, abs=1e-12)
    assert found("growing").exponent == pytest.approx(math.log(1.1))
    assert found("logistic").exponent == pytest.approx(0.55, abs=0.1)
    assert found("lif").exponent == -math.inf  # a reset forgets everything
    assert found("fitzhugh_nagumo").held_exponent == pytest.approx(0, abs=2e-3)


def test_the_exponent_of_one_repeated_matrix_is_the_log_of_its_spectral_radius() -> None:
    matrix = torch.tensor([[0.9, 5.0, 0.0], [0.0, 0.5, 1.0], [0.0, -1.0, 0.5]], dtype=torch.float64)
    radius = torch.linalg.eigvals(matrix).abs().max()
    several = torch.stack([matrix, 2 * matrix]).expand(4000, 2, 3, 3)
    wanted = torch.stack([radius.log(), (2 * radius).log()])
    torch.testing.assert_close(lyapunov(several), wanted, rtol=0, atol=1e-3)


def test_the_exponent_of_a_single_state_is_the_mean_log_of_its_jacobian() -> None:
    c = compiled("para_gru")
    jacobians = c.jacobians(**draw(c, 64, 4))[0]
    wanted = jacobians.abs().log().mean(0)[:, 0, 0]
    torch.testing.assert_close(lyapunov(jacobians), wanted)


def test_the_initial_state_is_forgotten_after_the_steps_that_it_says() -> None:
    c, steps = compiled("para_gru"), found("para_gru").forgotten
    assert steps is not None
    arguments = draw(c, 512, 16)
    y = c(**arguments)
    elsewhere = c(**arguments, h0=y[:, -1].roll(-1, 1))
    apart = ((y - elsewhere).abs() > 1e-6).any(-1)[0]
    assert apart[steps - 1]
    assert not apart[steps:].any()


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("pair", "contracting"),
        ("crossed", "contracting"),
        ("driven", "marginal"),  # it keeps exp(-a * a) of its state, with |a| < 0.3
    ],
)
def test_every_kind_of_argument_can_be_probed(name: str, verdict: str) -> None:
    small = probe(compiled(name), steps=256, channels=4, weights=0.3)
    assert small.verdict == verdict
    assert [cut.segments for cut in small.sweeps] == [16, 32, 128]


# --- counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["para_gru", "fitzhugh_nagumo", "integrator"])
def test_as_many_sweeps_as_counted_suffice_and_one_less_does_not(name: str) -> None:
    c = compiled_here(name)
    arguments = draw(c, 512, 16)
    for cut in found(name).sweeps:
        assert cut == count_sweeps(c, arguments, cut.segments)
        assert (cut.segments * cut.segment, cut.sequential_from) == (512, None)
        assert 1 <= cut.sweeps <= cut.segments
        assert cut.mismatch <= TOLERANCE
        seen: list[Any] = []
        if cut.sweeps > 1 and not c.structure.affine:
            options = {"segment": cut.segment, "iterations": cut.sweeps - 1, "tol": TOLERANCE}
            c(**arguments, solver="segmented", **options, observe=seen.append)
            assert seen[0].sequential_from is not None


def test_steps_that_segments_do_not_divide_make_the_last_one_shorter() -> None:
    cut = count_sweeps(compiled("para_gru"), draw(compiled("para_gru"), 100, 4), 16)
    assert (cut.segments, cut.segment) == (15, 7)


def test_newton_converges_within_the_iterations_counted_and_not_within_one_less() -> None:
    c, newton = compiled("para_gru"), found("para_gru").newton
    arguments = draw(c, 512, 16)
    assert newton.iterations is not None
    options = {"solver": "newton", "tol": TOLERANCE}
    c(**arguments, **options, iterations=newton.iterations)
    with pytest.raises(ConvergenceError):
        c(**arguments, **options, iterations=newton.iterations - 1)
    assert newton.error < 1e-12


def test_newton_diverges_on_a_limit_cycle_and_takes_one_iteration_where_all_is_affine() -> None:
    assert str(found("fitzhugh_nagumo").newton) == "diverges"
    c = compiled_here("integrator")
    assert str(count_newton(c, draw(c, 64, 4))) == "1"
    assert str(Newton(None, 0.5, diverges=False)) == f"not in {NEWTON_LIMIT}"


def test_weights_replace_the_inits_of_params_and_the_seed_draws_others() -> None:
    c = compiled("para_gru")
    wide, own, again = draw(c, 64, 64, 3.0), draw(c, 64, 64), draw(c, 64, 64, seed=1)
    assert 2.5 < wide["az"].abs().max() <= 3
    assert own["az"].abs().max() <= 1
    torch.testing.assert_close(wide["xz"], own["xz"], rtol=0, atol=0)
    assert not torch.equal(own["xz"], again["xz"])


def test_the_same_probe_finds_the_same() -> None:
    assert probe(compiled("para_gru"), steps=512, channels=16) == found("para_gru")


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "elman",
            {"steps": 31},
            "steps: got 31, expected at least 32, two for each of 16 segments.\nFix: 1024 steps",
        ),
        (
            "block_elman",
            {"channels": 6},
            "channels: got 6, expected a multiple of 4, the group that 'block_elman' mixes.\n"
            "Fix: 8 channels",
        ),
        (
            "elman",
            {"weights": -1.0},
            "weights: got -1, expected a number >= 0, the largest size of a param.\nFix: 3",
        ),
    ],
)
def test_impossible_probes_are_refused(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        probe(compiled(name), **given)
    assert str(caught.value) == message


def test_as_data_a_number_that_is_not_finite_is_none() -> None:
    data = json.loads(json.dumps(found("lif").data(), allow_nan=False))
    assert data["exponent"] is None
    assert data["verdict"] == "spiking"
    assert data["sweeps"][0]["segments"] == SEGMENTS[0]
    assert data["newton"]["iterations"] == found("lif").newton.iterations


# --- the picture -----------------------------------------------------------------------------


def test_curves_end_where_they_converge() -> None:
    c = compiled("para_gru")
    *segments, newton = curves(c, draw(c, 512, 16))
    assert [curve.label for curve in segments] == [f"{n} segments" for n in SEGMENTS]
    counts = [len(curve.mismatches) for curve in segments]
    assert counts == [cut.sweeps for cut in found("para_gru").sweeps]
    assert len(newton.mismatches) == found("para_gru").newton.iterations
    for curve in (*segments, newton):
        assert curve.mismatches[-1] <= TOLERANCE < min((*curve.mismatches[:-1], 1.0))


@pytest.mark.parametrize("name", ["para_gru", "fitzhugh_nagumo"])
def test_a_picture_is_written_whole_and_nothing_beside_it(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    c, file = compiled(name), tmp_path / "pictures" / "one.png"
    followed = curves(c, draw(c, 64, 4))
    for _ in range(2):  # the second replaces the first
        plot.plot(found("para_gru"), followed, c, file)
        assert file.read_bytes().startswith(b"\x89PNG")
        assert list(file.parent.iterdir()) == [file]


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(plot.PlotError) as caught:
        plot.need_matplotlib()
    assert str(caught.value) == (
        "--plot: matplotlib can't be imported: import of matplotlib halted; None in sys.modules.\n"
        "Fix: pip install 'rnncc[plot]'"
    )


# --- the table of sweeps ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """tools/sweeps.py as a module."""
    spec = importlib.util.spec_from_file_location("sweeps", ROOT / "tools" / "sweeps.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sweeps"] = module
    spec.loader.exec_module(module)
    return module


def test_docs_have_the_counts_of_the_example(example: ModuleType) -> None:
    cases = [case.text for case in example.CASES]
    written = json.loads((ROOT / "docs" / "sweeps.json").read_text())
    assert [row["case"] for row in written["rows"]] == cases
    page = (ROOT / "docs" / "sweeps.md").read_text()
    assert all(f"| {case} " in page for case in cases)


def test_the_sweeps_written_down_are_nowhere_more_than_designed() -> None:
    rows = json.loads((ROOT / "docs" / "sweeps.json").read_text())["rows"]
    designed = [row for row in rows if row["designed"]]
    assert len(designed) == 8
    for row in designed:
        medians = [statistics.median(counts) for counts in row["sweeps"].values()]
        pairs = zip(medians, row["designed"], strict=True)
        assert all(median <= most for median, most in pairs), row["case"]


def test_the_example_counts_the_case_that_it_names(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "STEPS", 256)
    monkeypatch.setattr(example, "CHANNELS", 8)
    slow = next(case for case in example.CASES if case.shift)
    (row,) = example.count([slow], 3, lambda text: None)
    assert [len(counts) for counts in row.sweeps.values()] == [3, 3, 3]
    assert row.data()["sweeps"]["16"] == list(row.sweeps[16])
    shifted = draw(compiled(slow.cell), 256, 8, slow.weights, seed=2)
    shifted["xz"] -= 3
    assert row.sweeps[32][2] == count_sweeps(compiled(slow.cell), shifted, 32).sweeps
    assert slow.text in example.table([row])


def test_the_example_says_where_there_are_more_sweeps_than_designed(example: ModuleType) -> None:
    case = example.Case("a cell", "elman", designed=(2, 3, 4))
    few = example.Row(case, (), {16: (1, 2, 9), 32: (3, 3, 3), 128: (4, 4, 4)})
    many = example.Row(case, (), {16: (2, 2, 2), 32: (3, 5, 6), 128: (4, 4, 4)})
    assert example.more_text([few]) == "Nowhere more than designed."
    assert example.more_text([few, many]).endswith("a cell, 32 segments: 5 against 3")


def test_a_cell_with_vectors_is_probed_as_its_scalars() -> None:
    """A rotation neither grows nor fades."""
    found = probe(rnncc.compile(turning), steps=128, channels=2)
    assert found.exponent == pytest.approx(0, abs=1e-9)
    assert [cut.mismatch < 1e-9 for cut in found.sweeps] == [True] * len(found.sweeps)
