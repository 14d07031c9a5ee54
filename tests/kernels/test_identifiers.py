"""Identifiers: whatever emitted text calls something, a cell may call its own things so as well."""

from __future__ import annotations

import importlib.util
import keyword
import re
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import rnncc
from rnncc.codegen.module import IMPORTED, class_name
from rnncc.codegen.writer import write
from rnncc.errors import CellError
from rnncc.export.torch_module import module_source
from rnncc.lang.names import LAYER_NAMES, OPTIONS, reserved
from rnncc.runtime.cpu import build
from rnncc.runtime.cuda import nvrtc
from tests.support.cells import assert_kernel_is_right, cell_from, source_of
from tests.support.emulated import emulated

# Groups of channels, two parts of a step, functions and their slopes: all kinds of made-up names.
SIGNATURE = "h: State, m: State, x: Input, a: Param, R: Matrix(block=2)"
BODY = """\
z = sigmoid(a * h + x)
c = tanh(R @ h + z * m)
{lets}
after_h = (1 - z) * h + z * c{terms}
after_m = 0.5 * m + z
return after_h, after_m
"""
OWN = ("h", "m", "x", "a", "R", "z", "c", "after_h", "after_m")
ROLES = ("Input", "Param", "Input(shared=True)", "Param(shared=True)")
CHUNK = 70  # names in a cell


def cell_with(folder: Path, names: Sequence[str], turn: int = 0, name: str = "odd") -> rnncc.Cell:
    """The cell, with these names as inputs, params, lets and states in turn."""
    places: list[list[str]] = [[], [], [], [], []]
    for i, one in enumerate(names):
        places[(i + turn) % 5].append(one)
    extra = [f"{n}: {role}" for role, group in zip(ROLES, places, strict=False) for n in group]
    lets = [f"{n} = z * m + {i}.5" for i, n in enumerate(places[4])]
    terms = "".join(f" + 0.125 * {n}" for n in names)
    body = BODY.format(lets="\n".join(lets), terms=terms)
    return cell_from(folder, source_of(body, ", ".join([SIGNATURE, *extra]), name=name))


@cache
def identifiers() -> tuple[str, ...]:
    """All in the files of such a cell and in the driver that a cell may use."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        compiled = rnncc.compile(cell_with(Path(folder), ()))
    text = "\n".join([*compiled.files.values(), *map(compiled.source, ("cpp", "cuda"))])
    found = set(re.findall(r"[A-Za-z_]\w*", text))
    return tuple(sorted(name for name in found if is_free(name)))


def is_free(name: str) -> bool:
    taken = keyword.iskeyword(name) or reserved(name)
    return not taken and name not in {*OWN, *OPTIONS, *LAYER_NAMES}


CHUNKS = range(25)
SLOW = pytest.mark.slow


def chunk(number: int) -> tuple[str, ...]:
    return identifiers()[number :: len(CHUNKS)]


def assert_compiles(compiled: rnncc.CompiledCell) -> None:
    compiler = build.find_compiler()
    assert compiler is not None
    command = [*compiler.command, *build.FLAGS, "-fsyntax-only", "-DRNNCC_IO=float"]
    source = compiled.source("cpp")
    command += ["-x", "c++", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    assert errors == []


def test_there_are_many_of_them() -> None:
    assert len(identifiers()) > 1000
    assert max(len(chunk(number)) for number in CHUNKS) < CHUNK
    assert {"part", "h_ch0", "R_0_1", "J_h_ch0_h_ch1", "CellLayer", "Lane"} <= {*identifiers()}


def case(number: int, turn: int) -> object:
    marks = [] if (number + turn) % 12 == 0 else [SLOW]
    return pytest.param(number, turn, marks=marks)


@pytest.mark.parametrize(("number", "turn"), [case(n, t) for n in CHUNKS for t in range(5)])
def test_a_cell_may_use_every_name_that_its_text_uses(
    tmp_path: Path, number: int, turn: int
) -> None:
    names = chunk(number)
    compiled = rnncc.compile(cell_with(tmp_path, names, turn))
    assert {*names} <= {a.name for a in compiled.stages.cell.arguments} | {
        let.name for let in compiled.stages.cell.lets
    }
    assert_compiles(compiled)


@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=SLOW) for n in CHUNKS[1:])])
def test_so_it_may_on_a_gpu(tmp_path: Path, number: int) -> None:
    """The smallest part: all of the cell's own text is read for each."""
    pytest.importorskip("cupy")
    compiled = rnncc.compile(cell_with(tmp_path, chunk(number)))
    nvrtc.compile("odd", f"#define RNNCC_PART 8\n{compiled.source('cuda')}", "float32")


@pytest.mark.parametrize("name", ["part", "J", "next", "real_", "kRow", "out_h", "h_h", "first"])
def test_a_state_may_be_called_so(tmp_path: Path, name: str) -> None:
    body = f"z = sigmoid({name} * a + x)\nc = tanh(z * {name})\nreturn (1 - z) * {name} + z * c"
    cell = cell_from(tmp_path, source_of(body, f"{name}: State, x: Input, a: Param"))
    assert_compiles(rnncc.compile(cell))


@pytest.mark.parametrize(
    ("body", "signature"),
    [
        ("return tanh(R @ h + x + h_ch0)", "h_ch0: Input(shared=True)"),
        ("return tanh(R @ h + x * x_ch1)", "x_ch1: Param(shared=True)"),
        ("return tanh(R @ h + x * R_0_1)", "R_0_1: Param(shared=True)"),
        ("h_ch1 = tanh(R @ h)\nreturn h_ch1 + x * h_ch0", "h_ch0: Param(shared=True)"),
        ("return tanh(R @ h + R_0 * h + x)", "R_0: Param"),
        ("part = tanh(R @ h)\nd_h = sigmoid(part + h)\nreturn d_h * part + J_h * x", "J_h: Param"),
    ],
)
def test_a_name_like_one_that_is_made_up_keeps_its_value(
    tmp_path: Path, body: str, signature: str
) -> None:
    signature = f"h: State, x: Input, {signature}, R: Matrix(block=2)"
    assert_kernel_is_right(cell_from(tmp_path, source_of(body, signature)))


AGAIN = """\
new = sigmoid(λ * h + x)
for k in range(2):
    new = new + 0.5 * tanh(new * half)
h, _ = new * h, h
h = h + _ * x
return {"h": h, "ŷ": new * x, "class": _}
"""


def test_names_that_are_assigned_again_or_reserved_have_their_values(tmp_path: Path) -> None:
    signature = "h: State, x: Input, λ: Param, half: Param(shared=True)"
    cell = cell_from(tmp_path, source_of(AGAIN, signature))
    assert_kernel_is_right(cell)
    with emulated():
        assert_kernel_is_right(cell)


def test_a_layer_and_its_plain_module_have_the_authors_names(tmp_path: Path) -> None:
    signature = "h: State, x: Input, λ: Param, half: Input(shared=True)"
    compiled = rnncc.compile(cell_from(tmp_path, source_of(AGAIN, signature)))
    names: dict[str, Any] = {}
    layer = compiled.layer(3, 4)
    exec(module_source(compiled.stages.cell, compiled.spec), names)
    plain = names["Odd"](3, 4)
    plain.load_state_dict(dict(layer.named_parameters()))
    x, half = torch.randn(2, 5, 3), torch.rand(2, 5)
    (found, _), (expected, _) = layer(x, half=half), plain(x, half=half)
    torch.testing.assert_close(found, expected)
    assert "λ" in dict(layer.named_parameters())


# --- the name of the cell ----------------------------------------------------------------------


def names_of_cells() -> list[str]:
    """Those to whose functions the driver has one of the same name."""
    endings = ("step", "jacobian", "adjoint", "early", "forward", "backward", "sweep", "scan")
    begun = {
        n.removesuffix(f"_{end}") for n in identifiers() for end in endings if n.endswith(f"_{end}")
    }
    return sorted(name for name in begun if name != "odd" and not reserved(name))


def test_a_cell_may_be_called_as_functions_of_the_driver_begin(tmp_path: Path) -> None:
    names = names_of_cells()
    assert {"row", "run", "first"} <= {*names}
    for name in names:
        assert_compiles(rnncc.compile(cell_with(tmp_path, (), name=name)))


@pytest.mark.parametrize("end", ["step", "jacobian", "adjoint", "early"])
@pytest.mark.parametrize("name", ["h", "x", "g", "out"])
def test_a_cell_may_be_called_as_the_locals_of_its_states_begin(
    tmp_path: Path, name: str, end: str
) -> None:
    signature = f"{end}: State, m: State, x: Input, a: Param"
    body = f"early_ = exp(a)\nreturn tanh({end} * early_ + x), 0.5 * m + {end}"
    assert_compiles(rnncc.compile(cell_from(tmp_path, source_of(body, signature, name=name))))


@pytest.mark.parametrize("name", [*IMPORTED, "cell_layer", "kernel", "annotations", "run", "path"])
def test_a_cell_may_be_called_as_what_its_module_imports(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    write(rnncc.compile(cell_with(tmp_path, (), name=name)).files, folder)
    spec = importlib.util.spec_from_file_location("out", folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    layer = getattr(module, class_name(name))(3, 4)
    y, _ = layer(torch.randn(2, 3))
    assert y.shape == (2, 4)
    assert callable(getattr(module, name))


def test_what_a_layer_gives_by_name_is_not_called_self(tmp_path: Path) -> None:
    source = source_of(
        "return a * h + x * self", "h: State, x: Input, a: Param, self: Input(shared=True)"
    )
    with pytest.raises(
        CellError, match=r"'self' is given to a layer by name, and has that of a layer's argument"
    ):
        rnncc.compile(cell_from(tmp_path, source))
