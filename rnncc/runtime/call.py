"""Marshal: one call's tensors and plan -> the struct Args that kernels of every target read."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnncc.errors import ArgumentError
from rnncc.ir.spec import KernelSpec
from rnncc.planner import cpu as plan
from rnncc.planner import cuda as plan_cuda
from rnncc.planner.choices import AUTO, SOLVERS, Choices
from rnncc.planner.plan import Cut, Plan
from rnncc.runtime.args import Value, View, args_of, input_views
from rnncc.runtime.cpu import build
from rnncc.runtime.kernel import COMPUTE, Kernel
from rnncc.runtime.sequences import ALL_WHOLE, Sequences

CPU = torch.device("cpu")
CORES = torch.get_num_threads()  # when rnncc was first used in this process
ON_CPU = "cpp"  # the target that tensors on the CPU take; tests run CUDA's kernels there too

MOST_STEPS = 2**31 - 64  # of a sequence; kernels on a GPU count them in 32 bits


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


class Workspace(NamedTuple):
    """Scratch memory of one call.

    Attributes:
        members: of Args, where they lie.
        block: the tensor that they lie in; it must live until the last kernel is launched.
    """

    members: dict[str, Value]
    block: Tensor | None = None

    @classmethod
    def of(cls, like: Tensor, words: dict[str, int]) -> Workspace:
        """So many words for each member."""
        block = like.new_empty(sum(words.values()), dtype=torch.float64)
        places = itertools.accumulate(words.values(), initial=0)
        first = block.data_ptr()
        members = {name: first + 8 * place for name, place in zip(words, places, strict=False)}
        return cls({**members}, block)


def words_of(call: Call, cut: Cut, given: Mapping[str, Value]) -> array[int]:
    """The struct Args of a call, word by word; a member that is not given is null."""
    kernel, plan, sequences = call.kernel, call.plan, call.sequences
    batch, steps, channels = call.shape
    tiling, whole = cut.tiling, cut.whole
    values: dict[str, Value] = {
        "batch": batch,
        "steps": steps,
        "groups": channels // kernel.spec.group,
        "extent": call.inputs[0].shape[1],
        "joined": sequences.starts is not None,
        "reverse": call.choices.reverse,
        "solver": SOLVERS.index(plan.solver),
        "segment": tiling.segment,
        "warm_up": cut.warm_up,
        "sweeps": cut.sweeps,
        "patient": plan.patient,
        "tolerance": plan.tolerance,
        "guess_tolerance": plan.guess_tolerance,
        "rows": tiling.rows,
        "columns": tiling.columns,
        "whole_rows": whole.rows,
        "whole_columns": whole.columns,
        "checkpoint": plan.checkpoint,
        "threads": plan.threads,
        "parallel": build.thread_pool(),
        "rounds": cut.rounds,
        "starts": sequences.starts,
        "lengths": sequences.lengths,
        "reset": sequences.reset,
        "x": input_views(kernel.spec, call.inputs, call.packed),
        "params": call.params,
        "h0": call.h0,
        **given,
    }
    if sequences.reset is not None:
        values["reset_batch"], values["reset_time"] = sequences.reset.stride()
    if call.target == "cuda" and call.choices.reverse:
        values |= {name: _reversed(values[name]) for name in VIEWS if name in values}  # type: ignore[arg-type]
    return args_of(kernel.spec).pack(values)


VIEWS = ("x", "y", "z", "dy", "dz", "dx")


def _reversed(found: Sequence[View]) -> list[View]:
    """Kernels on a GPU step through time by one signed stride."""
    return [(address, row, -time, channel) for address, row, time, channel in found]
