"""Launch: tensors and a plan -> one call of a built kernel."""

from __future__ import annotations

import ctypes
import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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
    def fields(self) -> tuple[tuple[str, int], ...]:
        """The members of the struct Args in templates/cpp/driver.h after its head, in words.

        Arrays there have one element more than the cell needs, as C++ has no empty ones.
        """
        spec = self.spec
        x, y, params = 4 * (len(spec.inputs) + 1), 4 * (len(spec.outputs) + 1), len(spec.params) + 1
        return (
            *(("x", x), ("params", params), ("h0", 1)),
            *(("y", y), ("h_last", 1), ("saved", 1)),
            *(("dy", y), ("dh_last", 1), ("dx", x), ("dparams", params), ("dh0", 1)),
            *(("jacobians", 1), ("param_sums", 1), ("shared_sums", 1)),
        )

    def plan(self, shape: tuple[int, int, int], dtype: torch.dtype, solver: str = "auto") -> Plan:
        """How a call of shape [batch, steps, channels] cuts its work on this machine."""
        call = (shape, COMPUTE[dtype].itemsize, torch.get_num_threads(), solver)
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

    `saved` holds the states that the backward starts from, [segments, states, B, N], flat: a
    dimension of its own for the segments would make torch.compile tell T <= 16 from the rest.
    """

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
        saved=(segments * states * batch * channels,),
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


def _call(
    kernel: Kernel,
    part: str,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    **given: Sequence[Any] | Tensor | None,
) -> None:
    """Call one function of the kernel; a member of Args that is not given is null.

    Args:
        shape: batch, steps, channels.
        given: tensors by member: one, or a list of tensors (params) or of views (x, y, ...).
    """
    batch, steps, channels = shape
    p = kernel.plan(shape, dtype)
    words = [batch, steps, channels // kernel.spec.group, p.rows, p.columns, p.every, p.threads]
    words.append(build.thread_pool())
    for member, size in kernel.fields:
        listed = given.get(member)
        values = _words(listed if isinstance(listed, (list, tuple)) else [listed])
        words += values + [0] * (size - len(values))
    packed = array("q", words)
    if kernel.function(part, dtype)(packed.buffer_info()[0]):
        raise MemoryError("a kernel could not allocate its scratch memory")


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
    batch, steps, channels = y[0].shape
    _call(
        kernel,
        "forward",
        y[0].dtype,
        (batch, steps, channels),
        x=_input_views(kernel.spec, inputs, packed),
        params=params,
        h0=h0,
        y=_views(y),
        h_last=h_last,
        saved=saved,
    )


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
    """Run the backward kernel into `dx` (None: not wanted), `dparams` and `dh0`."""
    spec, dtype = kernel.spec, inputs[0].dtype
    batch, steps = inputs[0].shape[:2]
    channels = dh0.shape[-1]
    groups = channels // spec.group
    blocks = -(-groups // (LANE_BYTES // COMPUTE[dtype].itemsize))
    _call(
        kernel,
        "backward",
        dtype,
        (batch, steps, channels),
        x=_input_views(spec, inputs, packed),
        params=params,
        saved=saved,
        dy=_views(dy),
        dh_last=dh_last,
        dx=_input_views(spec, dx, packed),
        dparams=dparams,
        dh0=dh0,
        param_sums=saved.new_empty(batch * spec.param_slots * groups, dtype=torch.float64),
        shared_sums=saved.new_empty(blocks * batch * steps * spec.shared_inputs),
    )


def jacobian(
    kernel: Kernel, inputs: Sequence[Tensor], params: Sequence[Tensor], h0: Tensor | None
) -> Tensor:
    """d h_t / d h_(t-1) along the sequence: [B, T, N / group, D, D], D = group * states.

    Rows and columns run over the states in declared order, and within each over the group.
    """
    spec, dtype = kernel.spec, inputs[0].dtype
    batch, steps, channels = shapes_of(spec, inputs, params).y
    groups, size = channels // spec.group, spec.group * len(spec.states)
    result = inputs[0].new_empty(steps, batch, groups, size, size, dtype=COMPUTE[dtype])
    if result.numel():
        _call(
            kernel,
            "jacobian",
            dtype,
            (batch, steps, channels),
            x=_views(inputs),
            params=params,
            h0=h0,
            jacobians=result,
        )
    return result.transpose(0, 1)
