"""Cells by name: `rnncc.cells` has every shipped one, and `rnncc.compile` takes names and paths."""

import subprocess
import sys
from pathlib import Path

import pytest

import rnncc
from rnncc import cells
from rnncc.errors import ArgumentError, LoadError
from rnncc.lang.loader import find, shipped
from rnncc.lang.trace import trace
from tests.support.cells import source_of
from tests.support.command_line import ROOT


def test_every_shipped_cell_can_be_imported_by_name() -> None:
    assert dir(cells) == [path.stem for path in shipped()]
    for path in shipped():
        cell = getattr(cells, path.stem)
        assert (cell.name, Path(cell.file)) == (path.stem, path)
    from rnncc.cells import para_gru

    assert para_gru is cells.para_gru


def test_importing_the_module_reads_no_cell() -> None:
    code = "import sys, rnncc.cells; print('sympy' in sys.modules, 'lru' in vars(rnncc.cells))"
    run = [sys.executable, "-c", code]
    assert subprocess.check_output(run, cwd=ROOT, text=True) == "False False\n"


def test_a_name_that_does_not_ship_is_refused_with_those_spelt_alike() -> None:
    with pytest.raises(AttributeError) as caught:
        _ = cells.para_gr
    assert str(caught.value) == (
        "rnncc.cells.para_gr: no cell of that name ships.\n"
        "Fix: did you mean 'para_gru' or 'para_lstm'? `rnncc list` shows them"
    )
    with pytest.raises(AttributeError, match=r"ships\.\nFix: `rnncc list` shows them"):
        _ = cells.xyzzy
    with pytest.raises(ImportError, match="cannot import name 'para_gr'"):
        from rnncc.cells import para_gr  # noqa: F401


def test_compile_takes_a_cell_its_name_or_a_path(tmp_path: Path) -> None:
    both = tmp_path / "both.py"
    both.write_text(source_of("return a * h + x") + source_of("return a * h - x", name="other"))
    (lru,) = (path for path in shipped() if path.stem == "lru")
    for cell in ("lru", cells.lru, str(lru), lru):
        assert rnncc.compile(cell).stages.cell == trace(find("lru"))
    assert rnncc.compile(f"{both}:other").name == "other"
    assert rnncc.compile("lif", slope=3.0).stages.cell.constants["slope"] == 3.0


def test_compile_refuses_anything_but_a_cell() -> None:
    with pytest.raises(LoadError, match="para_gr: no such file, and no shipped cell of that name"):
        rnncc.compile("para_gr")
    for wrong, kind in ((len, "builtin_function_or_method"), (3, "int"), (None, "NoneType")):
        with pytest.raises(ArgumentError) as caught:
            rnncc.compile(wrong)  # type: ignore[arg-type]
        assert str(caught.value) == (
            f"cell: got {kind}, expected a function under @cell, or the name of a shipped cell or "
            "file.\nFix: put @cell (from rnncc import cell) above the function"
        )
