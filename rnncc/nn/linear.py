"""Linear: a projection's matrix products into memory that is kept; the bits are F.linear's.

The first touch of fresh pages takes as long as a third of the product.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional
from torch.nn.modules import module as hooks

from rnncc.nn.legacy_vmap import unwrapped
from rnncc.nn.vmap import one_by_one
from rnncc.runtime.backend import backend_of
from rnncc.runtime.cpu.allocator import WORTH_KEEPING
from rnncc.runtime.kernel import COMPUTE

LIBRARY = torch.library.Library("rnncc", "FRAGMENT")
LIBRARY.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
LIBRARY.define("linear_backward(Tensor dy, Tensor x, Tensor weight, bool[] wanted) -> Tensor[]")

_transformed: Callable[[], bool] = torch._C._are_functorch_transforms_active
_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack


def apply_linear(module: nn.Module, x: Tensor) -> Tensor:
    """`module(x)`; of a plain nn.Linear by the operator, where its result is worth keeping."""
    if type(module) is nn.Linear and _is_worth(module, x) and _is_plain(module, x):
        return torch.ops.rnncc.linear.default(x, module.weight, module.bias)  # type: ignore[no-any-return]
    return module(x)  # type: ignore[no-any-return]


def _is_worth(module: nn.Linear, x: Tensor) -> bool:
    """A graph is for all sizes."""
    compiling = torch.compiler.is_compiling()
    width = max(1, module.in_features)
    return compiling or x.nbytes // width * module.out_features >= WORTH_KEEPING


def _is_plain(module: nn.Linear, x: Tensor) -> bool:
    """Nothing watches the module or its operators, and the operands fit as they are."""
    weight, bias = module.weight, module.bias
    return (
        x.device.type == weight.device.type == "cpu"
        and x.dtype is weight.dtype
        and x.dtype in COMPUTE
        and not (x.is_nested or torch.is_autocast_enabled("cpu"))
        and (bias is None or x.is_contiguous())  # else F.linear adds the bias in a pass of its own
        and all(type(t) in (Tensor, nn.Parameter, type(None)) for t in (x, weight, bias))
        and not any(_watchers(module))
        and (torch.compiler.is_compiling() or not (_modes() or _transformed()))
        and forward_ad._current_level < 0
    )


def _watchers(module: nn.Linear) -> tuple[Any, ...]:
    return (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
        module._compiled_call_impl,
        "forward" in module.__dict__,
        hooks._global_forward_hooks,
        hooks._global_forward_pre_hooks,
        hooks._global_backward_hooks,
        hooks._global_backward_pre_hooks,
    )


# --- the operators ---------------------------------------------------------------------------


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """On a CPU."""
    rows = x.reshape(-1, x.shape[-1])
    y = _product(rows, weight.mT, bias)
    return y.view(*x.shape[:-1], weight.shape[0])


def _linear_backward(dy: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> list[Tensor]:
    """The same for the gradients of x, weight and bias; an empty one where it is not wanted."""
    rows, flat = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    nothing = x.new_empty(0)
    dx = _product(rows, weight, None).view(x.shape) if wanted[0] else nothing
    dweight = _product(rows.mT, flat, None) if wanted[1] else nothing.clone()
    return [dx, dweight, rows.sum(0) if wanted[2] else nothing.clone()]


def _product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """a @ b + bias."""
    y = backend_of(a.device).empty(a, (a.shape[0], b.shape[1]))
    if bias is None:
        return torch.mm(a, b, out=y)
    return torch.addmm(bias, a, b, out=y)


def _plain_backward(dy: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> list[Tensor]:
    """By PyTorch's operators, which have derivatives of their own."""
    rows, flat = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    nothing = x.new_empty(0)
    dx = dy @ weight if wanted[0] else nothing
    dweight = rows.mT @ flat if wanted[1] else nothing.clone()
    return [dx, dweight, rows.sum(0) if wanted[2] else nothing.clone()]


class Linear(torch.autograd.Function):
    """The product with its gradient."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.ops.rnncc.linear.default(x, weight, bias)  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad)
        again = torch.is_grad_enabled()  # create_graph=True
        run = _plain_backward if again else torch.ops.rnncc.linear_backward.default
        results = run(gradients[0], x, weight, wanted)
        return tuple(g if w else None for g, w in zip(results, wanted, strict=True))


def _differentiable(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if _transformed() or forward_ad._current_level >= 0:
        return functional.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias) if t is not None):
        apply: Any = Linear.apply
        return apply(x, weight, bias)  # type: ignore[no-any-return]
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.rnncc.linear.default(x, weight, bias)  # type: ignore[no-any-return]


def _linear_vmap(info: Any, dims: Any, *arguments: Any) -> tuple[Tensor, int]:
    x, *weights = arguments
    if tuple(dims[1:]) == (None, None):
        return functional.linear(x.movedim(dims[0], 0), *weights), 0
    return one_by_one(functional.linear, info.batch_size, dims, arguments), 0


def _backward_vmap(info: Any, dims: Any, *arguments: Any) -> tuple[list[Tensor], list[int]]:
    *tensors, wanted = arguments

    def only(k: int) -> Tensor:
        asked = [w and i == k for i, w in enumerate(wanted)]
        run = partial(_plain_backward, wanted=asked)
        return one_by_one(lambda *member: run(*member)[k], info.batch_size, dims, tensors)

    results = [only(k) for k in range(len(wanted))]
    return results, [0] * len(results)


OPERATORS: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = {
    "linear": (_linear, functional.linear, _linear_vmap),
    "linear_backward": (_linear_backward, _plain_backward, _backward_vmap),
}
for _name, (_run, _plain, _vmap) in OPERATORS.items():
    LIBRARY.impl(_name, _run, "CPU")
    LIBRARY.impl(_name, _plain, "CompositeExplicitAutograd")
    torch.library.register_fake(f"rnncc::{_name}", _plain, lib=LIBRARY)
    torch.library.register_vmap(f"rnncc::{_name}", _vmap, lib=LIBRARY)
    LIBRARY.impl(_name, unwrapped(_vmap), "Batched")
LIBRARY.impl("linear", _differentiable, "Autograd")
