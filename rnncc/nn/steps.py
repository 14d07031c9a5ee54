"""Steps: one step of a layer, as a sequence of one, or straight to its product and its kernel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rnncc.ir.choices import Choices
from rnncc.nn.arguments import check_tensor
from rnncc.nn.fits import Wanted, check_values
from rnncc.nn.level import Stack, any_hook, is_plain
from rnncc.nn.refusal import STRIDED
from rnncc.nn.short import stacked, watched
from rnncc.runtime.backend import backend_of
from rnncc.runtime.kernel import COMPUTE
from rnncc.runtime.preparing import Preparing

if TYPE_CHECKING:
    from rnncc.nn.layer import CellLayer

MOST = 16  # forms of x that a layer knows


class Forms(dict[Any, "Known"]):
    """The forms that a layer knows; a copy of the layer, by whomever, knows none yet."""

    def __reduce__(self) -> Any:
        return Forms, ()


class Known(NamedTuple):
    """What runs a step of a form that passed all checks.

    Attributes:
        solve: the layer's `last_solve` of it.
        shape: of the states, all in one.
    """

    stack: Stack
    choices: Choices
    solve: Any
    shape: tuple[int, ...]


def step(layer: CellLayer, args: Any, state: Any, named: Any) -> tuple[Any, Any]:
    """One step; from the second on, without gradients and from a state, by the short way."""
    form = None
    if not (named or torch.compiler.is_compiling() or torch.is_grad_enabled()):
        form = _form(layer, args[0]) if args else None
    if form is not None:
        if len(args) == 2 and state is None:
            args, state = args[:1], args[1]
        known = layer._known.get(form)
        found = None if known is None or len(args) > 1 else _short(layer, known, args[0], state)
        if found is not None:
            return found
    found = _as_sequence(layer, args, state, named)
    if form is not None:
        _learn(layer, form, args[0])
    return found


def _form(layer: CellLayer, x: Any) -> tuple[Any, ...] | None:
    """What says that a call is as an earlier one; None if it isn't for the short way."""
    if (
        type(x) is not Tensor
        or x.is_nested
        or x.layout is not STRIDED
        or layer._forward_hooks
        or layer._forward_pre_hooks
        or any_hook()
        or "forward" in layer.__dict__
        or torch._C._is_any_autocast_enabled()
        or watched()
    ):
        return None
    return x.shape, x.dtype, x.device, torch.get_num_threads()


def _short(layer: CellLayer, known: Known, x: Tensor, state: Any) -> tuple[Any, Any] | None:
    """The step; None if the state is in another form, or the layer has changed."""
    stack = known.stack
    several = len(layer.kernel.spec.states) > 1
    held = _whole(state, known.shape, stack.compute, x.device) if _is(several, state) else None
    if (
        held is None
        or stack.layer is not layer  # a replica shares what its original knows
        or layer.choices is not known.choices
        or (layer.dropout and layer.training)
        or stack.moved()
    ):
        return None
    h = torch.empty_like(held)
    before, after = held.data_ptr(), h.data_ptr()
    apart = h.nbytes // len(stack.levels)
    for k, level in enumerate(stack.levels):
        y = [*map(torch.empty_like, level.y)]
        level.fresh(x, before + k * apart, y, after + k * apart)
        x = y[0]
    layer.__dict__["last_solve"] = known.solve  # a module's own way to set it takes a while
    states = h if type(state) is Tensor else h.unbind(0)
    return (y[0] if len(y) == 1 else tuple(y)), states


def _is(several: bool, state: Any) -> bool:
    """Of several states there is a tuple, of one a tensor."""
    return type(state) is (tuple if several else Tensor)


def _whole(
    state: Any, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """All states in one tensor; None where they must be checked."""
    if type(state) is tuple:
        state = stacked(state)
    same = (
        type(state) is Tensor
        and not state.is_nested
        and state.layout is STRIDED
        and state.shape == shape
        and state.dtype == dtype
        and state.device == device
        and state.is_contiguous()
        and not state.is_neg()
    )
    return state if same else None


def _learn(layer: CellLayer, form: tuple[Any, ...], x: Tensor) -> None:
    """What a later call of this form takes, if there is a short way for it."""
    spec, levels, batch = layer.kernel.spec, layer.num_layers, x.shape[0]
    several = len(spec.states) > 1
    plain = all(is_plain(layer._modules[d.projection]) for d in layer._directions)
    if (
        not (plain and layer._takes.alone and x.dim() == 2 and x.numel())
        or spec.vectors
        or (several and levels > 1)
        or layer.choices.solver == "newton"
        or type(layer).forward.__module__ != type(layer).warmup.__module__
        or not isinstance(backend_of(x.device), Preparing)
    ):
        return
    own = (len(spec.states) if several else levels, batch, layer.hidden_size)
    with torch.inference_mode(False), torch.no_grad():
        everywhere = (2, levels, len(spec.states), batch, layer.hidden_size)
        states = torch.zeros(everywhere, dtype=COMPUTE[x.dtype], device=x.device)
        stack = Stack(layer, (x.dtype, x.dtype), {}, states)
    if not all(level.plain and level.reads_rows for level in stack.levels):
        return
    if len(layer._known) >= MOST:
        layer._known.clear()
    shape = own if several or levels > 1 else own[1:]
    layer._known[form] = Known(stack, layer.choices, layer.last_solve, shape)


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
