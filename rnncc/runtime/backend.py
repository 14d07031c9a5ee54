"""Backend: the protocol of objects that run kernels on one type of device, and their registry.

A backend is an object in a folder of its own, and one line in `DEFAULTS`, from which the operators
and the checks of arguments follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor

from rnncc.errors import ArgumentError
from rnncc.ir.choices import Choices
from rnncc.ir.spec import KernelSpec
from rnncc.planner.plan import Plan, Shape
from rnncc.runtime.call import Call
from rnncc.runtime.kernel import Kernel


class Backend(Protocol):
    """Plans calls and runs them.

    Attributes:
        host_reads: the host may look at what tensors hold without waiting for another device.
    """

    host_reads: bool

    def steps_saved(self, spec: KernelSpec, choices: Choices) -> int:
        """Steps between the saved states."""

    def plan(
        self,
        kernel: Kernel,
        shape: Shape,
        dtype: torch.dtype,
        choices: Choices,
        total: int,
        device: torch.device,
    ) -> Plan:
        """How a call cuts its work.

        Args:
            shape: sequences, steps of the longest (or a bound of it), channels.
            total: steps of all sequences.
        """

    def empty(self, like: Tensor, shape: Sequence[Any], dtype: torch.dtype | None = None) -> Tensor:
        """Memory for a result on the device of `like`, of its dtype unless another is given."""

    def forward(
        self,
        call: Call,
        y: Sequence[Tensor],
        z: Sequence[Tensor],
        h_last: Tensor,
        saved: Tensor | None,
        status: Tensor,
    ) -> None:
        """Solve the recurrence.

        Args:
            y, z: outputs, and the states after each step (or nothing), [B, T, N] each, to fill.
            h_last: [states, S, N], the states after the last step, to fill.
            saved: the states every few steps, to fill; or None.
            status: zeros, float64, to fill as the struct Status of ir/abi.py says.
        """

    def backward(
        self,
        call: Call,
        saved: Tensor,
        dy: Sequence[Tensor | None],
        dz: Sequence[Tensor | None],
        dh_last: Tensor | None,
        dx: Sequence[Tensor | None],
        dparams: Sequence[Tensor],
        dh0: Tensor,
    ) -> None:
        """From the gradients of y, z and h_last (None: zero), fill those of all arguments.

        Args:
            dx: None where it is not wanted.
        """

    def jacobian(self, call: Call) -> Tensor:
        """d h_t / d h_(t-1) along the sequence: [B, T, N / group, D, D], D = group * states.

        Rows and columns run over the states in declared order, and within each over the group.
        """

    def warmup(self, kernel: Kernel, dtype: torch.dtype, device: torch.device) -> None:
        """Build and load everything that a call may need, so that no later call waits."""


# By the type of a device: the module whose BACKEND runs there.
DEFAULTS = {"cpu": "rnncc.runtime.cpu.backend", "cuda": "rnncc.runtime.cuda.backend"}

CPU = torch.device("cpu")
_backends: dict[str, Backend] = {}


def backend_of(device: torch.device) -> Backend:
    """The backend for tensors on a device; the CPU's for those that have only shapes.

    Raises:
        ArgumentError: no kernels run there.
    """
    found = _backends.get(kind := device.type)
    if found is None:
        if kind == "meta":
            return backend_of(CPU)
        if kind not in DEFAULTS:
            raise ArgumentError(
                f"inputs: got tensors on {device}, expected {' or '.join(DEFAULTS)}.\nFix: .cpu()"
            )
        found = _backends[kind] = import_module(DEFAULTS[kind]).BACKEND
    return found


@contextmanager
def registered(device_type: str, backend: Backend) -> Iterator[None]:
    """Within it, a backend runs all calls on devices of a type."""
    before = _backends.get(device_type)
    _backends[device_type] = backend
    try:
        yield
    finally:
        if before is None:
            del _backends[device_type]
        else:
            _backends[device_type] = before
