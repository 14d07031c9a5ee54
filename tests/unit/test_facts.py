"""Facts: what is told of shipped cells, which of them a filter gives, and the cache of it."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from rnncc import paths
from rnncc.bench import calibrate
from rnncc.calculus.structure import classify
from rnncc.inspect import catalogue as facts_
from rnncc.inspect.catalogue import (
    Facts,
    facts,
    fields_of,
    prose_of,
    select,
    source_of,
    spread,
    unit_of,
)
from rnncc.lang.loader import find, shipped
from rnncc.lang.trace import trace

FIELDS = {"language models", "time series", "neuroscience", "dynamical systems"}

DOC = """A membrane.

v is its potential (mV), w a current which grows (in a way), x (1) has none; I is in uA/cm2.
A time dt in ms. It looks (s) like h. b decays with tau_a (ms).
Field: neuroscience, time series.
Source: Nobody 1999,
doi:10.1/2; and others.

More."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two shipped cells, and an empty cache."""
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(tmp_path / "cache"))
    cells = tmp_path / "cells"
    cells.mkdir()
    for name, value in (("decay", "0.5 * h + x"), ("growth", "tanh(2 * h) + x")):
        text = f'"""Does {name}."""\nfrom rnncc import Input, State, cell, tanh\n\n\n@cell\n'
        (cells / f"{name}.py").write_text(
            f"{text}def {name}(h: State, x: Input):\n    return {value}\n"
        )
    monkeypatch.setattr(paths, "cells", lambda: cells)
    return cells


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the cells that were traced, not read from the cache."""
    names: list[str] = []
    before = facts_._facts_of

    def spy(file: Path) -> Facts:
        names.append(file.stem)
        return before(file)

    monkeypatch.setattr(facts_, "_facts_of", spy)
    return names


# --- docstrings ------------------------------------------------------------------------------


def test_fields_and_source_are_entries_of_the_docstring() -> None:
    assert fields_of(DOC) == ("neuroscience", "time series")
    assert source_of(DOC) == "Nobody 1999, doi:10.1/2; and others."
    assert prose_of(DOC).splitlines()[-1] == "More."
    assert "Field" not in prose_of(DOC)
    assert "Nobody" not in prose_of(DOC)
    assert (fields_of("A cell."), source_of("A cell."), prose_of("A cell.")) == ((), "", "A cell.")


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        *(("v", "mV"), ("w", ""), ("x", ""), ("I", "uA/cm2"), ("dt", "ms"), ("h", ""), ("t", "")),
        *(("b", ""), ("tau_a", "ms")),
    ],
)
def test_a_unit_stands_in_brackets_after_what_a_value_is(name: str, unit: str) -> None:
    assert unit_of(DOC, name) == unit


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_a_shipped_cell_says_its_fields_and_its_source_last(path: Path) -> None:
    doc = trace(find(str(path))).doc
    assert fields_of(doc)
    assert set(fields_of(doc)) <= FIELDS
    assert source_of(doc)
    assert doc.splitlines()[-1] in doc[doc.index("Source:") :]


# --- facts and filters -----------------------------------------------------------------------


def test_facts_are_what_a_trace_says() -> None:
    (found,) = (cell for cell in facts() if cell.name == "slstm")
    cell = trace(find("slstm"))
    assert found.states == ("c", "n", "m", "h")
    assert found.structure == replace(classify(cell), proof="")
    assert found.doc == cell.doc
    assert found.file == cell.file
    assert (found.functions, found.streams) == (5, 5)


def test_a_filter_gives_the_cells_that_fit_all_of_it() -> None:
    found = facts()
    assert {len(cell.states) for cell in select(found, states=2)} == {2}
    assert {cell.structure.affine for cell in select(found, affine=True)} == {True}
    assert {cell.structure.affine for cell in select(found, affine=False)} == {False}
    both = select(found, spiking=True, words=["RESET"])
    assert both
    assert all(cell.structure.spiking and "reset" in cell.doc for cell in both)
    assert select(found, spiking=True, smooth=True) == []
    assert select(found) == list(found)


def test_what_is_spread_differs_and_begins_with_the_least_work() -> None:
    found = facts()
    chosen = spread(found, 5)
    assert len({cell.name for cell in chosen}) == 5
    assert chosen[0].operations <= sorted(cell.operations for cell in found)[len(found) // 4]
    assert len({cell.structure.group for cell in chosen}) > 1
    assert max(c.functions for c in chosen) >= sorted(c.functions for c in found)[-3]
    assert len(spread(found[:2], 5)) == 2
    assert spread([], 5) == []


def test_the_planner_is_calibrated_on_cells_that_differ() -> None:
    cells = calibrate._cells()
    assert len({cell.name for cell in cells}) == calibrate.CELLS
    assert min(cell.functions for cell in cells) == 0
    assert max(cell.functions for cell in cells) >= 3
    assert len({cell.structure.group for cell in cells}) > 1
    work = sorted(cell.operations + cell.functions for cell in facts())
    assert all(cell.operations + cell.functions <= work[2 * len(work) // 3] for cell in cells)


# --- the cache -------------------------------------------------------------------------------


def test_a_cell_is_traced_once_until_its_file_changes(folder: Path, traced: list[str]) -> None:
    first = facts()
    assert traced == ["decay", "growth"]
    assert facts() == first
    assert traced == ["decay", "growth"]
    (folder / "decay.py").write_text((folder / "decay.py").read_text().replace("0.5", "abs(h)"))
    again = facts()
    assert traced == ["decay", "growth", "decay"]
    assert [cell.structure.affine for cell in (*first, *again)] == [True, False, False, False]


def test_a_cell_that_no_longer_ships_leaves_the_cache(folder: Path) -> None:
    facts()
    (folder / "growth.py").unlink()
    assert [cell.name for cell in facts()] == ["decay"]
    kept = json.loads((folder.parent / "cache" / "cells.json").read_text())
    assert [cell["name"] for cell in kept.values()] == ["decay"]


@pytest.mark.parametrize("text", ["", "[]", '{"x": 1}', "{", "null"])
def test_a_broken_cache_is_written_again(folder: Path, traced: list[str], text: str) -> None:
    first = facts()
    cache = folder.parent / "cache" / "cells.json"
    whole = cache.read_text()
    cache.write_text(text)
    assert facts() == first
    assert cache.read_text() == whole
    broken = {key: {"name": "decay", "structure": {}} for key in json.loads(whole)}
    cache.write_text(json.dumps(broken))
    assert facts() == first
    assert len(traced) == 6


def test_a_cache_that_can_not_be_written_is_no_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = folder / "decay.py" / "cache"
    monkeypatch.setenv("RNNCC_CACHE_DIR", os.fspath(blocked))
    assert [cell.name for cell in facts()] == ["decay", "growth"]
