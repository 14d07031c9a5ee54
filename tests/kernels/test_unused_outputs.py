"""What no loss asks for is not walked: no infinite derivative of it reaches a gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import rnncc
from rnncc.export.torch_loop import plain_loop
from tests.support.cells import cell_from, source_of
from tests.support.emulated import emulated

# of each output the derivative is infinite at x = 0, or overflows
POLES = {
    "y": "h_new * h_new",
    "root": "sqrt(x)",
    "inverse": "a / x",
    "inverse_root": "h_new * rsqrt(x)",
    "inverse_square": "a * x**-2",
    "logarithm": "a * log(x)",
    "power": "x**0.25 + h_new",
    "exponential": "exp(h_new + 90 * (2 - x))",
    "entropy": "sqrt(x) * log(x * x)",
}
BODY = "h_new = 0.5 * h + x\nreturn {'h': h_new, " + ", ".join(
    f"'{name}': {text}" for name, text in POLES.items()
)
MIXED = (
    "g = R @ h\nh_new = 0.5 * g + x\nreturn {'h': h_new, 'y': h_new * a, 'root': sqrt(x - x * a)}"
)
LATE = "return {'h': 0.5 * h + sqrt(x), 'y': h * a + x}"
CELLS = {
    "poles": (BODY + "}", "h: State, x: Input, a: Param"),
    "a group": (MIXED, "h: State, x: Input, a: Param, R: Matrix(block=2)"),
    "a state that is read a step later": (LATE, "h: State, x: Input, a: Param"),
    "two such states": (
        "return {'h': 0.5 * k + x**0.5, 'k': 0.5 * k + h, 'y': h * a + x}",
        "h: State, k: State, x: Input, a: Param",
    ),
}
targets = pytest.mark.parametrize(
    "target", [contextlib.nullcontext, pytest.param(emulated, marks=pytest.mark.slow)]
)


@targets
@pytest.mark.parametrize("name", CELLS)
def test_each_output_alone_has_pytorchs_gradients(
    name: str, target: Callable[[], contextlib.AbstractContextManager[object]], tmp_path: Path
) -> None:
    body, signature = CELLS[name]
    compiled = rnncc.compile(cell_from(tmp_path, source_of(body, signature)))
    x = torch.tensor([1.0, 0.0, 2.0, 0.5, 0.0]).reshape(1, 5, 1).expand(2, 5, 4).contiguous()
    params = [torch.ones(4)] + [torch.full((2, 2, 2), 0.3)] * ("R" in signature)
    names = [a.name for a in (*compiled.stages.cell.inputs, *compiled.stages.cell.params)]
    outputs = len(compiled.stages.cell.outputs)
    for used in range(outputs):
        leaves = [t.clone().requires_grad_() for t in (x, *params)]
        with target():
            y = compiled(*leaves, solver="sequential")
            got = gradients(y if outputs == 1 else y[used], leaves)
        plain, _ = plain_loop(compiled.stages.cell, dict(zip(names, leaves, strict=True)))
        expected = gradients(plain[used], leaves)
        for g, e in zip(got, expected, strict=True):
            torch.testing.assert_close(g, e, equal_nan=True)


def gradients(y: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(y.sum(), leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]
