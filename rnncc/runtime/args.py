"""Args: a call's tensors and numbers -> the words of the struct that every kernel reads."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from rnncc.ir.abi import ARGS, STATUS, VIEW, Layout, Per
from rnncc.ir.spec import KernelSpec

View = tuple[int, int, int, int]
NO_VIEW: View = (0, 0, 0, 0)
Value = Tensor | int | float | Sequence[Tensor | None] | Sequence[View] | None

STATUS_SIZE = len(STATUS.fields)
assert len(VIEW.fields) == len(NO_VIEW)
FLOATS = frozenset(field.name for field in ARGS.fields if field.type == "double")


@dataclass(frozen=True)
class ArgsOf:
    """The struct Args of include/common/args.h for one cell.

    Attributes:
        blank: its words, all 0: what is not given is null.
    """

    layout: Layout
    blank: array[int]

    def pack(self, values: Mapping[str, Value]) -> array[int]:
        """Fill the members that are given by name: numbers, tensors (their addresses) and views."""
        words = self.blank[:]
        offsets = self.layout.offsets
        for name, value in values.items():
            place = offsets[name]
            if isinstance(value, Tensor):
                words[place] = value.data_ptr()
            elif name in FLOATS:
                words[place] = _bits(value)  # type: ignore[arg-type]
            elif isinstance(value, int):
                words[place] = value
            elif value is not None:
                _fill(words, place, value)  # type: ignore[arg-type]
        return words


def args_of(spec: KernelSpec) -> ArgsOf:
    """The struct of a cell; the same for all cells with as many tensors."""
    return _args_of(len(spec.inputs), len(spec.params), len(spec.outputs), len(spec.states))


@cache
def _args_of(inputs: int, params: int, outputs: int, states: int) -> ArgsOf:
    counts = {Per.INPUT: inputs, Per.PARAM: params, Per.OUTPUT: outputs, Per.STATE: states}
    layout = ARGS.layout(counts)
    return ArgsOf(layout, array("q", bytes(8 * layout.words)))


def _fill(words: array[int], place: int, values: Sequence[Tensor | None] | Sequence[View]) -> None:
    """An array: of views, or of addresses."""
    for value in values:
        if isinstance(value, tuple):
            words[place : place + 4] = array("q", value)
            place += 4
        else:
            words[place] = 0 if value is None else value.data_ptr()
            place += 1


def _bits(number: float) -> int:
    """A double as the word that holds it."""
    return int.from_bytes(array("d", [number]).tobytes(), sys.byteorder, signed=True)


# --- views -----------------------------------------------------------------------------------


def view(tensor: Tensor | None) -> View:
    """Address and element strides over batch, time and channel."""
    if tensor is None:
        return NO_VIEW
    batch, time, *channel = tensor.stride()
    return tensor.data_ptr(), batch, time, channel[0] if channel else 0


def views(tensors: Sequence[Tensor | None]) -> list[View]:
    """Of results or gradients, in order."""
    return [view(tensor) for tensor in tensors]


def input_views(spec: KernelSpec, tensors: Sequence[Tensor | None], packed: bool) -> list[View]:
    """A view for each input of the cell; with `packed` the first tensor holds all unshared ones."""
    if not packed:
        return views(tensors)
    whole, *shared = tensors
    places = iter(range(len(spec.inputs)))
    rest = iter(shared)
    return [
        view(next(rest) if i.shared else None if whole is None else whole.select(2, next(places)))
        for i in spec.inputs
    ]
