"""`rnncc list`: every shipped cell, and filters."""

import re
from typing import Any

from rnncc.lang.loader import shipped
from tests.support.command_line import data, good


def test_list_has_a_line_for_every_shipped_cell() -> None:
    lines = {line.split()[0]: line for line in good("list").splitlines()[1:]}
    assert sorted(lines) == [path.stem for path in shipped()]
    assert re.match(r"  lru +re, im +diagonal +affine, smooth ", lines["lru"])
    assert re.search(r" groups of 4 channels +nonlinear, smooth ", lines["block_elman"])
    assert "nonlinear, spiking" in lines["lif"]
    assert lines["para_gru"].endswith("  Danieli et al. 2025, arXiv:2510.21450.")


def test_list_as_data_has_states_structure_field_and_source() -> None:
    found = {cell["name"]: cell for cell in data("list")["cells"]}
    assert sorted(found) == [path.stem for path in shipped()]
    assert found["lstm"]["states"] == ["c", "h"]
    assert found["lru"]["structure"]["affine"]
    assert all(cell["doc"] and cell["source"] for cell in found.values())


def listed(*words: str) -> list[dict[str, Any]]:
    cells = data("list", *words)["cells"]
    assert cells
    return list(cells)


def test_list_has_filters_for_states_structure_and_words() -> None:
    assert {len(cell["states"]) for cell in listed("--states", "2")} == {2}
    assert {cell["structure"]["affine"] for cell in listed("--affine")} == {True}
    assert {cell["structure"]["affine"] for cell in listed("--nonlinear")} == {False}
    assert {cell["structure"]["spiking"] for cell in listed("--spiking")} == {True}
    assert {cell["structure"]["smooth"] for cell in listed("--smooth")} == {True}
    assert "slstm" in [cell["name"] for cell in listed("STABILISER", "gates")]
    assert len(listed("--affine")) + len(listed("--nonlinear")) == len(shipped())


def test_list_has_a_filter_for_a_field_or_a_part_of_its_name() -> None:
    (field, *_) = next(cell["fields"] for cell in listed() if cell["fields"])
    of_the_field = listed("--field", field)
    assert all(field in cell["fields"] for cell in of_the_field)
    assert len(of_the_field) < len(shipped())
    assert listed("--field", field.upper()[:-1]) == of_the_field


def test_filters_that_no_cell_fits_are_reported_with_the_existing_ones() -> None:
    text = good("list", "--affine", "--spiking")
    assert text.startswith("No shipped cell fits all filters.\nFilters: words, --states 1 | 2 | 3 ")
    assert "--affine | --nonlinear, --spiking, --smooth, --field." in text
    for field in {field for cell in listed() for field in cell["fields"]}:
        assert field in text.splitlines()[-1]
    assert data("list", "nothing_like_it") == {"cells": []}
