"""The catalogue of all cells: the committed page is up to date, and a cell can be measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rnncc.bench import timing
from tests.support.catalogue import DOCS, WAYS, as_if_measured, few_entries, measured, run, tool


def test_the_page_follows_from_the_cells_and_the_measured_values() -> None:
    catalogue = tool("catalogue")
    wanted = catalogue.expected(catalogue.all_entries(), catalogue.read(DOCS / "cells.json"))
    assert catalogue.differences(DOCS, wanted) == []


def test_measuring_fills_the_file_cell_by_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue, data = tool("catalogue"), as_if_measured()
    monkeypatch.setattr(catalogue, "all_entries", few_entries)
    monkeypatch.setattr(catalogue, "STEPS", 128)
    monkeypatch.setattr(catalogue, "CHANNELS", 4)
    monkeypatch.setattr(catalogue, "TIMED", (2, 16, 4))
    monkeypatch.setattr(timing, "MOST_ROUNDS", 1)
    monkeypatch.setattr(timing, "LEAST_ROUNDS", 1)
    file = tmp_path / "cells.json"
    del data["cells"]["lif"]
    data["cells"]["gone"] = data["cells"]["lstm"]
    file.write_text(json.dumps(data))
    assert run(catalogue, "--measure", "--docs", str(tmp_path)) == (0, "lif: measured\n", "")
    found = json.loads(file.read_text())
    assert list(found["cells"]) == ["block_elman", "lif", "lstm"]
    lif = found["cells"]["lif"]
    assert set(lif) == set(measured(""))
    assert lif["probe"]["verdict"] == "spiking"
    assert lif["speed"]["shape"] == [2, 16, 4]
    assert all(lif["speed"][way]["ratio"] > 0 for way in WAYS)
    assert run(catalogue, "--measure", "--docs", str(tmp_path)) == (0, "", "")
