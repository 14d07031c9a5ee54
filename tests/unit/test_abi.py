"""ABI: one list, from which the header, the packer and the version of generated folders follow."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from array import array
from pathlib import Path

import pytest
import torch

from rnncc.codegen import args_header
from rnncc.errors import LoadError
from rnncc.ir import abi
from rnncc.ir.abi import ABI, ARGS, ENUMS, STATUS, STRUCTS, VIEW, Per, Solver, Struct
from rnncc.planner.choices import SOLVERS
from rnncc.runtime.args import args_of
from rnncc.runtime.cpu.build import find_compiler
from rnncc.runtime.kernel import Kernel
from tests.support.golden import ARGS_HEADER, GENERATED
from tests.support.runs import compiled

CELL = """
#include <stdint.h>
typedef float io;
typedef float real;
struct Cell {
  static constexpr int kInputTensors = 3, kParamTensors = 3, kOutputTensors = 1, kStateTensors = 2;
};
"""


def compiles(text: str) -> bool:
    compiler = find_compiler()
    assert compiler is not None
    text = text.replace('#include "cell.h"\n', "").replace("#pragma once\n", "")
    command = [*compiler.command, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
    return subprocess.run(command, input=text, text=True, capture_output=True).returncode == 0


def test_the_header_is_what_the_list_gives() -> None:

    assert ARGS_HEADER.read_text(encoding="utf-8") == args_header.args_header(), "Fix: make golden"


def test_the_compiler_lays_the_struct_out_as_the_packer_does() -> None:
    layout = ARGS.layout({Per.INPUT: 3, Per.PARAM: 3, Per.OUTPUT: 1, Per.STATE: 2})
    places = "".join(
        f'static_assert(__builtin_offsetof(rnncc::Args, {name}) == {8 * place}, "{name}");\n'
        for name, place in layout.offsets.items()
    )
    assert compiles(CELL + args_header.args_header() + places)


def test_a_field_that_the_list_lacks_does_not_compile() -> None:
    text = args_header.args_header()
    assert compiles(CELL + text)
    assert not compiles(CELL + text.replace("int64_t patient;", "int64_t patient, odd;"))
    assert not compiles(CELL + text.replace("  int64_t patient;\n", ""))


def test_every_member_is_one_word_and_named_once() -> None:
    for struct in STRUCTS.values():
        names = [field.name for field in struct.fields]
        assert len(names) == len({*names})
    sizes = {"int64_t", "double", "Parallel", "View", *(enum.__name__ for enum in ENUMS)}
    assert {f.type for f in ARGS.fields if not f.type.endswith("*")} <= sizes


def test_the_version_follows_what_compiled_code_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert abi._version() == ABI
    first, *rest = VIEW.fields
    for changed, same in (
        (dataclasses.replace(first, meaning="other words"), True),
        (dataclasses.replace(first, type="real*"), False),
        (dataclasses.replace(first, name="other"), False),
    ):
        struct = Struct("View", VIEW.meaning, {"": (changed, *rest)})
        monkeypatch.setitem(STRUCTS, "View", struct)
        assert (abi._version() == ABI) == same


def test_a_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "elman"
    shutil.copytree(GENERATED / "elman", folder)
    for abi_found in ("0123456789ab", 3):
        spec = json.loads((GENERATED / "elman" / "cell.json").read_text(encoding="utf-8"))
        (folder / "cell.json").write_text(json.dumps({**spec, "abi": abi_found}), encoding="utf-8")
        message = rf"expected '{ABI}': another version of rnncc wrote it[\s\S]*Fix: write it again"
        with pytest.raises(LoadError, match=message):
            Kernel.read(folder)


def test_solvers_have_one_numbering() -> None:
    assert [SOLVERS[solver].upper() for solver in Solver] == [solver.name for solver in Solver]


def test_the_packer_fills_what_is_given_and_leaves_the_rest_null() -> None:
    spec = compiled("para_gru").kernel.spec
    args, tensor = args_of(spec), torch.zeros(2)
    places = args.layout.offsets
    views = [(8, 1, 2, 3), (16, 4, 5, 6), (0, 0, 0, 0)]
    words = args.pack(
        {"steps": 7, "reverse": True, "tolerance": 0.5, "h0": tensor, "x": views, "params": [None]}
    )
    assert words[places["steps"]] == 7
    assert words[places["reverse"]] == 1
    assert array("d", words[places["tolerance"] :][:1].tobytes())[0] == 0.5
    assert words[places["h0"]] == tensor.data_ptr()
    assert [*words[places["x"] :][:12]] == [word for view in views for word in view]
    assert sum(word != 0 for word in words) == 4 + 8
    assert not any(args.blank)


def test_a_member_that_is_not_listed_is_not_packed() -> None:
    with pytest.raises(KeyError):
        args_of(compiled("para_gru").kernel.spec).pack({"odd": 1})


def test_status_has_as_many_numbers_as_its_struct() -> None:
    fields = [field.name for field in STATUS.fields]
    assert fields == "sweeps mismatch converged sequential_from solver segment".split()
