"""Launch: tensors and a plan -> one call of a built kernel."""

from __future__ import annotations

import ctypes
import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rnncc import build
from rnncc.errors import ArgumentError, LoadError
from rnncc.plan import LANE_BYTES, STEPS_SAVED, Plan, plan
from rnncc.spec import KernelSpec

COMPUTE = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}

Function = Callable[[int], int]


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
    _functions: dict[tuple[str, str], Function] = field(
        default_factory=dict, repr=False, compare=False
    )

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
            spec = KernelSpec.model_validate_json((folder / "cell.json").read_text())
            return cls(spec, {"cpp": (folder / "kernel.cpp").read_text()})
        except (OSError, ValueError) as error:
            raise LoadError(
                f"the generated folder {folder} can't be read: {error}.\n"
                "Fix: write it again with rnncc compile"
            ) from error

    def function(self, name: str, dtype: torch.dtype) -> Function:
        """`forward` or `backward` for a dtype; builds the library if it isn't built yet."""
        kind = str(dtype).removeprefix("torch.")
        if (name, kind) not in self._functions:
            library = build.load(self.spec.name, self.sources["cpp"], kind)
            for part in ("forward", "backward", "jacobian"):
                function = getattr(library, f"{self.spec.name}_{part}")
                function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_int
                self._functions[part, kind] = function
        return self._functions[name, kind]

    def plan(self, batch: int, channels: int, dtype: torch.dtype, solver: str = "auto") -> Plan:
        itemsize = COMPUTE[dtype].itemsize
        return plan(self.spec, batch, channels, itemsize, torch.get_num_threads(), solver)


KERNELS: dict[str, Kernel] = {}


def kernel_of(key: str) -> Kernel:
    if key not in KERNELS:
        raise ArgumentError(
            f"the kernel '{key}' is not loaded in this process.\n"
            "Fix: import the generated module of this cell (or rnncc.compile it) first"
        )
    return KERNELS[key]


# --- shapes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shapes:
    """What the operators allocate. `saved` holds the states that the backward starts from."""

    y: tuple[Any, ...]
    h: tuple[Any, ...]
    saved: tuple[Any, ...]


def shapes_of(spec: KernelSpec, inputs: Sequence[Tensor], params: Sequence[Tensor]) -> Shapes:
    """From the first per-channel input, or from the first per-channel param."""
    batch, steps = inputs[0].shape[:2]
    channels = channels_of(spec, inputs, params)
    states = len(spec.states)
    segments = (steps + STEPS_SAVED - 1) // STEPS_SAVED
    return Shapes(
        y=(batch, steps, channels),
        h=(states, batch, channels),
        saved=(segments, states, batch, channels),
    )


def channels_of(spec: KernelSpec, inputs: Sequence[Tensor], params: Sequence[Tensor]) -> Any:
    for tensor in inputs:
        if tensor.dim() >= 3:
            return tensor.shape[-1]
    for tensor, param in zip(params, spec.params, strict=True):
        if not param.shared:
            return tensor.shape[0] * (param.block or 1)
    return 1


# --- marshalling -----------------------------------------------------------------------------
# The struct Args of templates/cpp/driver.h, whose members are all of 8 bytes, in order.

NO_VIEW = (0, 0, 0, 0)


def views(spec: KernelSpec, inputs: Sequence[Tensor | None], packed: bool) -> list[tuple[int, ...]]:
    """Pointer and element strides over batch, time and channel of each input in the cell's order."""
    rest = list(inputs)
    whole = rest.pop(0) if packed else None
    place = 0
    result: list[tuple[int, ...]] = []
    for described in spec.inputs:
        if packed and not described.shared:
            result.append(_view(None if whole is None else whole.select(2, place)))
            place += 1
        else:
            result.append(_view(rest.pop(0)))
    return result


def _view(tensor: Tensor | None) -> tuple[int, ...]:
    if tensor is None:
        return NO_VIEW
    strides = tensor.stride()
    return (tensor.data_ptr(), *strides) if len(strides) == 3 else (tensor.data_ptr(), *strides, 0)


def _head(p: Plan, batch: int, steps: int, groups: int) -> list[int]:
    return [batch, steps, groups, p.rows, p.columns, p.every, p.threads, build.thread_pool()]


def _pointers(tensors: Sequence[Tensor]) -> list[int]:
    return [*(t.data_ptr() for t in tensors), 0]


def _pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _flat(groups: Sequence[tuple[int, ...]], spare: bool = True) -> list[int]:
    return [v for group in (*groups, *([NO_VIEW] if spare else [])) for v in group]


def _run(function: Function, arguments: list[int]) -> None:
    packed = array("q", arguments)
    if function(packed.buffer_info()[0]):
        raise MemoryError("a kernel could not allocate its scratch memory")


def forward(
    kernel: Kernel,
    inputs: Sequence[Tensor],
    packed: bool,
    params: Sequence[Tensor],
    h0: Tensor | None,
    y: Sequence[Tensor],
    h_last: Tensor,
    saved: Tensor | None,
) -> None:
    """Run the forward kernel into `y`, `h_last` and `saved` (states every few steps, or None)."""
    spec = kernel.spec
    batch, steps, channels = y[0].shape
    p = kernel.plan(batch, channels, y[0].dtype)
    arguments = _head(p, batch, steps, channels // spec.group)
    arguments += _flat(views(spec, inputs, packed)) + _pointers(params) + [_pointer(h0)]
    arguments += _flat([_view(t) for t in y]) + [h_last.data_ptr(), _pointer(saved)]
    arguments += _no_backward(spec) + [0, 0, 0]
    _run(kernel.function("forward", y[0].dtype), arguments)


def _no_forward(spec: KernelSpec) -> list[int]:
    return [*NO_VIEW] * (len(spec.outputs) + 1) + [0]


def _no_backward(spec: KernelSpec) -> list[int]:
    views_ = [*NO_VIEW] * (len(spec.outputs) + 1 + len(spec.inputs) + 1)
    return [*views_, 0, *([0] * (len(spec.params) + 1)), 0]


def jacobian(
    kernel: Kernel, inputs: Sequence[Tensor], params: Sequence[Tensor], h0: Tensor | None
) -> Tensor:
    """d h_t / d h_(t-1) along the sequence: [B, T, N / group, D, D], D = group * states.

    Rows and columns run over the states in declared order, and within each over the group.
    """
    spec = kernel.spec
    shapes = shapes_of(spec, inputs, params)
    batch, steps, channels = shapes.y
    groups, size = channels // spec.group, spec.group * len(spec.states)
    dtype = inputs[0].dtype
    result = torch.empty(steps, batch, groups, size, size, dtype=COMPUTE[dtype])
    if result.numel():
        p = kernel.plan(batch, channels, dtype)
        arguments = _head(p, batch, steps, groups)
        arguments += _flat(views(spec, inputs, False)) + _pointers(params) + [_pointer(h0)]
        arguments += _no_forward(spec) + [0] + _no_backward(spec) + [result.data_ptr(), 0, 0]
        _run(kernel.function("jacobian", dtype), arguments)
    return result.transpose(0, 1)


def backward(
    kernel: Kernel,
    inputs: Sequence[Tensor],
    packed: bool,
    params: Sequence[Tensor],
    saved: Tensor,
    dy: Sequence[Tensor | None],
    dh_last: Tensor | None,
    dx: Sequence[Tensor | None],
    dparams: Sequence[Tensor],
    dh0: Tensor,
) -> None:
    """Run the backward kernel into `dx`, `dparams` and `dh0`."""
    spec = kernel.spec
    batch, steps = inputs[0].shape[:2]
    groups = dh0.shape[-1] // spec.group
    dtype = inputs[0].dtype
    p = kernel.plan(batch, dh0.shape[-1], dtype)
    sums = torch.empty(batch * spec.param_slots * groups, dtype=torch.float64)
    lanes = LANE_BYTES // COMPUTE[dtype].itemsize
    blocks = -(-groups // lanes) if spec.shared_inputs else 0
    shared = torch.empty(blocks * batch * steps * spec.shared_inputs, dtype=COMPUTE[dtype])
    arguments = _head(p, batch, steps, groups)
    arguments += _flat(views(spec, inputs, packed)) + _pointers(params) + [0]
    arguments += _no_forward(spec) + [saved.data_ptr()]
    arguments += _flat([_view(t) for t in dy]) + [_pointer(dh_last)]
    arguments += _flat(views(spec, dx, packed)) + _pointers(dparams) + [dh0.data_ptr()]
    arguments += [0, sums.data_ptr(), shared.data_ptr()]
    _run(kernel.function("backward", dtype), arguments)
