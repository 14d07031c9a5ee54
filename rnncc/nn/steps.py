"""Steps: one step of a layer, as a sequence of one, or straight to its product and its kernel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rnncc.ir.choices import Choices
from rnncc.nn.arguments import check_tensor
from rnncc.nn.fits import Wanted, check_values
from rnncc.nn.level import Stack
from rnncc.nn.refusal import STRIDED
from rnncc.nn.short import is_plain_mode
from rnncc.runtime.kernel import COMPUTE

if TYPE_CHECKING:
    from rnncc.nn.layer import CellLayer

MOST = 16  # forms of x that a layer knows


class Known(NamedTuple):
    """What runs a step of a form that passed all checks.

    Attributes:
        solve: of the layer's `last_solve`.
        state: the shape of each state.
    """

    stack: Stack
    choices: Choices
    solve: Any
    state: tuple[int, ...]
    dtype: torch.dtype


def step(layer: CellLayer, args: Any, state: Any, named: Any) -> tuple[Any, Any]:
    """One step; without gradients, and from a state, it takes the short way from the second on."""
    quick = not torch.is_grad_enabled() and not named and not torch.compiler.is_compiling()
    form = None
    if quick:
        x, before = (args[0], state) if len(args) == 1 else (*args, None, None)[:2]
        form = _form_of(layer, x)
        known = None if form is None else layer._known.get(form)
        if known is not None:
            found = _by_short_way(layer, known, x, before)
            if found is not None:
                return found
    found = _as_sequence(layer, args, state, named)
    if form is not None:
        _learn(layer, form, found[0], found[1])
    return found


def _as_sequence(layer: CellLayer, args: Any, state: Any, named: Any) -> tuple[Any, Any]:
    values, state = layer._takes.bind(args, state, named)
    first = layer.batch_first
    wanted = Wanted(layer.input_size, 1, math.inf, first, False)
    check_values(values, layer._like(), wanted)
    for name, rank in layer._takes.ranks.items():
        check_tensor(name, values[name])
        values[name] = values[name].unsqueeze(-rank if first else 0)
    y, h = layer(state=state, **values)
    ranks = layer._takes.ranks.items()
    time = max(values[n].dim() - r for n, r in ranks) if first else 0
    return (tuple(v.squeeze(time) for v in y) if isinstance(y, tuple) else y.squeeze(time)), h
