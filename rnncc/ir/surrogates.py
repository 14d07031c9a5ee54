"""Surrogates: rows of functions whose gradient isn't that of their value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sympy import Float, Integer

from rnncc.ir.table import call, row

# name -> (derivative, its integral as PyTorch text), both in u and the slope k
SURROGATES: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    # Zenke & Ganguli 2018, arXiv:1705.11146
    "fast_sigmoid": (
        lambda u, k: 1 / (1 + k * call("abs", u)) ** 2,
        "({0}) / (1 + {1} * torch.abs({0}))",
    ),
    # Fang et al. 2021, arXiv:2007.05785
    "atan": (
        lambda u, k: k / (2 * (1 + (Float(math.pi / 2) * k * u) ** 2)),
        "torch.atan(({0}) * ({1} * torch.pi / 2)) / torch.pi",
    ),
    "sigmoid": (
        lambda u, k: k * call("sigmoid", k * u) * (1 - call("sigmoid", k * u)),
        "torch.sigmoid(({0}) * {1})",
    ),
    # Bellec et al. 2018, arXiv:1803.09574
    "triangle": (
        lambda u, k: k * call("relu", 1 - k * call("abs", u)),
        "torch.where(torch.abs({0}) * {1} < 1,"
        " ({0}) * {1} - torch.sign({0}) * (({0}) * {1})**2 / 2, torch.sign({0}) / 2)",
    ),
}


def spike_rows() -> None:
    """A step, and the surrogate of its derivative."""
    for name, (derivative, integral) in SURROGATES.items():

        def pull(g: Any, y: Any, u: Any, k: Any, derivative: Any = derivative) -> tuple[Any, Any]:
            return (g * derivative(u, k), None)

        row(
            f"spike_{name}",
            pull,
            f"_heaviside({{0}}, {integral})",
            lambda u, k: float(u > 0),
            smooth=False,
            slope=lambda y, u, k: (Integer(0), None),
        )


def own_rows() -> None:
    """A step whose derivative a cell computes itself, and differentiates if asked to."""
    row(
        "spike_own",
        lambda g, y, u, d: (g * d, None),
        "_heaviside({0}, _integral({0}, {1}))",
        lambda u, d: float(u > 0),
        smooth=False,
        slope=lambda y, u, d: (Integer(0), None),
    )


def detached_rows() -> None:
    """Functions whose gradient isn't that of their value; a solver has the value's slope."""
    row(
        "stop_gradient",
        lambda g, y, x: (None,),
        "({0}).detach()",
        lambda x: x,
        slope=lambda y, x: (Integer(1),),
    )
    row(
        "forward_as",
        lambda g, y, a, b: (None, g),
        "_forward_as({0}, {1})",
        lambda a, b: a,
        slope=lambda y, a, b: (Integer(1), None),
    )
