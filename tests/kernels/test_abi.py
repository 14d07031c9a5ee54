"""The compiler lays Args out as the packer does, and refuses a field that the list lacks."""

from __future__ import annotations

import subprocess

from rnncc.codegen import args_header
from rnncc.ir.abi import ARGS, Per
from rnncc.runtime.cpu.build import find_compiler

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
