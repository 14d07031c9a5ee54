"""`rnncc new`: a commented cell, or a copy of another; names and files that it refuses."""

import codecs
from dataclasses import replace
from pathlib import Path

import pytest

from rnncc.cli.new import check_name, copied
from rnncc.errors import ArgumentError
from rnncc.lang.loader import find, shipped
from rnncc.lang.trace import trace
from tests.support.command_line import data, good, refused


def test_new_writes_a_cell_that_compiles_as_it_is() -> None:
    assert good("new", "my_cell") == "my_cell.py: written.\nNext: rnncc check my_cell.py\n"
    assert data("check", "my_cell.py")["constants"] == {"bias": 0}
    good("compile", "my_cell.py", "--set", "bias=1")


def test_new_writes_into_a_folder_that_it_makes() -> None:
    assert data("new", "my_cell", "--dir", "my/cells") == {
        "name": "my_cell",
        "file": "my/cells/my_cell.py",
        "like": None,
    }
    assert find("my/cells/my_cell.py").name == "my_cell"


def test_new_replaces_a_file_only_by_force() -> None:
    Path("my_cell.py").write_text("mine")
    assert refused(1, "new", "my_cell") == (
        "my_cell.py: exists.\nFix: another name, --dir another folder, or --force to replace it\n"
    )
    assert Path("my_cell.py").read_text() == "mine"
    good("new", "my_cell", "--force")
    assert "def my_cell(" in Path("my_cell.py").read_text()


def test_new_starts_from_another_cell() -> None:
    assert data("new", "my_gru", "--like", "para_gru")["like"] == "para_gru"
    assert data("check", "my_gru.py")["source"] == "Danieli et al. 2025, arXiv:2510.21450."
    assert good("new", "other", "--like", "my_gru.py").startswith("other.py: written.\n")
    assert data("show", "other.py")["recurrence"] == data("show", "para_gru")["recurrence"]
    assert refused(1, "new", "other", "--like", "para_gru").startswith("other.py: exists.\n")


def test_new_says_of_a_cell_that_is_not_there_that_it_was_to_be_like_it() -> None:
    message = refused(1, "new", "my_gru", "--like", "para_gr")
    assert message.startswith("--like: para_gr: no such file, and no shipped cell of that name.\n")
    assert "did you mean 'para_gru'?" in message
    assert not Path("my_gru.py").exists()


def test_new_says_why_it_can_not_write() -> None:
    assert refused(1, "new", "my_cell", "--dir", "mix.py").startswith(
        "mix.py/my_cell.py: can't be written: "
    )


@pytest.mark.parametrize(
    ("name", "reason", "instead"),
    [
        ("my-cell", "is not a plain name", "my_cell"),
        ("my_cell.py", "is not a plain name", "my_cell"),
        ("2nd", "is not a plain name", "nd"),
        ("a__b", "is not a plain name", "a_b"),
        ("", "is not a plain name", "my_cell"),
        ("grün", "is not a plain name", "gr_n"),
        ("class", "is a reserved word of Python, C++ or CUDA", "class_cell"),
        ("switch", "is a reserved word of Python, C++ or CUDA", "switch_cell"),
        ("tanh", "is a name of rnncc's own", "tanh_cell"),
        ("Input", "is a name of rnncc's own", "Input_cell"),
    ],
)
def test_new_refuses_a_name_that_can_not_be_a_cells(name: str, reason: str, instead: str) -> None:
    message = refused(1, "new", name)
    assert message.startswith(f"NAME: got {name!r}, which {reason}")
    assert message.endswith(f"Fix: rnncc new {instead}\n")
    check_name(instead)


# --- a copy ----------------------------------------------------------------------------------

SEVERAL = '''#!/usr/bin/env python
"""Two cells, é."""
from rnncc import Input, Param, State, cell, sigmoid, tanh

RATE = 2.0


def damped(x):
    return 0.5 * tanh(x)


@cell
def decay(h: State, x: Input):
    """Decays, as decay does."""
    decay_rate = damped(h)  # decay
    return decay_rate + x


@cell
def growth(h: State, x: Input, a: Param):
    return sigmoid(RATE * h) + x + a
'''


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_a_copy_of_a_shipped_cell_differs_in_its_name_alone(path: Path) -> None:
    text = copied(find(path.stem), "fresh_one")
    Path("fresh_one.py").write_bytes(text)
    old, new = trace(find(path.stem)), trace(find("fresh_one.py"))
    assert new == replace(old, name="fresh_one", file=new.file)
    assert text == path.read_bytes().replace(f"def {path.stem}(".encode(), b"def fresh_one(", 1)


def test_only_the_name_behind_def_changes_in_a_copy() -> None:
    Path("several.py").write_text(SEVERAL)
    text = copied(find("several.py:decay"), "slow").decode()
    assert text == SEVERAL.replace("def decay(", "def slow(")


def test_new_says_which_cells_were_copied_along() -> None:
    Path("several.py").write_text(SEVERAL)
    assert good("new", "slow", "--like", "several.py:decay") == (
        "slow.py: written. It also holds growth.\nNext: rnncc check slow.py:slow\n"
    )
    assert (
        data("check", "slow.py:slow")["recurrence"]
        == data("check", "several.py:decay")["recurrence"]
    )
    assert data("check", "slow.py:growth")["name"] == "growth"


@pytest.mark.parametrize("name", ["damped", "RATE", "growth"])
def test_a_copy_gets_no_name_that_its_file_uses(name: str) -> None:
    Path("several.py").write_text(SEVERAL)
    with pytest.raises(ArgumentError) as caught:
        copied(find("several.py:decay"), name)
    assert str(caught.value) == (
        f"NAME: got {name!r}, a name that several.py uses for something else.\n"
        f"Fix: rnncc new {name}_cell --like ..."
    )


def test_a_file_that_names_its_cell_elsewhere_is_not_copied() -> None:
    Path("several.py").write_text(f"{SEVERAL}\nprint(decay)\n")
    assert refused(1, "new", "slow", "--like", "several.py:decay").endswith(
        "--like: several.py:23: names 'decay' outside its `def` too.\n"
        "Fix: copy the file and rename the cell there\n"
    )
    assert not Path("slow.py").exists()


def test_a_cell_without_a_def_is_not_copied() -> None:
    Path("made.py").write_text(
        "from rnncc import Input, State, cell\n"
        "step = lambda h, x: h + x\n"
        "step.__annotations__ = {'h': State, 'x': Input}\n"
        "step.__name__ = 'step'\n"
        "half = cell(step)\n"
    )
    assert refused(1, "new", "fresh", "--like", "made.py") == (
        "--like: made.py does not define 'step' by a `def`.\n"
        "Fix: copy the file and rename the cell there\n"
    )


@pytest.mark.parametrize(
    "head",
    [
        codecs.BOM_UTF8 + "# grün\n".encode(),
        "# -*- coding: latin-1 -*-\n# grün\n".encode("latin-1"),
        "# grün\r\n".encode(),
    ],
    ids=["byte order mark", "latin-1", "carriage returns"],
)
def test_a_copy_keeps_encoding_and_line_ends(head: bytes) -> None:
    text = head + SEVERAL.replace("é", "e").encode()
    Path("several.py").write_bytes(text)
    found = copied(find("several.py:decay"), "slow")
    assert found == text.replace(b"def decay(", b"def slow(")
    Path("slow.py").write_bytes(found)
    assert trace(find("slow.py:slow")).name == "slow"
