"""Catalogue: the entries of shipped cells, filters, and their cache."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from rnncc import inspect, paths
from rnncc.bench import calibrate
from rnncc.calculus.structure import classify
from rnncc.inspect.catalogue import CatalogueEntry, catalogue, select, spread
from rnncc.lang.loader import find
from rnncc.lang.trace import trace


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
    before = inspect.catalogue._entry_of

    def spy(file: Path) -> CatalogueEntry:
        names.append(file.stem)
        return before(file)

    monkeypatch.setattr(inspect.catalogue, "_entry_of", spy)
    return names


# --- entries and filters ---------------------------------------------------------------------


def test_an_entry_is_what_a_trace_says() -> None:
    (found,) = (cell for cell in catalogue() if cell.name == "slstm")
    cell = trace(find("slstm"))
    assert found.states == ("c", "n", "m", "h")
    assert found.structure == replace(classify(cell), proof="")
    assert found.doc == cell.doc
    assert found.file == cell.file
    assert (found.functions, found.streams) == (5, 5)


def test_a_filter_gives_the_cells_that_fit_all_of_it() -> None:
    found = catalogue()
    assert {len(cell.states) for cell in select(found, states=2)} == {2}
    assert {cell.structure.affine for cell in select(found, affine=True)} == {True}
    assert {cell.structure.affine for cell in select(found, affine=False)} == {False}
    both = select(found, spiking=True, words=["RESET"])
    assert both
    assert all(cell.structure.spiking and "reset" in cell.doc for cell in both)
    assert select(found, spiking=True, smooth=True) == []
    assert select(found) == list(found)


def test_what_is_spread_differs_and_begins_with_the_least_work() -> None:
    found = catalogue()
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
    work = sorted(cell.operations + cell.functions for cell in catalogue())
    assert all(cell.operations + cell.functions <= work[2 * len(work) // 3] for cell in cells)


# --- the cache -------------------------------------------------------------------------------


def test_a_cell_is_traced_once_until_its_file_changes(folder: Path, traced: list[str]) -> None:
    first = catalogue()
    assert traced == ["decay", "growth"]
    assert catalogue() == first
    assert traced == ["decay", "growth"]
    (folder / "decay.py").write_text((folder / "decay.py").read_text().replace("0.5", "abs(h)"))
    again = catalogue()
    assert traced == ["decay", "growth", "decay"]
    assert [cell.structure.affine for cell in (*first, *again)] == [True, False, False, False]


def test_a_cell_that_no_longer_ships_leaves_the_cache(folder: Path) -> None:
    catalogue()
    (folder / "growth.py").unlink()
    assert [cell.name for cell in catalogue()] == ["decay"]
    kept = json.loads((folder.parent / "cache" / "cells.json").read_text())
    assert [cell["name"] for cell in kept.values()] == ["decay"]


@pytest.mark.parametrize("text", ["", "[]", '{"x": 1}', "{", "null"])
def test_a_broken_cache_is_rewritten(folder: Path, traced: list[str], text: str) -> None:
    first = catalogue()
    cache = folder.parent / "cache" / "cells.json"
    whole = cache.read_text()
    cache.write_text(text)
    assert catalogue() == first
    assert cache.read_text() == whole
    broken = {key: {"name": "decay", "structure": {}} for key in json.loads(whole)}
    cache.write_text(json.dumps(broken))
    assert catalogue() == first
    assert len(traced) == 6


def test_a_cache_that_can_not_be_written_is_not_a_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = folder / "decay.py" / "cache"
    monkeypatch.setenv("RNNCC_CACHE_DIR", os.fspath(blocked))
    assert [cell.name for cell in catalogue()] == ["decay", "growth"]
