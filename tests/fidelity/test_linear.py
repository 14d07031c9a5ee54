"""Cells that are affine in their state, or normalised, compared with papers and known facts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import rnncc
from rnncc.lang.loader import find
from rnncc.nn.initialize import fill
from tests.support.papers.linear import (
    BATCH,
    CHANNELS,
    STEPS,
    Array,
    Step,
    Values,
    assert_same,
    hgrn,
    lmu,
    looped,
    rg_lru,
    sigma,
)
from tests.support.runs import compiled, listed, random_call

OPEN, SHUT = 800.0, -800.0  # before a sigmoid: exactly 1 and 0 in float64


# --- drawing, running, comparing -------------------------------------------------------------


def drawn(name: str, weights: float | None = None) -> tuple[Values, list[Array]]:
    """Typical inputs, params by the cell's inits or within the bound, states it reaches."""
    call = random_call(name, (BATCH, STEPS, CHANNELS), torch.float64, weights=weights)
    assert call.h0 is not None
    return {key: t.numpy() for key, t in call.arguments.items()}, [h.numpy() for h in call.h0]


def run(
    cell: str | rnncc.CompiledCell, values: Values, start: list[Array] | None = None
) -> tuple[list[Array], list[Array]]:
    """By the kernel: outputs [B, T, N] and the states after each step [B, T, N]."""
    c = compiled(cell) if isinstance(cell, str) else cell
    h0: Any = None if start is None else tuple(torch.tensor(h) for h in start)
    arguments = {key: torch.tensor(value) for key, value in values.items()}
    y, along, _ = c(
        **arguments,
        h0=h0[0] if h0 is not None and len(h0) == 1 else h0,
        return_state=True,
        return_states=True,
    )
    return [t.numpy() for t in listed(y)], [t.numpy() for t in listed(along)]


def convolved(kernel: Array, u: Array) -> Array:
    """sum_j kernel[j] u[t - j]: kernel [T, N], u [B, T, N]."""
    y = np.zeros(np.broadcast_shapes(u.shape, kernel.shape))
    for t in range(u.shape[1]):
        y[:, t] = (kernel[: t + 1][::-1] * u[:, : t + 1]).sum(1)
    return y


# --- the papers' equations -------------------------------------------------------------------


def lru(v: Values, re: Array, im: Array) -> Any:
    eigenvalue = np.exp(-np.exp(v["nu_log"]) + 1j * np.exp(v["theta_log"]))
    gamma = np.sqrt(1 - np.abs(eigenvalue) ** 2)
    x = eigenvalue * (re + 1j * im) + gamma * (v["bx_re"] + 1j * v["bx_im"])
    return (x.real, x.imag), (x.real,)


def min_gru(v: Values, h: Array) -> Any:
    z = sigma(v["xz"])
    h = h + z * (v["xh"] - h)
    return (h,), (h,)


def min_lstm(v: Values, h: Array) -> Any:
    f, i = sigma(v["xf"]), sigma(v["xi"])
    h = (f * h + i * v["xh"]) / (f + i)
    return (h,), (h,)


def rot_rnn(v: Values, *x: Array) -> Any:
    """A head of two states in the paper's full form: x' = gamma P Theta P^T x + xi B u.

    P is any rotation, and B any matrix whose B B^T has the trace 2 of two inputs as they are.
    """
    P = np.array([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]])
    B = np.eye(2)
    gamma = np.exp(-np.exp(v["gamma_log"]))
    xi = np.sqrt((1 - gamma**2) / np.trace(B.T @ B))
    Theta = np.array([[np.cos(v["theta"]), -np.sin(v["theta"])],
                      [np.sin(v["theta"]), np.cos(v["theta"])]])  # fmt: skip
    A = gamma * np.einsum("ij,jkn,lk->iln", P, Theta, P)
    new = np.einsum("iln,lbn->ibn", A, np.stack(x))
    new = new + xi * np.einsum("ij,jbn->ibn", B, np.stack([v["u1"], v["u2"]]))
    return tuple(new), tuple(new)


def selective_ssm(v: Values, *h: Array) -> Any:
    """The formula of the authors' sequential reference: states on an axis of their own."""
    A = -np.exp(np.stack([v[f"A_log{n}"] for n in (1, 2, 3, 4)], -1))
    B, C = (np.stack([v[f"{key}{n}"] for n in (1, 2, 3, 4)], -1) for key in "BC")
    delta = np.log1p(np.exp(v["x_dt"]))[..., None]
    state = np.exp(delta * A) * np.stack(h, -1) + delta * B * v["x"][..., None]
    y = np.einsum("bns,bns->bn", state, np.broadcast_to(C, state.shape)) + v["D"] * v["x"]
    return tuple(np.moveaxis(state, -1, 0)), (y,)


def higher_order_lru(v: Values, *h: Array) -> Any:
    """A companion matrix, its first row the weights of the states."""
    weights = np.exp(np.stack([v[f"g{n}"] for n in range(4)]))
    weights = weights / weights.sum(0)
    A = np.zeros((3, 3, *weights.shape[1:]))
    A[0], A[1, 0], A[2, 1] = weights[1:], 1, 1
    new = np.einsum("ijbn,jbn->ibn", A, np.stack(h))
    new[0] += weights[0] * v["v"]
    return tuple(new), (new[0],)


def liquid_s4(v: Values, re: Array, im: Array) -> Any:
    dt = np.exp(v["log_dt"])
    A = -np.exp(v["a_log"]) + 1j * v["a_im"]
    A_bar = (1 + dt / 2 * A) / (1 - dt / 2 * A)
    B_bar = dt * v["b"] / (1 - dt / 2 * A)
    x = (A_bar + B_bar * v["u"]) * (re + 1j * im) + B_bar * v["u"]
    y = 2 * ((v["c_re"] + 1j * v["c_im"]) * x).real + v["D"] * v["u"]
    return (x.real, x.imag), (y,)


def s4d(v: Values, re: Array, im: Array) -> Any:
    dt = np.exp(v["log_dt"])
    A = -np.exp(v["a_log"]) + 1j * v["a_im"]
    x = np.exp(dt * A) * (re + 1j * im) + np.expm1(dt * A) / A * v["u"]
    y = 2 * ((v["c_re"] + 1j * v["c_im"]) * x).real + v["D"] * v["u"]
    return (x.real, x.imag), (y,)


def titans(v: Values, S: Array, M: Array, g: Callable[[Array], Array]) -> Any:
    """A step of gradient descent on |g(M k) - v|^2; the derivative by a step along i."""
    loss_beside = (g((M + 1e-30j) * v["k"]) - v["v"]) ** 2
    S = sigma(v["x_eta"]) * S - sigma(v["x_theta"]) * loss_beside.imag / 1e-30
    M = (1 - sigma(v["x_alpha"])) * M + S
    return (S, M), (g(M * v["q"]),)


def titans_linear(v: Values, S: Array, M: Array) -> Any:
    return titans(v, S, M, lambda x: x)


def titans_tanh(v: Values, S: Array, M: Array) -> Any:
    return titans(v, S, M, np.tanh)


def qrnn(v: Values, c: Array) -> Any:
    f = sigma(v["xf"])
    c = c + (1 - f) * (np.tanh(v["xz"]) - c)
    return (c,), (sigma(v["xo"]) * c,)


def mega_ema(v: Values, *h: Array) -> Any:
    """Two averages on an axis of their own, as u = beta x, h = alpha u + (1 - alpha delta) h."""
    alpha, delta = (sigma(np.stack([v[f"x_{key}1"], v[f"x_{key}2"]])) for key in ("alpha", "delta"))
    beta, eta = (np.stack([v[f"{key}1"], v[f"{key}2"]]) for key in ("beta", "eta"))
    u = beta[:, None] * v["x"]
    new = alpha[:, None] * u + (1 - alpha * delta)[:, None] * np.stack(h)
    return tuple(new), (np.einsum("sn,sbn->bn", eta / math.sqrt(2), new) + v["omega"] * v["x"],)


def gated_delta_net(v: Values, *S: Array) -> Any:
    """S (alpha (I - beta k k^T)) + beta v k^T with the head's whole matrix S [values, keys]."""
    k, q = (np.concatenate([v[f"{key}{n}"] for n in (1, 2, 3, 4)], -1) for key in "kq")
    k, q = (x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-6) for x in (k, q))
    alpha = np.exp(-np.exp(v["A_log"]) * np.log1p(np.exp(v["x_dt"])))[..., None]
    beta = sigma(v["x_beta"])[..., None]
    erase = np.eye(4) - beta * np.einsum("bi,bj->bij", k, k)
    new = np.stack(S, -1) @ (alpha * erase) + beta * np.einsum("bn,bj->bnj", v["v"], k)
    return tuple(np.moveaxis(new, -1, 0)), (np.einsum("bnj,bj->bn", new, q) / math.sqrt(4),)


@pytest.mark.parametrize(
    "step",
    [
        lru, min_gru, min_lstm, hgrn, rg_lru, rot_rnn, selective_ssm, higher_order_lru, lmu,
        liquid_s4, s4d, titans_linear, titans_tanh, qrnn, mega_ema, gated_delta_net,
    ],
)  # fmt: skip
def test_outputs_and_states_are_those_of_the_papers_equations(step: Step) -> None:
    values, start = drawn(step.__name__)
    got, expected = run(step.__name__, values, start), looped(step, values, start)
    for a, b in zip((*got[0], *got[1]), (*expected[0], *expected[1]), strict=True):
        assert_same(a, b)


# --- starts ----------------------------------------------------------------------------------


def started(name: str, param: str) -> Array:
    """Many values of a param, as a layer initializes it."""
    (init,) = (p.init for p in compiled(name).spec.params if p.name == param)
    return fill(torch.empty(10000, dtype=torch.float64), init).numpy()


def biased(name: str, given: str) -> Array:
    """Many biases of an input's projection, as a layer initializes them."""
    (init,) = (i.bias for i in compiled(name).spec.inputs if i.name == given)
    assert init is not None
    return fill(torch.empty(10000, dtype=torch.float64), init).numpy()


def assert_uniform(values: Array, low: float, high: float) -> None:
    """Within the bounds, and with the mean and deviation of a uniform distribution."""
    assert low - 1e-9 <= values.min() <= values.max() <= high + 1e-9
    assert np.isclose(values.mean(), (low + high) / 2, atol=0.02 * (high - low))
    assert np.isclose(values.std(), (high - low) / math.sqrt(12), rtol=0.03)


def test_the_lru_starts_uniformly_over_the_area_of_a_ring() -> None:
    assert_uniform(np.exp(-np.exp(started("lru", "nu_log"))) ** 2, 0.9**2, 0.999**2)
    assert_uniform(np.exp(started("lru", "theta_log")), 0.001, 6.28)


def test_a_to_the_power_c_of_the_rg_lru_starts_uniformly_between_0_9_and_0_999() -> None:
    assert_uniform(sigma(started("rg_lru", "Lambda")) ** 8, 0.9, 0.999)


def test_time_scales_of_rot_rnn_start_log_uniformly() -> None:
    nu = -np.log(np.exp(-np.exp(started("rot_rnn", "gamma_log"))))
    assert_uniform(np.log(nu), math.log(-math.log(0.999)), math.log(-math.log(0.9)))


@pytest.mark.parametrize("name", ["selective_ssm", "mamba3", "gated_delta_net"])
def test_steps_dt_start_log_uniformly_between_0_001_and_0_1(name: str) -> None:
    dt = np.log1p(np.exp(biased(name, "x_dt")))
    assert_uniform(np.log(dt), math.log(0.001), math.log(0.1))


def test_hgrn_starts_with_the_frequencies_of_rotary_embeddings() -> None:
    (init,) = (p.init for p in compiled("hgrn").spec.params if p.name == "theta")
    theta = fill(torch.empty(65, dtype=torch.float64), init).numpy()
    assert np.allclose(theta, 10000.0 ** (-2 * np.arange(65) / 64), rtol=1e-4)


def test_rwkv_starts_with_the_decays_of_its_first_layer() -> None:
    (init,) = (p.init for p in compiled("rwkv4").spec.params if p.name == "time_decay")
    decay = fill(torch.empty(65, dtype=torch.float64), init).numpy()
    assert np.allclose(decay, [-5 + 8 * (h / 64) ** 0.7 for h in range(65)], atol=1e-5)


@pytest.mark.parametrize("name", ["slstm", "slstm_exp"])
def test_the_forget_gate_of_slstm_starts_open_to_shut_over_the_channels(name: str) -> None:
    bias = biased(name, "xf")
    ratio = np.arange(10000) / 9999
    assert np.allclose(bias, -(-5 + 12 * ratio**0.3), atol=1e-3)


# --- eigenvalues and stability ---------------------------------------------------------------


def eigenvalues(name: str, values: Values) -> Array:
    """Of the Jacobian at each step: [B, T, N, states]."""
    found = compiled(name).jacobians(**{key: torch.tensor(v) for key, v in values.items()})
    return np.linalg.eigvals(found.numpy())


def test_the_lru_has_eigenvalues_of_the_radius_and_phase_of_its_params() -> None:
    values, _ = drawn("lru")
    found = eigenvalues("lru", values)[0, 0]
    assert_same(np.abs(found), np.exp(-np.exp(values["nu_log"]))[:, None].repeat(2, 1))
    phase = np.exp(1j * np.exp(values["theta_log"]))
    for sign in (1, -1):
        upper = found[np.arange(CHANNELS), np.argmax(sign * found.imag, -1)]
        expected = np.where(sign * phase.imag > 0, phase, phase.conj())
        assert_same(upper / np.abs(upper), expected)


def test_the_gate_of_hgrn_never_shuts_below_its_lower_bound() -> None:
    values, start = drawn("hgrn")
    values["xf"] = np.full_like(values["xf"], SHUT)
    _, (re, im) = run(rnncc.compile(find("hgrn"), lower_bound=0.75), values, start)
    c_re, c_im = (values[key] * sigma(values[key]) for key in ("xc_re", "xc_im"))
    was = start[0] + 1j * start[1]
    new = 0.75 * np.exp(1j * values["theta"]) * was + 0.25 * (c_re + 1j * c_im)[:, 0]
    assert_same(re[:, 0] + 1j * im[:, 0], new)


def test_rot_rnn_keeps_a_mean_square_of_1_under_white_noise() -> None:
    steps = 3000
    values = drawn("rot_rnn")[0] | {key: np.zeros((2, steps, CHANNELS)) for key in ("u1", "u2")}
    values["gamma_log"] = np.log(-np.log([0.9, 0.93, 0.96, 0.99]))
    values["u1"][0, 0] = values["u2"][1, 0] = 1
    (y1, y2), _ = run("rot_rnn", values)
    assert_same((y1**2 + y2**2).sum((0, 1)), 1)  # of uncorrelated inputs, variances add up


def test_h_lru_never_leaves_the_range_of_its_inputs_and_has_complex_eigenvalues() -> None:
    values, _ = drawn("higher_order_lru")
    values["g0"] = values["g0"] - 6
    (y,), _ = run("higher_order_lru", values)
    assert np.abs(y).max() <= np.abs(values["v"]).max()
    found = eigenvalues("higher_order_lru", values)
    assert np.abs(found).max() < 1
    assert (np.abs(found.imag) > 0.1).any()


def test_a_shut_rg_lru_keeps_its_state_and_has_finite_gradients() -> None:
    values, start = drawn("rg_lru")
    values["xr"] = np.full_like(values["xr"], SHUT)
    leaves = {key: torch.tensor(v, requires_grad=True) for key, v in values.items()}
    y = compiled("rg_lru")(**leaves, h0=torch.tensor(start[0]))
    assert np.allclose(y.detach(), start[0][:, None], atol=1e-4)
    y.sum().backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves.values())


# --- parallel forms --------------------------------------------------------------------------


def log_space_scan(log_coefficients: Array, log_values: Array) -> Array:
    """The paper's scan: h_t from h_t = a_t h_(t-1) + b_t by sums of logarithms, h_0 in front."""
    padded = np.concatenate([np.zeros_like(log_coefficients[:, :1]), log_coefficients], 1)
    a_star = np.cumsum(padded, 1)
    scanned: Array = np.exp(a_star + np.logaddexp.accumulate(log_values - a_star, 1))
    return scanned[:, 1:]


def log_g(x: Array) -> Array:
    """log of g, the paper's candidate: x + 0.5 for x >= 0, sigmoid(x) below."""
    return np.where(x >= 0, np.log(np.maximum(x, 0) + 0.5), -np.log1p(np.exp(-x)))


def softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


@pytest.mark.parametrize("name", ["min_gru", "min_lstm"])
def test_the_minimal_cells_equal_their_log_space_form(name: str) -> None:
    values, _ = drawn(name)
    start = sigma(np.linspace(-2, 2, BATCH * CHANNELS)).reshape(BATCH, CHANNELS)
    if name == "min_gru":
        log_keep, log_take = -softplus(values["xz"]), -softplus(-values["xz"])
    else:
        difference = softplus(-values["xf"]) - softplus(-values["xi"])
        log_keep, log_take = -softplus(difference), -softplus(-difference)
    log_values = np.concatenate([np.log(start)[:, None], log_take + log_g(values["xh"])], 1)
    (h,), _ = run(name, values | {"xh": np.exp(log_g(values["xh"]))}, [start])
    assert_same(h, log_space_scan(log_keep, log_values))


def test_min_lstm_with_both_gates_shut_weighs_past_and_present_by_their_logarithms() -> None:
    ones = np.ones((1, 1, 3))
    (h,), _ = run("min_lstm", {"xf": SHUT * ones, "xi": (SHUT - 1) * ones, "xh": ones})
    assert_same(h, 1 / (1 + math.e))


def test_selective_ssm_with_steady_dt_b_and_c_is_a_convolution() -> None:
    values, _ = drawn("selective_ssm")
    for key in values:
        if key[0] in "BC":
            values[key] = np.full_like(values[key], values[key][0, 0])
    values["x_dt"] = np.full_like(values["x_dt"], -1.0)
    dt = math.log1p(math.exp(-1))
    kernel = np.zeros((STEPS, CHANNELS))
    for n in (1, 2, 3, 4):
        A = -np.exp(values[f"A_log{n}"])
        impulse = np.exp(dt * np.outer(np.arange(STEPS), A)) * dt
        kernel += values[f"C{n}"][0, 0] * values[f"B{n}"][0, 0] * impulse
    kernel[0] += values["D"]
    (y,), _ = run("selective_ssm", values)
    assert_same(y, convolved(kernel, values["x"]))


def test_s4d_is_the_convolution_with_its_vandermonde_kernel() -> None:
    values, _ = drawn("s4d")
    dt, A = np.exp(values["log_dt"]), -np.exp(values["a_log"]) + 1j * values["a_im"]
    C = values["c_re"] + 1j * values["c_im"]
    powers = np.exp(np.outer(np.arange(STEPS), dt * A))
    kernel = 2 * (C * (np.exp(dt * A) - 1) / A * powers).real
    kernel[0] += values["D"]
    (y,), _ = run("s4d", values)
    np.testing.assert_allclose(y, convolved(kernel, values["u"]), rtol=1e-9, atol=1e-11)


def test_mega_is_the_convolution_with_its_damped_kernel() -> None:
    values, _ = drawn("mega_ema")
    kernel = np.zeros((STEPS, CHANNELS))
    for n in ("1", "2"):
        alpha, delta = sigma(values["x_alpha" + n]), sigma(values["x_delta" + n])
        ages = (1 - alpha * delta) ** np.arange(STEPS)[:, None]
        kernel += values["eta" + n] / math.sqrt(2) * alpha * values["beta" + n] * ages
    kernel[0] += values["omega"]
    (y,), _ = run("mega_ema", values)
    assert_same(y, convolved(kernel, values["x"]))


def test_liquid_s4_adds_the_product_of_inputs_at_two_times() -> None:
    values, _ = drawn("liquid_s4")
    early, late = np.zeros((2, 1, STEPS, CHANNELS))
    early[:, 3], late[:, 7] = 2.0, -1.5
    y = {u: run("liquid_s4", values | {"u": u_})[0][0] for u, u_ in
         (("both", early + late), ("early", early), ("late", late))}  # fmt: skip
    dt, A = np.exp(values["log_dt"]), -np.exp(values["a_log"]) + 1j * values["a_im"]
    A_bar, B_bar = (1 + dt / 2 * A) / (1 - dt / 2 * A), dt * values["b"] / (1 - dt / 2 * A)
    C = values["c_re"] + 1j * values["c_im"]
    liquid = 2.0 * -1.5 * C * A_bar ** (np.arange(STEPS)[:, None] - 7 + 3) * B_bar**2
    liquid[:7] = 0
    assert_same((y["both"] - y["early"] - y["late"])[0], 2 * liquid.real)


def test_rwkv4_equals_its_quadratic_attention() -> None:
    values, _ = drawn("rwkv4")
    w, u = np.exp(values["time_decay"]), values["time_first"]
    k, v = values["k"], values["v"]
    expected = np.empty_like(v)
    for t in range(STEPS):
        scores = k[:, : t + 1] - (t - 1 - np.arange(t + 1))[:, None] * w
        scores[:, t] = k[:, t] + u
        weights = np.exp(scores - scores.max(1, keepdims=True))
        expected[:, t] = (weights * v[:, : t + 1]).sum(1) / weights.sum(1)
    (y,), (a, b, p) = run("rwkv4", values)
    assert_same(y, sigma(values["r"]) * expected)
    weights = np.exp(k - (STEPS - 1 - np.arange(STEPS))[:, None] * w)
    assert_same(np.exp(p[:, -1]) * a[:, -1], (weights * v).sum(1))
    assert_same(np.exp(p[:, -1]) * b[:, -1], weights.sum(1))


def test_rwkv4_doesnt_see_a_shift_of_all_its_keys() -> None:
    values, _ = drawn("rwkv4")
    (y,), (a, b, _) = run("rwkv4", values)
    (shifted,), (a_, b_, _) = run("rwkv4", values | {"k": values["k"] + 1000})
    np.testing.assert_allclose(shifted, y, rtol=1e-9)
    np.testing.assert_allclose((a_, b_), (a, b), rtol=1e-9)


def test_mlstm_equals_its_parallel_form() -> None:
    values, _ = drawn("mlstm")
    k, q = (np.stack([values[f"{key}1"], values[f"{key}2"]], -1) for key in "kq")
    log_f = -softplus(-values["xf"])
    expected = np.empty_like(values["v"])
    for t in range(STEPS):
        D = np.stack([log_f[:, j + 1 : t + 1].sum(1) for j in range(t + 1)], 1)
        C = np.einsum("bd,bjd->bj", q[:, t], k[:, : t + 1]) / math.sqrt(2)
        D = D + values["xi"][:, : t + 1]
        C = C * np.exp(D)
        top = np.maximum(D.max(1), log_f[:, : t + 1].sum(1))  # the authors' 1e-6 is on its scale
        norm = (np.maximum(np.abs(C.sum(1)), 1) + 1e-6 * np.exp(top))[:, None]
        expected[:, t] = np.einsum("bj,bjn->bn", C, values["v"][:, : t + 1]) / norm
    (y,), (C1, C2, n1, n2, m) = run("mlstm", values)
    assert_same(y, sigma(values["xo"]) * expected)
    weights = np.exp(D)[..., None] * k / math.sqrt(2)  # of the last step
    scale = np.exp(m[:, -1])
    assert_same(scale * n1[:, -1], weights.sum(1)[:, :1].repeat(CHANNELS, 1))
    assert_same(scale * n2[:, -1], weights.sum(1)[:, 1:].repeat(CHANNELS, 1))
    memory = np.einsum("bjd,bjn->dbn", weights, values["v"])
    assert_same((scale * C1[:, -1], scale * C2[:, -1]), memory)


# --- stabilisers -----------------------------------------------------------------------------


def slstm(forget: Callable[[Array], Array], v: Values, c: Array, n: Array, h: Array) -> Any:
    """The paper's equations before it adds m."""
    z, o = np.tanh(v["xz"] + v["rz"] * h), sigma(v["xo"] + v["ro"] * h)
    i, f = np.exp(v["xi"] + v["ri"] * h), forget(v["xf"] + v["rf"] * h)
    c, n = f * c + i * z, f * n + i
    return (c, n, o * c / n), (o * c / n,)


@pytest.mark.parametrize(("name", "forget"), [("slstm", sigma), ("slstm_exp", np.exp)])
def test_slstm_equals_its_form_without_a_stabiliser(
    name: str, forget: Callable[[Array], Array]
) -> None:
    values, (c, n, m, h) = drawn(name, weights=1)
    (y,), (c_, n_, m_, _) = run(name, values, [c, n, m, h])
    (expected,), (c_true, n_true, _) = looped(
        lambda v, *states: slstm(forget, v, *states), values, [c * np.exp(m), n * np.exp(m), h]
    )
    assert_same(y, expected)
    assert_same(c_ * np.exp(m_), c_true)
    assert_same(n_ * np.exp(m_), n_true)


@pytest.mark.parametrize("name", ["slstm", "slstm_exp"])
def test_slstm_doesnt_see_a_shift_of_all_its_input_gates(name: str) -> None:
    values, _ = drawn(name, weights=1)
    (y,), (c, n, _, _) = run(name, values)
    (shifted,), (c_, n_, _, _) = run(name, values | {"xi": values["xi"] + 1000})
    np.testing.assert_allclose((shifted, c_, n_), (y, c, n), rtol=1e-8)
    assert max(np.abs(c).max(), n[:, 0].max()) <= STEPS
    assert (n[:, 0] == 1).all()  # m started far down


# --- the rest --------------------------------------------------------------------------------


def test_mamba3_equals_its_form_with_rotary_embeddings() -> None:
    """A real decay, with B and C turned by the angles so far: the paper's fourth proposition."""
    values, _ = drawn("mamba3")
    dt, lam = softplus(values["x_dt"]), sigma(values["x_lam"])
    alpha = np.exp(-dt * softplus(values["x_A"]))
    back = np.exp(-1j * np.cumsum(dt * values["theta"][..., None], 1))
    B, C = (
        (values[f"{key}_re"] + sign * 1j * values[f"{key}_im"])[..., None]
        for key, sign in (("B", 1), ("C", -1))
    )
    v = back * B * values["x"]  # turned back by all the angles up to its own step
    h, before = np.zeros((BATCH, CHANNELS), complex), np.zeros((BATCH, CHANNELS), complex)
    expected = np.empty_like(values["x"])
    for t in range(STEPS):
        h = alpha[:, t] * h + (1 - lam[:, t]) * dt[:, t] * alpha[:, t] * before
        h, before = h + lam[:, t] * dt[:, t] * v[:, t], v[:, t]
        expected[:, t] = (C[:, t] * h / back[:, t]).real + values["D"] * values["x"][:, t]
    (y,), (re, im, v_re, v_im) = run("mamba3", values)
    assert_same(y, expected)
    assert_same(re[:, -1] + 1j * im[:, -1], h / back[:, -1])
    assert_same(v_re[:, -1] + 1j * v_im[:, -1], before / back[:, -1])


def test_mamba3_counts_parity_by_half_turns() -> None:
    values, start = drawn("mamba3")
    bits = np.random.default_rng(0).integers(0, 2, (BATCH, STEPS))
    values |= {key: np.full_like(values[key], c) for key, c in
               (("x", 0), ("x_dt", math.log(math.e - 1)), ("x_A", SHUT), ("C_re", 1), ("C_im", 0))
               }  # fmt: skip
    start = [np.ones_like(start[0])] + [np.zeros_like(start[0])] * 3
    (y,), _ = run("mamba3", values | {"theta": math.pi * bits}, start)
    assert_same(y, ((-1.0) ** np.cumsum(bits, 1))[..., None].repeat(CHANNELS, 2))


def test_the_trapezoid_of_mamba3_is_of_second_order() -> None:
    """h' = -a h + x(t) over one unit of time: halving dt takes the error to a quarter."""
    errors = []
    for steps in (64, 128):
        shape, dt, a = (1, steps, 1), 1 / steps, 0.8
        inverse = math.log(math.expm1(dt))
        x = np.sin(3 * dt * np.arange(1, steps + 1)).reshape(shape)
        shared = {key: np.full((1, steps), float(key in ("B_re", "C_re"))) for key in
                  ("theta", "B_re", "B_im", "C_re", "C_im")}  # fmt: skip
        own = {"x": x, "x_dt": np.full(shape, inverse), "x_lam": np.zeros(shape)}
        own["x_A"] = np.full(shape, math.log(math.expm1(a)))
        (y,), _ = run("mamba3", own | shared | {"D": np.zeros(1)})
        # the integral of exp(-a (1 - s)) sin(3 s) over [0, 1]
        exact = (a * math.sin(3) - 3 * math.cos(3) + 3 * math.exp(-a)) / (a**2 + 9)
        errors.append(abs(y[0, -1, 0] - exact))
    assert errors[1] < 1e-4
    assert 3.7 < errors[0] / errors[1] < 4.3


def test_the_lmu_gives_back_slow_inputs_of_some_steps_ago() -> None:
    """Half a step later than the formula in continuous time: an input is held over its step."""
    t = np.arange(400)

    def slow(t: Array) -> Array:
        return np.sin(t / 20) + 0.5 * np.cos(t / 33)

    for delay in (8, 32, 60):
        place = 2 * (delay + 0.5) / 64 - 1
        mix: Array = np.asarray(np.polynomial.legendre.legval(place, np.eye(6)))
        values = {f"c{i}": mix[i : i + 1] for i in range(6)}
        (y,), _ = run("lmu", values | {"u": slow(t).reshape(1, -1, 1)})
        assert np.abs(y[0, 150:, 0] - slow(t[150:] - delay)).max() < 2e-3
    (y,), _ = run("lmu", {f"c{i}": np.ones(1) for i in range(6)} | {"u": slow(t).reshape(1, -1, 1)})
    assert np.abs(y[0, 150:, 0] - slow(t[150:] - 63.5)).max() < 0.02
    assert [p.init.a for p in compiled("lmu").spec.params] == [1] * 6  # which is how it starts


def test_titans_learns_a_fixed_association() -> None:
    ones = np.ones((1, 400, 1))
    given = {"k": 0.5 * ones, "v": 0.7 * ones, "q": 0.5 * ones}
    gates = {"x_theta": -2 * ones, "x_eta": 0 * ones, "x_alpha": SHUT * ones}
    for name in ("titans_linear", "titans_tanh"):
        (y,), _ = run(name, given | gates)
        assert abs(y[0, 0, 0]) < 0.2 < 0.7 - 1e-6 < y[0, -1, 0] < 0.7 + 1e-6


def test_gated_delta_net_overwrites_the_old_value_of_a_key() -> None:
    values, start = drawn("gated_delta_net")
    values["A_log"] = np.full_like(values["A_log"], SHUT)  # forgets nothing
    values["x_beta"] = np.full_like(values["x_beta"], OPEN)
    values |= {f"q{n}": 1000 * values[f"k{n}"] for n in (1, 2, 3, 4)}
    values |= {f"k{n}": 1000 * values[f"k{n}"] for n in (1, 2, 3, 4)}
    (y,), _ = run("gated_delta_net", values, start)
    np.testing.assert_allclose(2 * y, values["v"], rtol=1e-6, atol=1e-6)
