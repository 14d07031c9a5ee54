"""Cells of 9 to 64 values in a group: by one pass, forward and backward, as the oracle has it."""

from __future__ import annotations

import itertools

import pytest
import torch

import rnncc
from rnncc import Input, Param, State, cell, tanh
from rnncc.errors import ArgumentError
from tests.support.many import MANY
from tests.support.runs import (
    assert_agree,
    by_kernel,
    by_oracle,
    compiled,
    fitting,
    random_call,
    solve,
)

KINDS = [
    {},
    {"lengths": [37, 0, 18], "reverse": True},
    {"reset": torch.arange(3 * 37).reshape(3, 37) % 11 == 3},
]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
TARGETS = ["cpp", "emulated"]
DAILY = [  # each takes a build; those of 64 values and of a full block of 16 take the longest
    *itertools.product(["moog_saved"], DTYPES[:2], TARGETS),
    ("moog_saved", torch.bfloat16, "cpp"),
    *itertools.product(["delayed"], [torch.float32], TARGETS),
    ("head", torch.float32, "emulated"),
    ("values_64", torch.float32, "cpp"),
]
BUILDS = [
    pytest.param(
        *build,
        id="-".join(map(str, build)),
        marks=() if build in DAILY else pytest.mark.slow,
    )
    for build in itertools.product(MANY, DTYPES, TARGETS)
]


@pytest.mark.parametrize(("name", "dtype", "target"), BUILDS, indirect=["target"])
def test_one_pass_computes_what_the_oracle_does(name: str, dtype: torch.dtype, target: str) -> None:
    for kind in KINDS if dtype != torch.bfloat16 else KINDS[:1]:
        call = random_call(name, (3, 37, fitting(name, 5)), dtype, states=True, **kind)
        expected = by_oracle(name, call)
        for choices in ({}, {"checkpoint": 21}):
            assert_agree(name, call, by_kernel(name, call, **choices), expected, f"{kind}")


def test_lanes_that_copy_for_each_other_do_so_once_their_own_run_is_done(target: None) -> None:
    """On a GPU, with blocks of one step: sequences of unlike lengths share rows of 16 bytes."""
    assert compiled("delayed").spec.ahead == 1
    for lengths in ([1, 3], [0, 5], [4, 1]):
        call = random_call("delayed", (2, 5, 4), torch.float32, lengths=lengths)
        assert_agree("delayed", call, by_kernel("delayed", call), by_oracle("delayed", call))


@pytest.mark.parametrize("solver", ["segmented", "newton"])
def test_a_solver_that_needs_products_is_refused_and_its_way_out_runs(solver: str) -> None:
    call = random_call("moog_saved", (1, 5, 2), torch.float32)
    with pytest.raises(ArgumentError, match=r"9 values in a channel.*\nFix: solver='auto'"):
        by_kernel("moog_saved", call, solver=solver)
    solve("moog_saved", call.arguments, call.h0, solver="auto")


def test_jacobians_are_those_of_the_oracle_where_they_are_emitted() -> None:
    call = random_call("moog_saved", (1, 3, 2), torch.float64)
    found = compiled("moog_saved").jacobians(**call.arguments, h0=call.h0)
    assert call.h0 is not None

    def step(*h: torch.Tensor) -> torch.Tensor:
        first = {n: t[:, :1] if t.ndim == 3 else t for n, t in call.arguments.items()}
        return torch.stack(solve("moog_saved", first, h)[1])

    rows = torch.autograd.functional.jacobian(step, call.h0)
    for s, column in enumerate(rows):
        for channel in range(2):
            torch.testing.assert_close(
                found[0, 0, channel, :, s], column[:, 0, channel, 0, channel]
            )


def test_jacobians_of_too_many_entries_are_refused() -> None:
    call = random_call("head", (1, 3, 16), torch.float64)
    with pytest.raises(ArgumentError, match="jacobians: the Jacobian of 'head' has more than 64"):
        compiled("head").jacobians(**call.arguments)


@cell
def wide(h: State(size=9), x: Input(size=66), a: Param):
    h = tanh(a * h + x[:9])
    return {"h": h, "y": x * h[0]}


def test_a_step_may_read_and_write_more_than_64_tensors(target: None) -> None:
    x, a = torch.randn(2, 7, 5, 66).double().requires_grad_(), torch.randn(5).double()
    a.requires_grad_()
    h, rows = torch.zeros(2, 5, 9).double(), []
    for t in range(7):
        h = torch.tanh(a[:, None] * h + x[:, t, :, :9])
        rows.append(x[:, t] * h[..., :1])
    expected, got = torch.stack(rows, 1), rnncc.compile(wide)(x, a)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(got)
    slopes = [torch.autograd.grad(y, [x, a], upstream) for y in (got, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-11, atol=1e-11)
