"""Steps: one step of a layer, as a sequence of one, or straight to a kernel that ran before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rnncc.nn.arguments import check_tensor, compute_params, unpack
from rnncc.nn.fits import Wanted, check_values
from rnncc.nn.ops import Solution
from rnncc.nn.short import seen_way
from rnncc.nn.status import Solve

if TYPE_CHECKING:
    from rnncc.nn.layer import CellLayer


def quick_step(layer: CellLayer, args: Any, state: Any, named: Any) -> Any:
    """The step, if it needs no gradient and one of its form was run; else None.

    Its tensors are checked by their form alone: the first call of it passed all checks.
    """
    if torch.is_grad_enabled() or named or not layer._takes.alone or layer.kernel.spec.vectors:
        return None
    if len(args) == 2 and state is None:
        state = args[1]
    elif len(args) != 1:
        return None
    x = args[0]
    if torch.compiler.is_compiling() or not _is_simple(layer, x, state):
        return None
    solutions: list[Solution] = []
    for k, direction in enumerate(layer._directions):
        linear, h0 = layer._modules[direction.projection], _state_of(layer, state, k)
        if not is_plain(linear):
            return None
        found = _level(layer, k, linear._parameters, x, h0)  # type: ignore[union-attr]
        if found is None:
            return None
        solutions.append(found)
        x = found.y[0].squeeze(1)
    return _results(layer, solutions, len(args[0]))


def step(layer: CellLayer, args: Any, state: Any, named: Any) -> tuple[Any, Any]:
    """The step, as a call of the layer."""
    values, state = layer._takes.bind(args, state, named)
    first = layer.batch_first
    wanted = Wanted(layer.input_size, 1, float("inf"), first, False)
    check_values(values, layer._like(), wanted)
    for name, rank in layer._takes.ranks.items():
        check_tensor(name, values[name])
        values[name] = values[name].unsqueeze(-rank if first else 0)
    y, h = layer(state=state, **values)
    ranks = layer._takes.ranks.items()
    time = max(values[n].dim() - r for n, r in ranks) if first else 0
    return (tuple(v.squeeze(time) for v in y) if isinstance(y, tuple) else y.squeeze(time)), h


def is_plain(linear: Any) -> bool:
    """A Linear that does nothing but its product."""
    return (
        type(linear) is nn.Linear
        and not linear._forward_hooks
        and not linear._forward_pre_hooks
        and "forward" not in linear.__dict__
        and linear._parameters.get("weight") is not None
        and "bias" in linear._parameters
    )


def _is_simple(layer: CellLayer, x: Any, state: Any) -> bool:
    """x and state are as they are given to the first product and kernel, and no hook sees them."""
    count, states = len(layer._directions), len(layer.kernel.spec.states)
    if state is None:
        if layer._initial_given:
            return False
    elif states == 1:
        if type(state) is not Tensor or state.dim() != 2 + (count > 1):
            return False
    elif type(state) is not tuple or not all(type(s) is Tensor for s in state):
        return False
    return (
        type(x) is Tensor
        and x.dim() == 2
        and x.shape[1] == layer.input_size
        and x.layout is torch.strided
        and not (layer._forward_hooks or layer._forward_pre_hooks or _any_hook())
        and not (layer.dropout and layer.training)
    )


_any_hook = nn.modules.module._has_any_global_hook


def _state_of(layer: CellLayer, state: Any, k: int) -> Tensor | None:
    """[states, B, N] of a level."""
    if state is None:
        return None
    stacked = len(layer._directions) > 1
    if type(state) is Tensor:
        return state[k : k + 1] if stacked else state.unsqueeze(0)
    return torch.stack([s[k] for s in state] if stacked else state)


def _level(layer: CellLayer, k: int, own: Any, x: Tensor, h0: Tensor | None) -> Solution | None:
    """The product, and the kernel by a way that is known."""
    weight, bias, spec, size = own["weight"], own["bias"], layer.kernel.spec, layer.hidden_size
    if x.dtype != weight.dtype or x.device != weight.device:
        return None
    rows = nn.functional.linear(x, weight, bias)
    packed = layer._layout.packed
    if rows.dtype != x.dtype or packed * size != rows.shape[1]:
        return None
    inputs = rows.view(len(x), 1, packed, size)
    params = compute_params(spec, layer._learned(k), x.dtype)
    tensors = [inputs, *params] if h0 is None else [inputs, *params, h0]
    head = (layer.kernel.key, layer.choices.text, True, 1, False, False)
    found = seen_way(head, tensors)
    if found is None or found.way.alone:
        return None
    *y, h, status = found.run()
    return Solution(y, (), h, status)


def _results(layer: CellLayer, solutions: list[Solution], batch: int) -> Any:
    count, last = len(solutions), solutions[-1]
    solves = [Solve(s.status) for s in solutions]
    layer.__dict__["last_solve"] = tuple(solves) if count > 1 else solves[0]
    leading = (batch,)
    if count > 1:
        last = last._replace(h=torch.cat([s.h for s in solutions], 1))
        leading = (count, batch)
    last = last._replace(y=[y.squeeze(1) for y in last.y])
    return unpack(layer.kernel.spec, last, (batch,), leading, True)
