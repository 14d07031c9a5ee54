"""Refusal: the words in which an argument that doesn't fit is refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rnncc.errors import ArgumentError
from rnncc.runtime.kernel import COMPUTE

STRIDED = torch.strided


def show(tensor: Any) -> str:
    """A tensor in a message: dtype, shape and device."""
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    if tensor.is_nested or tensor.layout is not STRIDED:
        layout = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        return f"a {layout} tensor on {tensor.device}"
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)} on {tensor.device}"


def refuse_device(name: str, value: Tensor, device: torch.device) -> ArgumentError:
    """The error for a tensor that isn't where the others are."""
    here = f"a tensor on {device}, as the others are"
    return refuse(name, show(value), here, f"{name}.to('{device}')")


def refuse(name: str, seen: str, expected: str, fix: str) -> ArgumentError:
    """The error that names the argument, the value seen and expected, and the fix."""
    return ArgumentError(f"{name}: got {seen}, expected {expected}.\nFix: {fix}")


Shape = tuple[int, ...]


def fix_of_state(name: str, value: Tensor, expected: Shape, now: Shape, alone: bool) -> str:
    """What to do with a state of another shape, as torch.nn.GRU takes or returns it, perhaps.

    Args:
        now: the shape without the past, of a state with a delay.
        alone: there is one state; else `name` is a tuple of them.
    """
    shape = tuple(value.shape)
    if now != expected and shape == now:
        ages = expected[-1]
        text = f"the values of 0 to {ages - 1} steps ago, in the last dimension"
        return f"{text}; all alike: {name}.unsqueeze(-1).expand{expected}" if alone else text
    if shape == (1, *expected):
        return f"{name}[0]" if alone else f"{name}=tuple(s[0] for s in {name})"
    for k, size in enumerate(shape):
        if size == 1 and (*shape[:k], *shape[k + 1 :]) == expected:
            each = f"s.squeeze({k}) for s in {name}"
            return f"{name}.squeeze({k})" if alone else f"{name}=tuple({each})"
    try:
        value.expand(expected)
    except RuntimeError:
        fix = "one state per sequence"
        turned = name == "state" and shape[1:] == expected[1:]
        return fix + turned * "; batch_first= says which dimension of x is that of sequences"
    return f"one for all: {name}.expand{expected}" if alone else "one state per sequence"


def check_dtype(dtype: Any) -> None:
    """One that the recurrence can be computed in."""
    if dtype not in COMPUTE:
        expected = "torch.float32, bfloat16, float16 or float64"
        raise refuse("dtype", repr(dtype), expected, "dtype=torch.float32")


def check_dense(name: str, value: Tensor) -> None:
    """Neither sparse nor nested."""
    if value.is_nested:
        fix = f"torch.nested.to_padded_tensor({name}, 0) and lengths="
        raise refuse(name, "a nested tensor", "a dense one", fix)
    if value.layout is not STRIDED:
        layout = str(value.layout).removeprefix("torch.")
        raise refuse(name, f"a {layout} tensor", "a dense one", f"{name}.to_dense()")
