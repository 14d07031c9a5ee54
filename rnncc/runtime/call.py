"""Marshal: one call's tensors and plan -> the struct Args that kernels of every target read."""

from __future__ import annotations

import itertools
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rnncc.errors import ArgumentError
from rnncc.ir.spec import KernelSpec
from rnncc.planner import cpu as plan
from rnncc.planner import cuda as plan_cuda
from rnncc.planner.choices import AUTO, SOLVERS, Choices
from rnncc.planner.cpu import Cut, Plan
from rnncc.runtime.cpu import build
from rnncc.runtime.kernel import COMPUTE, Kernel
from rnncc.runtime.sequences import ALL_WHOLE, Sequences

CPU = torch.device("cpu")
CORES = torch.get_num_threads()  # when rnncc was first used in this process
ON_CPU = "cpp"  # the target that tensors on the CPU take; tests run CUDA's kernels there too

MOST_STEPS = 2**31 - 64  # of a sequence; kernels on a GPU count them in 32 bits

# The members of Args that every call fills.
HEAD = (
    *("batch", "steps", "groups", "extent", "joined", "reverse"),
    *("segment", "lead", "sweeps", "patient", "newton", "tolerance"),
    *("rows", "columns", "whole_rows", "whole_columns", "every", "threads", "parallel"),
    *("solver", "round"),
)


def target_of(tensor: Tensor) -> str:
    """Which kernels take a tensor: "cpp" or "cuda"."""
    return "cuda" if tensor.is_cuda else ON_CPU


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
    every = steps_saved(spec, choices, target_of(inputs[0]))
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


# --- a call ----------------------------------------------------------------------------------


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
        self.device = inputs[0].device
        self.target = target_of(inputs[0])
        self.shape = self._shape()
        rows, steps = inputs[0].shape[:2]
        if self.target == "cuda" and steps >= MOST_STEPS:
            raise ArgumentError(
                f"inputs: got {steps} steps, expected fewer than {MOST_STEPS} on a GPU.\n"
                "Fix: chunks, each from the state that the one before returns"
            )
        self.total = rows * steps
        self.plan = plan_of(kernel, self.shape, self.dtype, choices, self.total, self.device)

    def _shape(self) -> tuple[int, int, int]:
        rows, steps = self.inputs[0].shape[:2]
        channels = channels_of(self.kernel.spec, self.inputs, self.params)
        starts, lengths = self.sequences.starts, self.sequences.lengths
        if starts is None:
            return rows, steps, channels
        assert lengths is not None
        if self.target == "cuda":  # the longest is known on the GPU only
            return starts.shape[0], rows * steps, channels
        return starts.shape[0], int(lengths.max()) if len(lengths) else 0, channels

    def solved_by(self, choices: Choices) -> Call:
        """The same call with other choices."""
        arguments = (self.inputs, self.packed, self.params, self.h0, self.sequences)
        return Call(self.kernel, choices, *arguments)


def plan_of(
    kernel: Kernel,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    choices: Choices = AUTO,
    total: int | None = None,
    device: torch.device | plan_cuda.Gpu = CPU,
) -> Plan:
    """How a call of shape [sequences, steps, channels] cuts its work on a device."""
    total = shape[0] * shape[1] if total is None else total
    size = COMPUTE[dtype].itemsize
    machine: plan_cuda.Gpu | int
    if isinstance(device, plan_cuda.Gpu):
        machine = device
    elif device.type == "cuda" or ON_CPU == "cuda":
        machine = gpu_of(device)
    else:
        machine = torch.get_num_threads()
    call = (shape, size, machine, choices, total)
    plans = kernel.memo.setdefault("plans", {})
    if call not in plans:
        if len(plans) > 1000:
            plans.clear()
        if isinstance(machine, plan_cuda.Gpu):
            plans[call] = plan_cuda.plan(kernel.spec, shape, size, machine, choices, total)
        else:
            plans[call] = plan.plan(kernel.spec, shape, size, machine, choices, CORES, total)
    return plans[call]  # type: ignore[no-any-return]


@cache
def gpu_of(device: torch.device) -> plan_cuda.Gpu:
    """What the planner follows of a GPU."""
    if device.type != "cuda":
        return plan_cuda.Gpu(8)
    return plan_cuda.Gpu(torch.cuda.get_device_properties(device).multi_processor_count)


def steps_saved(spec: KernelSpec, choices: Choices, target: str) -> int:
    """Steps between the states that the backward starts from."""
    if target == "cuda":
        return plan_cuda.steps_saved(spec, choices)
    return choices.checkpoint or plan.STEPS_SAVED


def runs_of(call: Call, cut: Cut) -> int:
    """At most so many segments of sequences; one for each sequence at least."""
    batch, steps, _ = call.shape
    segment = cut.tiling.segment
    return batch if segment >= steps else call.total // segment + batch


def borders(call: Call, runs: int) -> dict[str, int]:
    """Words of scratch memory for the borders between so many runs."""
    batch, _, channels = call.shape
    size = call.kernel.spec.size
    values = runs * (channels // call.kernel.spec.group) * size
    sizes = {"run_starts": batch + 1, "begins": values, "ends": values}
    return sizes | {"products": values * size}


def scratch(like: Tensor, words: dict[str, int]) -> dict[str, Any]:
    """Addresses within one tensor, which lives as long as the dict."""
    block = like.new_empty(sum(words.values()), dtype=torch.float64)
    places = itertools.accumulate(words.values(), initial=0)
    first = block.data_ptr()
    found: dict[str, Any] = {
        name: (first + 8 * place,) for name, place in zip(words, places, strict=False)
    }
    return found | {"workspace": block}


# --- its words --------------------------------------------------------------------------------

View = tuple[int, ...]
NO_VIEW: View = (0, 0, 0, 0)


def layout(kernel: Kernel) -> tuple[dict[str, int], array[int]]:
    """Where each member of the struct Args of include/common/args.h begins, and Args of zeros.

    In words of 8 bytes. Arrays there have one element more than the cell needs, as C++ has no
    empty ones.
    """
    if "layout" in kernel.memo:
        return kernel.memo["layout"]  # type: ignore[no-any-return]
    spec = kernel.spec
    x, y, params = 4 * (len(spec.inputs) + 1), 4 * (len(spec.outputs) + 1), len(spec.params) + 1
    z = 4 * len(spec.states)
    sizes = {
        **dict.fromkeys(HEAD, 1),
        **{"starts": 1, "lengths": 1, "reset": 1, "reset_strides": 2},
        **{"x": x, "params": params, "h0": 1},
        **{"y": y, "z": z, "h_last": 1, "saved": 1, "status": 1},
        **{"dy": y, "dz": z, "dz_given": 1, "dh_last": 1, "dx": x, "dparams": params, "dh0": 1},
        **{"jacobians": 1, "run_starts": 1},
        **{"begins": 1, "ends": 1, "products": 1, "verdicts": 1},
        **{"param_sums": 1, "shared_sums": 1, "inner": 1, "control": 1},
    }
    places = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
    kernel.memo["layout"] = places, array("q", bytes(8 * sum(sizes.values())))
    return kernel.memo["layout"]  # type: ignore[no-any-return]


def args_of(call: Call, cut: Cut, **given: Any) -> array[int]:
    """The struct Args of a call, word by word; a member that is not given is null."""
    kernel, p, sequences = call.kernel, call.plan, call.sequences
    batch, steps, channels = call.shape
    places, blank = layout(kernel)
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
            *(p.every, p.threads, build.thread_pool(), SOLVERS.index(p.solver), 0),
        ),
    )
    given |= {
        "x": input_views(kernel.spec, call.inputs, call.packed),
        "params": call.params,
        "h0": call.h0,
    }
    given |= {"starts": sequences.starts, "lengths": sequences.lengths, "reset": sequences.reset}
    if sequences.reset is not None:
        given["reset_strides"] = [tuple(sequences.reset.stride())]
    if call.target == "cuda" and call.choices.reverse:
        given |= {name: _reversed(given[name]) for name in VIEWS if name in given}
    for member, value in given.items():
        if value is not None and member in places:
            filled = _words(value if isinstance(value, list) else (value,))
            words[places[member] : places[member] + len(filled)] = array("q", filled)
    return words


VIEWS = ("x", "y", "z", "dy", "dz", "dx")


def _reversed(found: Sequence[View]) -> list[View]:
    """Kernels on a GPU step through time by one signed stride."""
    return [(address, row, -time, channel) for address, row, time, channel in found]


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


def views(tensors: Sequence[Tensor | None]) -> list[View]:
    """Of results or gradients, in order."""
    return [_view(tensor) for tensor in tensors]


def input_views(spec: KernelSpec, tensors: Sequence[Tensor | None], packed: bool) -> list[View]:
    """A view for each input of the cell; with `packed` the first tensor holds all unshared ones."""
    if not packed:
        return views(tensors)
    whole, *shared = tensors
    places = iter(range(len(spec.inputs)))
    rest = iter(shared)
    return [
        _view(next(rest) if i.shared else None if whole is None else whole.select(2, next(places)))
        for i in spec.inputs
    ]
