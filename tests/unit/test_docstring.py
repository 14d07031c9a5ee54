"""Docstring: fields, source and units of a cell, and that every shipped cell has them."""

from pathlib import Path

import pytest

from rnncc.lang.docstring import fields_of, prose_of, source_of, unit_of
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
def test_a_unit_is_in_parentheses_after_the_name_of_the_value(name: str, unit: str) -> None:
    assert unit_of(DOC, name) == unit


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_a_shipped_cell_says_its_fields_and_its_source_last(path: Path) -> None:
    doc = trace(find(str(path))).doc
    assert fields_of(doc)
    assert set(fields_of(doc)) <= FIELDS
    assert source_of(doc)
    assert doc.splitlines()[-1] in doc[doc.index("Source:") :]
