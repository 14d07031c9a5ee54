"""The ten of these cells that ship, and steps of PyTorch written from their sources."""

from __future__ import annotations

import math
from typing import Any

import torch

from rnncc.cells import (
    biquad,
    compressor,
    egarch,
    hbv,
    hmm_forward,
    kalman,
    mackey_glass,
    moog_ladder,
    refractory_lif,
    zoneout_gru,
)

F = torch.nn.functional


def biquad_step(h: Any, v: Any) -> Any:
    """The cookbook's five coefficients, divided by a_0."""
    w = math.pi * torch.sigmoid(v.f)
    alpha = torch.sin(w) / (2 * (0.5 + F.softplus(v.r)))
    b0, b1 = (1 - torch.cos(w)) / 2, 1 - torch.cos(w)
    a0, a1, a2 = 1 + alpha, -2 * torch.cos(w), 1 - alpha
    y = b0 / a0 * v.x + h[0]
    return (b1 / a0 * v.x - a1 / a0 * y + h[1], b0 / a0 * v.x - a2 / a0 * y), (y,)


def kalman_step(h: Any, v: Any) -> Any:
    """Predict and correct by matrices, [..., 2, 2]; the loss is torch's own normal density."""
    level, slope, p, c, q = h
    change = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=level.dtype)
    seen = torch.tensor([1.0, 0.0], dtype=level.dtype)
    noise = torch.stack([v.log_level, v.log_slope], -1).exp().diag_embed()
    before = torch.stack([torch.stack([p, c], -1), torch.stack([c, q], -1)], -2)
    mean = (change @ torch.stack([level, slope], -1).unsqueeze(-1)).squeeze(-1)
    P = change @ before @ change.T + noise
    total = P[..., 0, 0] + v.log_noise.exp()
    gain = (P @ seen) / total.unsqueeze(-1)
    density = torch.distributions.Normal(mean[..., 0], total.sqrt(), validate_args=False)
    mean = mean + gain * (v.z - mean[..., 0]).unsqueeze(-1)
    rest = torch.eye(2, dtype=level.dtype) - gain.unsqueeze(-1) * seen
    P = rest @ P
    states = mean[..., 0], mean[..., 1], P[..., 0, 0], P[..., 0, 1], P[..., 1, 1]
    return states, (mean[..., 0], -density.log_prob(v.z))


def egarch_step(h: Any, v: Any) -> Any:
    sigma = (h[0] / 2).exp()
    z = v.r / sigma
    news = v.gamma * z + v.alpha * (z.abs() - math.sqrt(2 / math.pi))
    new = v.omega + v.beta * h[0] + news
    return (new,), (new,)


def hbv_step(h: Any, v: Any) -> Any:
    soil, upper, lower = h
    recharge = v.P * torch.clamp(soil / v.FC, 1e-6, 1.0) ** v.beta
    soil = soil + v.P - recharge
    recharge = recharge + F.relu(soil - v.FC)
    soil = torch.minimum(soil, v.FC)
    share = torch.minimum(soil / (v.LP * v.FC), torch.ones_like(soil))
    upper = upper + recharge
    percolation = torch.minimum(upper, v.PERC)
    upper = upper - percolation
    fast = v.k0 * F.relu(upper - v.UZL) + v.k1 * upper
    fast = torch.minimum(fast, upper)
    base = v.k2 * (lower + percolation)
    states = torch.clamp(soil - v.E * share, min=0), upper - fast, lower + percolation - base
    return states, (fast + base,)


def refractory_lif_step(h: Any, v: Any) -> Any:
    """The fast sigmoid's integral, u / (1 + k |u|), stands for the step in the backward."""
    potential, wait = h
    resting = wait > 0.5
    u = torch.where(resting, 0.0, torch.clamp(v.beta, 0, 1) * potential + v.I)
    over = u - 1
    smooth = over / (1 + 25 * over.abs())
    s = (over > 0).to(u.dtype) + smooth - smooth.detach()
    wait = torch.where(over > 0, 3.0, torch.clamp(wait - 1, min=0))
    return (u * (1 - s), wait), (s,)


def compressor_step(h: Any, v: Any) -> Any:
    """The static curve by its three branches, for a knee of 6 dB."""
    level = 20 * torch.log10(torch.clamp(v.x.abs(), min=1e-5))
    over, slope = level - v.threshold, 1 / v.ratio - 1
    within = level + slope * (over + 3) ** 2 / 12
    bent = torch.where(over > 3, v.threshold + over / v.ratio, within)
    wanted = level - torch.where(over < -3, level, bent)
    time = torch.where(wanted > h[0], v.attack, v.release)
    g = torch.lerp(wanted, h[0], torch.exp(-1 / time))
    return (g,), (v.x * 10 ** (-g / 20),)


def zoneout_gru_step(h: Any, v: Any) -> Any:
    z, r = torch.sigmoid(v.xz + v.uz * h[0]), torch.sigmoid(v.xr + v.ur * h[0])
    moved = torch.lerp(torch.tanh(v.xc + v.uc * r * h[0]), h[0], z)
    new = torch.lerp(moved, h[0], v.keep)
    return (new,), (new,)


def moog_ladder_step(h: Any, v: Any) -> Any:
    stages, saved, feedback, last = list(h[:4]), list(h[4:7]), h[7], h[8]
    saved.append(torch.tanh(stages[3]))
    signal = torch.tanh(v.x - 4 * v.r * feedback)
    for k in range(4):
        stages[k] = stages[k] + v.g * (signal - saved[k])
        signal = torch.tanh(stages[k])
    half = (stages[3] + last) / 2
    return (*stages, *(torch.tanh(s) for s in stages[:3]), half, stages[3]), (half,)


def mackey_glass_step(h: Any, v: Any) -> Any:
    now, past = h[0][..., 0], h[0][..., 17]
    new = now + 0.2 * past / (1 + past**10) - 0.1 * now + v.u
    return (torch.cat([new.unsqueeze(-1), h[0][..., :-1]], -1),), (new,)


def hmm_forward_step(h: Any, v: Any) -> Any:
    """With probabilities, scaled to 1 in each step."""
    joint = torch.einsum("...i,...ij->...j", h[0].exp(), v.A.softmax(-1)) * v.e.exp()
    scale = joint.sum(-1)
    return ((joint / scale.unsqueeze(-1)).log(),), (scale.log(),)


PAIRS = (
    (biquad, biquad_step),
    (kalman, kalman_step),
    (egarch, egarch_step),
    (hbv, hbv_step),
    (refractory_lif, refractory_lif_step),
    (compressor, compressor_step),
    (zoneout_gru, zoneout_gru_step),
    (moog_ladder, moog_ladder_step),
    (mackey_glass, mackey_glass_step),
    (hmm_forward, hmm_forward_step),
)
