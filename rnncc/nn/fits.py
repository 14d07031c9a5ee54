"""Fits: whether what a layer is called with has its dtype and device, and x its shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnncc.errors import ArgumentError
from rnncc.nn.arguments import check_tensor
from rnncc.nn.refusal import refuse, show
from rnncc.runtime.kernel import COMPUTE


class Wanted(NamedTuple):
    """The shape of x: its features, and from `least` to `most` dimensions.

    Attributes:
        features: None without a projection, for inputs whose shapes are checked elsewhere.
        packed: it is the data of a PackedSequence.
        batch: how many sequences it has, if that is known.
    """

    features: int | None
    least: int
    most: float
    batch_first: bool
    packed: bool
    batch: int | None = None

    def __str__(self) -> str:
        if self.packed:
            text = "a PackedSequence of [total, input_size]"
        elif self.batch is not None:
            text = f"[{self.batch}, input_size]"
        elif self.least == 1:
            text = "[..., input_size]"
        else:
            text = "[..., T, input_size]" if self.batch_first else "[T, ..., input_size]"
        return f"{text} with input_size={self.features}"


def check_values(values: Mapping[str, Any], like: Tensor | None, wanted: Wanted) -> None:
    """Check what a layer's projection reads, x; or without one the inputs.

    Inputs that no projection reads may be in half precision beside float32. It is written in one,
    because every call pays for it.

    Args:
        like: a weight of the layer, if it has one.
    Raises:
        ArgumentError: a device, shape or dtype doesn't fit.
    """
    projected, on_meta = wanted.features is not None, like is not None and like.is_meta
    device = None if like is None or on_meta else like.device
    for name, value in values.items():
        check_tensor(name, value, device)
        device = value.device
        if on_meta:
            raise _on_meta(name, value)
        shape = value.shape
        if projected and (
            not wanted.least <= len(shape) <= wanted.most
            or shape[-1] != wanted.features
            or (wanted.batch is not None and shape[0] != wanted.batch)
        ):
            raise refuse(name, show(value), str(wanted), _fix_of(value, wanted))
        if (
            like is not None
            and value.dtype != like.dtype
            and (projected or COMPUTE[value.dtype] != COMPUTE[like.dtype])
        ):
            _check_dtype(name, value, like)
        if projected:
            return  # what is given beside x is checked with its rows


def _on_meta(name: str, value: Any) -> ArgumentError:
    fix = "layer.to_empty(device='cpu'), then load_state_dict or reset_parameters()"
    what = "a layer whose weights aren't on meta, without values"
    return refuse(name, show(value), what, fix)


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
    if wanted.batch is not None and len(shape) == 2 and shape[1] == wanted.features:
        return f"layer.decoder({shape[0]})"
    if wanted.batch is not None and shape == [wanted.features]:
        return "x.unsqueeze(0)"
    if not wanted.least <= len(shape) <= wanted.most or shape[-1] == wanted.features:
        return f"{'batch first: [batch, time' if wanted.batch_first else '[time, batch'}, features]"
    if wanted.features in shape:
        return f"x.transpose({shape.index(wanted.features)}, -1), which has the features last"
    return f"input_size={shape[-1]} where the layer is made"
