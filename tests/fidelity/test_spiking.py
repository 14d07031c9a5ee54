"""Neurons that are reset: against snnTorch, transcriptions in scalar loops, and known facts.

Transcriptions are written from the papers, not from the cells, in the order of the authors'
programs.
"""

from __future__ import annotations

from dataclasses import replace
from math import exp
from typing import Any

import numpy as np
import pytest
import snntorch
import torch
from snntorch import surrogate
from torch import Tensor

import rnncc
from rnncc.lang.loader import find
from tests.support.neurons import (
    BATCH,
    CHANNELS,
    STEPS,
    Array,
    agrees,
    drawn,
    some_fire,
    spike_times,
    steady,
)
from tests.support.papers.spiking import adex_2005, alif_2018, se_adlif_2024, tc_lif_2024
from tests.support.runs import Call, compiled, listed, solve

# --- leaky integrate-and-fire, beside snnTorch -------------------------------------------------


def beside_snntorch(
    name: str, neuron: Any, h0: tuple[Tensor, ...], inputs: Tensor, **params: Tensor
) -> None:
    """Spikes and last states are snnTorch's; so are the gradients, which it takes in float32."""
    leaves = [inputs, *params.values(), *h0]
    for leaf in leaves:
        leaf.requires_grad_()
    states, spikes = h0, []
    for t in range(inputs.shape[1]):
        s, *states = neuron(inputs[:, t], *states)
        spikes.append(s)
    expected = torch.stack(spikes, 1).double()
    assert some_fire(expected)
    y, h = compiled(name)(inputs, **params, h0=h0 if len(h0) > 1 else h0[0], return_state=True)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for got, wanted in zip([y, *listed(h)], [expected, *states], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
    found = torch.autograd.grad([y, *listed(h)], leaves, [upstream, *listed(h)])
    for got, wanted in zip(
        found, torch.autograd.grad([expected, *states], leaves, [upstream, *states]), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def uniform(low: float, high: float, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def test_lif_is_snntorchs_leaky_with_a_reset_to_zero_at_once() -> None:
    beta = uniform(0.5, 1.2, CHANNELS)
    neuron = snntorch.Leaky(
        beta, reset_mechanism="zero", reset_delay=False, spike_grad=surrogate.fast_sigmoid(25)
    )
    h0 = (uniform(-1, 1, BATCH, CHANNELS),)
    beside_snntorch("lif", neuron, h0, uniform(-0.5, 1, BATCH, STEPS, CHANNELS), beta=beta)


def test_synaptic_is_snntorchs_synaptic() -> None:
    alpha, beta = uniform(0.5, 1.1, CHANNELS), uniform(0.6, 1.1, CHANNELS).flip(0)
    neuron = snntorch.Synaptic(alpha, beta, spike_grad=surrogate.fast_sigmoid(25))
    h0 = (uniform(-1, 1, BATCH, CHANNELS), uniform(-2, 3, BATCH, CHANNELS))
    inputs = uniform(-0.4, 0.5, BATCH, STEPS, CHANNELS)
    beside_snntorch("synaptic", neuron, h0, inputs, alpha=alpha, beta=beta)


# --- adaptive and two-compartment neurons ------------------------------------------------------


def test_alif_steps_as_the_authors_program() -> None:
    call = drawn("alif", {"v": (-0.1, 0.1), "b": (0.0, 0.02), "z": (0.0, 0.0)})
    assert some_fire(agrees("alif", call, alif_2018)[0])


def test_alifs_surrogate_is_the_authors_triangle() -> None:
    """0.3 relu(1 - |u|) of u = (v - B) / B, after one step from rest."""
    current = torch.tensor([0.0, 0.1, 0.19, 0.3, 0.5], dtype=torch.float64, requires_grad=True)
    y = compiled("alif")(current.view(1, 1, 5))
    (slope,) = torch.autograd.grad(y.sum(), current)
    gain = (1 - exp(-1 / 20)) / 0.01
    expected = 0.3 * gain * torch.relu(1 - (gain * current.detach() - 1).abs())
    torch.testing.assert_close(slope, expected, rtol=1e-10, atol=1e-12)


def test_alif_fires_less_and_less_and_remembers_how_often_it_fired() -> None:
    inputs = torch.full((1, 2000, 1), 0.5, dtype=torch.float64)
    (z,), (_, b, _) = solve("alif", {"I": inputs}, None)
    pauses = np.diff(spike_times(z[0, :, 0].numpy()))
    assert pauses[0] == 1
    assert pauses[-1] > 3
    assert (np.diff(np.convolve(pauses, np.ones(20), "valid")) >= -1).all()
    decays = (1 - exp(-1 / 700)) * np.exp(-np.arange(1999) / 700)
    assert float(b) == pytest.approx(decays @ z[0, :-1, 0].flip(0).numpy(), rel=1e-10)


def within(call: Call, **ranges: tuple[float, float]) -> Call:
    """The call with these params uniform in these ranges."""
    new = {name: uniform(low, high, CHANNELS) for name, (low, high) in ranges.items()}
    return replace(call, arguments=call.arguments | new)


def test_se_adlif_steps_as_in_the_paper() -> None:
    call = drawn("se_adlif", {"u": (-1.0, 1.0), "w": (-1.0, 2.0)}, steps=120)
    call = within(call, m_u=(0, 1), m_w=(0, 1), a=(0, 1), b=(0, 2))
    assert some_fire(agrees("se_adlif", call, se_adlif_2024)[0])


def test_se_adlif_keeps_its_params_in_their_ranges() -> None:
    call = drawn("se_adlif", {"u": (-1.0, 1.0), "w": (-1.0, 2.0)})
    for far, near in ((2.5, 1.0), (-0.5, 0.0)):
        y = [
            solve(
                "se_adlif",
                within(call, m_u=(v, v), m_w=(v, v), a=(v, v), b=(2 * v, 2 * v)).arguments,
                call.h0,
            )
            for v in (far, near)
        ]
        assert torch.equal(y[0][1][0], y[1][1][0])
        assert torch.equal(y[0][1][1], y[1][1][1])


def test_se_adlif_oscillates_stably_where_plain_euler_would_grow() -> None:
    """The product of the eigenvalues is alpha beta; plain Euler adds (1 - alpha)(1 - beta) a q."""
    alpha, beta, a = exp(-1 / 5), exp(-1 / 60), 1.0
    ones = torch.ones(1, dtype=torch.float64)
    arguments = {
        "I": torch.zeros(1, 200, 1, dtype=torch.float64),
        "m_u": 0 * ones,
        "m_w": 0 * ones,
        "a": a * ones,
    }
    start = (torch.full((1, 1), 0.5, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
    along = compiled("se_adlif")(**arguments, b=ones, h0=start, return_states=True)[1]
    u, w = (state[0, :, 0] for state in along)
    assert (u[1:] * u[:-1] < 0).sum() > 20
    wronskian = u[:-1] * w[1:] - w[:-1] * u[1:]
    torch.testing.assert_close(
        wronskian[1:] / wronskian[:-1], torch.full((198,), alpha * beta).double()
    )
    assert alpha * beta < 1 < alpha * beta + (1 - alpha) * (1 - beta) * a * 120


def test_tc_lif_steps_as_in_the_paper() -> None:
    call = drawn("tc_lif", {"D": (-1.0, 1.0), "S": (-1.0, 1.0)})
    call = within(call, c_1=(-2, 2), c_2=(-1, 3))
    assert some_fire(agrees("tc_lif", call, tc_lif_2024)[0])


def test_tc_lif_loses_nothing_between_spikes() -> None:
    """With p and q, the sigmoids of c_1 and c_2, q D^2 - p q D S + p S^2 stays the same."""
    c_1, c_2 = torch.tensor([-1.0]).double(), torch.tensor([0.5]).double()
    p, q = torch.sigmoid(c_1), torch.sigmoid(c_2)
    start = (torch.full((1, 1), 0.5).double(), torch.full((1, 1), 0.2).double())
    inputs = torch.zeros(1, 500, 1, dtype=torch.float64)
    s, (D, S) = compiled("tc_lif")(inputs, c_1, c_2, h0=start, return_states=True)
    assert not s.any()
    kept = q * D**2 - p * q * D * S + p * S**2
    torch.testing.assert_close(kept, kept[:, :1].expand_as(kept))
    assert D.min() < -0.2


def test_the_surrogates_of_se_adlif_and_tc_lif_are_as_high_as_the_authors() -> None:
    """1 at the threshold; the gradient of the reset is that of u (1 - z) with z held."""
    current = torch.linspace(-2, 20, 23, dtype=torch.float64).requires_grad_()
    zero = torch.zeros(23, dtype=torch.float64)
    gain = 1 - exp(-1 / 5)
    z, (u, _) = compiled("se_adlif")(current.view(1, 1, -1), *[zero] * 4, return_state=True)
    slopes = [torch.autograd.grad(t.sum(), current, retain_graph=True)[0] for t in (z, u)]
    far = gain * current.detach() - 1
    torch.testing.assert_close(slopes[0], gain / (1 + 5 * far.abs()) ** 2, rtol=1e-10, atol=0)
    torch.testing.assert_close(slopes[1], gain * (far < 0).double(), rtol=1e-10, atol=0)
    s = compiled("tc_lif")(current.view(1, 1, -1), zero, zero)
    (slope,) = torch.autograd.grad(s.sum(), current)
    triangle = torch.relu(1 - (current.detach() / 2 - 1).abs()) / 2
    torch.testing.assert_close(slope, triangle, rtol=1e-10, atol=0)


# --- Izhikevich's neuron -----------------------------------------------------------------------


def izhikevich_2003(currents: Array, a: float, b: float, c: float, d: float) -> Array:
    """In the order of the paper's program: who is at its peak is reset, then all step."""
    v, u, spikes = -65.0, -13.0, []
    for current in currents:
        if v >= 30:
            v, u = c, u + d
        for _ in range(2):
            v = v + 0.5 * (0.04 * v * v + 5 * v + 140 - u + current)
        v = min(v, 30.0)
        u = u + a * (b * v - u)
        spikes.append(float(v >= 30))
    return np.array(spikes)


KINDS = {
    "regular": {"a": 0.02, "b": 0.2, "c": -65.0, "d": 8.0},
    "chattering": {"a": 0.02, "b": 0.2, "c": -50.0, "d": 2.0},
    "fast": {"a": 0.1, "b": 0.2, "c": -65.0, "d": 2.0},
}


def test_each_kind_of_izhikevichs_neuron_fires_as_by_the_papers_program() -> None:
    """And regular ones adapt, chattering ones fire in bursts, fast ones often."""
    currents = uniform(0, 20, 1000)
    pauses = {}
    for name, kind in KINDS.items():
        cell = rnncc.compile(find("izhikevich"), **kind, dt=1.0)  # type: ignore[arg-type]
        s = cell(currents.view(1, -1, 1))[0, :, 0].numpy()
        assert np.array_equal(s, izhikevich_2003(currents.numpy(), **kind))
        pauses[name] = np.diff(spike_times(steady(cell, 500, I=np.array([10.0]))[:, 0]))
    assert pauses["regular"][0] < 0.6 * pauses["regular"][-1]
    assert pauses["chattering"].min() < 6 < 40 < pauses["chattering"].max()
    assert 4 < pauses["regular"][-1] / pauses["fast"][-1] < 5


def test_izhikevichs_cells_fire_when_they_would_in_small_steps() -> None:
    dt, v, u, times = 0.005, -65.0, -13.0, []
    for k in range(int(300 / dt)):
        v, u = v + dt * (0.04 * v * v + 5 * v + 150 - u), u + dt * 0.02 * (0.2 * v - u)
        if v >= 30:
            v, u = -65.0, u + 8
            times.append(dt * k)
    s = steady("izhikevich", 3000, I=np.array([10.0]))
    assert 0.1 * spike_times(s[:, 0]) == pytest.approx(times, rel=0.03)


# --- the adaptive exponential neuron -----------------------------------------------------------


def test_adex_steps_as_in_the_paper() -> None:
    call = drawn("adex", {"v": (-75.0, -41.0), "w": (0.0, 200.0)}, steps=300)
    call.arguments["I"].mul_(3)
    assert some_fire(agrees("adex", call, adex_2005)[0])


def test_adex_does_not_overflow_from_any_initial_state() -> None:
    far = torch.tensor([-1e3, 0.0, 1e3, 1e30], dtype=torch.float64).view(1, 4).requires_grad_()
    inputs = torch.zeros(1, 3, 4, dtype=torch.float64)
    y, h = compiled("adex")(inputs, h0=(far, torch.zeros_like(far)), return_state=True)
    (slope,) = torch.autograd.grad(y.sum() + sum(state.sum() for state in h), far)
    for value in (y, *h, slope):
        assert value.isfinite().all()
    assert y[0, 0].tolist() == [0, 1, 1, 1]


def test_adex_fires_steadily_above_the_rheobase_of_its_equations() -> None:
    """(g_L + a)(V_T - E_L - D + D ln(1 + r)) + D g_L (a / g_L - r), with r = tau_m / tau_w."""
    r = 281 / 30 / 144
    rheobase = 34 * (20.2 - 2 + 2 * np.log1p(r)) + 2 * 30 * (4 / 30 - r)
    s = steady("adex", 40000, I=rheobase + np.array([-5.0, 5.0]))
    assert s[10000:].sum(0)[0] == 0
    assert s[10000:].sum(0)[1] > 3


def test_adex_adapts_and_fires_when_it_would_with_a_peak_of_20_mv_and_small_steps() -> None:
    dt, current, v, w, expected = 0.002, 1000.0, -70.6, 0.0, []
    for k in range(int(200 / dt)):
        dv = (30 * (2 * exp((v + 50.4) / 2) - v - 70.6) - w + current) / 281
        w += dt / 144 * (4 * (v + 70.6) - w)
        v += dt * dv
        if v > 20:
            v, w = -70.6, w + 80.5
            expected.append(dt * k)
    times = 0.1 * spike_times(steady("adex", 2000, I=np.array([current]))[:, 0])
    assert times == pytest.approx(expected, rel=0.01)
    assert (np.diff(times, 2) > 0).all()
