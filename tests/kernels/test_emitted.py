"""Emitted text, built: names that could get in its way, and odd bodies, give right kernels."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import rnncc
from rnncc.codegen.writer import write
from tests.support.cells import assert_kernel_is_right, cell_from, source_of
from tests.support.runs import compiled

COMMENTED = """
z = sigmoid(a * h)  # update gate, "quoted" \\\\ and ünïcode
w = tanh(z * x)  # 100 % of {{ it }} {# and #} {% this %}
return z * w + h
"""


@pytest.fixture
def import_from(tmp_path: Path) -> Iterator[Path]:
    """A folder on the path, for generated packages; forgotten afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path.remove(str(tmp_path))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_comments_with_odd_characters_stay_comments(tmp_path: Path) -> None:
    cell = cell_from(tmp_path, source_of(COMMENTED))
    text = rnncc.compile(cell).files["cell.h"]
    assert "// 100 % of {{ it }} {# and #} {% this %}" in text
    assert_kernel_is_right(cell)


def test_a_docstring_cannot_break_out_of_its_place(import_from: Path) -> None:
    doc = '"""Ends */ in \\\\ and \\"\\"\\" or \\\\N{DASH}.\n\n    // Source: {{ me }} \\\\\n"""\n'
    cell = cell_from(import_from, source_of(doc + "return a * h + x", name="wild"))
    write(rnncc.compile(cell).files, import_from / "wild")
    module = importlib.import_module("wild")
    assert "Source: {{ me }}" in (module.__doc__ or "")
    assert_kernel_is_right(cell)


def test_a_generated_package_computes_the_same_as_the_compiled_cell(import_from: Path) -> None:
    c = compiled("lstm")
    write(c.files, import_from / "lstm")
    module = importlib.import_module("lstm")
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 5, 4, generator=generator) for _ in range(4)]
    params = [torch.randn(4, generator=generator) for _ in range(4)]
    assert torch.equal(module.lstm(*inputs, *params), c(*inputs, *params))
    assert module.LSTM(3, 4)(torch.randn(2, 5, 3))[0].shape == (2, 5, 4)


# two states, an input, a shared input; then a param, a let, a param, a let, ...
CLASHES = {
    "of the loops": "h i x t y width first p kept lane step k index space tile j n r c out",
    "of the driver": (
        "io Lanes Args View Stream Slot Tile params inputs outputs states start base data batch "
        "steps groups rows columns run_forward forward every threads saved"
    ),
    "of arrays and derivatives": (
        "g dx dy dh dp J next_0 y_0 h_h x_x p_p g_g k_k d_h up_h g_h out_h J_h_h dz_dh none"
    ),
    "of types and functions": (
        "Real Bits State_ int64_t size_t type value kTile kLanes kGroup select min max swap abs_ "
        "log2 exp2 fabs heaviside_ tanh_ to_real from_real real_ main"
    ),
    "of SymPy": "S I N E O Q C pi lambda_ beta gamma zeta Pow Symbol Integer Float oo nan",
}


def clashing(names: list[str]) -> str:
    """A cell of two states that uses every name."""
    s, r, x, dt, *others = names
    params, lets = others[::2], others[1::2]
    signature = f"{s}: State, {r}: State, {x}: Input, {dt}: Input(shared=True), "
    signature += ", ".join(f"{p}: Param" for p in params)
    lines = []
    for i, let in enumerate(lets):
        before = lets[i - 1] if i else r
        lines.append(f"{let} = tanh({params[i]} * {s} + {before}) / (1 + exp(-{x}))")
    lines.append(f'return {{"{s}": {lets[-1]} + {s} * {dt}, "{r}": {lets[0]} * {r} + {params[-1]}')
    lines[-1] += f', "y9": {lets[-1]} * {x}}}'
    return source_of("\n".join(lines), signature)


@pytest.mark.parametrize("names", CLASHES)
def test_names_of_the_kernel_are_free_for_the_author(names: str, tmp_path: Path) -> None:
    cell = cell_from(tmp_path, clashing(CLASHES[names].split()))
    assert_kernel_is_right(cell, (2, 3, 17))


MODULE_NAMES = ["run", "KERNEL", "arguments", "Tensor", "Any", "Kernel", "Path"]


LAYER_NAMES = ["self", "args", "kwargs", "weight", "bias", "training", "forward", "state_dict"]


def with_params(names: list[str]) -> str:
    signature = "h: State, x: Input, " + ", ".join(f"{n}: Param" for n in names)
    return source_of(f"return tanh(({' + '.join(names)}) * h + x)", signature, name="named")


def test_names_of_the_module_are_free_for_the_author(import_from: Path) -> None:
    c = rnncc.compile(cell_from(import_from, with_params(MODULE_NAMES)))
    write(c.files, import_from / "named")
    module = importlib.import_module("named")
    x, params = torch.randn(2, 3, 4), [torch.randn(4) for _ in MODULE_NAMES]
    assert torch.equal(module.named(x, *params), c(x, *params))


def test_names_of_a_layer_are_free_for_the_author(tmp_path: Path) -> None:
    c = rnncc.compile(cell_from(tmp_path, with_params(LAYER_NAMES)))
    x, params = torch.randn(2, 3, 4), {n: torch.randn(4) for n in LAYER_NAMES}
    assert torch.equal(c(x, *params.values()), c(x=x, **params))
    assert c.layer(3, 4)(torch.randn(2, 5, 3))[0].shape == (2, 5, 4)


@pytest.mark.parametrize(
    "body",
    [
        "return b, a + x",
        "return {'a': b, 'b': a * x, 'y': a, 'z': x}",
        "u = a * x + b\nreturn {'a': u, 'b': u * 2, 'y': u, 'z': u}",
        "return {'a': a, 'b': b * x, 'y': a}",
        "return {'a': x, 'b': a, 'y': b * x}",
        "return {'a': 0.5, 'b': b + a * x, 'y': 2}",
    ],
)
def test_states_and_arguments_handed_on_are_right(body: str, tmp_path: Path) -> None:
    cell = cell_from(tmp_path, source_of(body, "a: State, b: State, x: Input"))
    assert_kernel_is_right(cell, (2, 4, 9))


def test_a_deep_and_a_wide_expression_compile(tmp_path: Path) -> None:
    deep = "tanh(" * 25 + "h * a + x" + ")" * 25
    wide = " + ".join(f"h * a * {i}.5 * x**2" for i in range(60))
    assert_kernel_is_right(cell_from(tmp_path, source_of(f"return {deep}")))
    assert_kernel_is_right(cell_from(tmp_path, source_of(f"return 1e-4 * ({wide})"), "wide.py"))


def test_shared_values_and_blocks_of_two_sizes_mix_right(tmp_path: Path) -> None:
    signature = "h: State, x: Input, dt: Input(shared=True), s: Param(shared=True), "
    signature += "R: Matrix(block=2), Q: Matrix(block=4)"
    body = "return tanh(R @ (h * dt) + Q @ (x * s)) + R @ dt + Q @ s"
    assert_kernel_is_right(cell_from(tmp_path, source_of(body, signature)), (3, 4, 12))


def test_a_matrix_of_one_by_one_is_taken(tmp_path: Path) -> None:
    signature = "h: State, x: Input, a: Param, R: Matrix(block=1)"
    cell = cell_from(tmp_path, source_of("return tanh(R @ h + a * x)", signature))
    assert_kernel_is_right(cell, (2, 3, 5))
