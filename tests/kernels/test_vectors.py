"""Vectors and delays: their kernels and layers against plain loops of PyTorch, written by hand."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rnncc
from rnncc import Cell, Input, Param, State, cell, dot, sigmoid, tanh
from rnncc.codegen.module import class_name
from rnncc.errors import ArgumentError
from rnncc.export.torch_module import module_source
from tests.support.emulated import emulated

W = np.array([[0.5, 0.25, 0.0], [0.1, -0.3, 1.0], [0.0, 0.2, 0.4]])
B, T, N = 2, 9, 3
DTYPES = (torch.float64, torch.float32)
TARGETS = {"cpp": nullcontext, "emulated CUDA": emulated}


@cell
def delayed(x: State(delay="tau", init=0.9), u: Input, a: Param, tau=3):
    past = x.ago(tau)
    return x + 0.1 * (0.2 * past / (1 + past**2) - a * x) + u


@cell
def mixing(h: State(size=3), c: State, e: Input(size=3), w: Param(size=3), g: Input):
    y = tanh(W @ h + w * e)
    return {
        "h": 0.5 * h + (1 - c) * y,
        "c": sigmoid(g + sum(y)),
        "y": y * c,
        "s": dot(w, h),
    }


@cell
def square(h: State(size=(2, 2), init=0.5), x: Input(size=2), A: Param(size=(2, 2))):
    return A @ h + [[x[0], x[1]], [x[1], x[0]]]


def delayed_loop(u: Tensor, a: Tensor, h0: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    line, ys = list(h0.unbind(-1)), []
    for now in u.unbind(1):
        x, past = line[0], line[3]
        line = [x + 0.1 * (0.2 * past / (1 + past**2) - a * x) + now, *line[:3]]
        ys.append(line[0])
    return [torch.stack(ys, 1)], [torch.stack(line, -1)]


def mixing_loop(
    e: Tensor, w: Tensor, g: Tensor, h: Tensor, c: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    matrix, ys, ss = torch.tensor(W, dtype=e.dtype), [], []
    for now, gate in zip(e.unbind(1), g.unbind(1), strict=True):
        y = torch.tanh(h @ matrix.T + w * now)
        ys.append(y * c.unsqueeze(-1))
        ss.append((w * h).sum(-1))
        h, c = 0.5 * h + (1 - c).unsqueeze(-1) * y, torch.sigmoid(gate + y.sum(-1))
    return [torch.stack(ys, 1), torch.stack(ss, 1)], [h, c]


def square_loop(x: Tensor, a: Tensor, h: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    ys = []
    for now in x.unbind(1):
        h = a @ h + torch.stack([now, now.flip(-1)], -2)
        ys.append(h)
    return [torch.stack(ys, 1)], [h]


# the loop, the shapes of inputs and params, those of the states
Case = tuple[Cell, Callable[..., Any], list[tuple[int, ...]], list[tuple[int, ...]]]
CASES: dict[str, Case] = {
    "delayed": (delayed, delayed_loop, [(B, T, N), (N,)], [(B, N, 4)]),
    "mixing": (mixing, mixing_loop, [(B, T, N, 3), (N, 3), (B, T, N)], [(B, N, 3), (B, N)]),
    "square": (square, square_loop, [(B, T, N, 2), (N, 2, 2)], [(B, N, 2, 2)]),
}
LONG = [("square", "emulated CUDA")]
each_case = pytest.mark.parametrize("name", CASES)


@functools.cache
def compiled(name: str) -> rnncc.CompiledCell:
    return rnncc.compile(CASES[name][0])


def several(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def leaves(name: str, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    _, _, arguments, states = CASES[name]
    return [
        (0.5 * torch.randn(shape, generator=generator, dtype=dtype)).requires_grad_()
        for shape in (*arguments, *states)
    ]


def gradients(results: Sequence[Tensor], of: Sequence[Tensor]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(4)
    up = [torch.randn(v.shape, generator=generator, dtype=v.dtype) for v in results]
    return torch.autograd.grad(list(results), list(of), up)


def assert_alike(got: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    limits = {"rtol": 1e-9, "atol": 1e-10}
    if expected[0].dtype == torch.float32:
        limits = {"rtol": 1e-4, "atol": 1e-5}
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **limits)


BUILDS = [  # those of the emulation take the longest
    pytest.param(
        *build,
        id="-".join(map(str, build)),
        marks=pytest.mark.slow if build[::2] in LONG else (),
    )
    for build in itertools.product(CASES, DTYPES, TARGETS)
]


@pytest.mark.parametrize(("name", "dtype", "target"), BUILDS)
def test_outputs_states_and_gradients_are_the_loops(
    name: str, dtype: torch.dtype, target: str
) -> None:
    _, loop, arguments, states = CASES[name]
    values = leaves(name, dtype)
    h0 = values[len(arguments) :]
    with TARGETS[target]():
        y, h = compiled(name)(
            *values[: len(arguments)],
            h0=h0[0] if len(states) == 1 else tuple(h0),
            return_state=True,
        )
        results = [*several(y), *several(h)]
        found = gradients(results, values)
    ys, hs = loop(*values)
    assert_alike(results, [*ys, *hs])
    assert_alike(found, gradients([*ys, *hs], values))


SOLVERS: dict[str, dict[str, int]] = {
    "sequential": {},
    "segmented": {},
    "newton": {"iterations": T},
}


@pytest.mark.parametrize("solver", SOLVERS)
@each_case
def test_every_solver_gives_the_loops_outputs(name: str, solver: str) -> None:
    values = [v.detach() for v in leaves(name, torch.float64)]
    count = len(CASES[name][2])
    h0 = tuple(values[count:])
    start, options = h0 if len(h0) > 1 else h0[0], SOLVERS[solver]
    y = compiled(name)(*values[:count], h0=start, solver=solver, **options)
    assert_alike(several(y), CASES[name][1](*values)[0])


def test_without_h0_the_line_and_all_elements_begin_at_the_init() -> None:
    u, a, _ = (v.detach() for v in leaves("delayed", torch.float64))
    line = torch.full((B, N, 4), 0.9, dtype=torch.float64)
    assert_alike([compiled("delayed")(u, a)], delayed_loop(u, a, line)[0])
    x, m, _ = (v.detach() for v in leaves("square", torch.float64))
    h0 = torch.full((B, N, 2, 2), 0.5, dtype=torch.float64)
    assert_alike([compiled("square")(x, m)], square_loop(x, m, h0)[0])


def test_a_reset_brings_back_the_whole_line() -> None:
    u, a, h0 = (v.detach() for v in leaves("delayed", torch.float64))
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[:, 5] = True
    y = compiled("delayed")(u, a, h0=h0, reset=reset)
    assert_alike([y[:, 5:]], delayed_loop(u[:, 5:], a, h0)[0])


# --- layers ----------------------------------------------------------------------------------


def layers() -> Iterator[tuple[str, torch.nn.Module]]:
    for name in ("delayed", "mixing"):
        torch.manual_seed(0)
        yield name, compiled(name).layer(4, N, dtype=torch.float64)


def test_a_layer_has_one_parameter_for_a_vector_and_its_rows_for_each_element() -> None:
    layer = compiled("mixing").layer(4, N)
    assert {k: tuple(p.shape) for k, p in layer.named_parameters()} == {
        "w": (N, 3),
        "projection.weight": (4 * N, 4),
        "projection.bias": (4 * N,),
    }


def test_steps_pieces_lengths_and_packing_of_a_layer_agree_with_one_call() -> None:
    x = torch.randn(B, T, 4, dtype=torch.float64)
    for _, layer in layers():
        y, last = layer(x)
        begun, state = layer(x[:, :4])
        rest, state = layer(x[:, 4:], state)
        pieces = [torch.cat(p, 1) for p in zip(several(begun), several(rest), strict=True)]
        assert_alike([*pieces, *several(state)], [*several(y), *several(last)])
        state = None
        for now in x.unbind(1):
            row, state = layer.step(now, state)
        assert_alike(
            [*several(row), *several(state)], [*(v[:, -1] for v in several(y)), *several(last)]
        )
        _, cut = layer(x, lengths=[4, T])
        assert_alike([v[:1] for v in several(cut)], several(layer(x[:1, :4])[1]))
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            x, [4, T], batch_first=True, enforce_sorted=False
        )
        assert_alike(several(layer(packed)[1]), several(cut))
        _, along, last = layer(x, return_states=True)
        assert_alike([v[:, -1] for v in several(along)], several(last))


def test_time_first_and_both_directions_have_the_vectors_last() -> None:
    layer = compiled("mixing").layer(4, N, bidirectional=True, batch_first=False)
    (y, s), (h, c) = layer(torch.randn(T, B, 4))
    assert (y.shape, s.shape) == ((T, B, 2 * N, 3), (T, B, 2 * N))
    assert (h.shape, c.shape) == ((2, B, N, 3), (2, B, N))


def test_a_layer_without_a_projection_takes_vectors_as_they_are() -> None:
    e, w, g, h, c = leaves("mixing", torch.float64)
    layer = compiled("mixing").layer(N, projection=None, dtype=torch.float64)
    layer.load_state_dict({**layer.state_dict(), "w": w.detach()})
    y, last = layer(e, g, (h, c))
    ys, hs = mixing_loop(e, w, g, h, c)
    assert_alike([*y, *last], [*ys, *hs])
    layer.step(e[:, 0], g=g[:, 0], state=last)


def test_the_plain_module_is_the_layer() -> None:
    x = torch.randn(B, T, 4, dtype=torch.float64)
    for name, layer in layers():
        names: dict[str, Any] = {}
        exec(module_source(compiled(name).stages.cell, compiled(name).spec), names)
        plain = names[class_name(name)](4, N).double()
        plain.load_state_dict(dict(layer.named_parameters()))
        _, state = layer(x)
        for given in ((x,), (x, state)):
            y, h = layer(*given)
            y2, h2 = plain(*given)
            assert_alike([*several(y2), *several(h2)], [*several(y), *several(h)])


def test_a_state_without_its_past_is_refused_with_one_that_has_it() -> None:
    u, a, h0 = (v.detach() for v in leaves("delayed", torch.float64))
    message = (
        r"h0: got float64 \[2, 3\] on cpu, expected \[2, 3, 4\].\nFix: the values of 0 to 3 steps "
        r"ago, in the last dimension; all alike: h0.unsqueeze\(-1\).expand\(2, 3, 4\)"
    )
    with pytest.raises(ArgumentError, match=message):
        compiled("delayed")(u, a, h0=h0[..., 0])
    line = h0[..., 0].unsqueeze(-1).expand(2, 3, 4)
    assert_alike([compiled("delayed")(u, a, h0=line)], delayed_loop(u, a, line)[0])


def test_a_tensor_without_the_vectors_dimension_is_refused() -> None:
    e, w, g, h, c = leaves("mixing", torch.float64)
    with pytest.raises(ArgumentError, match=r"e: got float64 \[2, 9, 3, 2\].*expected 3 values"):
        compiled("mixing")(e[..., :2], w, g)
    with pytest.raises(ArgumentError, match=r"h0 \(h\): got .* expected \[2, 3, 3\]"):
        compiled("mixing")(e, w, g, h0=(h[..., 0], c))
    message = (
        r"w: got float64 \[3\] on cpu, expected \[N, 3\], or \[1, 3\] if all channels share it"
    )
    with pytest.raises(ArgumentError, match=message + r".\nFix: w.expand\(N, 3\)"):
        compiled("mixing")(e, w[0], g)
    with pytest.raises(
        ArgumentError, match=r"w\[0\]: got float64 \[2\] on cpu, expected \[3\]: the in"
    ):
        compiled("mixing")(e, w[:2], g)
    square = compiled("square").layer(N, projection=None, dtype=torch.float64)
    with pytest.raises(ArgumentError, match=r"x\[0\]: got float64 \[2, 9, 2\] on cpu, expected"):
        square(e[:, :, :2, :2])
    with pytest.raises(ArgumentError, match=r"w: got [^\n]*\nFix: w of \[N, 3\]"):
        compiled("mixing")(e, w[None], g)
