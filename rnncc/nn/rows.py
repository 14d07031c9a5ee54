"""Rows: shape and dtype of each tensor that an operator returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rnncc.ir.spec import KernelSpec
from rnncc.nn.given import Given
from rnncc.runtime.args import STATUS_SIZE
from rnncc.runtime.backend import Backend
from rnncc.runtime.kernel import COMPUTE

Row = tuple[tuple[Any, ...], torch.dtype]


def forward_rows(
    given: Given, spec: KernelSpec, backend: Backend, states: bool, save: bool
) -> list[Row]:
    """[*outputs, *states, h_last, saved, status]."""
    dtype = given.inputs[0].dtype
    shapes, compute = given.shapes(spec, backend), COMPUTE[dtype]
    count = len(spec.outputs) + (len(spec.states) if states else 0)
    return [
        *[(shapes.y, dtype)] * count,
        (shapes.h, compute),
        (shapes.saved if save else (0,), compute),
        ((STATUS_SIZE,), torch.float64),
    ]


def backward_rows(
    given: Given, spec: KernelSpec, backend: Backend, wanted: Sequence[bool]
) -> list[Row]:
    """[*dx, *dparams, dh0]: an input whose gradient is not wanted gets an empty one."""
    compute = COMPUTE[given.inputs[0].dtype]
    return [
        *((x.shape if w else (0,), x.dtype) for x, w in zip(given.inputs, wanted, strict=True)),
        *((p.shape, compute) for p in given.params),
        (given.shapes(spec, backend).h, compute),
    ]


def empty(rows: Sequence[Row], like: Tensor, backend: Backend) -> list[Tensor]:
    """Memory for all of them, on the device of `like`."""
    return [backend.empty(like, shape, dtype=dtype) for shape, dtype in rows]
