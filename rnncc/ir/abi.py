"""ABI: the one list of the values that Python and the kernels exchange, and its version.

common/args.h of the driver, the packer in runtime/args.py and cell.json's `abi` follow from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import cached_property

WORD = 8  # bytes of every member


class Solver(IntEnum):
    """How a call is solved."""

    SEQUENTIAL = 1
    SEGMENTED = 2
    NEWTON = 3


class Stage(IntEnum):
    """CUDA: the purpose of a launch; C++ runs all of them in one call."""

    SWEEP = 0  # all segments, for the time that `round` says
    WARM_UP = 1  # the steps beside each segment that give a guess of its border
    REST = 2  # whole sequences, from where the segments leave them


NO_STEP = -1  # of `Status.sequential_from`: no step was left to one pass over time


class Per(Enum):
    """An array has one element for each of these, and a spare one: C++ has no empty arrays."""

    INPUT = "Cell::kInputTensors"
    PARAM = "Cell::kParamTensors"
    OUTPUT = "Cell::kOutputTensors"
    STATE = "Cell::kStateTensors"


@dataclass(frozen=True)
class Field:
    """A member of a struct.

    Attributes:
        type: as C++ writes it.
        meaning: goes into the header as a comment.
        per: one element for each of these, if it is an array.
    """

    name: str
    type: str
    meaning: str
    per: Per | None = None


@dataclass(frozen=True)
class Layout:
    """Where the members of a struct lie, in words, for a cell."""

    offsets: Mapping[str, int]
    words: int


@dataclass(frozen=True)
class Struct:
    """A struct that both sides know, in sections of what belongs together.

    Attributes:
        meaning: goes into the header as a comment; so do the names of the sections.
    """

    name: str
    meaning: str
    sections: Mapping[str, tuple[Field, ...]]

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        return tuple(field for fields in self.sections.values() for field in fields)

    def layout(self, counts: Mapping[Per, int]) -> Layout:
        """For a cell with these numbers of tensors."""
        offsets, words = {}, 0
        for field in self.fields:
            offsets[field.name] = words
            each = len(STRUCTS[field.type].fields) if field.type in STRUCTS else 1
            words += each * (1 if field.per is None else counts[field.per] + 1)
        return Layout(offsets, words)


def _ints(**meanings: str) -> tuple[Field, ...]:
    return tuple(Field(name, "int64_t", meaning) for name, meaning in meanings.items())


VIEW = Struct(
    "View",
    "A tensor: elements between neighbours in batch and time, and of one channel. For CUDA `time` "
    "goes to the next step of the recurrence, backward where sequences are reversed.",
    {
        "": (
            Field("data", "io*", "its first element, or null"),
            *_ints(
                batch="elements to the next sequence",
                time="elements to the next step",
                channel="elements to the next channel; 0 if all share one",
            ),
        )
    },
)

STATUS = Struct(
    "Status",
    "How a call was solved; all are doubles, as a tensor holds them.",
    {
        "": tuple(
            Field(name, "double", meaning)
            for name, meaning in {
                "sweeps": "over all segments, 1 for one pass over time",
                "mismatch": "the largest change of a segment's initial state that the last scan "
                "asked for, relative to the state's own size",
                "converged": "0 if neighbours don't agree within the tolerance",
                "sequential_from": "the step from which one pass solved the rest, or kNoStep",
                "solver": "a Solver",
                "segment": "steps of a segment",
            }.items()
        )
    },
)

_ARGS: dict[str, tuple[Field, ...]] = {
    "the call": _ints(
        batch="sequences",
        steps="of the longest sequence, or a bound of it",
        groups="of channels",
        extent="time steps in memory",
        joined="the sequences lie one after another in one row of memory",
        reverse="each runs from its last step to its first",
    ),
    "the plan": (
        Field("solver", "Solver", "how the call is solved"),
        *_ints(
            segment="steps of a segment; `steps` for one pass over time",
            warm_up="steps beside a segment that give a guess of its border",
            sweeps="at most, before one pass over time solves the rest",
            patient="not 0: use all sweeps, however slowly states are forgotten",
        ),
        Field("tolerance", "double", "of neighbouring segments, relative to the state's own size"),
        Field("settled", "double", "a correction after which they agree, the same way"),
        *_ints(
            rows="C++: runs of a tile. CUDA: warps of a block, each of 32 / columns runs",
            columns="groups of a tile, or of a warp",
            whole_rows="as rows, where each sequence is one run",
            whole_columns="as columns, where each sequence is one run",
            checkpoint="steps between saved states",
            threads="C++: their number",
        ),
        Field("parallel", "Parallel", "C++: GOMP_parallel, or null"),
        *_ints(rounds="CUDA: how often sweeps are launched"),
    ),
    "the launch": (
        Field("stage", "Stage", "CUDA: the purpose of this launch"),
        *_ints(round="CUDA: which of the sweeps it is"),
    ),
    "sequences": (
        Field("starts", "const int64_t*", "[batch], the first steps of joined sequences"),
        Field("lengths", "const int64_t*", "[batch], or null where all have `steps`"),
        Field("reset", "const uint8_t*", "not 0: the state is reset before this step; or null"),
        *_ints(reset_batch="elements to the next row", reset_time="elements to the next step"),
    ),
    "arguments": (
        Field("x", "View", "the inputs", Per.INPUT),
        Field("params", "const real*", "the params", Per.PARAM),
        Field("h0", "const real*", "[states, batch, channels], or null"),
    ),
    "forward": (
        Field("y", "View", "the outputs", Per.OUTPUT),
        Field("z", "View", "the states after each step", Per.STATE),
        Field("h_last", "real*", "[states, batch, channels], or null"),
        Field("saved", "real*", "[slots, states, channels], or null"),
        Field("status", "Status*", "how the call was solved"),
    ),
    "backward: the gradients of y, z and h_last (null for zero), then those of all arguments": (
        Field("dy", "View", "of the outputs", Per.OUTPUT),
        Field("dz", "View", "of the states after each step", Per.STATE),
        *_ints(dz_given="some dz isn't null"),
        Field("dh_last", "const real*", "of the last states"),
        Field("dx", "View", "of the inputs", Per.INPUT),
        Field("dparams", "real*", "of the params", Per.PARAM),
        Field("dh0", "real*", "of the states before the first step"),
    ),
    "Jacobians along the sequence": (
        Field("jacobians", "real*", "[steps, batch, groups, kStates, kStates]"),
    ),
    "workspace; a run is one segment of one sequence": (
        Field("run_starts", "int64_t*", "[batch + 1], the first run of each sequence"),
        Field("begins", "real*", "[runs, kStates, groups]"),
        Field("ends", "real*", "[runs, kStates, groups]"),
        Field("products", "real*", "[runs, kStates * kStates, groups]"),
        Field("peaks", "real*", "[runs, kStates, groups], sizes over the last steps of a run"),
        Field("initials", "real*", "[runs, kStates, groups], gradients of the initial state"),
        Field("verdicts", "double*", "[batch, 2], then a flag for each run"),
        Field("param_sums", "double*", "[runs, params, groups]"),
        Field("shared_sums", "real*", "[blocks of lanes, batch * extent, shared inputs]"),
        Field("inner", "real*", "CUDA: [runs, blocks of steps, kStates, groups]"),
        Field("control", "int64_t*", "CUDA: messages between the kernels of one call"),
    ),
}

ARGS = Struct("Args", "The arguments of a kernel.", _ARGS)

STRUCTS = {struct.name: struct for struct in (VIEW, STATUS, ARGS)}
ENUMS: tuple[type[IntEnum], ...] = (Solver, Stage)


# What the driver takes from cell.h. Raise DRIVER when a change of the driver makes it unfit for
# folders that were generated before, though this list and the structs above stay.
DRIVER = 2
MEMBERS = {
    "Cell": (
        *("int kGroup", "int kStateTensors", "int kInputTensors"),
        *("int kParamTensors", "int kOutputTensors"),
        *("int kStates", "int kInputs", "int kParams", "int kOutputs"),
        *("int kStored", "int kSharedInputs"),
        *("bool kAffine", "bool kLarge"),
        *("Slot states[]", "Slot inputs[]", "Slot params[]", "Slot outputs[]", "real init[]"),
        *("int kFed", "int fed[]", "bool checked[]"),
        *("int kProducts", "int product_row[]", "int product_column[]"),
    ),
    "Lane": ("prepare", "step", "jacobian", "carry", "adjoint"),
    "Lanes": ("step", "step_to_store", "jacobian", "carry", "adjoint"),
}


def _version() -> str:
    """Changes with everything that the compiled code depends on, not with comments."""
    listed: list[object] = [(enum.__name__, [(m.name, m.value) for m in enum]) for enum in ENUMS]
    for struct in STRUCTS.values():
        members = [(f.name, f.type, f.per and f.per.value) for f in struct.fields]
        listed.append((struct.name, members))
    return hashlib.sha256(repr((WORD, NO_STEP, DRIVER, MEMBERS, listed)).encode()).hexdigest()[:12]


ABI = _version()
