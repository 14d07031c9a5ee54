"""Layout: emitted code and the driver's headers look as clang-format would lay them out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from rnncc import paths
from rnncc.codegen.layout import WIDTH, block, declare, fill, function, statement, table

ROOT = Path(__file__).parents[2]
HEADERS = sorted(paths.headers().rglob("*.h"))
# A diagonal cell, groups of channels, several states, long sums and choices.
CELLS = ("para_gru", "block_gru", "wilson_cowan", "gated_delta_net", "lmu")
FILES = ("cell.h", "kernel.cpp", "kernel.cu")


def clang_format(files: Sequence[Path]) -> str:
    """The lines that it would change."""
    beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    program = shutil.which("clang-format", path=beside)
    assert program, "clang-format isn't here. Fix: make venv"
    run = subprocess.run(
        [program, "--dry-run", "-Werror", *map(str, files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert bool(run.returncode) == bool(run.stderr)
    return run.stderr


@pytest.mark.parametrize("file", FILES)
def test_emitted_files_are_laid_out_as_clang_format_would(file: str) -> None:
    assert clang_format([ROOT / "generated" / cell / file for cell in CELLS]) == ""


# A power of 9 within a sum, whose factors clang-format would set far to the right.
WIDE = ("mackey_glass",)


@pytest.mark.slow
@pytest.mark.parametrize("third", range(3))
@pytest.mark.parametrize("file", FILES)
def test_those_of_the_other_cells_are_too(file: str, third: int) -> None:
    files = sorted(
        p for p in (ROOT / "generated").glob(f"*/{file}") if p.parent.name not in (*CELLS, *WIDE)
    )
    assert len(files) > 3 * len(CELLS)
    assert clang_format(files[third::3]) == ""


def test_headers_of_the_driver_are_laid_out_as_clang_format_would() -> None:
    assert clang_format(HEADERS) == "", "Fix: clang-format -i templates/include/rnncc/*/*.h"


def test_a_file_that_is_not_is_found(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".clang-format", tmp_path)
    (tmp_path / "one.h").write_text("int  x;\n")
    assert "code should be clang-formatted" in clang_format([tmp_path / "one.h"])


def test_a_long_sum_is_folded_at_its_terms() -> None:
    text = statement("h_next", " + ".join(f"a_weight_{i} * x_{i}" for i in range(8)), 2)
    assert text.splitlines() == [
        "  h_next = a_weight_0 * x_0 + a_weight_1 * x_1 + a_weight_2 * x_2 + a_weight_3 * x_3 +",
        "           a_weight_4 * x_4 + a_weight_5 * x_5 + a_weight_6 * x_6 + a_weight_7 * x_7;",
    ]


def test_what_fits_in_one_line_below_goes_there() -> None:
    value = "tanh(" + " * ".join(f"factor_{i}" for i in range(6)) + ")"
    head = "const real a_name_that_takes_most_of_the_line_by_itself"
    assert statement(head, value, 2) == f"  {head} =\n      {value};"


def test_a_choice_is_folded_at_its_marks() -> None:
    yes, no = "first_of_the_results", " + ".join(f"J_{i} * M_{i}" for i in range(7))
    assert statement("N[0]", f"first_step ? {yes} : {no}", 4).splitlines() == [
        "    N[0] = first_step",
        f"               ? {yes}",
        f"               : {no};",
    ]


def test_a_choice_in_parentheses_goes_below_where_that_is_as_short() -> None:
    other = "(evaporated_0 > 1.0f ? real(0.0) : g_evaporated_1)"
    value = f"(evaporated_0 == 1.0f ? 0.5f * g_evaporated_1 : {other})"
    assert statement("const real g_evaporated_1_arg0", value, 2).splitlines() == [
        "  const real g_evaporated_1_arg0 =",
        "      (evaporated_0 == 1.0f ? 0.5f * g_evaporated_1",
        f"                            : {other});",
    ]


def test_a_product_with_one_goes_below_where_that_saves_lines() -> None:
    choice = "(evaporated_0 == 1.0f ? real(0.5) : (evaporated_0 > 1.0f ? real(0.0) : real(1.0)))"
    head = "const real devaporated_1_ds"
    assert statement(head, f"devaporated_0_ds * {choice}", 2).splitlines() == [
        f"  {head} =",
        "      devaporated_0_ds *",
        f"      {choice};",
    ]


def test_a_note_that_does_not_fit_stands_above() -> None:
    note = "words " * 15
    text = statement("z", "sigmoid(x)", 2, note.strip())
    assert text == f"  // {note.strip()}\n  z = sigmoid(x);"


def test_notes_of_neighbours_are_aligned() -> None:
    lines = ["  a = 1;  // one", "  long_name = 2;  // two", "  b = 3;", "  c = 4;  // four"]
    assert block(lines).splitlines() == [
        "  a = 1;          // one",
        "  long_name = 2;  // two",
        "  b = 3;",
        "  c = 4;  // four",
    ]


def test_lists_are_filled_to_the_width() -> None:
    names = [f"real argument_{i}" for i in range(30)]
    for text in (fill(names, 4, ") {"), declare("real", names, 8)):
        lines = text.splitlines()
        assert all(len(line) <= WIDTH for line in lines)
        assert all(len(line) > WIDTH - len(names[-1]) - 2 for line in lines[:-1])


def test_a_table_stands_in_columns() -> None:
    items = [f"{{0, {i}, 16}}" for i in range(12)]
    assert table("static constexpr Slot params[]", items, 2).splitlines() == [
        "  static constexpr Slot params[] = {{0, 0, 16}, {0, 1, 16}, {0, 2, 16},  {0, 3, 16},",
        "                                    {0, 4, 16}, {0, 5, 16}, {0, 6, 16},  {0, 7, 16},",
        "                                    {0, 8, 16}, {0, 9, 16}, {0, 10, 16}, {0, 11, 16}};",
    ]


@pytest.mark.parametrize("length", [3, 60])
def test_a_function_of_one_statement_takes_one_line_or_three(length: int) -> None:
    body = f"return {'x' * length};"
    lines = function("int a_function_of_some_length(int x)", body).splitlines()
    assert lines in ([f"int a_function_of_some_length(int x) {{ {body} }}"], [
        "int a_function_of_some_length(int x) {", f"  {body}", "}",
    ])  # fmt: skip
