"""Neurons without a reset: against their papers' equations in scalar loops, and known facts.

Transcriptions are written from the papers, not from the cells: with the papers' own signs and
closed forms.
"""

from __future__ import annotations

from collections.abc import Callable
from math import tanh

import numpy as np
import pytest
import torch

import rnncc
from rnncc.lang.loader import find
from tests.support.neurons import Array, agrees, crossings, drawn, steady
from tests.support.papers.neurons import (
    hindmarsh_rose_1984,
    hodgkin_huxley_1952,
    morris_lecar_1981,
    morris_lecar_rates,
    wilson_cowan_1972,
    wilson_cowan_rates,
)
from tests.support.runs import compiled, solve


def runge_kutta(rate: Callable[[Array], Array], start: Array, dt: float, steps: int) -> Array:
    """The classical method of fourth order: the states [D, N] after each step, [T, D, N]."""
    rows, s = [], start
    for _ in range(steps):
        k1 = rate(s)
        k2 = rate(s + dt / 2 * k1)
        k3 = rate(s + dt / 2 * k2)
        k4 = rate(s + dt * k3)
        s = s + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        rows.append(s)
    return np.stack(rows)


# --- Hodgkin-Huxley ----------------------------------------------------------------------------


def hodgkin_huxley_rate(current: Array) -> Callable[[Array], Array]:
    def rate(s: Array) -> Array:
        v, m, h, n = s
        a_m, a_n = (
            0.1 * (v + 40) / -np.expm1(-(v + 40) / 10),
            0.01 * (v + 55) / -np.expm1(-(v + 55) / 10),
        )
        ionic = 120 * m**3 * h * (v - 50) + 36 * n**4 * (v + 77) + 0.3 * (v + 54.387)
        return np.stack(
            [
                current - ionic,
                a_m * (1 - m) - 4 * np.exp(-(v + 65) / 18) * m,
                0.07 * np.exp(-(v + 65) / 20) * (1 - h) - h / (1 + np.exp(-(v + 35) / 10)),
                a_n * (1 - n) - 0.125 * np.exp(-(v + 65) / 80) * n,
            ]
        )

    return rate


def test_hodgkin_huxley_steps_as_in_the_signs_of_1952() -> None:
    starts = {"v": (-80.0, 40.0), "m": (0.0, 1.0), "h": (0.0, 1.0), "n": (0.0, 1.0)}
    agrees("hodgkin_huxley", drawn("hodgkin_huxley", starts), hodgkin_huxley_1952)


def test_the_squids_membrane_rests_at_minus_65_mv() -> None:
    arguments = {"I": torch.zeros(1, 8000, 1, dtype=torch.float64)}
    for start in (-80.0, -62.0):
        h0 = [torch.full((1, 1), s, dtype=torch.float64) for s in (start, 0.05, 0.6, 0.3)]
        _, h = solve("hodgkin_huxley", arguments, h0)
        v, *gates = (float(state) for state in h)
        assert abs(v + 65) < 0.01
        assert gates == pytest.approx([0.0529, 0.5961, 0.3177], abs=2e-4)


def test_the_squids_spikes_are_as_high_and_as_frequent_as_by_runge_kutta() -> None:
    """40 mV at the first spike, and 68 of them in a second at 10 uA/cm2."""
    currents = np.array([7.0, 10.0, 20.0])
    dt, duration = 0.025, 250.0
    start = np.repeat([[-65.0], [0.0529], [0.5961], [0.3177]], 3, axis=1)
    exact = runge_kutta(hodgkin_huxley_rate(currents), start, dt, int(duration / dt))[:, 0]
    v = steady("hodgkin_huxley", int(duration / dt), I=currents)
    rates = []
    for n in range(3):
        times, expected = crossings(v[:, n], 0, dt), crossings(exact[:, n], 0, dt)
        rates.append(1000 / np.diff(times)[-3:].mean())
        assert rates[-1] == pytest.approx(1000 / np.diff(expected)[-3:].mean(), rel=1e-3)
        assert v[:, n].max() == pytest.approx(exact[:, n].max(), abs=0.1)
    assert v[:, 1].max() == pytest.approx(40.3, abs=0.1)
    assert rates[1] == pytest.approx(68.3, abs=0.1)


def test_the_squids_axon_starts_to_fire_steadily_at_a_rate_far_above_0() -> None:
    currents = np.array([0.0, 2.0, 3.0, 5.9, 6.5])
    v = steady("hodgkin_huxley", 12000, I=currents)
    times = [crossings(trace, 0, 0.025) for trace in v.T]
    assert [len(t) for t in times[:3]] == [0, 0, 1]  # a step alone can make it fire once
    assert len(times[3]) < 3
    assert len(times[4]) > 15
    assert 1000 / np.diff(times[4])[-1] > 50


@pytest.mark.parametrize("v", [-40.0, -55.0])
def test_the_rates_of_the_gates_have_no_gap_where_they_are_0_by_0(v: float) -> None:
    near = torch.tensor([v - 1e-4, v, v + 1e-4], dtype=torch.float64)
    h0 = tuple(t.expand(1, 3) for t in (near, *torch.tensor([0.1, 0.4, 0.5]).double().unbind()))
    h0[0].requires_grad_()
    current = torch.zeros(1, 3, 3, dtype=torch.float64)
    results = compiled("hodgkin_huxley")(current, h0=h0, return_state=True)[1]
    for state in results:
        (slope,) = torch.autograd.grad(state.sum(), h0[0], retain_graph=True)
        for values in (state[0], slope[0]):
            low, at, high = values.tolist()
            assert np.isfinite(at)
            assert at == pytest.approx((low + high) / 2, rel=1e-8, abs=1e-10)
        assert (state[0, 2] - state[0, 0]).item() == pytest.approx(
            2e-4 * slope[0, 1].item(), rel=1e-6
        )


# --- Morris-Lecar ------------------------------------------------------------------------------


def morris_lecar_rest(current: float) -> tuple[float, float]:
    """Where both rates are 0, by halving."""
    low, high = -80.0, 60.0
    for _ in range(60):
        v = (low + high) / 2
        w = (1 + tanh((v - 2) / 30)) / 2
        low, high = (v, high) if morris_lecar_rates(v, w, current)[0] > 0 else (low, v)
    return v, w


def test_morris_lecar_steps_as_in_the_paper() -> None:
    call = drawn("morris_lecar", {"v": (-70.0, 50.0), "w": (0.0, 1.0)})
    agrees("morris_lecar", call, morris_lecar_1981)


def test_the_barnacles_fibre_stays_where_it_rests_and_spikes_once_when_pushed() -> None:
    v, w = morris_lecar_rest(0.0)
    assert v == pytest.approx(-60.855, abs=1e-3)
    calm = steady("morris_lecar", 5000, I=np.zeros(1))
    assert np.abs(calm - v).max() < 1e-3
    for push, fires in ((-25.0, False), (-5.0, True)):
        pushed = steady("morris_lecar", 5000, start=[push, w], I=np.zeros(1))
        assert bool(pushed.max() > 15) == fires
        assert pushed[-1, 0] == pytest.approx(v, abs=0.01)


def test_the_barnacles_fibre_starts_to_oscillate_where_a_pair_of_eigenvalues_crosses() -> None:
    """At 93.86 uA/cm2, and back at 212: a disturbance dies on one side and grows on the other."""
    grown = []
    currents = np.array([90.0, 97.0, 208.0, 216.0])
    for current in currents:
        v, w = morris_lecar_rest(current)
        e = 1e-5
        columns = [
            (
                np.subtract(
                    morris_lecar_rates(v + e, w, current), morris_lecar_rates(v - e, w, current)
                )
            ),
            (
                np.subtract(
                    morris_lecar_rates(v, w + e, current), morris_lecar_rates(v, w - e, current)
                )
            ),
        ]
        eigenvalues = np.linalg.eigvals(np.stack(columns, 1) / (2 * e))
        assert abs(eigenvalues[0].imag) > 0.05
        trace = np.abs(steady("morris_lecar", 20000, start=[v + 0.1, w], I=np.array([current])) - v)
        grown.append(bool(trace[-2000:].max() > trace[:2000].max()))
        assert grown[-1] == (eigenvalues[0].real > 0)
    assert grown == [False, True, True, False]


def test_with_values_of_class_1_morris_lecar_starts_to_fire_slowly() -> None:
    cell = rnncc.compile(find("morris_lecar"), g_Ca=4.0, V_3=12.0, V_4=17.4, phi=1 / 15)
    v = steady(cell, 20000, I=np.array([39.5, 40.5, 50.0]))
    times = [crossings(trace, 0, 0.1) for trace in v.T]
    assert len(times[0]) == 0
    slow, fast = (1000 / np.diff(t)[-1] for t in times[1:])
    assert slow < 5 < 10 < fast


# --- Hindmarsh-Rose ----------------------------------------------------------------------------


def test_hindmarsh_rose_steps_as_in_the_paper_with_the_new_x() -> None:
    call = drawn("hindmarsh_rose", {"x": (-2.0, 2.0), "y": (-12.0, 1.0), "z": (0.0, 3.0)})
    agrees("hindmarsh_rose", call, hindmarsh_rose_1984)


def test_hindmarsh_rose_rests_bursts_and_fires_as_by_runge_kutta() -> None:
    currents = np.array([0.0, 2.0, 4.0])

    def rate(s: Array) -> Array:
        x, y, z = s
        fast = [y - x**3 + 3 * x**2 - z + currents, 1 - 5 * x**2 - y]
        return np.stack([*fast, 0.001 * (4 * (x + 1.6) - z)])

    start = np.repeat([[-1.6045], [-11.872], [-0.018]], 3, axis=1)
    exact = runge_kutta(rate, start, 0.05, 40000)[:, 0]
    x = steady("hindmarsh_rose", 100000, I=currents)
    times = [crossings(trace, 1, 0.02) for trace in x.T]
    expected = [crossings(trace, 1, 0.05) for trace in exact.T]
    assert np.abs(x[:, 0] + 1.6045).max() < 1e-3
    assert x.max() == pytest.approx(exact.max(), abs=0.1)
    pauses = [np.nonzero(np.diff(t) > 100)[0] for t in (times[1], expected[1])]
    assert len(pauses[0]) == len(pauses[1]) == 3
    assert np.diff(times[1])[:10] == pytest.approx(np.diff(expected[1])[:10], rel=0.03)
    assert (
        abs(pauses[0][1] - pauses[0][0] - (pauses[1][1] - pauses[1][0])) <= 2
    )  # spikes in a burst
    assert np.diff(times[2]).max() < 30
    assert len(times[2]) == pytest.approx(len(expected[2]), rel=0.02)


# --- Wilson-Cowan ------------------------------------------------------------------------------


def test_wilson_cowan_steps_as_in_the_paper_by_heuns_method() -> None:
    call = drawn("wilson_cowan", {"E": (0.0, 0.5), "I": (0.0, 0.5)})
    agrees("wilson_cowan", call, wilson_cowan_1972)


def test_wilson_cowans_populations_rest_without_input_and_cycle_at_1_25() -> None:
    P = np.array([0.0, 1.25])
    exact = runge_kutta(lambda s: wilson_cowan_rates(s, P, 0.0), np.zeros((2, 2)), 0.5, 1000)[:, 0]
    E = steady("wilson_cowan", 2000, P=P, Q=np.zeros(2))
    assert np.abs(E[:, 0]).max() < 1e-15
    period = np.diff(crossings(E[:, 1], 0.2, 0.25))[-1]
    assert period == pytest.approx(np.diff(crossings(exact[:, 1], 0.2, 0.5))[-1], rel=1e-3)
    assert period == pytest.approx(40, abs=0.1)
    assert E[1000:, 1].max() == pytest.approx(exact[500:, 1].max(), abs=1e-3)
