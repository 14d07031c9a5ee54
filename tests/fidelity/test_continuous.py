"""Cells in continuous time, compared with other implementations, their papers and known facts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ncps.wirings
import numpy as np
import pytest
import torch
from ncps.torch import CfCCell, LTCCell

import rnncc
from rnncc.lang.loader import find
from tests.support.papers.continuous import (
    Array,
    Values,
    antisymmetric_rnn,
    co_rnn,
    fitzhugh_nagumo,
    lem,
    phase,
    phased_lstm,
    sigma,
    stuart_landau,
    unicornn,
    van_der_pol,
)
from tests.support.runs import compiled, listed

Step = Callable[..., tuple[Array, ...]]

BATCH, STEPS, CHANNELS = 2, 50, 5
IRREGULAR = ["cfc", "ltc", "gru_ode"]  # those that take the time since the sample before

# --- running -----------------------------------------------------------------------------------


def drawn(name: str, seed: int = 0, steps: int = STEPS, **given: Any) -> Values:
    """Inputs and params of a cell: normal, dt in [0, 1], params of size 0.2 to 1.2, or as given."""
    rng = np.random.default_rng(seed)
    values: Values = {}
    for a in compiled(name).spec.inputs:
        shape = (BATCH, steps) if a.shared else (BATCH, steps, CHANNELS)
        values[a.name] = rng.uniform(0, 1, shape) if a.shared else rng.normal(0, 1, shape)
    for p in compiled(name).spec.params:
        values[p.name] = rng.choice([-1, 1], CHANNELS) * rng.uniform(0.2, 1.2, CHANNELS)
    return values | {key: np.asarray(value, float) for key, value in given.items()}


def starts(name: str, seed: int = 1) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 0.5, (BATCH, CHANNELS)) for _ in compiled(name).spec.states]


def run(
    cell: str | rnncc.CompiledCell, values: Values, start: list[Array] | None = None
) -> tuple[list[Array], list[Array], list[Array]]:
    """By the kernel: outputs and states after each step [B, T, N], and the last states [B, N]."""
    c = compiled(cell) if isinstance(cell, str) else cell
    h0 = tuple(map(torch.tensor, start or ()))
    arguments = {key: torch.tensor(value) for key, value in values.items()}
    results = c(
        **arguments,
        h0=None if start is None else h0 if len(h0) > 1 else h0[0],
        return_state=True,
        return_states=True,
    )
    y, along, last = ([t.numpy() for t in listed(group)] for group in results)
    return y, along, last


def looped(step: Step, values: Values, start: list[Array]) -> list[Array]:
    """By a step from the paper, (values at the step, *states) -> states: [B, T, N] of each."""
    rows: list[tuple[Array, ...]] = []
    states = tuple(start)
    for t in range(next(v.shape[1] for v in values.values() if v.ndim > 1)):
        now = {
            key: v[:, t] if v.ndim == 3 else v[:, t, None] if v.ndim == 2 else v
            for key, v in values.items()
        }
        states = step(now, *states)
        rows.append(states)
    return [np.stack(column, 1) for column in zip(*rows, strict=True)]


def assert_same(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


# --- the papers' equations -----------------------------------------------------------------------


def cfc(v: Values, x: Array) -> tuple[Array, ...]:
    """The closed form sigma(-f t) g + (1 - sigma(-f t)) h, with b in the exponent."""
    keep = sigma(-((v["If"] + v["wf"] * x) * v["dt"] - (v["Ib"] + v["wb"] * x)))
    head = np.tanh(v["Ig"] + v["wg"] * x)
    return (keep * head + (1 - keep) * np.tanh(v["Ih"] + v["wh"] * x),)


def ltc(v: Values, x: Array) -> tuple[Array, ...]:
    """The fused step solves x' = x + dt (-x'/tau + f (A - x')) for x'."""
    tau = 1 / np.log1p(np.exp(v["leak"]))
    f = sigma(v["I"] + v["w"] * x)
    return ((x / v["dt"] + f * v["A"]) / (1 / v["dt"] + 1 / tau + f),)


def gru_ode(v: Values, h: Array) -> tuple[Array, ...]:
    r, z = sigma(v["xr"] + v["ur"] * h), sigma(v["xz"] + v["uz"] * h)
    u = np.tanh(v["xg"] + v["ug"] * (r * h))
    return (h + v["dt"] * ((1 - z) * (u - h)),)


TRANSCRIBED: dict[str, tuple[Step, Callable[..., Array]]] = {  # and the output from the states
    "cfc": (cfc, lambda x: x),
    "ltc": (ltc, lambda x: x),
    "gru_ode": (gru_ode, lambda h: h),
    "co_rnn": (co_rnn, lambda z, y: y),
    "lem": (lem, lambda z, y: y),
    "unicornn": (unicornn, lambda z, y: y),
    "antisymmetric_rnn": (antisymmetric_rnn, lambda u, v: v),
    "phased_lstm": (phased_lstm, lambda c, h: h),
    "phase": (phase, np.cos),
    "van_der_pol": (van_der_pol, lambda x, w: x),
    "stuart_landau": (stuart_landau, lambda re, im: re),
    "fitzhugh_nagumo": (fitzhugh_nagumo, lambda v, w: v),
}


@pytest.mark.parametrize("name", TRANSCRIBED)
def test_the_states_and_the_output_follow_the_equations_of_the_paper(name: str) -> None:
    step, output = TRANSCRIBED[name]
    values, start = drawn(name), starts(name)
    if name == "phased_lstm":
        times = np.sort(np.random.default_rng(2).uniform(0, 40, (BATCH, STEPS)), 1)
        rhythm = {"tau": [3, -7, 2, 5, 4], "s": [0, 3, 50, 1, 2], "r_on": [0.5, 0.9, -0.5, 0.3, 1]}
        values |= {"t": times} | {key: np.array(value, float) for key, value in rhythm.items()}
    expected = looped(step, values, start)
    y, along, last = run(name, values, start)
    assert_same(along, expected)
    assert_same(last, [states[:, -1] for states in expected])
    assert_same(y, [output(*expected)])


# --- other implementations -----------------------------------------------------------------------


def test_cfc_equals_the_cell_of_ncps_with_diagonal_weights() -> None:
    values, start = drawn("cfc"), starts("cfc")
    heads = {"time_a": ("If", "wf", -1), "time_b": ("Ib", "wb", 1)}
    heads |= {"ff2": ("Ig", "wg", 1), "ff1": ("Ih", "wh", 1)}
    theirs = CfCCell(4 * CHANNELS, CHANNELS, backbone_layers=0).double()
    for place, (head, (_, weight, sign)) in enumerate(heads.items()):
        matrix = torch.zeros(CHANNELS, 5 * CHANNELS, dtype=torch.float64)
        matrix[:, place * CHANNELS : (place + 1) * CHANNELS] = sign * torch.eye(CHANNELS)
        matrix[:, 4 * CHANNELS :] = sign * torch.diag(torch.tensor(values[weight]))
        linear: torch.nn.Linear = getattr(theirs, head)
        linear.weight.data, linear.bias.data = matrix, torch.zeros(CHANNELS).double()
    inputs = torch.cat([torch.tensor(values[i]) for i, _, _ in heads.values()], -1)
    x, rows = torch.tensor(start[0]), []
    for t in range(STEPS):
        x, _ = theirs(inputs[:, t], x, torch.tensor(values["dt"])[:, t, None])
        rows.append(x.detach())
    y, _, _ = run("cfc", values, start)
    assert_same(y[0], torch.stack(rows, 1))


def test_ltc_equals_one_solver_step_of_the_cell_of_ncps() -> None:
    """Its neurons see themselves alone; the input moves the threshold mu of that synapse."""
    values, start = drawn("ltc"), starts("ltc")
    wiring = ncps.wirings.Wiring(CHANNELS)
    wiring.set_output_dim(CHANNELS)
    for i in range(CHANNELS):
        wiring.add_synapse(i, i, 1)
    theirs = LTCCell(
        wiring, 1, input_mapping=None, output_mapping=None, ode_unfolds=1, epsilon=0.0
    ).double()
    leak = torch.nn.functional.softplus(torch.tensor(values["leak"]))
    for key, value in {"cm": 1, "vleak": 0, "w": 1, "gleak": leak}.items():
        getattr(theirs, key).data[...] = value
    theirs.sigma.data[...] = torch.diag(torch.tensor(values["w"])) + 1 - torch.eye(CHANNELS)
    theirs.erev.data[...] = torch.diag(torch.tensor(values["A"]))
    y, _, _ = run("ltc", values, start)
    for b in range(BATCH):
        x = torch.tensor(start[0][b : b + 1])
        for t in range(STEPS):
            theirs.mu.data[...] = torch.diag(torch.tensor(-values["I"][b, t] / values["w"]))
            _, x = theirs(torch.zeros(1, 1), x, values["dt"][b, t])
            assert_same(y[0][b, t], x[0].detach())


def torch_gru(r: Array, z: Array, n: Array, ur: Array, uz: Array, un: Array, h: Array) -> Array:
    """torch.nn.GRU with diagonal weights of the state: h' = (1 - z) n + z h."""
    gru = torch.nn.GRU(3 * CHANNELS, CHANNELS, bias=False, batch_first=True).double()
    gru.weight_ih_l0.data = torch.eye(3 * CHANNELS, dtype=torch.float64)
    gru.weight_hh_l0.data = torch.cat([torch.diag(torch.tensor(u)) for u in (ur, uz, un)])
    y, _ = gru(torch.tensor(np.concatenate([r, z, n], -1)), torch.tensor(h)[None])
    return y.detach().numpy()  # type: ignore[no-any-return]


def test_a_gru_ode_step_of_1_is_a_gru_step() -> None:
    v, start = drawn("gru_ode", dt=np.ones((BATCH, STEPS))), starts("gru_ode")
    y, _, _ = run("gru_ode", v, start)
    assert_same(y[0], torch_gru(v["xr"], v["xz"], v["xg"], v["ur"], v["uz"], v["ug"], start[0]))


def test_gru_d_without_missing_values_is_a_gru() -> None:
    v, start = drawn("gru_d"), starts("gru_d")
    v["xd"] = -np.abs(v["xd"])  # nothing to forget
    y, _, _ = run("gru_d", v, start)
    # the z of torch keeps, that of the paper renews
    assert_same(y[0], torch_gru(v["xr"], -v["xz"], v["xc"], v["ur"], -v["uz"], v["uc"], start[0]))


# --- GRU-D: missing values -----------------------------------------------------------------------


def test_gru_d_with_imputed_inputs_is_the_papers_layer() -> None:
    """Imputation and all dense weights outside of the cell give the paper's recurrence."""
    rng = np.random.default_rng(0)
    features = 3
    u = {key: rng.uniform(-1, 1, CHANNELS) for key in ("z", "r", "c")}
    W, V = ({key: rng.normal(0, 1, (CHANNELS, features)) for key in u} for _ in range(2))
    W_x, b_x, mean = rng.normal(0, 1, (3, features))
    W_h, b_h = rng.normal(0, 1, (CHANNELS, features)), rng.normal(0, 1, CHANNELS)
    x = rng.normal(0, 1, (BATCH, STEPS, features))
    m = (rng.uniform(0, 1, x.shape) < 0.4).astype(float)
    s = np.cumsum(rng.uniform(0, 1, (BATCH, STEPS)), 1)
    inputs = {key: np.zeros((BATCH, STEPS, CHANNELS)) for key in ("xz", "xr", "xc", "xd")}
    h, expected = np.zeros((BATCH, CHANNELS)), []
    delta, seen = np.zeros((BATCH, features)), np.tile(mean, (BATCH, 1))
    for t in range(STEPS):
        if t:
            passed = (s[:, t] - s[:, t - 1])[:, None]
            delta = np.where(m[:, t - 1] == 1, passed, passed + delta)
        gamma_x = np.exp(-np.maximum(0, W_x * delta + b_x))
        gamma_h = np.exp(-np.maximum(0, delta @ W_h.T + b_h))
        x_hat = m[:, t] * x[:, t] + (1 - m[:, t]) * (gamma_x * seen + (1 - gamma_x) * mean)
        seen = np.where(m[:, t] == 1, x[:, t], seen)
        for key in u:
            inputs["x" + key][:, t] = x_hat @ W[key].T + m[:, t] @ V[key].T
        inputs["xd"][:, t] = delta @ W_h.T + b_h
        h_hat = gamma_h * h
        r = sigma(inputs["xr"][:, t] + u["r"] * h_hat)
        z = sigma(inputs["xz"][:, t] + u["z"] * h_hat)
        h = (1 - z) * h_hat + z * np.tanh(inputs["xc"][:, t] + u["c"] * (r * h_hat))
        expected.append(h)
    y, _, _ = run("gru_d", inputs | {"u" + key: value for key, value in u.items()})
    assert_same(y[0], np.stack(expected, 1))


# --- irregular time ------------------------------------------------------------------------------


def differential(name: str, v: Values, x: Array) -> Array:
    """dx/dt of the equation that a cell discretises, with constant inputs [B, N]."""
    if name == "ltc":
        f = sigma(v["I"] + v["w"] * x)
        return -x * np.log1p(np.exp(v["leak"])) + f * (v["A"] - x)
    r, z = sigma(v["xr"] + v["ur"] * x), sigma(v["xz"] + v["uz"] * x)
    return (1 - z) * (np.tanh(v["xg"] + v["ug"] * r * x) - x)


def runge_kutta(slope: Callable[[Array], Array], x: Array, dt: float, steps: int) -> list[Array]:
    """The classical method of fourth order: x after each step."""
    rows = []
    for _ in range(steps):
        k1 = slope(x)
        k2 = slope(x + dt / 2 * k1)
        k3 = slope(x + dt / 2 * k2)
        x = x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + slope(x + dt * k3))
        rows.append(x)
    return rows


def at_rest(values: Values, steps: int, dt: float) -> Values:
    """The inputs of the first step held for some steps of dt."""
    held = {k: np.repeat(v[:, :1], steps, 1) if v.ndim == 3 else v for k, v in values.items()}
    return held | {"dt": np.full((BATCH, steps), dt)}


@pytest.mark.parametrize("name", ["ltc", "gru_ode"])
def test_a_step_of_2_dt_differs_from_two_of_dt_by_the_second_order_in_dt(name: str) -> None:
    values, start = drawn(name), starts(name)
    gaps = []
    for dt in (0.02, 0.01):
        _, _, (once,) = run(name, at_rest(values, 1, 2 * dt), start)
        _, _, (twice,) = run(name, at_rest(values, 2, dt), start)
        gaps.append(np.abs(once - twice))
    np.testing.assert_allclose(gaps[0] / gaps[1], 4, rtol=0.2)


@pytest.mark.parametrize("name", ["ltc", "gru_ode"])
def test_shorter_steps_come_to_the_differential_equation_at_first_order(name: str) -> None:
    values, start = drawn(name), starts(name)
    still = {k: v[:, 0] if v.ndim == 3 else v for k, v in values.items()}
    exact = runge_kutta(lambda x: differential(name, still, x), start[0], 0.02, 100)[-1]
    errors = []
    for steps in (200, 400):
        _, _, (last,) = run(name, at_rest(values, steps, 2 / steps), start)
        errors.append(np.abs(last - exact))
    assert errors[1].max() < 2e-3
    np.testing.assert_allclose(errors[0].max() / errors[1].max(), 2, rtol=0.1)


def test_long_after_a_sample_cfc_is_at_its_second_candidate_and_just_after_between_them() -> None:
    v, start = drawn("cfc", steps=1, If=np.full((BATCH, 1, CHANNELS), 5.0)), starts("cfc")
    v["Ib"][:], v["wb"][:] = 0, 0
    g, h = (np.tanh(v["I" + k][:, 0] + v["w" + k] * start[0]) for k in "gh")
    _, _, (late,) = run("cfc", v | {"dt": np.full((BATCH, 1), 100.0)}, start)
    _, _, (at_once,) = run("cfc", v | {"dt": np.zeros((BATCH, 1))}, start)
    assert_same(late, h)
    assert_same(at_once, (g + h) / 2)


@pytest.mark.parametrize("name", IRREGULAR)
def test_a_layer_takes_irregular_dt_as_its_step_does_and_learns(name: str) -> None:
    """The target is the sampled signal after a low-pass filter, whose rate only dt gives."""
    torch.manual_seed(0)
    dt = torch.distributions.Exponential(1.0).sample((16, 40)).double()
    x = torch.randn(16, 40, 1, dtype=torch.float64)
    filtered, rows = torch.zeros(16, 1, dtype=torch.float64), []
    for t in range(40):
        filtered = filtered + (1 - torch.exp(-dt[:, t, None])) * (x[:, t] - filtered)
        rows.append(filtered)
    target = torch.stack(rows, 1)

    layer = compiled(name).layer(1, 8, dtype=torch.float64)
    readout = torch.nn.Linear(8, 1, dtype=torch.float64)
    y, last = layer(x, dt=dt)
    state = None
    for t in range(40):
        y_t, state = layer.step(x[:, t], state, dt=dt[:, t])
        assert_same(y_t.detach(), y[:, t].detach())
    assert state is not None
    assert_same(state.detach(), last.detach())

    optimizer = torch.optim.Adam([*layer.parameters(), *readout.parameters()], lr=0.02)
    losses = []
    for _ in range(150):
        loss = torch.nn.functional.mse_loss(readout(layer(x, dt=dt)[0]), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


# --- bounds and what is kept ---------------------------------------------------------------------


def test_ltc_stays_between_0_and_its_reversal_potential() -> None:
    """Theorem 2 of the paper; with an initial state inside, for steps of any length."""
    rng = np.random.default_rng(0)
    A, leak = np.array([-2.0, -0.5, 0.1, 1.0, 3.0]), np.array([-8.0, 3, -8, 3, -8])
    values = drawn("ltc", A=A, leak=leak, dt=rng.exponential(10, (BATCH, STEPS)))
    values["I"] *= 10
    _, (x,), _ = run("ltc", values, [np.tile(A, (BATCH, 1))])
    assert (np.minimum(0, A) <= x).all()
    assert (x <= np.maximum(0, A)).all()
    assert (x / A).max() > 0.99  # it comes near both bounds
    assert (x / A).min() < 0.05


def test_the_energy_of_co_rnn_is_bounded_by_time() -> None:
    """From |tanh| < 1 and a step times the new velocity; the paper's bound has gamma = 1."""
    dt, gamma, epsilon, steps = 0.042, 2.7, 4.7, 2000
    n = np.arange(1, steps + 1)[:, None]
    beat = 20 * np.sign(np.sin(np.linspace(0.2, 2.5, CHANNELS) * dt * n))
    values = drawn("co_rnn", steps=steps, x=np.tile(beat, (BATCH, 1, 1)))
    _, (z, y), _ = run("co_rnn", values)
    energy = gamma * y**2 + z**2
    assert (energy <= n * dt / (2 * epsilon - dt * (gamma + epsilon**2))).all()
    assert energy.max() > 0.1


def test_lem_stays_within_1_and_stands_still_when_its_steps_are_0() -> None:
    values, start = drawn("lem"), [np.tanh(s) for s in starts("lem")]
    values |= {key: 20 * values[key] for key in ("xz", "xy")}
    _, along, _ = run("lem", values, start)
    assert 0.99 < np.abs(along).max() <= 1
    values |= {key: np.full_like(values[key], -800) for key in ("x1", "x2")}
    _, _, last = run("lem", values, start)
    assert_same(last, start)


def test_a_step_of_unicornn_keeps_volume_and_its_energy_does_not_drift() -> None:
    values, start = drawn("unicornn"), starts("unicornn")
    h0 = tuple(map(torch.tensor, start))
    J = compiled("unicornn").jacobians(**{k: torch.tensor(v) for k, v in values.items()}, h0=h0)
    assert_same(torch.linalg.det(J), np.ones((BATCH, STEPS, CHANNELS)))

    still = values | {"x": np.zeros((BATCH, 20_000, CHANNELS))}
    _, (z, y), _ = run("unicornn", still, start)
    energy = z**2 / 2 + 30.65 * y**2 / 2 + np.log(np.cosh(values["w"] * y)) / values["w"]
    early, late = energy[:, :2000].mean(1), energy[:, -2000:].mean(1)
    np.testing.assert_allclose(late, early, rtol=5e-3)


def test_an_antisymmetric_rnn_turns_at_rest_and_its_gradient_neither_grows_nor_dies() -> None:
    a = np.array([-3.0, -1.0, 0.1, 1.0, 2.0])
    values = drawn("antisymmetric_rnn", steps=1, a=a)
    values["xu"][:], values["xv"][:] = 0, 0
    arguments = {key: torch.tensor(value) for key, value in values.items()}
    J = compiled("antisymmetric_rnn").jacobians(**arguments).numpy()
    eigenvalues = np.sort_complex(np.linalg.eigvals(J))
    turn = 1j * 0.1 * np.abs(a)
    assert_same(eigenvalues[0, 0], 1 - 0.1 * 0.01 + np.stack([-turn, turn], -1))


def test_a_closed_phased_lstm_keeps_its_state_and_a_wide_open_one_is_an_lstm() -> None:
    closed = rnncc.compile(find("phased_lstm"), alpha=0)
    tau, s, r_on = np.array([2.0, 3, 4, 5, 6]), np.arange(5.0), np.full(5, 0.1)
    values, start = drawn("phased_lstm", tau=tau, s=s, r_on=r_on), starts("phased_lstm")
    phases = np.random.default_rng(0).uniform(0.11, 0.99, (BATCH, STEPS))
    for channel in range(CHANNELS):
        cycles = np.floor(np.linspace(0, 9, STEPS))
        alone = values | {"t": s[channel] + tau[channel] * (cycles + phases)}
        _, _, last = run(closed, alone, start)
        assert_same([h[:, channel] for h in last], [h[:, channel] for h in start])

        peak = values | {"t": np.full((BATCH, STEPS), s[channel] + tau[channel] * r_on[0] / 2)}
        y, _, _ = run(closed, peak, start)
        c, h = (state[:, channel] for state in start)
        for t in range(STEPS):
            x = {g: values["x" + g][:, t, channel] for g in "ifzo"}
            r = {g: values["r" + g][channel] * h for g in "ifzo"}
            p = {g: values["p" + g][channel] for g in "ifo"}
            kept = sigma(x["f"] + r["f"] + p["f"] * c) * c
            c = kept + sigma(x["i"] + r["i"] + p["i"] * c) * np.tanh(x["z"] + r["z"])
            h = sigma(x["o"] + r["o"] + p["o"] * c) * np.tanh(c)
            np.testing.assert_allclose(y[0][:, t, channel], h, rtol=1e-9)


# --- limit cycles --------------------------------------------------------------------------------


def periods(x: Array, dt: float) -> Array:
    """Between the last upward passages through 0 of [T, N], interpolated: [N]."""
    result = []
    for column in x.T:
        (up,) = np.nonzero((column[:-1] < 0) & (column[1:] >= 0))
        times = up + column[up] / (column[up] - column[up + 1])
        assert len(times) > 3
        result.append((times[-1] - times[-3]) / 2 * dt)
    return np.array(result)


def test_fitzhugh_nagumos_cycle_has_the_period_of_its_differential_equation() -> None:
    def slope(s: Array) -> Array:
        v, w = s
        return np.array([v - v**3 / 3 - w + 0.5, 0.08 * (v + 0.7 - 0.8 * w)])

    exact = np.array(runge_kutta(slope, np.array([[-1.2], [-0.6]]), 0.02, 20_000))
    _, (v, _), _ = run("fitzhugh_nagumo", {"I": np.zeros((1, 8000, 1))})
    (expected,), (got,) = periods(exact[:, 0], 0.02), periods(v[0], 0.1)
    assert 35 < expected < 45
    assert got == pytest.approx(expected, rel=0.01)


def test_fitzhugh_nagumo_starts_where_it_rests_without_current() -> None:
    _, (v, w), _ = run("fitzhugh_nagumo", {"I": np.full((1, 500, 1), -0.5)})
    np.testing.assert_allclose(v, -1.1994, atol=1e-4)
    np.testing.assert_allclose(w, -0.6243, atol=1e-4)


def test_van_der_pols_period_goes_from_2_pi_to_3_minus_2_ln_2_times_mu() -> None:
    dt, mu = 0.01, np.array([0.1, 1.0, 5.0, 30.0])
    fine = rnncc.compile(find("van_der_pol"), dt=dt)
    _, (x, _), _ = run(fine, {"I": np.zeros((1, 25_000, 4)), "mu": mu})
    got = periods(x[0], dt)

    def slope(s: Array) -> Array:
        return np.array([s[1], mu * (1 - s[0] ** 2) * s[1] - s[0]])

    exact = np.array(runge_kutta(slope, np.stack([np.full(4, 2.0), np.zeros(4)]), 0.01, 25_000))
    np.testing.assert_allclose(got, periods(exact[:, 0], 0.01), rtol=5e-3)
    assert got[0] == pytest.approx(2 * math.pi * (1 + mu[0] ** 2 / 16), rel=1e-4)
    relaxation = (3 - 2 * math.log(2)) * mu[3] + 7.0143 * mu[3] ** (-1 / 3)
    assert got[3] == pytest.approx(relaxation, rel=5e-3)
    np.testing.assert_allclose(np.abs(x[0, -6000:]).max(0), 2, atol=0.03)


def test_stuart_landau_turns_at_omega_on_a_circle_of_radius_sqrt_mu() -> None:
    mu = np.array([0.2, 0.5, 1.0, 2.0, 3.0])
    values = drawn("stuart_landau", steps=1000, mu=mu)
    values["I"][:] = 0
    _, (re, im), _ = run("stuart_landau", values)
    z = (re + 1j * im)[:, -100:]
    assert_same(np.abs(z), np.broadcast_to(np.sqrt(mu), z.shape))
    assert_same(np.angle(z[:, 1:] / z[:, :-1]), np.broadcast_to(0.1 * values["omega"], (2, 99, 5)))


def test_a_driven_phase_locks_within_k_of_its_frequency_and_slips_at_the_beat_outside() -> None:
    dt, steps, omega, K = 0.1, 40_000, 1.0, 0.5
    apart = np.array([-0.45, -0.1, 0.3, 0.49, 0.51, 0.7, -1.2])
    clock = dt * np.arange(steps)
    psi = (omega + apart) * clock[:, None]
    values = {"psi": psi[None], "omega": np.full(7, omega), "K": np.full(7, K)}
    _, (theta,), _ = run("phase", values)
    lag = psi[1:] - theta[0, :-1]
    slips = np.abs(lag[-1] - lag[2000]) / (clock[-2] - clock[2000])
    locked = np.abs(apart) < K
    np.testing.assert_allclose(slips[locked], 0, atol=1e-8)
    np.testing.assert_allclose(np.sin(lag[-1, locked]), apart[locked] / K, rtol=1e-8)
    np.testing.assert_allclose(slips[~locked], np.sqrt(apart[~locked] ** 2 - K**2), rtol=0.03)
