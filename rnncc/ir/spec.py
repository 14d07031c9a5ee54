"""cell.json: the record of a compiled cell, from which its kernels run without a trace."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rnncc.ir.abi import ABI
from rnncc.ir.init import Init
from rnncc.ir.program import LARGEST_JACOBIAN, LARGEST_PRODUCT
from rnncc.ir.vector import Vector

FILES = {"cpp": "kernel.cpp", "cuda": "kernel.cu"}  # of a generated folder, by target
CELL = "cell.h"
SOURCES = (CELL, *FILES.values())
RECORD = "cell.json"
TANGENT = "tangent"  # the folder of the tangent cell's files, where it has been written too

# The kernels of kernel.cu in parts that are compiled at their first use, so that a call waits only
# for kernels that it launches, and the most threads of a block; tiles take as many warps as the
# cell's spec says.
PER_THREAD = 128
CUDA_KERNELS: dict[str, dict[str, int]] = {
    "forward": {"forward": PER_THREAD},
    "backward": {"backward": PER_THREAD},
    "sums": {"reduce_params": 256, "reduce_shared_params": 32, "reduce_shared_inputs": PER_THREAD},
    "tiles": {"tiles": 0},
    "back_tiles": {"back_tiles": 0},
    "runs": {"number_runs": 256},
    "segments": dict.fromkeys(("sweep", "scan"), PER_THREAD),
    "back_segments": dict.fromkeys(
        ("alone", "judge", "scan_back", "compare_back", "reduce_starts"), PER_THREAD
    ),
    "jacobians": {"jacobians": PER_THREAD},
}
BY_ONE_PASS = ("forward", "backward", "sums", "jacobians")  # the parts that need no segments


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputSpec(_Frozen):
    """An input [B, T, N], or [B, T] if all channels share it.

    Attributes:
        projected: a layer computes it from x; else it is given to the layer by name.
        bias: the init of its projection's bias; None for that of torch.nn.Linear.
        typical: the distribution of its values.
    """

    name: str
    shared: bool
    projected: bool
    bias: Init | None
    typical: Init


class ParamSpec(_Frozen):
    """A param [N] (or [1] if shared), or with `block` = k a matrix [N / k, k, k]."""

    name: str
    init: Init
    shared: bool = False
    block: int | None = None


class StateSpec(_Frozen):
    """A state and its value before the first step: a number, or a param of this name."""

    name: str
    init: float | ParamSpec = 0.0


class StructureSpec(_Frozen):
    """The proved structure of the Jacobian; the fields of `ir.Structure`."""

    kind: Literal["diagonal", "block"]
    group: int
    block: int
    pattern: tuple[str, ...]
    affine: bool
    smooth: bool
    spiking: bool
    readouts: tuple[str, ...]


class Effort(_Frozen):
    """The cost of one lane: arithmetic operations, and calls of exp, tanh and the like.

    Attributes:
        chain_operations, chain_functions: those of them that wait for each other from one step to
            the next, the longest such chain.
    """

    operations: float
    functions: float
    chain_operations: float = 0.0
    chain_functions: float = 0.0


class EffortSpec(_Frozen):
    """The cost of a kernel for one lane and step, for the planner.

    Attributes:
        step: the step itself.
        carry: its Jacobian and the product with those before it.
        adjoint: the gradients of all arguments.
        through: of the states only, for the gradient and one for each state that a step reads.
        early: what of the step depends on params alone; a GPU computes it before the steps.
    """

    step: Effort
    carry: Effort
    adjoint: Effort
    through: Effort
    early: Effort = Effort(operations=0.0, functions=0.0)


class KernelSpec(_Frozen):
    """The record of a cell, from which the run time plans and runs it.

    Attributes:
        abi: the version of the structs that Python and the kernels share, see ir/abi.py; a folder
            with another one is refused, not run.
        arguments: as users name them: inputs and params in the order of the cell's signature, then
            learned starts.
        param_slots, shared_inputs: sizes of the kernel's workspace.
        tile, widest: the most lanes of a tile, of several runs and of one.
        effort: the cost of a lane.
        ahead: steps that a thread of a CUDA kernel takes at once.
        lets: values of a step that its derivatives read.
        warps: segments of `ahead` steps that a block takes at once.
        vectors: the states, inputs, params and outputs of several values, under one name for users.
        fast_math: sigmoid and tanh by the GPU's own, less exact tanh.
    """

    abi: str = ABI
    name: str
    states: tuple[StateSpec, ...]
    inputs: tuple[InputSpec, ...]
    params: tuple[ParamSpec, ...]
    outputs: tuple[str, ...]
    constants: dict[str, float | int]
    structure: StructureSpec
    arguments: tuple[str, ...]
    param_slots: int
    shared_inputs: int
    tile: int
    widest: int
    effort: EffortSpec
    ahead: int
    lets: int = 0
    warps: int
    fast_math: bool = False
    vectors: tuple[Vector, ...] = ()

    @classmethod
    def read(cls, text: str) -> KernelSpec:
        """From the text of cell.json.

        Raises:
            ValueError: another version of rnncc wrote it, or a field doesn't fit.
        """
        found = json.loads(text)
        abi = found.get("abi") if isinstance(found, dict) else None
        if abi != ABI:
            raise ValueError(
                f"abi: got {abi!r}, expected {ABI!r}: another version of rnncc wrote it"
            )
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"{place}: {first['msg']}, got {first['input']!r}") from None

    @functools.cached_property  # every call reads them
    def starts(self) -> tuple[ParamSpec, ...]:
        """The learned starts of states."""
        return tuple(s.init for s in self.states if isinstance(s.init, ParamSpec))

    @functools.cached_property
    def learned(self) -> tuple[ParamSpec, ...]:
        """All learned values: the params, which kernels read, and the starts."""
        return (*self.params, *self.starts)

    @property
    def group(self) -> int:
        return self.structure.group

    @property
    def size(self) -> int:
        """States of a group of channels: the Jacobian that a solver meets is [size, size]."""
        return self.structure.group * len(self.states)

    @property
    def one_pass(self) -> bool:
        """Whether a group has too many values for products of Jacobians: time isn't cut."""
        return self.size > LARGEST_PRODUCT

    @property
    def has_jacobian(self) -> bool:
        """Whether there is a kernel of the step Jacobians."""
        return sum(len(row) - row.count("0") for row in self.structure.pattern) <= LARGEST_JACOBIAN

    @property
    def cuda_parts(self) -> dict[int, dict[str, int]]:
        """Those of `CUDA_KERNELS` that the cell has, by number."""
        return {
            number: kernels
            for number, (part, kernels) in enumerate(CUDA_KERNELS.items())
            if (not self.one_pass or part in BY_ONE_PASS)
            and (self.has_jacobian or part != "jacobians")
        }


def digest_of(files: Mapping[str, str]) -> str:
    """One hash over the files that a cell is run from, for the module beside them.

    The layout of the record doesn't count, nor do line ends.

    Args:
        files: cell.json, cell.h, kernel.cpp and kernel.cu by name.
    Raises:
        ValueError: cell.json isn't JSON.
    """
    record = json.dumps(json.loads(files[RECORD]), sort_keys=True)
    text = "\0".join((record, *(files[name] for name in SOURCES)))
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()[:16]
