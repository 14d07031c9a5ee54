"""Filters, series, catchments and hidden states against transcriptions and known facts."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from tests.support.neurons import Step, agrees, drawn, some_fire, spike_times, steady
from tests.support.papers.signals import (
    biquad_1998,
    compressor_2012,
    egarch_1991,
    hbv_1976,
    kalman_1960,
    low_pass,
    mackey_glass_1977,
    moog_2004,
    refractory_lif,
    zoneout_gru_2016,
)
from tests.support.runs import compiled, random_call, solve

Range = tuple[float, float]
DELAY: dict[str, Range] = {"x": (0.5, 1.2)} | {f"x_{k}ago": (0.5, 1.2) for k in range(1, 18)}
LADDER = ("Y1", "Y2", "Y3", "Y4", "W1", "W2", "W3", "d", "last")
CASES: dict[str, tuple[Step, dict[str, Range]]] = {
    "biquad": (biquad_1998, {"s1": (-1, 1), "s2": (-1, 1)}),
    "kalman": (
        kalman_1960,
        {"l": (-1, 1), "b": (-1, 1), "p": (1, 2), "c": (-0.5, 0.5), "q": (1, 2)},
    ),
    "egarch": (egarch_1991, {"h": (-1, 1)}),
    "hbv": (hbv_1976, {"s": (0, 300), "u": (0, 50), "l": (0, 50)}),
    "compressor": (compressor_2012, {"g": (0, 20)}),
    "zoneout_gru": (zoneout_gru_2016, {"h": (-1, 1)}),
    "moog_ladder": (moog_2004, dict.fromkeys(LADDER, (-0.5, 0.5))),
    "mackey_glass": (mackey_glass_1977, DELAY),
}


@pytest.mark.parametrize("name", CASES)
def test_it_steps_as_in_its_source(name: str) -> None:
    step, starts = CASES[name]
    agrees(name, drawn(name, starts), step)


def test_refractory_lif_steps_as_in_its_source_and_rests() -> None:
    call = drawn("refractory_lif", {"v": (0, 1), "wait": (0, 0)})
    assert some_fire(agrees("refractory_lif", call, refractory_lif)[0])
    s = steady("refractory_lif", 100, I=[5.0], beta=[0.9])[:, 0]
    assert (np.diff(spike_times(s)) == 4).all()  # three steps of rest between


# --- known facts -----------------------------------------------------------------------------


def test_biquad_has_the_gains_of_a_low_pass() -> None:
    """1 for a constant, 0 at Nyquist's frequency, and Q at the cutoff."""
    f, r = 0.3, 0.8
    b, a = low_pass(f, r)
    z = np.exp(-1j * math.pi / (1 + math.exp(-f)))
    gain = abs(np.polyval(b[::-1], z) / np.polyval(a[::-1], z))
    assert gain == pytest.approx(0.5 + math.log1p(math.exp(r)))
    assert steady("biquad", 400, x=[1.0], f=[f], r=[r])[-1, 0] == pytest.approx(1)
    alternating = torch.tensor([1.0, -1.0]).double().repeat(200).view(1, 400, 1)
    constant = torch.full((1, 400, 1), f).double(), torch.full((1, 400, 1), r).double()
    y = compiled("biquad")(alternating, *constant)
    assert float(y[0, -10:].abs().max()) < 1e-10


def test_kalman_is_the_posterior_of_a_joint_normal() -> None:
    """The last level and the sum of losses are those of one normal over all times."""
    steps = 12
    call = random_call("kalman", (1, steps, 1), torch.float64, start=False)
    (level, loss), _ = solve("kalman", call.arguments, None)
    z = call.arguments["z"][0, :, 0].numpy()
    q_l, q_b, r = (float(call.arguments[f"log_{n}"].exp()) for n in ("level", "slope", "noise"))
    rows = []  # of each level, over: l_0, b_0, then the noises of level and slope
    for t in range(1, steps + 1):
        level_noise = [1.0 if s <= t else 0.0 for s in range(1, steps + 1)]
        slope_noise = [float(max(t - s, 0)) for s in range(1, steps + 1)]
        rows.append([1.0, t, *level_noise, *slope_noise])
    A = np.array(rows)
    prior = A @ np.diag([1.0, 1.0, *[q_l] * steps, *[q_b] * steps]) @ A.T
    seen = prior + r * np.eye(steps)
    assert float(level[0, -1, 0]) == pytest.approx(prior[-1] @ np.linalg.solve(seen, z))
    log_density = -0.5 * (
        z @ np.linalg.solve(seen, z) + np.linalg.slogdet(seen)[1] + steps * math.log(2 * math.pi)
    )
    assert float(loss.sum()) == pytest.approx(-log_density)


def test_egarch_rises_more_after_a_loss() -> None:
    """News of -1 and 1 differ by 2 gamma (Nelson's leverage)."""
    values = {"omega": [0.0], "alpha": [0.2], "gamma": [-0.1], "beta": [0.9]}
    fall, rise = (steady("egarch", 1, r=[r], **values)[0, 0] for r in (-1.0, 1.0))
    assert fall - rise == pytest.approx(0.2)


def test_hbv_loses_no_water() -> None:
    """What falls without evaporation runs off or is stored."""
    call = random_call("hbv", (2, 80, 4), torch.float64, start=False)
    arguments = call.arguments | {"E": torch.zeros(2, 80, 4, dtype=torch.float64)}
    (y,), stores = solve("hbv", arguments, None)
    stored = sum(stores) - (100 + 5 + 20)
    torch.testing.assert_close(y.sum(1) + stored, arguments["P"].sum(1))


def test_compressor_settles_on_its_static_curve() -> None:
    """10 dB above the threshold, at a ratio of 4, leave 2.5 dB."""
    given = {"threshold": [-20.0], "ratio": [4.0], "attack": [5.0], "release": [50.0]}
    y = steady("compressor", 400, x=[10 ** (-10 / 20)], **given)
    assert 20 * math.log10(y[-1, 0]) == pytest.approx(-20 + 10 / 4)


def test_zoneout_keeps_the_state_where_its_mask_says_so() -> None:
    call = random_call("zoneout_gru", (2, 30, 4), torch.float64)
    keep = (torch.rand(2, 30, 4) < 0.5).double()
    (y,), _ = solve("zoneout_gru", call.arguments | {"keep": keep}, call.h0)
    assert torch.equal(y[:, 1:][keep[:, 1:] == 1], y[:, :-1][keep[:, 1:] == 1])
    assert (y[:, 1:] != y[:, :-1])[keep[:, 1:] == 0].all()


def test_moog_ladder_loses_its_bass_to_resonance_and_then_sings() -> None:
    """The gain of a small constant is 1 / (1 + 4 r); above r = 1 it doesn't settle."""
    r = [0.0, 0.25, 0.5]
    y = steady("moog_ladder", 2000, x=[1e-4] * 3, g=[0.2] * 3, r=r)
    np.testing.assert_allclose(y[-1], [1e-4 / (1 + 4 * v) for v in r], rtol=1e-6)
    y = steady("moog_ladder", 4000, x=[1e-4] * 2, g=[0.2] * 2, r=[0.7, 1.5])
    assert np.ptp(y[-500:, 0]) < 1e-8
    assert np.ptp(y[-500:, 1]) > 0.1


def test_mackey_glass_is_chaotic_at_17_and_may_rest() -> None:
    """Neighbours part; at x = 1, where 0.2 / (1 + x^10) = 0.1, it rests."""
    u = torch.zeros(1, 1500, 2, dtype=torch.float64)
    u[0, 0, 1] = 1e-6
    y = compiled("mackey_glass")(u)[0]
    assert 0.2 < float(y[300:].min()) < 0.6
    assert 1.2 < float(y[300:].max()) < 1.5
    assert float((y[1000:, 0] - y[1000:, 1]).abs().max()) > 1e-3
    rest = compiled("mackey_glass")(torch.zeros_like(u), h0=torch.ones(1, 2, 18).double())
    torch.testing.assert_close(rest, torch.ones_like(rest))


def test_hmm_forward_is_the_sum_over_all_paths() -> None:
    call = random_call("hmm_forward", (2, 6, 3), torch.float64, start=False)
    (y,), last = solve("hmm_forward", call.arguments, None)
    rows = [[call.arguments[f"A_{i}_{j}"] for j in range(3)] for i in range(3)]
    A = torch.stack([torch.stack(row).softmax(0) for row in rows]).numpy()
    e = torch.stack([call.arguments[f"e_{j}"] for j in range(3)]).exp().numpy()
    ends = np.zeros((3, 2, 3))
    for path in itertools.product(range(3), repeat=7):
        p = np.full((2, 3), 1 / 3)
        for t, (i, j) in enumerate(itertools.pairwise(path)):
            p = p * A[i, j] * e[j, :, t]
        ends[path[-1]] += p
    np.testing.assert_allclose(y.sum(1).exp(), ends.sum(0), rtol=1e-10)
    np.testing.assert_allclose(torch.stack(last).exp(), ends / ends.sum(0), rtol=1e-10)
