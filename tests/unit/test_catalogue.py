"""The catalogue: docs/cells.md follows from the cells and docs/cells.json, and its parts are right.

The page lies in docs, its makers in tools.
"""

import dataclasses
import datetime
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from rnncc.analysis.sweeps import SEGMENTS
from rnncc.lang.loader import shipped
from tests.support.catalogue import DOCS, WAYS, as_if_measured, few_entries, run, tool

ONE_PASS = ("mackey_glass", "moog_ladder")  # the others may be solved in segments
VERDICTS = set("unstable spiking undecided chaotic marginal multistable contracting".split()) | {
    "limit cycle"
}


@pytest.fixture(scope="module")
def catalogue() -> Any:
    return tool("catalogue")


@pytest.fixture(scope="module")
def page(catalogue: Any) -> Any:
    return tool("catalogue_page")


@pytest.fixture
def few(catalogue: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Three cells in the place of all."""
    monkeypatch.setattr(catalogue, "all_entries", few_entries)
    return few_entries()


@pytest.fixture
def data(few: list[Any]) -> dict[str, Any]:
    return as_if_measured()


# --- the committed page ----------------------------------------------------------------------


def test_every_shipped_cell_was_measured_and_its_values_are_sane() -> None:
    data = json.loads((DOCS / "cells.json").read_text(encoding="utf-8"))
    assert list(data["cells"]) == [path.stem for path in shipped()]
    assert {"device", "threads", "torch", "python", "system"} <= set(data["machines"][0])
    for name, cell in data["cells"].items():
        assert 0 <= cell["machine"] < len(data["machines"]), name
        datetime.date.fromisoformat(cell["date"])
        is_probed = name not in ONE_PASS
        assert (cell["probe"]["verdict"] in VERDICTS) is is_probed, name
        assert list(cell["probe"]["sweeps"]) == (list(map(str, SEGMENTS)) if is_probed else []), (
            name
        )
        for cut, sweeps in cell["probe"]["sweeps"].items():
            assert 1 <= sweeps <= int(cut), name
        assert re.fullmatch(r"\d+|diverges|not in \d+|none", cell["probe"]["newton"]), name
        for way in WAYS:
            times = cell["speed"][way]
            assert 0 < times["rnncc_ms"] < times["loop_ms"], name
            assert times["ratio"] == pytest.approx(times["loop_ms"] / times["rnncc_ms"]), name


# --- its parts -------------------------------------------------------------------------------


def test_the_table_is_sorted_by_field_and_leads_to_the_sections(
    catalogue: Any, few: list[Any], data: dict[str, Any]
) -> None:
    text = catalogue.expected(few, data)["cells.md"]
    rows = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) \|", text, re.MULTILINE)
    names = [name for name, _ in rows]
    assert names == [anchor for _, anchor in rows]
    assert names == re.findall(r"^### (\w+)$", text, re.MULTILINE)
    fields = [next(e.fields[0] for e in few if e.name == name) for name in names]
    headings = [name.lower() for name in re.findall(r"^## (.+)$", text, re.MULTILINE)]
    assert list(dict.fromkeys(fields)) == headings


def test_a_section_describes_a_cell(page: Any, few: list[Any], data: dict[str, Any]) -> None:
    lif = few[0]
    text = page.section(lif, data["cells"]["lif"], data)
    for part in (
        "### lif\n",
        "[arXiv:2109.12894](https://arxiv.org/abs/2109.12894)",
        "[cells/lif.py](../cells/lif.py)",
        "```math\n\\begin{aligned}\n  u_t &= ",
        f"](structure/{page.picture_name(lif)})",
        "| states | v (init 0) |",
        "| constants | threshold = 1, slope = 25 |",
        "| sweeps | 2 with 16 segments, 3 with 32 segments, 4 with 128 segments; Newton",
        "| it is | contracting: the initial state is forgotten after 26 steps |",
        "| auto takes | sequential at 8x512x64; sequential at 1x16384x16;",
        "; reads 4 B, writes 4.25 B |",
        "| speed | 8x256x64: forward 0.5 ms, the plain loop 60 ms, 120x; forward+backward",
    ):
        assert part in text


def test_the_solver_of_auto_is_given_for_whole_groups(page: Any, few: list[Any]) -> None:
    shapes = [shape for shape, _ in page.plans(few[2])]
    assert [shape[2] % 4 for shape in shapes] == [0] * len(shapes)
    assert any("segmented" in took for _, took in page.plans(few[1]))


def test_a_picture_is_filled_where_the_jacobian_is(page: Any, few: list[Any]) -> None:
    lstm = few[1]
    squares = [
        (float(r.attrib["x"]) // 10, float(r.attrib["y"]) // 10, "fill-opacity" in r.attrib)
        for r in ElementTree.fromstring(page.picture(lstm)).iter()
        if r.attrib.get("fill", "none") != "none"
    ]
    pattern = lstm.stages.structure.pattern
    expected = [
        (2 * block + column, 2 * block + row, pattern[row][column] == "1")
        for block in range(3)
        for row in range(2)
        for column in range(2)
        if pattern[row][column] != "0"
    ]
    assert sorted(squares) == sorted(expected)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "Nagumo 1962, doi:10.1016/S0006-3495(61)86902-6; x_1.",
            "Nagumo 1962, [doi:10.1016/S0006-3495(61)86902-6]"
            "(https://doi.org/10.1016/S0006-3495%2861%2986902-6); x\\_1.",
        ),
        ("A, arXiv:2510.21450.", "A, [arXiv:2510.21450](https://arxiv.org/abs/2510.21450)."),
        ("See github.com/a/b-c.", "See [github.com/a/b-c](https://github.com/a/b-c)."),
    ],
)
def test_sources_are_links(page: Any, source: str, expected: str) -> None:
    assert page.linked(source) == expected


# --- the command -----------------------------------------------------------------------------


def test_the_page_is_written_checked_and_its_orphans_deleted(
    catalogue: Any, few: list[Any], data: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "cells.json").write_text(json.dumps(data))
    (tmp_path / "structure").mkdir()
    (tmp_path / "structure" / "old.svg").write_text("")
    where = ("--docs", str(tmp_path))
    status, said, _ = run(catalogue, "--check", *where)
    assert status == 1
    assert "cells.md: missing\nstructure/old.svg: no cell has it\n" in said
    assert run(catalogue, *where)[0] == 0
    pictures = {path.name for path in (tmp_path / "structure").iterdir()}
    assert pictures == {f"{'-'.join(e.stages.structure.pattern)}.svg" for e in few}
    assert run(catalogue, "--check", *where)[:2] == (0, "catalogue: changed: nothing\n")
    page = tmp_path / "cells.md"
    page.write_text(page.read_text().replace("### lif", "### liv"))
    status, said, _ = run(catalogue, "--check", *where)
    assert status == 1
    assert "cells.md: differs\n" in said
    assert "-### liv\n+### lif\n" in said
    assert "### liv" in page.read_text()


def test_a_cell_that_was_not_measured_since_it_changed_is_named(
    catalogue: Any, data: dict[str, Any], tmp_path: Path
) -> None:
    where = ("--docs", str(tmp_path))
    assert run(catalogue, *where) == (
        1,
        "",
        f"{tmp_path / 'cells.json'}: is missing.\nFix: python tools/catalogue.py --measure\n",
    )
    del data["cells"]["lstm"]
    data["cells"]["lif"]["fingerprint"] = "other"
    (tmp_path / "cells.json").write_text(json.dumps(data))
    assert run(catalogue, *where) == (
        1,
        "",
        "cells that were not measured: lif, lstm (lif: changed since).\n"
        "Fix: python tools/catalogue.py --measure\n",
    )


def test_a_measured_cell_that_does_not_ship_is_named(
    catalogue: Any, data: dict[str, Any], tmp_path: Path
) -> None:
    data["cells"]["gone"] = data["cells"]["lif"]
    (tmp_path / "cells.json").write_text(json.dumps(data))
    status, _, said = run(catalogue, "--docs", str(tmp_path))
    assert status == 1
    assert said.startswith("measured cells that don't ship: gone.\nFix: ")


def test_equations_make_the_fingerprint_and_words_do_not(few: list[Any]) -> None:
    lif = few[0]

    def changed(**parts: Any) -> str:
        cell = dataclasses.replace(lif.cell, **parts)
        return str(dataclasses.replace(lif, cell=cell).fingerprint)

    assert changed(doc="Another.", line=99) == lif.fingerprint
    lets = tuple(dataclasses.replace(let, note="", line=0) for let in lif.cell.lets)
    assert changed(lets=lets) == lif.fingerprint
    first = dataclasses.replace(lets[0], expr=-lets[0].expr)
    assert changed(lets=(first, *lets[1:])) != lif.fingerprint
    state = dataclasses.replace(lif.cell.arguments[0], init=1.0)
    assert changed(arguments=(state, *lif.cell.arguments[1:])) != lif.fingerprint


def test_a_cell_to_measure_must_ship(catalogue: Any, few: list[Any], tmp_path: Path) -> None:
    status, _, said = run(catalogue, "--measure", "nothing_like_it", "--docs", str(tmp_path))
    assert (status, said) == (1, "nothing_like_it: no such cell ships.\nFix: rnncc list\n")
    assert run(catalogue, "lif")[0] == 2
    assert run(catalogue, "--measure", "--check")[0] == 2
