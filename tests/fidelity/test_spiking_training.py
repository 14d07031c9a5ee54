"""Layers of spiking neurons learn by the gradient of their surrogate, and by nothing else.

A network starts silent: with the surrogate's gradient cut, its neurons never come to fire, and it
can but guess.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import rnncc
from rnncc.lang.loader import find

Batch = tuple[Tensor, Tensor]

CUT = 1e9  # a surrogate so narrow that no neuron is ever within it


class Network(nn.Module):
    """Spiking neurons and a linear readout of how often they fire, silent at first.

    Args:
        weights: how large the layer's input weights may start.
        read_from: the step from which spikes are counted.
    """

    def __init__(
        self,
        cell: rnncc.CompiledCell,
        sizes: tuple[int, int, int],
        weights: float,
        read_from: int = 0,
    ) -> None:
        super().__init__()
        inputs, neurons, classes = sizes
        self.layer = cell.layer(inputs, neurons)
        self.readout = nn.Linear(neurons, classes)
        self.read_from = read_from
        nn.init.uniform_(self.layer.projection.weight, 0, weights)
        nn.init.zeros_(self.layer.projection.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Scores [B, classes] of inputs [B, T, inputs]."""
        spikes: Tensor = self.layer(x)[0]
        scores: Tensor = self.readout(spikes[:, self.read_from :].sum(1))
        return scores


def accuracy(network: Network, draw: Callable[[int], Batch], updates: int, rate: float) -> float:
    """Train on batches of `draw`; the share of new cases that it then classifies."""
    assert not network.layer(draw(64)[0])[0].any()
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    for _ in range(updates):
        x, kind = draw(64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), kind).backward()
        optimizer.step()
    x, kind = draw(512)
    return float((network(x).argmax(-1) == kind).double().mean())


# --- which pattern -----------------------------------------------------------------------------

CHANNELS, STEPS, KINDS = 20, 40, 4


def patterns(size: int) -> Batch:
    """Spike patterns that differ only in times: each channel fires three times in each of them.

    A tenth of the spikes is lost, the others come up to two steps early or late.
    """
    fixed = torch.Generator().manual_seed(1)
    times = torch.rand(KINDS, CHANNELS, STEPS, generator=fixed).argsort(-1)[..., :3]
    kind = torch.randint(KINDS, (size,))
    at = (times[kind] + torch.randint(-2, 3, (size, CHANNELS, 3))).clamp(0, STEPS - 1)
    kept = (torch.rand(at.shape) > 0.1).float()
    return torch.zeros(size, CHANNELS, STEPS).scatter_(-1, at, kept).mT, kind


def told(slope: float) -> float:
    torch.manual_seed(0)
    cell = rnncc.compile(find("lif"), slope=slope)
    network = Network(cell, (CHANNELS, 24, KINDS), weights=0.02)
    return accuracy(network, patterns, updates=150, rate=0.02)


def test_a_layer_of_lif_learns_to_tell_spike_patterns_apart() -> None:
    assert told(slope=25.0) > 0.9


def test_without_the_surrogates_gradient_lif_can_but_guess() -> None:
    assert told(slope=CUT) < 0.4


# --- what was long ago -------------------------------------------------------------------------

DELAY = 200


def recalls(size: int) -> Batch:
    """One of two cues, ten membrane time constants of silence, then a call, the same for both."""
    kind = torch.randint(2, (size,))
    x = torch.zeros(size, 20 + DELAY + 40, 3)
    x[:, :20, :2] = nn.functional.one_hot(kind, 2).unsqueeze(1)
    x[:, 20 + DELAY :, 2] = 1
    return x + 0.02 * torch.randn_like(x), kind


def recalled(beta: float = 1.8, dampening: float = 0.3) -> float:
    torch.manual_seed(0)
    cell = rnncc.compile(find("alif"), beta=beta, dampening=dampening)
    network = Network(cell, (3, 16, 2), weights=0.004, read_from=20 + DELAY)
    return accuracy(network, recalls, updates=80, rate=0.001)


def test_a_layer_of_alif_learns_to_recall_by_its_slow_threshold() -> None:
    assert recalled() > 0.9


def test_without_adaptation_the_distant_past_is_forgotten() -> None:
    assert recalled(beta=0.0) < 0.65


def test_without_the_surrogates_gradient_alif_can_but_guess() -> None:
    assert recalled(dampening=0.0) < 0.65
