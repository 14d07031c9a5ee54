"""Cells in which every function has a part, in what is carried and in what is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from rnncc import (
    Input,
    Param,
    State,
    acos,
    acosh,
    asin,
    asinh,
    atan,
    atan2,
    atanh,
    ceil,
    cell,
    clip,
    cos,
    cosh,
    elu,
    erf,
    exp,
    exp2,
    expm1,
    exprel,
    floor,
    forward_as,
    gelu,
    hardsigmoid,
    hardtanh,
    leaky_relu,
    log,
    log1p,
    log2,
    log10,
    logsigmoid,
    logsumexp,
    maximum,
    minimum,
    mish,
    relu,
    rsqrt,
    selu,
    sigmoid,
    sign,
    silu,
    sin,
    sinh,
    softmax,
    softplus,
    softsign,
    spike,
    sqrt,
    stop_gradient,
    tanh,
    trunc,
    uniform,
    where,
)
from rnncc import abs as absolute
from rnncc import round as rounded

F = torch.nn.functional


@cell
def every_smooth(h: State, x: Input(typical=uniform(-1, 1)), a: Param(init=uniform(0.5, 1))):
    u = a * h + x  # between -2 and 2
    p = 2.5 + u
    q = u / 2.5
    grown = exp(u) + expm1(x) + exprel(u) + exp2(x) - sinh(u) + cosh(x) + a**u + p**2.5 - u**3 / p
    slow = log(p) + log1p(p) - log2(p) + log10(p) + sqrt(p) * rsqrt(p + 1) + asinh(3 * u)
    bounded = sigmoid(u) + tanh(2 * u) - erf(u) + sin(3 * u) * cos(u) + atan(3 * u) + softsign(u)
    turned = asin(q) - acos(q) * x + atan2(u, x) + acosh(p + 1) + atanh(q)
    units = softplus(u) + logsigmoid(3 * u) + silu(u) - gelu(u) + mish(2 * u) + elu(u) * selu(x)
    shares = softmax([u, 2 * x, 0.3])
    few = shares[0] * h - shares[2] + logsumexp([u, x, a])
    y = grown - 3 * slow + 5 * bounded - turned + units - few
    return {"h": tanh(0.1 * y), "y": y}


def every_smooth_step(h: Any, v: Any) -> Any:
    x, a = v.x, v.a
    u = a * h[0] + x
    p, q = 2.5 + u, u / 2.5
    grown = torch.exp(u) + torch.expm1(x) + torch.expm1(u) / u + torch.exp2(x) - torch.sinh(u)
    grown = grown + torch.cosh(x) + a**u + p**2.5 - u**3 / p
    slow = torch.log(p) + torch.log1p(p) - torch.log2(p) + torch.log10(p)
    slow = slow + torch.sqrt(p) * torch.rsqrt(p + 1) + torch.asinh(3 * u)
    bounded = torch.sigmoid(u) + torch.tanh(2 * u) - torch.erf(u) + torch.sin(3 * u) * torch.cos(u)
    bounded = bounded + torch.atan(3 * u) + F.softsign(u)
    turned = torch.asin(q) - torch.acos(q) * x + torch.atan2(u, x) + torch.acosh(p + 1)
    turned = turned + torch.atanh(q)
    units = F.softplus(u, threshold=40) + F.logsigmoid(3 * u) + F.silu(u) - F.gelu(u)
    units = units + F.mish(2 * u) + F.elu(u) * F.selu(x)
    shares = _stacked(u, 2 * x, 0.3).softmax(0)
    few = shares[0] * h[0] - shares[2] + _stacked(u, x, a).logsumexp(0)
    y = grown - 3 * slow + 5 * bounded - turned + units - few
    return (torch.tanh(0.1 * y),), (y,)


def _stacked(first: torch.Tensor, *others: Any) -> torch.Tensor:
    like = torch.zeros_like(first)
    return torch.stack([first, *(like + other for other in others)])


@cell
def every_kink(h: State, x: Input(typical=uniform(-1, 1)), a: Param(init=uniform(0.5, 1))):
    u = a * h + x
    stairs = floor(7 * x) - ceil(5 * x) + trunc(9 * x) + rounded(4 * x) + rounded(x, 1) + sign(x)
    wrapped = 3 * u % 0.7 - 2 * x % (-a) + 0.1 * (3 * x // a)
    bent = relu(u) + absolute(u - 0.3) + hardsigmoid(4 * u) - hardtanh(2 * u) + leaky_relu(u, 0.2)
    bent = bent + elu(u, 0.5) + selu(-u) + maximum(u, 0.1) * minimum(u, x)
    held = clip(u, -0.5, a) + clip(2 * u, None, a) + clip(u, 0.2, None) * x
    apart = where((u > 0.2) ^ (x >= 0), u, x * x)
    chosen = where((u < 0.5) & ~(x <= -0.5) | (a == 0.7) | (x != x), 1 - u, u / 2)
    y = stairs + wrapped + bent - held + apart + 2 * chosen
    return {"h": tanh(0.3 * y), "y": y}


def every_kink_step(h: Any, v: Any) -> Any:
    x, a = v.x, v.a
    u = a * h[0] + x
    stairs = torch.floor(7 * x) - torch.ceil(5 * x) + torch.trunc(9 * x) + torch.round(4 * x)
    stairs = stairs + torch.round(x, decimals=1) + torch.sign(x)
    wrapped = torch.remainder(3 * u, 0.7) - torch.remainder(2 * x, -a)
    wrapped = wrapped + 0.1 * torch.div(3 * x, a, rounding_mode="floor")
    bent = torch.relu(u) + torch.abs(u - 0.3) + F.relu6(4 * u + 3) / 6 - F.hardtanh(2 * u)
    bent = bent + F.leaky_relu(u, 0.2) + F.elu(u, 0.5) + F.selu(-u)
    bent = bent + torch.clamp(u, min=0.1) * torch.minimum(u, x)
    held = torch.minimum(torch.clamp(u, min=-0.5), a) + torch.minimum(2 * u, a)
    held = held + torch.clamp(u, min=0.2) * x
    apart = torch.where(torch.logical_xor(u > 0.2, x >= 0), u, x * x)
    chosen = torch.where(((u < 0.5) & (x > -0.5)) | (a == 0.7), 1 - u, u / 2)
    y = stairs + wrapped + bent - held + apart + 2 * chosen
    return (torch.tanh(0.3 * y),), (y,)


@cell
def every_surrogate(h: State, v: State, x: Input, a: Param(init=uniform(0.3, 0.8))):
    u = a * v + x - 1
    s = spike(u) + spike(u - 0.2, "atan", 2.0) + spike(2 * u, "sigmoid", 3.0)
    own = spike(u + 0.1, surrogate=lambda w: exp(-w * w))
    s = s + spike(u - x, "triangle", 0.5) + own * tanh(h)
    held = stop_gradient(h) * x + forward_as(rounded(2 * tanh(h)), gradient_of=sin(2 * h))
    return {"v": u + 1 - 0.2 * s, "h": 0.5 * h + 0.3 * held, "y": s * x}


def every_surrogate_step(h: Any, v: Any) -> Any:
    h, before = h
    u = v.a * before + v.x - 1
    narrow = 0.5 * (u - v.x)
    triangle = torch.where(
        narrow.abs() < 1, narrow - narrow.sign() * narrow**2 / 2, narrow.sign() / 2
    )
    s = _spike(u, u / (1 + 25 * u.abs()))
    s = s + _spike(u - 0.2, torch.atan(math.pi * (u - 0.2)) / math.pi)
    s = s + _spike(2 * u, torch.sigmoid(6 * u)) + _spike(u - v.x, triangle)
    own = _spike(u + 0.1, math.sqrt(math.pi) / 2 * torch.erf(u + 0.1))
    s = s + own * torch.tanh(h)
    smooth = torch.sin(2 * h)
    held = h.detach() * v.x + (torch.round(2 * torch.tanh(h)) - smooth).detach() + smooth
    return (0.5 * h + 0.3 * held, u + 1 - 0.2 * s), (s * v.x,)


def _spike(u: torch.Tensor, integral: torch.Tensor) -> torch.Tensor:
    return (u > 0).to(u.dtype) + integral - integral.detach()


PAIRS: Sequence[Any] = (
    (every_smooth, every_smooth_step),
    (every_kink, every_kink_step),
    (every_surrogate, every_surrogate_step),
)
