"""Args: a call's tensors and numbers -> the words of the struct that every kernel reads."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

from torch import Tensor

from rnncc.ir.abi import ARGS, STATUS, VIEW, WORD, Layout, Per
from rnncc.ir.choices import SOLVERS
from rnncc.ir.spec import KernelSpec
from rnncc.planner.plan import Cut
from rnncc.runtime.call import Call
from rnncc.runtime.kernel import COMPUTE
from rnncc.runtime.prepared import Prepared
from rnncc.runtime.sequences import ALL_WHOLE

STATUS_SIZE = len(STATUS.fields)
VIEW_WORDS = len(VIEW.fields)
LITTLE = 8192  # bytes of scratch memory that go along with Args
LINE = 64  # bytes; each piece of scratch memory begins at a multiple

# The numbers that every call has; Args begins with them.
NUMBERS = [f for section in ("the call", "the plan") for f in ARGS.sections[section]]
assert tuple(NUMBERS) == ARGS.fields[: len(NUMBERS)]
_IN_ORDER = itemgetter(*(f.name for f in NUMBERS))
_FORMAT = struct.Struct("=" + "".join("d" if f.type == "double" else "q" for f in NUMBERS))


class Packer:
    """Packs the struct Args of one direction of a call; members that aren't given are null.

    It begins with what both directions have: numbers, inputs, params, h0 and sequences. Addresses
    stay null, and a `Prepared` fills them in; it takes the tensors in the order in which they were
    given here, without those that are None: `tensors_of`.

    Args:
        turned: views go to the next step of the recurrence, backward where sequences are reversed.

    Attributes:
        words: Args so far.
    """

    def __init__(self, call: Call, cut: Cut, turned: bool = False) -> None:
        self.layout, blank = layout_of(call.kernel.spec)
        self.words = blank[:]
        self._spec, self._packed = call.kernel.spec, call.packed
        (batch, _, channels), size = call.shape, COMPUTE[call.dtype].itemsize
        self._states = len(self._spec.states) * batch * channels * size  # bytes
        self._places: list[int] = []
        self._others: list[tuple[int, int, int]] = []
        self._device = call.inputs[0].device
        self._time = -1 if turned and call.choices.reverse else 1
        self._space = 0
        self._pieces: list[tuple[int, int]] = []
        _FORMAT.pack_into(self.words, 0, *_IN_ORDER(_numbers(call, cut)))
        self.inputs("x", call.inputs)
        self.pointers("params", call.params)
        self.pointers("h0", [call.h0])
        if call.sequences is not ALL_WHOLE:
            starts, lengths, reset = (getattr(call.sequences, name) for name in SEQUENCES)
            for name, tensor in zip(SEQUENCES, (starts, lengths, reset), strict=True):
                self.pointers(name, [tensor])
            if reset is not None:
                self.number("reset_batch", reset.stride(0))
                self.number("reset_time", reset.stride(1))

    def forward(
        self,
        y: Sequence[Tensor],
        z: Sequence[Tensor],
        h_last: Tensor | None,
        saved: Tensor | None,
        status: Tensor | None,
    ) -> None:
        """What a backend's `forward` is given."""
        self.views("y", y)
        self.views("z", z)
        self.pointers("h_last", [h_last])
        self.pointers("saved", [saved])
        self.pointers("status", [status])
        if h_last is None:
            self.space({"h_last": self._states})
        if status is None:
            self.space({"status": STATUS_SIZE * WORD})

    def backward(
        self,
        saved: Tensor,
        dy: Sequence[Tensor | None],
        dz: Sequence[Tensor | None],
        dh_last: Tensor | None,
        dx: Sequence[Tensor | None],
        dparams: Sequence[Tensor],
        dh0: Tensor | None,
    ) -> None:
        """What a backend's `backward` is given."""
        self.pointers("saved", [saved])
        self.views("dy", dy)
        self.views("dz", dz)
        self.pointers("dh_last", [dh_last])
        self.inputs("dx", dx)
        self.pointers("dparams", dparams)
        self.pointers("dh0", [dh0])
        if dh0 is None:
            self.space({"dh0": self._states})

    def number(self, member: str, value: int) -> None:
        self.words[self.layout.offsets[member]] = value

    def pointers(self, member: str, tensors: Sequence[Tensor | None]) -> None:
        """Their addresses, one after another."""
        for place, tensor in enumerate(tensors, self.layout.offsets[member]):
            if tensor is not None:
                self._places.append(place)

    def views(self, member: str, tensors: Sequence[Tensor | None]) -> None:
        """Address and element strides over batch, time and channel of each."""
        place = self.layout.offsets[member]
        for tensor in tensors:
            if tensor is not None:
                strides = tensor.stride()
                channel = strides[2] if len(strides) == 3 else 0
                self._places.append(place)
                self._strides(place, strides[0], strides[1], channel)
            place += VIEW_WORDS

    def inputs(self, member: str, tensors: Sequence[Tensor | None]) -> None:
        """A view for each input of the cell; of a packed call the first has all unshared ones."""
        if not self._packed:
            self.views(member, tensors)
            return
        whole, *rest = tensors
        place = self.layout.offsets[member]
        at = [place + k * VIEW_WORDS for k in range(len(self._spec.inputs))]
        own = [p for p, i in zip(at, self._spec.inputs, strict=True) if not i.shared]
        if whole is not None:
            batch, time, apart, channel = whole.stride()
            for n, p in enumerate(own):
                self._strides(p, batch, time, channel)
                if n:
                    offset = n * apart * whole.dtype.itemsize
                    self._others.append((p, len(self._places), offset))
            self._places.append(own[0])
        for p, tensor in zip([p for p in at if p not in own], rest, strict=True):
            if tensor is not None:
                self._places.append(p)
                self._strides(p, tensor.stride(0), tensor.stride(1), 0)

    def _strides(self, place: int, batch: int, time: int, channel: int) -> None:
        """Of a view."""
        self.words[place + 1 : place + 4] = array("q", (batch, self._time * time, channel))

    def space(self, sizes: Mapping[str, int]) -> None:
        """Scratch memory for members, in bytes: one block, which a run allocates."""
        for name, size in sizes.items():
            self._pieces.append((self.layout.offsets[name], self._space))
            self._space += -(-size // LINE) * LINE

    def prepared(
        self, launch: Callable[[array[int]], None], on_host: bool, clears: bool = False
    ) -> Prepared:
        """All that was given, for calls that differ in addresses only.

        Args:
            on_host: the kernels read the host's memory.
        """
        words, size, space = self.words, WORD * len(self.words), self._space
        if on_host and space <= LITTLE:
            words, space = words + array("q", bytes(space)), 0
        places, others, pieces = tuple(self._places), tuple(self._others), tuple(self._pieces)
        return Prepared(words, places, others, pieces, size, space, launch, clears, self._device)


def tensors_of(call: Call, *groups: Any) -> list[Tensor]:
    """All of a call and of `groups`, tensors or lists of them, in the order of `Prepared.run`."""
    sequences = [getattr(call.sequences, name) for name in SEQUENCES]
    found: list[Tensor] = []
    for group in (call.inputs, call.params, call.h0, *sequences, *groups):
        if isinstance(group, Tensor):
            found.append(group)
        elif group is not None:
            found += [tensor for tensor in group if tensor is not None]
    return found


SEQUENCES = ("starts", "lengths", "reset")


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
