"""Args: a call's tensors and numbers -> the words of the struct that every kernel reads."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import NoReturn, TypeAlias

from torch import Tensor

from rnncc.errors import ArgumentError
from rnncc.ir.abi import ARGS, STATUS, VIEW, WORD, Layout, Per
from rnncc.ir.choices import SOLVERS
from rnncc.ir.spec import KernelSpec
from rnncc.planner.plan import Cut
from rnncc.runtime.call import Call
from rnncc.runtime.sequences import ALL_WHOLE, Sequences

View: TypeAlias = tuple[int, ...]
Value: TypeAlias = Tensor | int | Sequence[Tensor | None] | Sequence[View] | None
NO_VIEW: View = (0,) * len(VIEW.fields)
STATUS_SIZE = len(STATUS.fields)

# The numbers that every call has; Args begins with them.
NUMBERS = [f for section in ("the call", "the plan") for f in ARGS.sections[section]]
assert tuple(NUMBERS) == ARGS.fields[: len(NUMBERS)]
_IN_ORDER = itemgetter(*(f.name for f in NUMBERS))
_FORMAT = struct.Struct("=" + "".join("d" if f.type == "double" else "q" for f in NUMBERS))


def words_of(call: Call, cut: Cut, values: Mapping[str, Value]) -> array[int]:
    """The struct Args of a call, word by word; missing members are null.

    Args:
        values: members by name: numbers, tensors (for their addresses), and views.
    """
    layout, blank = layout_of(call.kernel.spec)
    words = blank[:]
    _FORMAT.pack_into(words, 0, *_IN_ORDER(_numbers(call, cut)))
    if call.sequences is not ALL_WHOLE:
        fill(words, layout, _of_sequences(call.sequences))
    fill(words, layout, {"params": call.params, "h0": call.h0, **values})
    return words


def layout_of(spec: KernelSpec) -> tuple[Layout, array[int]]:
    """Where members lie for the cells with as many tensors, and Args of zeros."""
    return _layout(len(spec.inputs), len(spec.params), len(spec.outputs), len(spec.states))


@cache
def _layout(inputs: int, params: int, outputs: int, states: int) -> tuple[Layout, array[int]]:
    counts = {Per.INPUT: inputs, Per.PARAM: params, Per.OUTPUT: outputs, Per.STATE: states}
    layout = ARGS.layout(counts)
    return layout, array("q", bytes(WORD * layout.words))


def _numbers(call: Call, cut: Cut) -> dict[str, float]:
    plan, tiling, whole = call.plan, cut.tiling, cut.whole
    batch, steps, _ = call.shape
    return {
        "batch": batch,
        "steps": steps,
        "groups": call.groups,
        "extent": call.inputs[0].shape[1],
        "joined": call.sequences.starts is not None,
        "reverse": call.choices.reverse,
        "solver": SOLVERS.index(plan.solver),
        "segment": tiling.segment,
        "warm_up": cut.warm_up,
        "sweeps": cut.sweeps,
        "patient": plan.patient,
        "tolerance": plan.tolerance,
        "settled": plan.settled,
        "rows": tiling.rows,
        "columns": tiling.columns,
        "whole_rows": whole.rows,
        "whole_columns": whole.columns,
        "checkpoint": plan.checkpoint,
        "threads": plan.threads,
        "parallel": 0,
        "rounds": cut.rounds,
    }


def _of_sequences(sequences: Sequences) -> dict[str, Value]:
    starts, lengths, reset = sequences.starts, sequences.lengths, sequences.reset
    found: dict[str, Value] = {"starts": starts, "lengths": lengths, "reset": reset}
    if reset is not None:
        found["reset_batch"], found["reset_time"] = reset.stride()
    return found


def fill(words: array[int], layout: Layout, values: Mapping[str, Value]) -> None:
    """Put members in their places; None leaves null there."""
    for name, value in values.items():
        place = layout.offsets[name]
        if isinstance(value, Tensor):
            words[place] = found = value.data_ptr()
            if not found and value.numel():
                _no_memory(value)
        elif isinstance(value, int):
            words[place] = value
        elif value is not None:
            for item in value:
                if isinstance(item, tuple):
                    words[place : place + len(item)] = array("q", item)
                    place += len(item)
                else:
                    words[place] = found = 0 if item is None else item.data_ptr()
                    if not found and item is not None and item.numel():
                        _no_memory(item)
                    place += 1


def _no_memory(tensor: Tensor) -> NoReturn:
    raise ArgumentError(
        f"a tensor {list(tensor.shape)} of the call has no memory, expected its values: it was "
        "given back after the tensor was made.\nFix: fill it before the call and its backward"
    )


# --- views -----------------------------------------------------------------------------------


def views(tensors: Sequence[Tensor | None]) -> list[View]:
    """Address and element strides over batch, time and channel of each."""
    found = []
    for tensor in tensors:
        if tensor is None:
            found.append(NO_VIEW)
            continue
        strides, address = tensor.stride(), tensor.data_ptr()
        if not address and tensor.numel():
            _no_memory(tensor)
        channel = () if len(strides) == 3 else (0,)
        found.append((address, *strides, *channel))
    return found


def input_views(spec: KernelSpec, tensors: Sequence[Tensor | None], packed: bool) -> list[View]:
    """A view for each input of the cell; with `packed` the first tensor holds all unshared ones."""
    if not packed:
        return views(tensors)
    whole, *others = tensors
    shared = iter(views(others) if others else ())
    if whole is None:
        return [next(shared) if i.shared else NO_VIEW for i in spec.inputs]
    address, size = whole.data_ptr(), whole.dtype.itemsize
    if not address and whole.numel():
        _no_memory(whole)
    batch, time, apart, channel = whole.stride()
    found, own = [], 0
    for i in spec.inputs:
        if i.shared:
            found.append(next(shared))
        else:
            found.append((address + own * apart * size, batch, time, channel))
            own += 1
    return found
