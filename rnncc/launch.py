"""Launch: tensors and a plan -> one call of a built kernel."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rnncc import build
from rnncc.choices import AUTO, Choices
from rnncc.errors import ArgumentError, LoadError
from rnncc.plan import STEPS_SAVED, Cut, Plan, plan
from rnncc.predict import LANE_BYTES
from rnncc.sequences import ALL_WHOLE, Sequences
from rnncc.spec import KernelSpec

COMPUTE = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}

Function = Callable[[int], int]
CORES = torch.get_num_threads()  # when rnncc was first used in this process

# The members of Args that every call fills.
HEAD = (
    *("batch", "steps", "groups", "extent", "joined", "reverse"),
    *("segment", "lead", "sweeps", "patient", "newton", "tolerance"),
    *("rows", "columns", "whole_rows", "whole_columns", "every", "threads", "parallel"),
)


@dataclass(frozen=True)
class Kernel:
    """One compiled cell: its spec and its emitted sources; libraries are built at first use.

    Attributes:
        sources: target ("cpp") -> emitted text.
        key: hash of both, by which the operators of `ops` find it.
    """

    spec: KernelSpec
    sources: dict[str, str]
    key: str = ""
    _functions: dict[tuple[str, torch.dtype], Function] = field(
        default_factory=dict, repr=False, compare=False
    )

    _plans: dict[tuple[Any, ...], Plan] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        content = self.spec.model_dump_json() + "\0".join(
            f"{k}\0{v}" for k, v in sorted(self.sources.items())
        )
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        object.__setattr__(self, "key", f"{self.spec.name}-{digest}")
        KERNELS.setdefault(self.key, self)

    def __reduce__(self) -> tuple[Any, ...]:
        return Kernel, (self.spec, self.sources)

    @classmethod
    def read(cls, folder: Path) -> Kernel:
        """The kernel of a generated folder: cell.json and kernel.cpp.

        Raises:
            LoadError: a file is missing or was written by another version of rnncc.
        """
        try:
            spec = KernelSpec.model_validate_json(
                (folder / "cell.json").read_text(encoding="utf-8")
            )
            return cls(spec, {"cpp": (folder / "kernel.cpp").read_text(encoding="utf-8")})
        except (OSError, ValueError) as error:
            raise LoadError(
                f"the generated folder {folder} can't be read: {error}.\n"
                "Fix: write it again with rnncc compile"
            ) from error

    def function(self, name: str, dtype: torch.dtype) -> Function:
        """`forward` or `backward` for a dtype; builds the library if it isn't built yet."""
        if (name, dtype) not in self._functions:
            kind = str(dtype).removeprefix("torch.")
            library = build.load(self.spec.name, self.sources["cpp"], kind)
            for part in ("forward", "backward", "jacobian"):
                function = getattr(library, f"{self.spec.name}_{part}")
                function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_int
                self._functions[part, dtype] = function
        return self._functions[name, dtype]

    @cached_property
    def layout(self) -> tuple[dict[str, int], array[int]]:
        """Where each member of the struct Args in templates/cpp/args.h begins, and Args of zeros.

        In words of 8 bytes. Arrays there have one element more than the cell needs, as C++ has no
        empty ones.
        """
        spec = self.spec
        x, y, params = 4 * (len(spec.inputs) + 1), 4 * (len(spec.outputs) + 1), len(spec.params) + 1
        z = 4 * len(spec.states)
        sizes = {
            **dict.fromkeys(HEAD, 1),
            **{"starts": 1, "lengths": 1, "reset": 1, "reset_strides": 2},
            **{"x": x, "params": params, "h0": 1},
            **{"y": y, "z": z, "h_last": 1, "saved": 1, "status": 1},
            **{"dy": y, "dz": z, "dh_last": 1, "dx": x, "dparams": params, "dh0": 1},
            **{"jacobians": 1, "run_starts": 1},
            **{"begins": 1, "ends": 1, "products": 1, "verdicts": 1},
            **{"param_sums": 1, "shared_sums": 1},
        }
        places = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
        return places, array("q", bytes(8 * sum(sizes.values())))

    def plan(
        self,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        choices: Choices = AUTO,
        total: int | None = None,
    ) -> Plan:
        """How a call of shape [sequences, steps, channels] cuts its work on this machine."""
        total = shape[0] * shape[1] if total is None else total
        call = (shape, COMPUTE[dtype].itemsize, torch.get_num_threads(), choices, CORES, total)
        if call not in self._plans:
            if len(self._plans) > 1000:
                self._plans.clear()
            self._plans[call] = plan(self.spec, *call)
        return self._plans[call]


KERNELS: dict[str, Kernel] = {}


def kernel_of(key: str) -> Kernel:
    """The kernel that an operator names."""
    if key not in KERNELS:
        raise ArgumentError(
            f"the kernel '{key}' is not loaded in this process.\n"
            "Fix: import the generated module of this cell (or rnncc.compile it) first"
        )
    return KERNELS[key]


# --- shapes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shapes:
    """What the operators allocate.

    `saved` holds the states that the backward starts from, [slots, states, N], flat: a dimension
    of its own would make torch.compile tell T <= 16 from the rest.
    """

    y: tuple[Any, ...]
    h: tuple[Any, ...]
    saved: tuple[Any, ...]


def shapes_of(
    spec: KernelSpec,
    inputs: Sequence[Tensor],
    params: Sequence[Tensor],
    choices: Choices = AUTO,
    sequences: Sequences = ALL_WHOLE,
) -> Shapes:
    """From the first per-channel input, or from the first per-channel param."""
    rows, steps = inputs[0].shape[:2]
    count = rows if sequences.starts is None else sequences.starts.shape[0]
    channels = channels_of(spec, inputs, params)
    every = choices.checkpoint or STEPS_SAVED
    joined = sequences.starts is not None
    slots = rows * steps // every + count if joined else rows * ((steps + every - 1) // every)
    return Shapes(
        y=(rows, steps, channels),
        h=(len(spec.states), count, channels),
        saved=(slots * len(spec.states) * channels,),
    )


def channels_of(spec: KernelSpec, inputs: Sequence[Tensor], params: Sequence[Tensor]) -> Any:
    """N: an int, or symbolic under torch.compile."""
    for tensor in inputs:
        if tensor.dim() >= 3:
            return tensor.shape[-1]
    for tensor, param in zip(params, spec.params, strict=True):
        if not param.shared:
            return tensor.shape[0] * (param.block or 1)
    return 1


# --- marshalling -----------------------------------------------------------------------------

View = tuple[int, ...]
NO_VIEW: View = (0, 0, 0, 0)


class Call:
    """One call of a kernel: the cell, its arguments, and the way they are solved.

    Attributes:
        inputs: [B, T, N] each (shared ones [B, T]); with `packed` the first is [B, T, G, N] and
            stands for all inputs that are not shared.
        params: in the compute dtype, contiguous.
        h0: [states, S, N] in the compute dtype, contiguous, or None.
        shape: sequences, steps of the longest, channels.
        total: steps in memory.
        plan: how the call cuts its work.
    """

    def __init__(
        self,
        kernel: Kernel,
        choices: Choices,
        inputs: Sequence[Tensor],
        packed: bool,
        params: Sequence[Tensor],
        h0: Tensor | None,
        sequences: Sequences = ALL_WHOLE,
    ) -> None:
        self.kernel = kernel
        self.choices = choices
        self.inputs = inputs
        self.packed = packed
        self.params = params
        self.h0 = h0
        self.sequences = sequences
        self.dtype = inputs[0].dtype
        self.shape = self._shape()
        rows, steps = inputs[0].shape[:2]
        self.total = rows * steps
        self.plan = kernel.plan(self.shape, self.dtype, choices, self.total)

    def _shape(self) -> tuple[int, int, int]:
        rows, steps = self.inputs[0].shape[:2]
        channels = channels_of(self.kernel.spec, self.inputs, self.params)
        starts, lengths = self.sequences.starts, self.sequences.lengths
        if starts is None:
            return rows, steps, channels
        assert lengths is not None
        return starts.shape[0], int(lengths.max()) if len(lengths) else 0, channels

    def solved_by(self, choices: Choices) -> Call:
        """The same call with other choices."""
        arguments = (self.inputs, self.packed, self.params, self.h0, self.sequences)
        return Call(self.kernel, choices, *arguments)


def forward(
    call: Call,
    y: Sequence[Tensor],
    z: Sequence[Tensor],
    h_last: Tensor,
    saved: Tensor | None,
    status: Tensor,
) -> None:
    """Run the forward kernel.

    Args:
        y, z: outputs, and the states after each step (or nothing), [B, T, N] each, to fill.
        h_last: [states, S, N], the states after the last step, to fill.
        saved: the states every few steps, to fill; or None.
        status: [6], float64, of which the kernel fills four: sweeps, largest mismatch, converged,
            and the step from which one pass over time did the rest, or -1.
    """
    cut = call.plan.forward
    _call(
        call,
        "forward",
        cut,
        y=_views(y),
        z=_views(z),
        h_last=h_last,
        saved=saved,
        status=status,
        **_workspace(call, cut, h_last),
    )


def backward(
    call: Call,
    saved: Tensor,
    dy: Sequence[Tensor | None],
    dz: Sequence[Tensor | None],
    dh_last: Tensor | None,
    dx: Sequence[Tensor | None],
    dparams: Sequence[Tensor],
    dh0: Tensor,
) -> None:
    """Run the backward kernel into `dx` (None: not wanted), `dparams` and `dh0`."""
    spec, cut = call.kernel.spec, call.plan.backward
    rows, extent = call.inputs[0].shape[:2]
    groups = call.shape[2] // spec.group
    runs = _runs(call, cut)
    blocks = -(-groups // (LANE_BYTES // COMPUTE[call.dtype].itemsize))
    _call(
        call,
        "backward",
        cut,
        saved=saved,
        dy=_views(dy),
        dz=_views(dz),
        dh_last=dh_last,
        dx=_input_views(spec, dx, call.packed),
        dparams=dparams,
        dh0=dh0,
        param_sums=saved.new_empty(runs * spec.param_slots * groups, dtype=torch.float64),
        shared_sums=saved.new_empty(blocks * rows * extent * spec.shared_inputs),
        **_workspace(call, cut, saved),
    )


def jacobian(call: Call) -> Tensor:
    """d h_t / d h_(t-1) along the sequence: [B, T, N / group, D, D], D = group * states.

    Rows and columns run over the states in declared order, and within each over the group.
    """
    spec = call.kernel.spec
    batch, steps, channels = call.shape
    shape = (steps, batch, channels // spec.group, spec.size, spec.size)
    result = call.inputs[0].new_empty(shape, dtype=COMPUTE[call.dtype])
    if result.numel():
        _call(call, "jacobian", call.plan.forward, jacobians=result)
    return result.transpose(0, 1)


def _runs(call: Call, cut: Cut) -> int:
    """At most so many segments of sequences; one for each sequence at least."""
    batch, steps, _ = call.shape
    segment = cut.tiling.segment
    return batch if segment >= steps else call.total // segment + batch


def _workspace(call: Call, cut: Cut, like: Tensor) -> dict[str, Any]:
    """Scratch memory for the borders between segments, where there are several: addresses.

    It is one tensor, which lives as long as the dict.
    """
    batch, steps, channels = call.shape
    if cut.tiling.segment >= steps:
        return {}
    size, runs = call.kernel.spec.size, _runs(call, cut)
    values = runs * (channels // call.kernel.spec.group) * size
    words = {
        "run_starts": batch + 1,
        "verdicts": 2 * batch + runs,
        "begins": values,
        "ends": values,
        "products": values * size,
    }
    block = like.new_empty(sum(words.values()), dtype=torch.float64)
    places = itertools.accumulate(words.values(), initial=0)
    first = block.data_ptr()
    found: dict[str, Any] = {
        name: (first + 8 * place,) for name, place in zip(words, places, strict=False)
    }
    return found | {"workspace": block}


def _call(call: Call, part: str, cut: Cut, **given: Any) -> None:
    """Call one function of the kernel; a member of Args that is not given is null."""
    kernel, p, sequences = call.kernel, call.plan, call.sequences
    batch, steps, channels = call.shape
    places, blank = kernel.layout
    tiling = cut.tiling
    words = blank[:]
    words[: len(HEAD)] = array(
        "q",
        (
            *(batch, steps, channels // kernel.spec.group),
            *(call.inputs[0].shape[1], sequences.starts is not None, call.choices.reverse),
            *(tiling.segment, cut.lead, cut.sweeps, p.patient, p.solver == "newton"),
            _bits(p.tolerance),
            *(tiling.rows, tiling.columns, cut.whole.rows, cut.whole.columns),
            *(p.every, p.threads, build.thread_pool()),
        ),
    )
    given |= {
        "x": _input_views(kernel.spec, call.inputs, call.packed),
        "params": call.params,
        "h0": call.h0,
    }
    given |= {"starts": sequences.starts, "lengths": sequences.lengths, "reset": sequences.reset}
    if sequences.reset is not None:
        given["reset_strides"] = [tuple(sequences.reset.stride())]
    for member, value in given.items():
        if value is not None and member in places:
            filled = _words(value if isinstance(value, list) else (value,))
            words[places[member] : places[member] + len(filled)] = array("q", filled)
    if kernel.function(part, call.dtype)(words.buffer_info()[0]):
        raise MemoryError("a kernel could not allocate its scratch memory")


def _bits(number: float) -> int:
    """A double as the word that holds it."""
    return int.from_bytes(array("d", [number]).tobytes(), sys.byteorder, signed=True)


def _words(listed: Sequence[Any]) -> list[int]:
    """Addresses of tensors, views as they are, 0 for None."""
    words: list[int] = []
    for item in listed:
        if isinstance(item, tuple):
            words += item
        else:
            words.append(0 if item is None else item.data_ptr())
    return words


def _view(tensor: Tensor | None) -> View:
    """Address and element strides over batch, time and channel."""
    if tensor is None:
        return NO_VIEW
    strides = tensor.stride()
    return (tensor.data_ptr(), *strides) if len(strides) == 3 else (tensor.data_ptr(), *strides, 0)


def _views(tensors: Sequence[Tensor | None]) -> list[View]:
    return [_view(tensor) for tensor in tensors]


def _input_views(spec: KernelSpec, tensors: Sequence[Tensor | None], packed: bool) -> list[View]:
    """A view for each input of the cell; with `packed` the first tensor holds all unshared ones."""
    if not packed:
        return _views(tensors)
    whole, *shared = tensors
    places = iter(range(len(spec.inputs)))
    rest = iter(shared)
    return [
        _view(next(rest) if i.shared else None if whole is None else whole.select(2, next(places)))
        for i in spec.inputs
    ]
