"""Cells that use functions which people expect, and steps of PyTorch."""

from __future__ import annotations

from typing import Any

import torch

from rnncc import (
    Input,
    Param,
    State,
    atan2,
    ceil,
    cell,
    clip,
    cos,
    elu,
    exp2,
    forward_as,
    hardsigmoid,
    hardtanh,
    leaky_relu,
    log2,
    log10,
    logsumexp,
    mish,
    selu,
    sigmoid,
    sin,
    softmax,
    softsign,
    spike,
    stop_gradient,
    tanh,
    uniform,
    where,
)
from rnncc import abs as absolute
from rnncc import round as rounded

F = torch.nn.functional


@cell
def mixture(h: State, x: Input, a: Param, b: Param):
    p, q, r = softmax([a * h, b * x, 0])  # a gate over three experts
    return p * tanh(h + x) + q * h - 0.5 * r * x


def mixture_step(h: Any, v: Any) -> Any:
    logits = torch.stack(torch.broadcast_tensors(v.a * h[0], v.b * v.x, torch.zeros_like(h[0])))
    p, q, r = logits.softmax(0)
    new = p * torch.tanh(h[0] + v.x) + q * h[0] - 0.5 * r * v.x
    return (new,), (new,)


@cell
def soft_viterbi(h: State, g: State, x: Input, a: Param, b: Param):
    """Two labels of a linear-chain CRF (Lafferty et al. 2001)."""
    return logsumexp([h, g + a]) + x, logsumexp([h + b, g]) - x


def soft_viterbi_step(h: Any, v: Any) -> Any:
    h, g = h
    new = torch.logaddexp(h, g + v.a) + v.x, torch.logaddexp(h + v.b, g) - v.x
    return new, new[1:]


@cell
def hard_gru(h: State, xz: Input, xc: Input, a: Param, b: Param):
    z = hardsigmoid(xz + a * h)
    return z * h + (1 - z) * hardtanh(xc + b * h)


def hard_gru_step(h: Any, v: Any) -> Any:
    z = F.relu6(v.xz + v.a * h[0] + 3) / 6  # the derivative of F.hardsigmoid has 1 / 6 in float32
    new = z * h[0] + (1 - z) * F.hardtanh(v.xc + v.b * h[0])
    return (new,), (new,)


@cell
def leaky_elu(h: State, c: State, x: Input, a: Param):
    c = elu(a * h + 0.5 * c - x, 0.7)
    return {"h": leaky_relu(x + a * c, 0.1), "c": c}


def leaky_elu_step(h: Any, v: Any) -> Any:
    c = F.elu(v.a * h[0] + 0.5 * h[1] - v.x, 0.7)
    return (F.leaky_relu(v.x + v.a * c, 0.1), c), (c,)


@cell
def smooth_units(h: State, x: Input, a: Param):
    return 0.3 * mish(a * h + x) + 0.2 * selu(h - x) + softsign(a * x)


def smooth_units_step(h: Any, v: Any) -> Any:
    new = 0.3 * F.mish(v.a * h[0] + v.x) + 0.2 * F.selu(h[0] - v.x) + F.softsign(v.a * v.x)
    return (new,), (new,)


@cell
def oscillator(phi: State, x: Input, omega: Param):
    """A phase that wraps, as of a numerically controlled oscillator."""
    phi = (phi + omega + 0.1 * x) % 6.283185307179586
    return {"phi": phi, "y": sin(phi)}


def oscillator_step(h: Any, v: Any) -> Any:
    phi = torch.remainder(h[0] + v.omega + 0.1 * v.x, 6.283185307179586)
    return (phi,), (torch.sin(phi),)


@cell
def phase_lock(p: State, x: Input, y: Input, k: Param):
    error = atan2(y * cos(p) - x * sin(p), x * cos(p) + y * sin(p))
    return p + 0.5 * sigmoid(k) * error


def phase_lock_step(h: Any, v: Any) -> Any:
    p = h[0]
    error = torch.atan2(v.y * p.cos() - v.x * p.sin(), v.x * p.cos() + v.y * p.sin())
    new = p + 0.5 * torch.sigmoid(v.k) * error
    return (new,), (new,)


@cell
def quantized(h: State, x: Input, a: Param):
    """A straight-through quantizer (Bengio et al. 2013, arXiv:1308.3432)."""
    u = tanh(a * h + x)
    return forward_as(rounded(4 * u) / 4, gradient_of=u)


def quantized_step(h: Any, v: Any) -> Any:
    u = torch.tanh(v.a * h[0] + v.x)
    new = u + (torch.round(4 * u) / 4 - u).detach()
    return (new,), (new,)


@cell
def detached(h: State, n: State, x: Input, a: Param):
    n = 0.9 * n + 0.1 * absolute(stop_gradient(h))  # a running scale that learns nothing
    return {"h": tanh(a * h + x) / (1 + n), "n": n, "y": h * stop_gradient(x)}


def detached_step(h: Any, v: Any) -> Any:
    n = 0.9 * h[1] + 0.1 * h[0].detach().abs()
    return (torch.tanh(v.a * h[0] + v.x) / (1 + n), n), (h[0] * v.x.detach(),)


@cell
def exclusive(h: State, x: Input, y: Input, a: Param):
    apart = (x > 0) ^ (y > 0)
    both = (x > 0.5) & ~(h > 1) | (y < -1)
    return where(apart, a * h + x, 0.5 * h - y) + where(both, 0.25, 0)


def exclusive_step(h: Any, v: Any) -> Any:
    apart = torch.logical_xor(v.x > 0, v.y > 0)
    both = ((v.x > 0.5) & ~(h[0] > 1)) | (v.y < -1)
    new = torch.where(apart, v.a * h[0] + v.x, 0.5 * h[0] - v.y) + 0.25 * both
    return (new,), (new,)


@cell
def stairs(h: State, x: Input, a: Param):
    return tanh(a * h + x) + 0.1 * ceil(2 * h) - 0.05 * (x // 0.7)


def stairs_step(h: Any, v: Any) -> Any:
    new = (
        torch.tanh(v.a * h[0] + v.x)
        + 0.1 * torch.ceil(2 * h[0])
        - 0.05 * torch.div(v.x, 0.7, rounding_mode="floor")
    )
    return (new,), (new,)


@cell
def octaves(h: State, x: Input, a: Param(init=uniform(0.2, 0.6))):
    return a * log2(1 + h * h) + 0.1 * exp2(tanh(x)) - 0.2 * log10(1 + x * x)


def octaves_step(h: Any, v: Any) -> Any:
    new = v.a * torch.log2(1 + h[0] ** 2) + 0.1 * torch.exp2(torch.tanh(v.x))
    new = new - 0.2 * torch.log10(1 + v.x**2)
    return (new,), (new,)


@cell
def own_surrogate(v: State, x: Input, a: Param):
    """A neuron with a surrogate of the user's own."""
    v = sigmoid(a) * v + x
    s = spike(v - 1, surrogate=lambda u: 1 / (1 + u * u))
    return {"v": v - s, "s": s}


def own_surrogate_step(h: Any, v: Any) -> Any:
    u = torch.sigmoid(v.a) * h[0] + v.x
    smooth = torch.atan(u - 1)
    s = (u > 1).to(u.dtype) + smooth - smooth.detach()
    return (u - s,), (s,)


@cell
def bucket(h: State, x: Input, k: Param):
    """A linear reservoir that can't run dry."""
    h = clip(h + x, 0, None)
    return {"h": h - sigmoid(k) * h, "q": sigmoid(k) * h}


def bucket_step(h: Any, v: Any) -> Any:
    full = torch.clamp(h[0] + v.x, min=0)
    return (full - torch.sigmoid(v.k) * full,), (torch.sigmoid(v.k) * full,)


PAIRS = (
    (mixture, mixture_step),
    (soft_viterbi, soft_viterbi_step),
    (hard_gru, hard_gru_step),
    (leaky_elu, leaky_elu_step),
    (smooth_units, smooth_units_step),
    (oscillator, oscillator_step),
    (phase_lock, phase_lock_step),
    (quantized, quantized_step),
    (detached, detached_step),
    (exclusive, exclusive_step),
    (stairs, stairs_step),
    (octaves, octaves_step),
    (own_surrogate, own_surrogate_step),
    (bucket, bucket_step),
)
