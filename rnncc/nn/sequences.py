"""Sequences: lengths, boundaries and resets as users give them -> tensors for the kernels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from rnncc.errors import ArgumentError
from rnncc.nn.refusal import check_dense, refuse, show
from rnncc.runtime.sequences import Sequences


def read_sequences(
    lengths: Any,
    cu_seqlens: Any,
    reset: Any,
    leading: tuple[int, ...],
    steps: int,
    device: Any,
    batch_first: bool = True,
) -> Sequences:
    """Check types and shapes.

    Args:
        lengths: [*leading] ints, or None.
        cu_seqlens: [S + 1] ints, the boundaries of sequences that lie one after another, or None.
        reset: [*leading, T] bool, or None.
        leading, steps: the leading dimensions of the inputs, and T.
        batch_first: if not, reset is [T, *leading].
    Raises:
        ArgumentError: a type or shape that doesn't fit, or both lengths and cu_seqlens.
    """
    if lengths is not None and cu_seqlens is not None:
        raise ArgumentError(
            "cu_seqlens: got both lengths and cu_seqlens, expected one of them.\n"
            "Fix: lengths= for padded inputs [B, T, N], cu_seqlens= for joined ones [1, total, N]"
        )
    rows = None if reset is None else _reset(reset, leading, steps, device, batch_first)
    if cu_seqlens is not None:
        if any(size != 1 for size in leading):
            raise ArgumentError(
                f"cu_seqlens: got inputs with the leading dimensions {list(leading)}, expected all "
                "sequences one after another, [total, N] or [1, total, N].\nFix: lengths= for a "
                "padded batch"
            )
        given = _integers("cu_seqlens", cu_seqlens)
        if given.dim() != 1 or given.shape[0] < 1:
            raise ArgumentError(
                f"cu_seqlens: got the shape {list(given.shape)}, expected [S + 1], 0 first and "
                "the total last.\nFix: torch.cumsum of the lengths, with a 0 in front"
            )
        if given.is_cpu and device.type != "cpu":  # while it can be read without waiting
            check_values(given[:-1], given.diff(), steps)
        bounds = to_device("cu_seqlens", given, device)
        return Sequences(bounds[:-1].contiguous(), bounds.diff(), rows)
    if lengths is None:
        return Sequences(reset=rows)
    whole = (*leading, steps) if batch_first else (steps, *leading)
    _refuse_mask(lengths, whole, leading, -1 if batch_first else 0)
    counts = _integers("lengths", lengths)
    if tuple(counts.shape) != leading:
        raise ArgumentError(
            f"lengths: got the shape {list(counts.shape)}, expected {list(leading)}, the inputs' "
            "leading dimensions.\nFix: one length per sequence"
        )
    if counts.is_cpu and device.type != "cpu":
        check_values(None, counts, steps)
    return Sequences(None, to_device("lengths", counts, device).reshape(-1).contiguous(), rows)


def without_padding(x: Tensor, sequences: Sequences) -> Tensor:
    """x [..., T, features] with 0 behind the end of each sequence; itself where all are whole.

    What lies there may be NaN, and reaches the gradient of a weight as 0 * NaN.
    """
    if sequences.lengths is None or sequences.starts is not None:
        return x
    steps = torch.arange(x.shape[-2], device=x.device)
    behind = steps >= sequences.lengths.view(*x.shape[:-2], 1)
    return x.masked_fill(behind.unsqueeze(-1), 0)


def _refuse_mask(value: Any, whole: tuple[int, ...], leading: tuple[int, ...], time: int) -> None:
    """Refuse a value for each step in the place of lengths."""
    if isinstance(value, Tensor) and tuple(value.shape) == whole and whole != leading:
        raise ArgumentError(
            f"lengths: got a mask, {show(value)}, expected {list(leading)} integers, the steps of "
            f"each sequence.\nFix: lengths=mask.sum({time}) of a mask that is true within the "
            f"sequences, mask.logical_not().sum({time}) of one that is true behind their ends"
        )


def _integers(name: str, value: Any) -> Tensor:
    """A copy: the backward must see the numbers of the forward, whoever changes the caller's."""
    tensor = value if isinstance(value, Tensor) else _tensor(name, value)
    check_dense(name, tensor)
    if tensor.is_meta:
        raise refuse(name, "a tensor on meta, which holds no numbers", "integers", "a list of ints")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ArgumentError(
            f"{name}: got {str(tensor.dtype).removeprefix('torch.')}, expected integers.\n"
            f"Fix: {name}.long()"
        )
    return tensor.to(torch.int64, copy=isinstance(value, Tensor))


def to_device(name: str, tensor: Tensor, device: torch.device) -> Tensor:
    """On the device; on a CUDA GPU without waiting for it.

    Raises:
        ArgumentError: a CUDA graph is being captured, which can't hold a copy from the CPU.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    if torch.cuda.is_current_stream_capturing():
        raise ArgumentError(
            f"{name}: got a tensor or list on the CPU while a CUDA graph is being captured, "
            f"expected a tensor on {device}.\nFix: make it before the capture"
        )
    mine = tensor.clone().pin_memory()  # which nothing else writes to while it is copied
    return mine.to(device, non_blocking=True)


def _tensor(name: str, value: Any) -> Tensor:
    try:
        tensor = torch.tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentError(
            f"{name}: got {type(value).__name__} {value!r}, expected integers.\n"
            "Fix: a list or a tensor of ints"
        ) from None
    return tensor if tensor.numel() else tensor.long()  # PyTorch takes [] for floats


def _reset(
    value: Any, leading: tuple[int, ...], steps: int, device: Any, batch_first: bool
) -> Tensor:
    whole = [*leading, steps] if batch_first else [steps, *leading]
    if not isinstance(value, Tensor) or value.dtype != torch.bool:
        seen = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(
            f"reset: got {str(seen).removeprefix('torch.')}, expected a bool tensor "
            f"{whole}, true where the state is reset before the step.\n"
            "Fix: reset.bool()"
        )
    check_dense("reset", value)
    if list(value.shape) != whole:
        raise ArgumentError(
            f"reset: got the shape {list(value.shape)}, expected {whole}.\n"
            "Fix: one value per sequence and step"
        )
    if value.device != device:
        raise ArgumentError(
            f"reset: got a tensor on {value.device}, expected {device}, as the inputs.\n"
            f"Fix: reset.to('{device}')"
        )
    rows: Tensor = value if batch_first else value.movedim(0, -1)
    return rows.reshape(math.prod(leading), steps)


def check_values(starts: Tensor | None, lengths: Tensor, steps: int) -> None:
    """Check the numbers, on the copy that the kernel reads.

    Raises:
        ArgumentError: a length that isn't between 0 and `steps`, or boundaries out of order.
    """
    if lengths.numel() == 0:
        if starts is not None and steps:
            raise ArgumentError(
                f"cu_seqlens: got [0], which has no sequence, for {steps} steps, expected the "
                f"total last.\nFix: cu_seqlens=[0, {steps}] for one sequence"
            )
        return
    least, most = map(int, lengths.aminmax())
    if starts is None:
        if least < 0 or most > steps:
            raise ArgumentError(
                f"lengths: got {least if least < 0 else most}, expected between 0 and {steps}, the "
                "steps of the inputs.\nFix: the number of steps of each sequence"
            )
        return
    first, last = int(starts[0]), int(starts[-1]) + int(lengths[-1])
    # differences of 64 bits wrap around, so that each boundary must lie within the inputs as well
    low, high = map(int, starts.aminmax())
    rises = least >= 0 and low >= 0 and high <= steps and most <= steps
    if first != 0 or last != steps or not rises or not torch.equal(starts.diff(), lengths[:-1]):
        raise ArgumentError(
            f"cu_seqlens: got boundaries from {first} to {last}"
            f"{'' if rises else ', falling in between'}, expected offsets that rise from 0 to "
            f"{steps}, the steps of the inputs.\nFix: torch.cumsum of the lengths, a 0 in front"
        )
