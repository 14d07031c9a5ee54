"""Arguments that a call refuses, with the messages; odd shapes that have a natural result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import rnncc
from rnncc import ArgumentError, Input, Param, State, cell
from rnncc.nn.layer import CellLayer
from rnncc.runtime.kernel import Kernel, kernel_of
from tests.support.runs import CELLS, by_kernel, compiled, fitting, random_call, solve

B, T, N = 2, 5, 8


def inputs(*names: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {name: torch.randn(B, T, N, dtype=dtype) for name in names}


def gru(**changed: Any) -> Any:
    """para_gru on good arguments, but for those given; None leaves one out."""
    arguments: dict[str, Any] = inputs("xz", "xr", "xc")
    arguments |= {name: torch.rand(N) for name in ("az", "ar", "ac")}
    arguments |= changed
    return compiled("para_gru")(**{k: v for k, v in arguments.items() if v is not None})


def lstm(**changed: Any) -> Any:
    arguments: dict[str, Any] = inputs("xi", "xf", "xz", "xo")
    arguments |= {name: torch.rand(N) for name in ("ri", "rf", "rz", "ro")}
    return compiled("lstm")(**(arguments | changed))


def clocked(**changed: Any) -> Any:
    arguments: dict[str, Any] = {
        **inputs("x"),
        **{"dt": torch.randn(B, T), "a": torch.rand(N), "tau": torch.rand(1)},
    }
    return compiled("clocked")(**(arguments | changed))


def block(**changed: Any) -> Any:
    arguments: dict[str, Any] = inputs("x") | {"R": torch.rand(N // 4, 4, 4)}
    return compiled("block_elman")(**(arguments | changed))


SIGNATURE = "para_gru(xz, xr, xc, az, ar, ac)"
META = torch.device("meta")

REFUSED: dict[str, tuple[Any, str]] = {
    "an input missing": (lambda: gru(xr=None), f"xr: missing.\nFix: {SIGNATURE}"),
    "a param missing": (lambda: gru(ac=None), f"ac: missing.\nFix: {SIGNATURE}"),
    "an unknown argument": (
        lambda: gru(extra=torch.rand(N)),
        f"extra: not an argument of this cell.\nFix: {SIGNATURE}",
    ),
    "an argument given twice": (
        lambda: compiled("para_gru")(torch.rand(B, T, N), xz=torch.rand(B, T, N)),
        f"xz: given twice.\nFix: {SIGNATURE}",
    ),
    "too many arguments": (
        lambda: compiled("para_gru")(*[torch.rand(B, T, N)] * 7),
        f"{SIGNATURE}: got 7 positional arguments, expected 6.\n"
        "Fix: give inputs and params in this order; the state goes to h0=",
    ),
    "a list for a tensor": (
        lambda: gru(xz=[0.0]),
        "xz: got list, expected a torch.Tensor.\nFix: torch.as_tensor(xz)",
    ),
    "integers": (
        lambda: gru(xz=torch.ones(B, T, N, dtype=torch.int64)),
        "xz: got int64 [2, 5, 8] on cpu, expected float32, bfloat16, float16 or float64.\n"
        "Fix: xz.float()",
    ),
    "a sparse tensor": (
        lambda: gru(az=torch.eye(N)[0].to_sparse()),
        "az: got a sparse_coo tensor, expected a dense one.\nFix: az.to_dense()",
    ),
    "complex numbers": (
        lambda: gru(az=torch.rand(N, dtype=torch.complex64)),
        "az: got complex64 [8] on cpu, expected float32, bfloat16, float16 or float64.\n"
        "Fix: az.float()",
    ),
    "an input elsewhere": (
        lambda: gru(xc=torch.empty(B, T, N, device=META)),
        "xc: got float32 [2, 5, 8] on meta, expected a tensor on cpu or cuda.\nFix: xc.cpu()",
    ),
    "a param elsewhere": (
        lambda: gru(az=torch.empty(N, device=META)),
        "az: got float32 [8] on meta, expected a tensor on cpu or cuda.\nFix: az.cpu()",
    ),
    "inputs of two dtypes": (
        lambda: gru(xc=torch.rand(B, T, N, dtype=torch.float64)),
        "xc: got float64 [2, 5, 8] on cpu, expected float32, the dtype of xz.\n"
        "Fix: xc.to(torch.float32), or torch.autocast to promote",
    ),
    "a param of another precision": (
        lambda: gru(az=torch.rand(N, dtype=torch.float64)),
        "az: got float64 [8] on cpu, expected float32, to go with torch.float32 inputs.\n"
        "Fix: az.to(torch.float32)",
    ),
    "an input without time": (
        lambda: gru(xz=torch.rand(N)),
        "xz: got float32 [8] on cpu, expected [..., T, N].\nFix: give xz a time dimension",
    ),
    "a shared input without time": (
        lambda: clocked(dt=torch.tensor(0.1)),
        "dt: got float32 [] on cpu, expected [..., T].\nFix: give dt a time dimension",
    ),
    "inputs of different lengths": (
        lambda: gru(xc=torch.rand(B, T + 1, N)),
        "xc: got float32 [2, 6, 8] on cpu, expected [..., T, N] that broadcasts to [2, 5, 8], "
        "as the inputs before it.\nFix: make xc agree in every dimension, or 1 there",
    ),
    "inputs of different batches": (
        lambda: gru(xr=torch.rand(B + 1, T, N)),
        "xr: got float32 [3, 5, 8] on cpu, expected [..., T, N] that broadcasts to [2, 5, 8], "
        "as the inputs before it.\nFix: make xr agree in every dimension, or 1 there",
    ),
    "a shared input of another length": (
        lambda: clocked(dt=torch.rand(B, T - 1)),
        "dt: got float32 [2, 4] on cpu, expected [..., T] that broadcasts to [2, 5, 8], "
        "as the inputs before it.\nFix: make dt agree in every dimension, or 1 there",
    ),
    "a param of another length": (
        lambda: gru(ar=torch.rand(N + 1)),
        "ar: got float32 [9] on cpu, expected [8]: the inputs have 8 channels.\n"
        "Fix: give params and inputs the same number of channels",
    ),
    "params of different lengths where the inputs broadcast": (
        lambda: gru(
            **{n: torch.rand(B, T, 1) for n in ("xz", "xr", "xc")},
            **{"az": torch.rand(1), "ar": torch.rand(64), "ac": torch.rand(64)},
        ),
        "ar: got float32 [64] on cpu, expected [1]: az has 1 channels.\n"
        "Fix: give params and inputs the same number of channels",
    ),
    "a param of two dimensions": (
        lambda: gru(az=torch.rand(1, N)),
        "az: got float32 [1, 8] on cpu, expected [N].\nFix: one value per channel, see rnncc check",
    ),
    "a shared param of many values": (
        lambda: clocked(tau=torch.rand(N)),
        "tau: got float32 [8] on cpu, expected one value for all channels, [1].\n"
        "Fix: declare 'tau' as Param for one value per channel",
    ),
    "a matrix of another block": (
        lambda: block(R=torch.rand(4, 2, 2)),
        "R: got float32 [4, 2, 2] on cpu, expected [N / 4, 4, 4].\n"
        "Fix: one value per channel, see rnncc check",
    ),
    "too few matrices": (
        lambda: block(R=torch.rand(1, 4, 4)),
        "R: got float32 [1, 4, 4] on cpu, expected [2, 4, 4]: the inputs have 8 channels.\n"
        "Fix: give params and inputs the same number of channels",
    ),
    "channels that the groups don't divide": (
        lambda: compiled("crossed")(
            torch.rand(B, T, 1), *torch.rand(2, B, T), torch.rand(1, 2, 2), torch.rand(3)
        ),
        "a: got float32 [3] on cpu, expected [2]: R has 2 channels.\n"
        "Fix: give params and inputs the same number of channels",
    ),
    "a hidden size that the groups don't divide": (
        lambda: compiled("block_elman").layer(3, 10),
        "channels: got 10, expected a multiple of 4, the group that 'block_elman' mixes.\n"
        "Fix: hidden_size=12",
    ),
    "a hidden size of 0": (
        lambda: compiled("para_gru").layer(3, 0),
        "hidden_size: got 0, expected a positive int.\nFix: 64",
    ),
    "an input size that isn't an int": (
        lambda: compiled("para_gru").layer(3.0, 8),  # type: ignore[arg-type]
        "input_size: got 3.0, expected a positive int.\nFix: 64",
    ),
    "an unknown solver": (
        lambda: gru(solver="parallel"),
        "solver: got 'parallel', expected one of auto, sequential, segmented, newton.\n"
        "Fix: solver='auto'",
    ),
    "a state of another shape": (
        lambda: gru(h0=torch.zeros(B, N + 1)),
        "h0: got float32 [2, 9] on cpu, expected [2, 8].\nFix: one state per sequence",
    ),
    "a state without its batch": (
        lambda: gru(h0=torch.zeros(N)),
        "h0: got float32 [8] on cpu, expected [2, 8].\nFix: one for all: h0.expand(2, 8)",
    ),
    "a state of another precision": (
        lambda: gru(h0=torch.zeros(B, N, dtype=torch.float64)),
        "h0: got float64 [2, 8] on cpu, expected float32, as the state of torch.float32 inputs is."
        "\nFix: h0.to(torch.float32)",
    ),
    "a state elsewhere": (
        lambda: gru(h0=torch.zeros(B, N, device=META)),
        "h0: got float32 [2, 8] on meta, expected a tensor on cpu or cuda.\nFix: h0.cpu()",
    ),
    "a number as the state": (
        lambda: gru(h0=0.0),
        "h0: got float, expected a torch.Tensor.\nFix: torch.as_tensor(h0)",
    ),
    "two states for one": (
        lambda: gru(h0=(torch.zeros(B, N), torch.zeros(B, N))),
        "h0: got 2 tensors, expected one for each state: h.\n"
        "Fix: give the tuple that return_state=True returns",
    ),
    "one state for two": (
        lambda: lstm(h0=torch.zeros(B, N)),
        "h0: got 1 tensor, expected one for each state: c, h.\n"
        "Fix: give the tuple that return_state=True returns",
    ),
    "the second of two states": (
        lambda: lstm(h0=(torch.zeros(B, N), torch.zeros(N, B))),
        "h0 (h): got float32 [8, 2] on cpu, expected [2, 8].\nFix: one state per sequence",
    ),
    "x of another width": (
        lambda: compiled("para_gru").layer(3, N)(torch.rand(B, T, 4)),
        "x: got float32 [2, 5, 4] on cpu, expected [..., T, input_size] with input_size=3.\n"
        "Fix: input_size=4 where the layer is made",
    ),
    "x without time": (
        lambda: compiled("para_gru").layer(3, N)(torch.rand(3)),
        "x: got float32 [3] on cpu, expected [..., T, input_size] with input_size=3.\n"
        "Fix: batch first: [batch, time, features]",
    ),
    "x of another dtype than the layer": (
        lambda: compiled("para_gru").layer(3, N)(torch.rand(B, T, 3).double()),
        "x: got float64 [2, 5, 3] on cpu, expected float32, as the layer's parameters.\n"
        "Fix: x.to(torch.float32) or layer.to(torch.float64)",
    ),
    "x of integers": (
        lambda: compiled("para_gru").layer(3, N)(torch.ones(B, T, 3, dtype=torch.long)),
        "x: got int64 [2, 5, 3] on cpu, expected float32, bfloat16, float16 or float64.\n"
        "Fix: x.float()",
    ),
    "x elsewhere": (
        lambda: compiled("para_gru").layer(3, N)(torch.empty(B, T, 3, device=META)),
        "x: got float32 [2, 5, 3] on meta, expected a tensor on cpu or cuda.\nFix: x.cpu()",
    ),
    "a step of another width": (
        lambda: compiled("para_gru").layer(3, N).step(torch.rand(B, 4)),
        "x: got float32 [2, 4] on cpu, expected [..., input_size] with input_size=3.\n"
        "Fix: input_size=4 where the layer is made",
    ),
    "a shared input missing from a layer": (
        lambda: compiled("clocked").layer(3, N)(torch.rand(B, T, 3)),
        "dt: missing.\nFix: beside x, the layer of 'clocked' takes these inputs by name: dt",
    ),
    "a shared input that a layer doesn't know": (
        lambda: compiled("para_gru").layer(3, N)(torch.rand(B, T, 3), dt=torch.rand(B, T)),
        "dt: not an input that is given by name.\n"
        "Fix: beside x, the layer of 'para_gru' takes these inputs by name: none",
    ),
    "a shared input of another length in a layer": (
        lambda: compiled("clocked").layer(3, N)(torch.rand(B, T, 3), dt=torch.rand(B, T + 1)),
        "dt: got float32 [2, 6] on cpu, expected [2, 5].\nFix: one value per step",
    ),
    "a number as a shared input of a step": (
        lambda: compiled("clocked").layer(3, N).step(torch.rand(B, 3), dt=0.1),
        "dt: got float, expected a torch.Tensor.\nFix: torch.as_tensor(dt)",
    ),
    "a state of a layer of another shape": (
        lambda: compiled("para_gru").layer(3, N)(torch.rand(B, T, 3), torch.zeros(1, B, N)),
        "state: got float32 [1, 2, 8] on cpu, expected [2, 8].\nFix: state[0]",
    ),
    "a target that there is none of": (
        lambda: compiled("para_gru").source("fortran"),
        "target: got 'fortran', expected one of cpp, cuda.\nFix: source('cpp')",
    ),
    "a function that isn't a cell": (
        lambda: rnncc.compile(print),  # type: ignore[arg-type]
        "cell: got builtin_function_or_method, expected a function under @cell, or the name of a "
        "shipped cell or file.\nFix: put @cell (from rnncc import cell) above the function",
    ),
    "a kernel of another process": (
        lambda: kernel_of("gone-0123"),
        "the kernel 'gone-0123' is not loaded in this process.\n"
        "Fix: import the generated module of this cell (or rnncc.compile it) first",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_a_call_that_does_not_fit_is_refused_in_words(call: Any, message: str) -> None:
    with pytest.raises(ArgumentError) as refusal:
        call()
    assert str(refusal.value) == message


def test_an_argument_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="xr: missing"):
        gru(xr=None)


# --- natural results -------------------------------------------------------------------------


@pytest.mark.parametrize("name", CELLS)
def test_no_steps_give_an_empty_output_and_the_initial_state_as_the_last(name: str) -> None:
    call = random_call(name, (2, 0, fitting(name, 8)), torch.float32)
    got = by_kernel(name, call)
    assert call.h0 is not None
    assert all(y.shape == (2, 0, fitting(name, 8)) for y in got.y)
    for first, last, dh, state in zip(
        call.h0, got.h, call.dh, compiled(name).stages.cell.states, strict=True
    ):
        assert torch.equal(first, last)
        assert torch.equal(got.gradients[f"h0 ({state.name})"], dh)
    _, h = solve(name, call.arguments, None)
    for value, state in zip(h, compiled(name).stages.cell.states, strict=True):
        assert (value == torch.tensor(state.init)).all()


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 5, 0), (0, 0, 0), (0, 5, 0)])
@pytest.mark.parametrize("name", ["para_gru", "lstm", "block_elman", "clocked", "driven"])
def test_an_empty_batch_or_no_channels_give_empty_results_and_zero_gradients(
    name: str, shape: tuple[int, int, int]
) -> None:
    got = by_kernel(name, random_call(name, shape, torch.float32))
    assert all(y.shape == shape for y in got.y)
    assert all(h.shape == (shape[0], shape[2]) for h in got.h)
    assert all((g == 0).all() for n, g in got.gradients.items() if not n.startswith("h0"))


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (0, 0, 3), (0, 3), (3, 0, 4, 3)])
def test_a_layer_takes_an_empty_batch_and_no_steps(shape: tuple[int, ...]) -> None:
    layer = compiled("para_gru").layer(3, N)
    y, h = layer(torch.rand(shape))
    assert y.shape == (*shape[:-1], N)
    assert h.shape == (*shape[:-2], N)
    (y.sum() + h.sum()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


def test_inputs_broadcast_over_batch_time_and_channels() -> None:
    arguments = inputs("xz") | {"xr": torch.rand(T, N), "xc": torch.rand(1, 1, 1)}
    params = {name: torch.rand(N) for name in ("az", "ar", "ac")}
    whole = {name: x.expand(B, T, N).contiguous() for name, x in arguments.items()}
    c = compiled("para_gru")
    assert torch.equal(c(**arguments, **params), c(**whole, **params))


def test_inputs_of_one_channel_broadcast_to_the_params() -> None:
    narrow = {name: torch.rand(B, T, 1) for name in ("xz", "xr", "xc")}
    assert gru(**narrow).shape == (B, T, N)


def test_a_cell_of_shared_arguments_only_has_one_channel() -> None:
    @cell
    def lone(h: State, dt: Input(shared=True), rate: Param(shared=True)):  # type: ignore[valid-type]
        return rate * h + dt

    y = rnncc.compile(lone)(torch.ones(2, 3), torch.tensor([0.5]))
    assert torch.equal(y, torch.tensor([1.0, 1.5, 1.75]).expand(2, 3).unsqueeze(-1))


def test_a_param_may_be_called_kernel_or_step() -> None:
    @cell
    def named(h: State, x: Input, kernel: Param, step: Param):
        return kernel * h + step * x

    layer: CellLayer = rnncc.compile(named).layer(3, 4)
    assert {"kernel_", "step_"} < set(dict(layer.named_parameters()))
    assert isinstance(layer.kernel, Kernel)
    assert layer(torch.rand(1, 2, 3))[0].shape == (1, 2, 4)
    assert layer.step(torch.rand(1, 3))[0].shape == (1, 4)
