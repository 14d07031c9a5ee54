"""Cells with vectors, delays and many values in a channel, and steps of PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rnncc import Input, Param, State, cell, dot, logsumexp, sigmoid, softmax, tanh

ROTATION = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 0.9]])


@cell
def rotated(h: State(size=3), x: Input, w: Param(size=3)):
    h = ROTATION @ h + w * x
    return {"h": h, "y": dot(w, h)}


def rotated_step(h: Any, v: Any) -> Any:
    new = h[0] @ torch.tensor(ROTATION).T + v.w * v.x.unsqueeze(-1)
    return (new,), ((v.w * new).sum(-1),)


@cell
def delta_rule(S: State(size=(2, 2)), k: Input(size=2), v: Input(size=2), b: Param):
    """A fast-weight memory (Schlag et al. 2021, arXiv:2102.11174), S of values by keys."""
    k = softmax(list(k))
    error = [sigmoid(b) * (v[i] - dot(S[i], k)) for i in range(2)]
    S = S + [[error[i] * k[j] for j in range(2)] for i in range(2)]
    return {"S": S, "y": S @ k}


def delta_rule_step(h: Any, v: Any) -> Any:
    S, k = h[0], v.k.softmax(-1)
    error = torch.sigmoid(v.b).unsqueeze(-1) * (v.v - torch.einsum("...ij,...j->...i", S, k))
    S = S + error.unsqueeze(-1) * k.unsqueeze(-2)
    return (S,), (torch.einsum("...ij,...j->...i", S, k),)


@cell
def chain(a: State(size=3), e: Input(size=3), A: Param(size=(3, 3))):
    """The forward recursion of a linear-chain CRF (Lafferty et al. 2001)."""
    return [e[j] + logsumexp([a[i] + A[i, j] for i in range(3)]) for j in range(3)]


def chain_step(h: Any, v: Any) -> Any:
    new = v.e + (h[0].unsqueeze(-1) + v.A).logsumexp(-2)
    return (new,), (new,)


@cell
def echo(h: State(delay=12), x: Input, a: Param):
    """Schroeder's comb filter (1962): 13 values in a channel."""
    return x + 0.8 * tanh(a) * h.ago(12)


def echo_step(h: Any, v: Any) -> Any:
    new = v.x + 0.8 * torch.tanh(v.a) * h[0][..., 12]
    return (torch.cat([new.unsqueeze(-1), h[0][..., :-1]], -1),), (new,)


@cell
def autoregressive(h: State(delay=2, init=0.2), x: Input, a: Param(size=3)):
    return 0.3 * sum(a[k] * h.ago(k) for k in range(3)) + x


def autoregressive_step(h: Any, v: Any) -> Any:
    new = 0.3 * (v.a * h[0]).sum(-1) + v.x
    return (torch.cat([new.unsqueeze(-1), h[0][..., :-1]], -1),), (new,)


@cell
def cascade(h: State(size=10), x: Input, g: Param):
    """Ten low-pass stages in a row: 10 values in a channel."""
    g, before, stages = sigmoid(g), x, []
    for stage in h:
        before = stage + g * (before - stage)
        stages.append(before)
    return {"h": stages, "y": stages[-1]}


def cascade_step(h: Any, v: Any) -> Any:
    g, before, stages = torch.sigmoid(v.g), v.x, []
    for stage in h[0].unbind(-1):
        before = torch.lerp(stage, before, g.expand_as(stage))
        stages.append(before)
    return (torch.stack(stages, -1),), (before,)


@cell
def attention(n: State(size=2), d: State, k: Input, v: Input(size=2), w: Param):
    """Linear attention (Katharopoulos et al. 2020, arXiv:2006.16236) that fades."""
    weight = sigmoid(w * k)
    n, d = 0.9 * n + weight * v, 0.9 * d + weight
    return {"n": n, "d": d, "y": n / (1 + d * d)}


def attention_step(h: Any, v: Any) -> Any:
    weight = torch.sigmoid(v.w * v.k)
    n, d = 0.9 * h[0] + weight.unsqueeze(-1) * v.v, 0.9 * h[1] + weight
    return (n, d), (n / (1 + d * d).unsqueeze(-1),)


PAIRS = (
    (rotated, rotated_step),
    (delta_rule, delta_rule_step),
    (chain, chain_step),
    (echo, echo_step),
    (autoregressive, autoregressive_step),
    (cascade, cascade_step),
    (attention, attention_step),
)
