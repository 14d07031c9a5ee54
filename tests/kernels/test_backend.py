"""Backends: all follow one protocol, another can be added, and a call takes few frames."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

import rnncc
from rnncc.errors import ArgumentError
from rnncc.ir.choices import Choices
from rnncc.planner import cpu as planner
from rnncc.planner.plan import Plan, Shape
from rnncc.runtime import backend as backends
from rnncc.runtime.backend import Backend, backend_of, registered
from rnncc.runtime.call import Call
from rnncc.runtime.cpu.backend import CpuBackend
from rnncc.runtime.cuda.backend import CudaBackend
from rnncc.runtime.kernel import Kernel
from tests.support.emulated import Emulation, emulated
from tests.support.runs import compiled

CPU = torch.device("cpu")
METHODS = [name for name in vars(Backend) if inspect.isfunction(vars(Backend)[name])]
METHODS = [name for name in METHODS if not name.startswith("_")]
MOST_FRAMES = 45


# --- the protocol ----------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", [CpuBackend, CudaBackend, Emulation])
def test_every_backend_has_the_methods_of_the_protocol(implementation: type) -> None:
    assert {"plan", "steps_saved", "forward", "backward", "jacobian", "warmup", "empty"} == {
        *METHODS
    }
    assert isinstance(implementation.host_reads, bool)  # type: ignore[attr-defined]
    for name in METHODS:
        wanted = [p for p in inspect.signature(getattr(Backend, name)).parameters if p != "self"]
        function = getattr(implementation, name)
        assert [p for p in inspect.signature(function).parameters if p != "self"] == wanted


def test_tensors_on_a_gpu_go_to_the_backend_for_gpus() -> None:
    assert isinstance(backend_of(CPU), CpuBackend)
    assert type(backend_of(torch.device("cuda", 1))) is CudaBackend


# --- another one -----------------------------------------------------------------------------


class Fake:
    """Fills outputs with 3 and gradients with 4, and records its arguments."""

    host_reads = True
    steps_saved = staticmethod(planner.steps_saved)

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.warm: list[torch.dtype] = []

    def plan(
        self,
        kernel: Kernel,
        shape: Shape,
        dtype: torch.dtype,
        choices: Choices,
        total: int,
        device: torch.device,
    ) -> Plan:
        return planner.plan(kernel.spec, shape, 4, 1, choices, total=total)

    def forward(
        self,
        call: Call,
        y: Sequence[Tensor],
        z: Sequence[Tensor],
        h_last: Tensor,
        saved: Tensor | None,
        status: Tensor,
    ) -> None:
        self.calls.append(call)
        for tensor in (*y, *z, h_last, status):
            tensor.fill_(3)

    def backward(self, call: Call, *gradients: Any) -> None:
        *_, dx, dparams, dh0 = gradients
        for tensor in (*dx, *dparams, dh0):
            tensor.fill_(4)

    def jacobian(self, call: Call) -> Tensor:
        return torch.full(call.jacobian_shape, 5.0).transpose(0, 1)

    def empty(self, like: Tensor, shape: Sequence[Any], dtype: torch.dtype | None = None) -> Tensor:
        return like.new_empty(tuple(shape), dtype=dtype)

    def warmup(self, kernel: Kernel, dtype: torch.dtype, device: torch.device) -> None:
        self.warm.append(dtype)


def test_another_backend_runs_all_that_a_cell_can_do() -> None:
    layer, x, fake = compiled("para_gru").layer(3, 4), torch.rand(2, 5, 3), Fake()
    with registered("cpu", fake):
        y, h = layer(x)
        y.sum().backward()
        layer.warmup(torch.float64)
        gates, params = [torch.rand(2, 5, 4)] * 3, [torch.rand(4)] * 3
        J = compiled("para_gru").jacobians(*gates, *params)
    assert torch.equal(y, torch.full((2, 5, 4), 3.0))
    assert torch.equal(h, torch.full((2, 4), 3.0))
    assert torch.equal(layer.az.grad, torch.full((4,), 4.0))
    assert torch.equal(J, torch.full((2, 5, 4, 1, 1), 5.0))
    assert layer.last_solve.solver == "newton"  # the 3 that it wrote
    assert fake.warm == [torch.float64]
    (call,) = fake.calls
    assert (call.kernel.key, call.shape, call.choices) == (
        compiled("para_gru").kernel.key, (2, 5, 4), layer.choices
    )  # fmt: skip


def test_the_earlier_backend_is_back_afterwards_even_after_an_error() -> None:
    def fail() -> None:
        with emulated():
            assert isinstance(backend_of(CPU), Emulation)
            with registered("cpu", Fake()):
                assert isinstance(backend_of(CPU), Fake)
            assert isinstance(backend_of(CPU), Emulation)
            raise RuntimeError("inside")

    before = backend_of(CPU)
    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert backend_of(CPU) is before


def test_a_type_of_device_without_a_backend_of_its_own_can_be_given_one() -> None:
    with registered("xpu", Fake()):
        assert isinstance(backend_of(torch.device("xpu")), Fake)
    assert "xpu" not in backends._backends


def test_a_call_is_taken_on_every_type_of_device_that_has_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    c, elsewhere = compiled("elman"), torch.device("meta")
    x, a = torch.empty(2, 5, 4, device=elsewhere), torch.empty(4, device=elsewhere)
    with pytest.raises(ArgumentError, match="expected a tensor on cpu or cuda"):
        c(x, a)
    monkeypatch.setitem(backends.DEFAULTS, "meta", "its module")
    y, h = c(x, a, lengths=[5, 3], return_state=True)
    assert [(tuple(t.shape), t.device) for t in (y, h)] == [
        ((2, 5, 4), elsewhere), ((2, 4), elsewhere)
    ]  # fmt: skip
    with pytest.raises(ArgumentError, match="lengths: got 6, expected between 0 and 5"):
        c(x, a, lengths=[5, 6])  # before they go to the device


def test_tensors_without_data_have_the_shapes_of_those_on_the_cpu() -> None:
    c, meta = compiled("para_gru"), torch.device("meta")
    inputs, params = [torch.empty(2, 5, 4, device=meta)] * 3, [torch.empty(4, device=meta)] * 3
    given = (c.kernel.key, "solver=auto", inputs, False, params, None, None, None, None)
    results = torch.ops.rnncc.forward.default(*given, False, True)
    assert [tuple(r.shape) for r in results] == [(2, 5, 4), (1, 2, 4), (8,), (6,)]
    assert {r.device for r in results} == {meta}


# --- the way there ---------------------------------------------------------------------------


def test_a_small_layers_call_enters_few_frames_of_the_package() -> None:
    layer, x = compiled("para_gru").layer(64, 64), torch.randn(1, 1, 64)
    package, found = Path(rnncc.__file__).parent, []

    def note(frame: FrameType, event: str, _: Any) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and package in file.parents:
            found.append(f"{file.relative_to(package)}: {frame.f_code.co_name}")

    with torch.no_grad():
        layer(x)
        sys.setprofile(note)
        try:
            layer(x)
        finally:
            sys.setprofile(None)
    assert 10 < len(found) <= MOST_FRAMES, "\n".join(found)


def test_a_repeated_call_is_neither_replanned_nor_reparsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer, x = compiled("para_gru").layer(3, 4), torch.rand(1, 6, 3)
    layer(x)
    monkeypatch.setattr(planner, "plan", None)
    monkeypatch.setattr(Choices, "__post_init__", None)
    layer(x)
