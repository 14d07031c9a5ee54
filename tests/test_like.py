"""Like: a new cell that starts from another is that cell under another name, and says so."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from rnncc.errors import ArgumentError
from rnncc.facts import fields_of, source_of
from rnncc.find import cells_of, find, shipped
from rnncc.like import text_like
from rnncc.structure import classify
from rnncc.trace import trace

SEVERAL = '''#!/usr/bin/env python
# whose file this is
"""Two cells, é."""
from __future__ import annotations

import math
from rnncc import Input, Param, State, cell, sigmoid, tanh, uniform

__all__ = ["decay", "growth"]
FACTOR = math.sqrt(0.5)
RATE = 2.0


def damped(x):
    return FACTOR * tanh(x)


def shared(x):
    return x + 1


@cell
def decay(h: State, x: Input):
    """Decays.

    Source: nobody.
    """
    # grün: decay is damped
    decay_rate = damped(h)
    return decay_rate + shared(x)


# on growth
@cell
def growth(h: State, x: Input, a: Param(init=uniform(0, 1))):
    return sigmoid(RATE * h) + shared(x) + a


def show():
    print(growth)


if __name__ == "__main__":
    print(decay)
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("several.py").write_text(SEVERAL)
    return tmp_path


def like(where: str, name: str) -> str:
    """The text of the new cell; the file is written as well."""
    text = text_like(find(where), name)
    Path(f"{name}.py").write_text(text)
    return text


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_a_copy_of_a_shipped_cell_is_the_same_recurrence(path: Path) -> None:
    like(path.stem, "fresh_one")
    old, new = trace(find(path.stem)), trace(find("fresh_one.py"))
    assert new.name == "fresh_one"
    assert [(let.name, let.expr, let.note) for let in new.lets] == [
        (let.name, let.expr, let.note) for let in old.lets
    ]
    assert (new.arguments, new.next, new.outputs) == (old.arguments, old.next, old.outputs)
    assert classify(new).pattern == classify(old).pattern
    assert source_of(new.doc) == source_of(old.doc)
    assert fields_of(new.doc) == fields_of(old.doc)


def test_the_copy_says_what_it_started_from_above_what_that_said() -> None:
    assert like("para_gru", "my_gru").startswith(
        '"""my_gru: say here in one line what the cell does.\n\n'
        "It started from para_gru, which ships with rnncc:\n"
        "GRU with diagonal state-to-state weights.\n\n"
    )
    like("my_gru.py", "third")
    assert "It started from my_gru.py:\nmy_gru: say here" in Path("third.py").read_text()


def test_the_docstring_of_the_function_is_the_one_that_counts() -> None:
    like("several.py:decay", "slow")
    doc = trace(find("slow.py")).doc
    assert doc.startswith("slow: say here in one line what the cell does.\n\nIt started from ")
    assert "It started from several.py:decay:\nDecays.\n\nSource: nobody." in doc


def test_other_cells_stay_behind_with_what_only_they_need() -> None:
    text = like("several.py:decay", "slow")
    assert list(cells_of(Path("slow.py").resolve())) == ["slow"]
    for gone in ("growth", "RATE", "Param", "sigmoid", "uniform", "__all__", "def show"):
        assert not re.search(rf"\b{gone}\b", text), gone
    for kept in ("#!/usr", "# whose file", "é", "def damped", "def shared", "FACTOR", "math"):
        assert kept in text
    text = like("several.py:growth", "fast")
    assert list(cells_of(Path("fast.py").resolve())) == ["fast"]
    for gone in ("decay", "damped", "FACTOR", "math", "tanh", "__main__"):
        assert not re.search(rf"\b{gone}\b", text), gone
    assert "def shared" in text


def test_what_refers_to_the_cell_gets_the_new_name_and_comments_stay() -> None:
    assert "    print(slow)\n" in like("several.py:decay", "slow")
    text = like("several.py:growth", "fast")
    assert "    print(fast)\n" in text
    shown = like("several.py:decay", "slow")
    assert "    # grün: decay is damped\n    decay_rate = damped(h)\n" in shown


def test_a_copy_runs_as_a_program_where_its_origin_did() -> None:
    like("several.py:decay", "slow")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(Path("slow.py").read_text(), "slow.py", "exec"), {"__name__": "__main__"})
    assert "function slow " in said.getvalue()


@pytest.mark.parametrize(
    ("head", "shown"),
    [
        (
            "",
            '"""fresh: say here in one line what the cell does.\n\nIt started from bare.py.\n"""\n',
        ),
        ("'One line.'\n", 'does.\n\nIt started from bare.py:\nOne line.\n"""\n'),
        ("r'''A \\d.\n\nMore.\n'''\n", 'It started from bare.py:\nA \\d.\n\nMore.\n"""\n'),
        ("# first\n", '# first\n"""fresh: say here'),
    ],
    ids=["none", "short", "raw", "comment"],
)
def test_a_docstring_of_any_form_gets_the_new_lines(head: str, shown: str) -> None:
    body = "from rnncc import Input, State, cell\n\n\n@cell\ndef bare(h: State, x: Input):\n"
    Path("bare.py").write_text(f"{head}{body}    return h + x\n")
    assert shown in like("bare.py", "fresh")
    assert trace(find("fresh.py")).doc.startswith("fresh: say here")


def test_a_name_that_the_file_uses_is_refused() -> None:
    for name in ("damped", "FACTOR", "math", "growth", "show"):
        with pytest.raises(ArgumentError) as caught:
            text_like(find("several.py:decay"), name)
        assert str(caught.value) == (
            f"NAME: got {name!r}, a name that several.py uses for something else.\n"
            f"Fix: rnncc new {name}_cell --like ..."
        )


def test_a_cell_that_a_function_makes_can_not_be_copied() -> None:
    Path("made.py").write_text(
        "from rnncc import Input, State, cell\n\n\ndef make(factor):\n    @cell\n"
        "    def inner(h: State, x: Input):\n        return factor * h + x\n    return inner\n\n\n"
        "half = make(0.5)\n"
    )
    with pytest.raises(ArgumentError) as caught:
        text_like(find("made.py"), "fresh")
    seen = "--like: 'inner' is made inside something else of made.py, which can't be copied"
    assert str(caught.value).startswith(seen)
