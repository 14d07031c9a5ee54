"""Fits: whether what a layer is called with has its dtype and device, and x its shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnncc.nn.arguments import check_tensor
from rnncc.nn.refusal import refuse, show
from rnncc.runtime.kernel import COMPUTE


class Wanted(NamedTuple):
    """The shape of x: its features, and from `least` to `most` dimensions.

    Attributes:
        packed: it is the data of a PackedSequence.
    """

    features: int
    least: int
    most: float
    batch_first: bool
    packed: bool

    def __str__(self) -> str:
        if self.packed:
            text = "a PackedSequence of [total, input_size]"
        elif self.least == 1:
            text = "[..., input_size]"
        else:
            text = "[..., T, input_size]" if self.batch_first else "[T, ..., input_size]"
        return f"{text} with input_size={self.features}"


def check_x(x: Any, like: Tensor | None, wanted: Wanted) -> None:
    """Check what a layer's projection reads.

    Args:
        like: a weight of the layer, if it has one.
    Raises:
        ArgumentError: the device, shape or dtype doesn't fit.
    """
    _check_device("x", x, like)
    if not wanted.least <= x.dim() <= wanted.most or x.shape[-1] != wanted.features:
        raise refuse("x", show(x), str(wanted), _fix_of(x, wanted))
    if like is not None and x.dtype != like.dtype:
        _check_dtype("x", x, like)


def check_inputs(values: Mapping[str, Any], like: Tensor | None) -> None:
    """Check inputs that no projection reads: half precision and float32 go together there."""
    device = None
    for name, value in values.items():
        _check_device(name, value, like, device)
        device = value.device
        if like is not None and COMPUTE[value.dtype] != COMPUTE[like.dtype]:
            _check_dtype(name, value, like)


def _check_device(
    name: str, value: Any, like: Tensor | None, device: torch.device | None = None
) -> None:
    on_meta = like is not None and like.is_meta
    check_tensor(name, value, device if like is None or on_meta else like.device)
    if on_meta:
        fix = "layer.to_empty(device='cpu'), then load_state_dict or reset_parameters()"
        what = "a layer whose weights aren't on meta, without values"
        raise refuse(name, show(value), what, fix)


def _check_dtype(name: str, value: Tensor, like: Tensor) -> None:
    if not torch.is_autocast_enabled(value.device.type):
        raise refuse(
            name,
            show(value),
            f"{str(like.dtype).removeprefix('torch.')}, as the layer's parameters",
            f"{name}.to({like.dtype}) or layer.to({value.dtype})",
        )


def _fix_of(x: Tensor, wanted: Wanted) -> str:
    """Where the features seem to be, or else the layer that takes x."""
    shape = list(x.shape)
    if not wanted.least <= len(shape) <= wanted.most or shape[-1] == wanted.features:
        return f"{'batch first: [batch, time' if wanted.batch_first else '[time, batch'}, features]"
    if wanted.features in shape:
        return f"x.transpose({shape.index(wanted.features)}, -1), which has the features last"
    return f"input_size={shape[-1]} where the layer is made"
