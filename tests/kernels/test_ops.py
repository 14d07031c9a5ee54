"""The operators as PyTorch sees them: autograd, compile, func, autocast, layouts, threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.checkpoint import checkpoint

import rnncc.nn.ops  # defines the operators
from rnncc.ir.choices import Choices, write_choices
from rnncc.lang.loader import find
from rnncc.runtime.backend import registered
from rnncc.runtime.call import Call
from rnncc.runtime.cpu import build
from rnncc.runtime.cpu.backend import CpuBackend
from rnncc.runtime.prepared import Prepared
from tests.support.runs import (
    CELLS,
    assert_agree,
    by_kernel,
    by_oracle,
    compiled,
    fitting,
    is_spiking,
    listed,
    random_call,
    solve,
)
from tests.support.tolerances import assert_close

ROOT = Path(__file__).parents[2]
SMOOTH = [name for name in CELLS if not is_spiking(name)]
FEW = ["para_gru", "lstm", "crossed"]
GATES = ("xz", "xr", "xc")

Arguments = dict[str, Tensor]


def gru_arguments(
    shape: tuple[int, int, int] = (2, 9, 6), dtype: torch.dtype = torch.float64
) -> Arguments:
    return random_call("para_gru", shape, dtype).arguments


def gru(arguments: Arguments, **options: Any) -> Any:
    return compiled("para_gru")(**arguments, **options)


def learnable(arguments: Arguments) -> Arguments:
    return {name: t.detach().clone().requires_grad_() for name, t in arguments.items()}


def gradients(arguments: Arguments) -> Arguments:
    return {name: t.grad for name, t in arguments.items() if t.grad is not None}


def expected_gradients(arguments: Arguments, loss: Callable[[Tensor], Tensor]) -> Arguments:
    """Of a loss of para_gru's output, by plain eager calls with contiguous arguments."""
    leaves = learnable({name: t.contiguous() for name, t in arguments.items()})
    loss(gru(leaves)).backward()
    return gradients(leaves)


def assert_equal(a: Arguments, b: Arguments) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


# --- what torch.library and autograd check ---------------------------------------------------


SEGMENTED = Choices("segmented", segment=7, checkpoint=4, reverse=True)

# How inputs [2, 20, N] are solved, whether from a given start; starts, lengths, reset.
OPERATED: dict[str, tuple[Choices, bool, tuple[Tensor | None, Tensor | None, Tensor | None]]] = {
    "whole": (Choices(), False, (None, None, None)),
    "padded": (SEGMENTED, True, (None, torch.tensor([7, 20]), None)),
    "reset": (Choices(), True, (None, None, torch.rand(2, 20) < 0.2)),
    "joined": (SEGMENTED, False, (torch.tensor([0, 9, 9]), torch.tensor([9, 0, 11]), None)),
}


@pytest.mark.parametrize("kind", OPERATED)
@pytest.mark.parametrize("name", FEW)
def test_opcheck_accepts_both_operators(name: str, kind: str) -> None:
    # opcheck compares what two runs return; in `saved` there may be slots that no sequence takes
    class Clean(CpuBackend):
        empty = staticmethod(torch.Tensor.new_zeros)

    with registered("cpu", Clean()):
        opcheck(name, kind)


def opcheck(name: str, kind: str) -> None:
    choices, with_start, sequences = OPERATED[kind]
    cell, key = compiled(name).stages.cell, compiled(name).kernel.key
    joined, channels = sequences[0] is not None, fitting(name, 6)
    arguments = random_call(name, (1 if joined else 2, 20, channels), torch.float32).arguments
    inputs, params = ([arguments[a.name] for a in part] for part in (cell.inputs, cell.params))
    start = torch.rand(len(cell.states), 3 if joined else 2, channels) if with_start else None
    head = (key, write_choices(choices), inputs, False, params, start, *sequences)
    forward, backward = torch.ops.rnncc.forward.default, torch.ops.rnncc.backward.default
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    for states, save in ((True, True), (False, False)):
        torch.library.opcheck(forward, (*head, states, save), test_utils=checks)
        torch.library.opcheck(torch.ops.rnncc.solve.default, (*head, states), test_utils=checks)
    *rows, h, saved, _ = forward(*head, True, True)
    dy, dz = ([torch.ones_like(v) for v in part]
              for part in (rows[: len(cell.outputs)], rows[len(cell.outputs) :]))  # fmt: skip
    for upstream, wanted in (
        ((dy, dz, torch.ones_like(h)), True),
        (([None] * len(dy), [], None), False),
    ):
        given = (*head, saved, *upstream, [wanted] * len(inputs))
        torch.library.opcheck(backward, given, test_utils=checks)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradcheck_passes_with_initial_and_last_states(name: str) -> None:
    call = random_call(name, (2, 19, fitting(name, 2)), torch.float64)
    assert call.h0 is not None
    leaves = learnable(call.arguments)
    start = [h.clone().requires_grad_() for h in call.h0]

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(leaves, tensors, strict=False))
        y, h = solve(name, given, tensors[len(leaves) :])
        return (*y, *h)

    assert torch.autograd.gradcheck(function, (*leaves.values(), *start), fast_mode=True)


def test_the_whole_numerical_jacobian_agrees_for_one_cell() -> None:
    leaves = learnable(gru_arguments((1, 18, 2)))
    h0 = torch.rand(1, 2, dtype=torch.float64, requires_grad=True)

    def function(h0: Tensor, *tensors: Tensor) -> Any:
        return gru(dict(zip(leaves, tensors, strict=True)), h0=h0, return_state=True)

    assert torch.autograd.gradcheck(function, (h0, *leaves.values()))


def test_a_first_derivative_with_create_graph_is_the_same() -> None:
    leaves = learnable(gru_arguments())
    wanted = list(leaves.values())
    plain = torch.autograd.grad(gru(leaves).sum(), wanted)
    kept = torch.autograd.grad(gru(leaves).sum(), wanted, create_graph=True)
    for a, b in zip(plain, kept, strict=True):
        assert torch.equal(a, b)


def test_a_gradient_of_stride_0_is_read_right() -> None:
    arguments = gru_arguments()
    leaves = learnable(arguments)
    y = gru(leaves)
    y.sum().backward()
    ones = torch.ones_like(y)
    assert_equal(gradients(leaves), expected_gradients(arguments, lambda y: (y * ones).sum()))


@pytest.mark.parametrize("layout", ["transposed", "channel-strided", "sliced"])
def test_an_upstream_gradient_of_any_layout_is_read_right(layout: str) -> None:
    arguments = gru_arguments()
    g = torch.randn(2, 9, 6, dtype=torch.float64)
    laid = {
        "transposed": g.transpose(0, 1).contiguous().transpose(0, 1),
        "channel-strided": g.mT.contiguous().mT,
        "sliced": torch.stack([g, g], -1)[..., 1],
    }[layout]
    assert laid.stride() != g.stride()
    leaves = learnable(arguments)
    gru(leaves).backward(laid)
    assert_equal(gradients(leaves), expected_gradients(arguments, lambda y: (y * g).sum()))


@pytest.mark.parametrize("used", ["output", "state", "one of two states", "one of two outputs"])
def test_results_that_are_not_used_count_as_zero(used: str) -> None:
    name = "pair"
    call = random_call(name, (2, 21, 5), torch.float64)
    keep = {
        "output": (slice(None), slice(0)),
        "state": (slice(0), slice(None)),
        "one of two states": (slice(0), slice(1, 2)),
        "one of two outputs": (slice(1), slice(0)),
    }[used]
    assert call.h0 is not None
    leaves = learnable(call.arguments)
    y, h = solve(name, leaves, call.h0)
    kept = [*y[keep[0]], *h[keep[1]]]
    upstream = [*call.dy[keep[0]], *call.dh[keep[1]]]
    torch.autograd.backward(kept, upstream)
    for side, part in ((call.dy, keep[0]), (call.dh, keep[1])):
        chosen = {id(g) for g in side[part]}
        side[:] = [g if id(g) in chosen else torch.zeros_like(g) for g in side]
    expected = by_oracle(name, call).gradients
    for argument, leaf in leaves.items():
        assert leaf.grad is not None
        assert_close(leaf.grad, expected[argument], torch.float64, argument, gradient=True)


@pytest.mark.parametrize(
    "wanted", [{"xz"}, {"xr", "ar"}, {"az", "ar", "ac"}, {"h0"}, {"xc", "h0"}, {"ac"}]
)
def test_only_the_gradients_that_are_asked_for_arrive(wanted: set[str]) -> None:
    arguments = gru_arguments() | {"h0": torch.rand(2, 6, dtype=torch.float64)}
    everything = learnable(arguments)
    gru(everything).pow(2).sum().backward()
    some = {n: t.clone().requires_grad_(n in wanted) for n, t in arguments.items()}
    gru(some).pow(2).sum().backward()
    assert gradients(some).keys() == wanted
    assert_equal(gradients(some), {n: gradients(everything)[n] for n in wanted})


def test_a_shared_input_frozen_or_not_leaves_the_other_gradients_as_they_are() -> None:
    arguments = random_call("crossed", (3, 40, 6), torch.float64).arguments
    all_of_them, some = learnable(arguments), learnable(arguments)
    some["dt"].requires_grad_(False)
    for leaves in (all_of_them, some):
        compiled("crossed")(**leaves).pow(2).sum().backward()
    expected = gradients(all_of_them)
    assert expected.pop("dt").shape == (3, 40)
    assert_equal(gradients(some), expected)


def test_without_gradients_nothing_is_saved_and_nothing_tracked() -> None:
    leaves = learnable(gru_arguments())
    with torch.no_grad():
        assert gru(leaves).grad_fn is None
    with torch.inference_mode():
        y, h = gru(leaves, return_state=True)
        assert y.is_inference()
        assert h.is_inference()
    assert torch.equal(y.clone(), gru(leaves))


def test_results_share_memory_with_nothing() -> None:
    arguments = gru_arguments() | {"h0": torch.rand(2, 6, dtype=torch.float64)}
    leaves = learnable(arguments)
    y, h = gru(leaves, return_state=True)
    grads = torch.autograd.grad([y, h], list(leaves.values()), [y.detach(), h.detach()])
    tensors = [y, h, *leaves.values(), *grads]
    addresses = [t.untyped_storage().data_ptr() for t in tensors]
    assert len(set(addresses)) == len(tensors)


def test_an_output_changed_in_place_does_not_spoil_the_backward() -> None:
    arguments = gru_arguments()
    leaves = learnable(arguments)
    y = gru(leaves)
    y.mul_(2)
    y.sum().backward()
    assert_equal(gradients(leaves), expected_gradients(arguments, lambda y: (y * 2).sum()))


def test_an_input_changed_before_the_backward_is_noticed() -> None:
    leaves = learnable(gru_arguments())
    x = leaves["xz"] * 1
    y = gru(leaves | {"xz": x})
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# --- torch's transformations -----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # of torch's own making
def test_compile_with_full_graph_equals_eager(fresh_dynamo: None) -> None:
    fresh = rnncc.compile(find("para_gru"))  # its first call is the one that is traced

    def loss(arguments: Arguments) -> Tensor:
        y, h = fresh(**arguments, return_state=True)
        return (y.tanh() * 2).pow(2).sum() + h.sum()

    compiled_loss = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for shape in ((2, 9, 6), (2, 9, 6), (3, 17, 6), (1, 33, 10)):
        eager, traced = learnable(gru_arguments(shape)), learnable(gru_arguments(shape))
        a, b = loss(eager), compiled_loss(traced)
        a.backward()
        b.backward()
        assert_close(b, a, torch.float64, "loss")
        for name, gradient in gradients(eager).items():
            assert_close(traced[name].grad, gradient, torch.float64, name, gradient=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["padded", "joined"])
def test_compile_with_full_graph_takes_sequences_of_any_length(
    kind: str, fresh_dynamo: None
) -> None:
    c = compiled("lstm")

    def loss(arguments: Arguments, sequences: dict[str, Any]) -> Tensor:
        y, z, (cell, h) = c(
            **arguments, **sequences, reverse=True, return_state=True, return_states=True
        )
        return y.pow(2).sum() + z[0].sum() + (cell * h).sum()

    compiled_loss = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for steps, bounds in ((9, [4, 0, 9]), (17, [17, 1, 3]), (33, [30, 2, 1])):
        lengths = torch.tensor(bounds)
        sequences = {"lengths": lengths, "reset": torch.rand(3, steps) < 0.2}
        shape = (3, steps, 6)
        if kind == "joined":
            total = int(lengths.sum())
            joined = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
            sequences, shape = (
                {"cu_seqlens": joined, "reset": torch.rand(1, total) < 0.2},
                (1, total, 6),
            )
        call = random_call("lstm", shape, torch.float64)
        eager, traced = learnable(call.arguments), learnable(call.arguments)
        a, b = loss(eager, sequences), compiled_loss(traced, sequences)
        assert_close(b, a, torch.float64, "loss")
        a.backward()
        b.backward()
        assert_equal(gradients(eager), gradients(traced))


@pytest.mark.filterwarnings("ignore")
def test_a_layer_compiles_once_for_all_lengths(fresh_dynamo: None) -> None:
    layer = compiled("lstm").layer(3, 4)
    graphs = []

    def backend(module: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(module)
        return module

    traced = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    for batch, steps in ((2, 5), (3, 8), (4, 31), (5, 64)):
        x = torch.rand(batch, steps, 3)
        y, h = traced(x)
        expected, expected_h = layer(x)
        y.sum().backward()
        assert_close(y, expected, torch.float32, f"y at {steps}")
        assert_close(h[0], expected_h[0], torch.float32, f"c at {steps}")
    assert len(graphs) == 1


@pytest.mark.filterwarnings("ignore")
def test_the_default_backend_of_compile_trains_a_layer(fresh_dynamo: None) -> None:
    layer = compiled("para_gru").layer(3, 4).double()
    x = torch.rand(2, 9, 3, dtype=torch.float64)
    layer(x)[0].pow(2).sum().backward()
    eager = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    layer.zero_grad()
    torch.compile(layer, fullgraph=True)(x)[0].pow(2).sum().backward()
    for name, p in layer.named_parameters():
        assert p.grad is not None
        assert_close(p.grad, eager[name], torch.float64, name, gradient=True)


def test_func_grad_equals_backward() -> None:
    arguments = gru_arguments()
    expected = expected_gradients(arguments, lambda y: y.pow(2).sum())

    def loss(xz: Tensor, ac: Tensor) -> Tensor:
        return gru(arguments | {"xz": xz, "ac": ac}).pow(2).sum()

    dxz, dac = torch.func.grad(loss, argnums=(0, 1))(arguments["xz"], arguments["ac"])
    assert torch.equal(dxz, expected["xz"])
    assert torch.equal(dac, expected["ac"])


def test_functional_call_with_func_grad_gives_a_layers_gradients() -> None:
    layer = compiled("para_gru").layer(3, 4)
    x = torch.rand(2, 9, 3)
    parameters = dict(layer.named_parameters())

    def loss(parameters: Arguments) -> Tensor:
        y, _ = torch.func.functional_call(layer, parameters, (x,))
        return y.pow(2).sum()

    found = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    for name, p in parameters.items():
        assert p.grad is not None
        assert_close(found[name], p.grad, torch.float32, name, gradient=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore")
def test_a_layer_is_exported_with_any_batch_and_length(fresh_dynamo: None) -> None:
    layer = compiled("lstm").layer(3, 4)
    dims = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("steps")},)
    program = torch.export.export(layer, (torch.rand(2, 9, 3),), dynamic_shapes=dims)
    for batch, steps in ((3, 5), (2, 40), (5, 16)):
        x = torch.rand(batch, steps, 3)
        assert torch.equal(program.module()(x)[0], layer(x)[0])


def test_checkpointing_gives_the_same_gradients() -> None:
    arguments = gru_arguments()
    leaves = learnable(arguments)
    y = checkpoint(lambda *xs: gru(leaves | dict(zip(GATES, xs, strict=True))),
                   *(leaves[name] for name in GATES), use_reentrant=False)  # fmt: skip
    y.pow(2).sum().backward()
    assert_equal(gradients(leaves), expected_gradients(arguments, lambda y: y.pow(2).sum()))


def test_autocast_runs_a_layer_in_bfloat16_with_a_float32_state() -> None:
    layer = compiled("para_gru").layer(5, 6)
    x = torch.randn(2, 9, 5)
    exact, exact_h = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, h = layer(x)
        again, _ = layer(x, h)
    assert y.dtype == again.dtype == torch.bfloat16
    assert h.dtype == torch.float32
    assert_close(y, exact, torch.bfloat16, "y")
    assert_close(h, exact_h, torch.bfloat16, "h")
    y.float().pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())
    found = {n: p.grad.clone() for n, p in layer.named_parameters() if p.grad is not None}
    layer.zero_grad()
    exact.pow(2).sum().backward()
    for name, p in layer.named_parameters():
        assert p.grad is not None
        assert_close(found[name], p.grad, torch.bfloat16, name, gradient=True)


def test_autocast_promotes_inputs_of_two_dtypes() -> None:
    arguments = gru_arguments(dtype=torch.float32)
    mixed = arguments | {"xz": arguments["xz"].bfloat16()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = gru(mixed)
    assert y.dtype == torch.float32
    assert torch.equal(y, gru(arguments | {"xz": arguments["xz"].bfloat16().float()}))


# --- layouts ---------------------------------------------------------------------------------


@pytest.fixture
def addresses() -> Iterator[list[list[int]]]:
    """The data pointers of the inputs of every forward that is unlike those before."""
    seen: list[list[int]] = []

    class Recording(CpuBackend):
        def prepare_forward(self, call: Call, *results: Any) -> Prepared:
            seen.append([x.data_ptr() for x in call.inputs])
            return super().prepare_forward(call, *results)

    with registered("cpu", Recording()):
        yield seen


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values, or for expanded ones their first sequence or channel, in another layout."""
    return {
        "time first": lambda: x.transpose(0, 1).contiguous().transpose(0, 1),
        "channels not last": lambda: x.mT.contiguous().mT,
        "every second channel": lambda: torch.stack([x, -x], -1).flatten(-2)[..., ::2],
        "every third step": lambda: torch.stack([x, -x, x], 2).flatten(1, 2)[:, ::3],
        "part of a larger one": lambda: torch.nn.functional.pad(x, (3, 2, 1, 4))[:, 1:-4, 3:-2],
        "expanded batch": lambda: x[:1].expand_as(x),
        "expanded time": lambda: x[:, :1].expand_as(x),
        "expanded channels": lambda: x[..., :1].expand_as(x),
        "one value": lambda: x[0, 0, 0].expand_as(x),
        "of odd address": lambda: torch.cat([x.new_zeros(1), x.flatten()])[1:].view_as(x),
    }[layout]()


LAYOUTS = [
    *("time first", "channels not last", "every second channel", "every third step"),
    *("part of a larger one", "expanded batch", "expanded time", "expanded channels"),
    *("one value", "of odd address"),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inputs_of_any_layout_are_read_in_place(
    layout: str, dtype: torch.dtype, addresses: list[list[int]]
) -> None:
    for channels in (7, 32):
        arguments = gru_arguments((2, 20, channels), dtype)
        inputs = {name: laid_out(arguments[name], layout) for name in GATES}
        leaves = {name: x.requires_grad_() for name, x in inputs.items()}
        y = gru(arguments | leaves)
        assert addresses[-1] == [leaves[name].data_ptr() for name in GATES]
        dx = torch.autograd.grad(y.float().pow(2).sum(), list(leaves.values()))
        plain = {name: x.detach().contiguous().requires_grad_() for name, x in leaves.items()}
        expected = gru(arguments | plain)
        assert torch.equal(y, expected)
        wanted = torch.autograd.grad(expected.float().pow(2).sum(), list(plain.values()))
        for a, e in zip(dx, wanted, strict=True):
            assert torch.equal(a, e)


def test_the_parts_of_one_packed_projection_are_read_in_place(addresses: list[list[int]]) -> None:
    packed = torch.randn(2, 20, 3, 16)
    arguments = gru_arguments((2, 20, 16), torch.float32)
    parts = dict(zip(GATES, packed.unbind(2), strict=True))
    y = gru(arguments | parts)
    assert addresses[-1] == [packed[:, :, g].data_ptr() for g in range(3)]
    whole = {name: x.contiguous() for name, x in parts.items()}
    assert torch.equal(y, gru(arguments | whole))


def test_a_layer_hands_its_projection_over_whole(addresses: list[list[int]]) -> None:
    layer = compiled("para_gru").layer(5, 16)
    projected: list[Tensor] = []
    layer.projection.register_forward_hook(lambda *given: projected.append(given[-1]))
    layer(torch.rand(2, 20, 5))
    assert addresses == [[projected[0].data_ptr()]]


def test_params_and_states_of_any_layout_are_read_right() -> None:
    arguments = random_call("block_elman", (2, 20, 8), torch.float64).arguments
    h0 = torch.rand(8, 2, dtype=torch.float64).mT
    R = arguments["R"].mT.contiguous().mT
    assert not R.is_contiguous()
    c = compiled("block_elman")
    a = c(**arguments | {"R": R}, h0=h0, return_state=True)
    b = c(**arguments, h0=h0.contiguous(), return_state=True)
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])


def test_a_lazily_negated_view_is_read_with_its_sign() -> None:
    arguments = gru_arguments(dtype=torch.float32)
    negated = torch.complex(arguments["xz"], -arguments["xz"]).conj().imag
    assert negated.is_neg()
    assert torch.equal(gru(arguments | {"xz": negated}), gru(arguments))


def test_the_jacobians_of_a_lazily_negated_view_have_its_sign() -> None:
    arguments = gru_arguments(dtype=torch.float32)
    z = torch.complex(arguments["xz"], -arguments["xz"]).conj()
    assert z.imag.is_neg()
    found = compiled("para_gru").jacobians(**arguments | {"xz": z.imag})
    assert torch.equal(found, compiled("para_gru").jacobians(**arguments))


def test_the_jacobians_of_fake_tensors_are_fake_and_of_the_right_layout() -> None:
    for name in ("para_gru", "crossed"):
        arguments = random_call(name, (2, 9, 6), torch.bfloat16, start=False).arguments
        real = compiled(name).jacobians(**arguments)
        mode = FakeTensorMode()
        fakes = {n: mode.from_tensor(t) for n, t in arguments.items()}
        with mode:
            fake = compiled(name).jacobians(**fakes)
        assert isinstance(fake, FakeTensor)
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


@pytest.mark.parametrize("form", ["lengths", "cu_seqlens"])
def test_lengths_changed_after_the_forward_do_not_reach_the_backward(form: str) -> None:
    """NumPy writes to a tensor's memory without PyTorch noticing."""
    arguments = gru_arguments((2, 9, 6) if form == "lengths" else (1, 9, 6))
    given = numpy.array([9, 4] if form == "lengths" else [0, 4, 9])
    plain, changed = learnable(arguments), learnable(arguments)
    gru(plain, **{form: torch.from_numpy(given.copy())}).pow(2).sum().backward()
    y = gru(changed, **{form: torch.from_numpy(given)})
    given[:] = -(10**6)
    y.pow(2).sum().backward()
    assert_equal(gradients(changed), gradients(plain))


def test_more_leading_dimensions_and_none_give_the_same_rows() -> None:
    arguments = gru_arguments((6, 9, 5))
    params = {name: arguments[name] for name in ("az", "ar", "ac")}
    y, h = gru(arguments, return_state=True)
    folded = {name: arguments[name].unflatten(0, (2, 3)) for name in GATES}
    y3, h3 = gru(folded | params, return_state=True)
    assert torch.equal(y3, y.unflatten(0, (2, 3)))
    assert torch.equal(h3, h.unflatten(0, (2, 3)))
    y1, h1 = gru({name: arguments[name][4] for name in GATES} | params, return_state=True)
    assert torch.equal(y1, y[4])
    assert torch.equal(h1, h[4])


# --- threads and processes -------------------------------------------------------------------


def test_backward_from_another_thread_gives_the_same_gradients() -> None:
    arguments = gru_arguments((3, 100, 70), torch.float32)
    leaves = learnable(arguments)
    loss = gru(leaves).pow(2).sum()
    worker = threading.Thread(target=loss.backward)
    worker.start()
    worker.join()
    assert_equal(gradients(leaves), expected_gradients(arguments, lambda y: y.pow(2).sum()))


def test_many_threads_may_call_at_once(two_threads: None) -> None:
    arguments = gru_arguments((3, 200, 70), torch.float32)
    expected = gru(arguments)
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            if not torch.equal(gru(arguments), expected):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
        assert not worker.is_alive()
    assert wrong == []


@pytest.mark.parametrize("name", FEW)
def test_threads_of_our_own_give_the_bits_of_pytorchs_pool(
    name: str, monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    call = random_call(name, (3, 100, fitting(name, 70)), torch.float32)
    pooled = by_kernel(name, call)
    assert build.thread_pool() != 0, "PyTorch on Linux brings an OpenMP"
    monkeypatch.setattr(build, "thread_pool", lambda: 0)
    own = by_kernel(name, call)
    for a, b in zip((*pooled.y, *pooled.h), (*own.y, *own.h), strict=True):
        assert torch.equal(a, b)
    assert_equal(pooled.gradients, own.gradients)
    assert_agree(name, call, own, by_oracle(name, call), name)


class Sequences(torch.utils.data.Dataset[Tensor]):
    """Each item is the output of a kernel that runs in the worker."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        y: Tensor = gru(self.arguments)
        return y


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_data_loader_worker_runs_kernels(two_threads: None) -> None:
    arguments = gru_arguments((3, 200, 70), torch.float32)
    expected = gru(arguments)  # with threads, in the parent, before the fork
    loader = torch.utils.data.DataLoader(
        Sequences(arguments), batch_size=None, num_workers=1, multiprocessing_context="fork",
        timeout=60,
    )  # fmt: skip
    assert all(torch.equal(y, expected) for y in loader)


FORKED = """
import os, sys, time, torch
import {imported}
torch.set_num_threads(2)
torch.randn(2**20).exp()  # by the threads of PyTorch's pool, which a fork leaves behind
tensors = [torch.randn(3, 200, 40, requires_grad=True) for _ in range(3)]
tensors += [torch.rand(40, requires_grad=True) for _ in range(3)]
def both():
    import rnncc
    y = rnncc.compile("para_gru")(*tensors)
    return [y, *torch.autograd.grad(y.sum(), tensors)]
before = both() if {called} else []
child = os.fork()  # PyTorch's own operators would hang from 32768 values on
if not child:
    os._exit(0 if all(map(torch.equal, both(), before)) else 3)
for _ in range(600):
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        sys.exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.1)
os.kill(child, 9)
sys.exit("the child hangs")
"""


@pytest.mark.parametrize(
    ("imported", "called"), [("rnncc", False), ("rnncc", True), ("generated.elman", False)]
)
def test_a_forked_process_gives_the_same_bits_and_does_not_hang(
    imported: str, called: bool
) -> None:
    code = FORKED.format(imported=imported, called=called)
    command = [sys.executable, "-W", "ignore", "-c", code]
    child = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert child.returncode == 0, child.stderr


def test_a_default_device_elsewhere_does_not_move_the_scratch_memory() -> None:
    arguments = random_call("clocked", (2, 9, 6), torch.float32).arguments
    plain, moved = learnable(arguments), learnable(arguments)
    compiled("clocked")(**plain).sum().backward()
    with torch.device("meta"):
        compiled("clocked")(**moved).sum().backward()
    assert_equal(gradients(plain), gradients(moved))


def test_listed_results_of_every_cell_are_of_their_own() -> None:
    """No result of a call is a view into another's memory, but for the states of one call."""
    for name in ("pair", "slstm"):
        call = random_call(name, (2, 6, 4), torch.float32)
        y, h = compiled(name)(**call.arguments, return_state=True)
        outputs = {v.untyped_storage().data_ptr() for v in listed(y)}
        assert len(outputs) == len(listed(y))
        assert outputs.isdisjoint({v.untyped_storage().data_ptr() for v in listed(h)})
