"""Like: a new cell that starts from another is that cell under another name, and says so."""

import codecs
import contextlib
import io
import re
from pathlib import Path

import pytest

from rnncc.calculus.structure import classify
from rnncc.cli.like import text_like
from rnncc.errors import ArgumentError
from rnncc.inspect.catalogue import fields_of, source_of
from rnncc.lang.loader import cells_of, find, shipped
from rnncc.lang.trace import trace

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
        ("'a ' 'b'\n", 'It started from bare.py:\na b\n"""\n'),
        ("('a '\n 'b')\n", 'It started from bare.py:\na b\n"""\n'),
        ("'A \\\\d.'\n", 'r"""fresh: say here'),
    ],
    ids=["none", "short", "raw", "comment", "joined", "in parentheses", "escaped"],
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


# --- files that are not as tidy --------------------------------------------------------------

HEAD = "from rnncc import Input, State, cell, tanh\n\n"
ONE = "@cell\ndef one(h: State, x: Input):\n    return {}\n\n\n"
TWO = "@cell\ndef two(h: State, x: Input):\n    return {}\n"


def two_of(text: str) -> str:
    """The file's cell `two` as `fresh`, which has to be traced."""
    Path("a.py").write_text(text)
    shown = like("a.py:two", "fresh")
    assert list(cells_of(Path("fresh.py").resolve())) == ["fresh"]
    trace(find("fresh.py"))
    return shown


def test_statements_that_share_a_line_stay_or_go_one_by_one() -> None:
    helper = "def helper(x):\n    return x\n\n\n"
    cells = ONE.format("HALF * h + OTHER * helper(x)") + TWO.format("helper(h) + x")
    for line in ("HALF = 2 / 2; OTHER = 3.0", "HALF = 1; \\\nOTHER = 2;", "HALF = OTHER = 1"):
        shown = two_of(f"{HEAD}{line}\n{helper}{cells}")
        assert "HALF" not in shown
        assert "OTHER" not in shown
        assert "\n\ndef helper(x):\n    return x\n\n\n@cell" in shown
    for line in (
        "A = 1; B = 2",
        "B = 2; A = 1",
        "A = 1; B = 2; A = 3  # what",
        "B = (\n 2); A = 1",
    ):
        shown = two_of(f"{HEAD}{line}\n{ONE.format('A * h + x')}{TWO.format('B * h + x')}")
        assert re.search(r"^B = (2|\(\n 2\))(  # what)?\n", shown, re.MULTILINE), line
        assert not re.search(r"\bA =", shown), line


def test_comments_go_with_what_is_below_them_only() -> None:
    text = f"# the file\n{HEAD}B = 1# on B\n# on A\nA = 2  # A too\n# on the next\n\n"
    shown = two_of(text + ONE.format("A * h + x") + "# on two\n" + TWO.format("B * h + x"))
    for kept in ("# the file", "B = 1# on B\n", "# on the next", "# on two\n@cell\ndef fresh"):
        assert kept in shown
    assert not re.search("on A|A too", shown)


def test_a_string_that_looks_like_comments_and_blank_lines_is_kept_as_it_is() -> None:
    odd = 'B = """\n\n\n\n\n# b"""\n'
    text = f"{HEAD}{odd}A = 2\n\n\n{ONE.format('A * h + x')}{TWO.format('len(B) * h + x')}"
    shown = two_of(text)
    assert odd in shown
    assert "A = 2" not in shown


@pytest.mark.parametrize(
    ("doc", "meant"),
    [
        ("'''Say \"\"\"so\"\"\".'''", 'Say """so""".'),
        ("r'''A \\d \"\"\"\"'''", 'A \\d """"'),
        ('"a " "b"', "a b"),
        ('"a\\\\"', "a\\"),
    ],
)
def test_a_docstring_means_the_same_however_it_is_quoted(doc: str, meant: str) -> None:
    two_of(HEAD + TWO.format("h + x").replace("    return", f"    {doc}\n    return"))
    assert trace(find("fresh.py")).doc.endswith(f"It started from a.py:two:\n{meant}")


def test_the_docstring_goes_to_the_top_where_the_first_statement_goes() -> None:
    text = f"\n# on A\nA = 2\n{HEAD}{ONE.format('A * h + x')}{TWO.format('h + x')}"
    assert '"""fresh: say here' in two_of(text).splitlines()[2]


@pytest.mark.parametrize(
    ("between", "needed"),
    [
        ("plain = one.function\n\n\n", "plain"),
        ("def plain(h, x):\n    return one.function(h, x)\n\n\n", "plain"),
        ("if True:\n    from math import pi as plain; print(one)\n\n\n", "plain"),
        ("def plain(h, x):\n    return h\n\n\nx = cell(plain)\n", "plain"),
    ],
)
def test_a_cell_that_needs_another_is_not_copied_without_it(between: str, needed: str) -> None:
    Path("a.py").write_text(HEAD + ONE.format("h + x") + between + TWO.format("plain(h, x) * 2"))
    with pytest.raises(ArgumentError) as caught:
        text_like(find("a.py:two"), "fresh")
    assert str(caught.value) == (
        f"--like: 'two' needs '{needed}', which is another cell of a.py or made from one, and a "
        "copy holds one cell.\n"
        "Fix: move what both compute into a plain function (without @cell) and call that in both, "
        "or copy the file and rename the cell there"
    )


def test_a_value_that_is_named_as_another_cell_is_not_that_cell() -> None:
    helper = "def helper(two):\n    one = tanh(two)\n    return one\n\n\n"
    two = TWO.format("helper(x) + one").replace("h: State", "one: State")
    assert helper in two_of(HEAD + helper + ONE.format("h + x") + two)


def test_a_quoted_annotation_keeps_its_import() -> None:
    two = TWO.format("h + x").replace("x: Input", 'x: "Input"')
    assert "Input, State" in two_of(HEAD + ONE.format("h + x") + two)


def test_a_list_of_what_the_file_exports_is_left_out() -> None:
    assert "__all__" not in two_of(f'__all__ = ["two"]\n{HEAD}{TWO.format("h + x")}')


def test_a_name_inside_a_formatted_string_is_renamed() -> None:
    show = '\n\ndef show():\n    return f"é {two} {two!r}"\n'
    assert '"é {fresh} {fresh!r}"' in two_of(HEAD + TWO.format("h + x") + show)


def test_a_built_in_name_that_the_file_uses_is_refused() -> None:
    Path("a.py").write_text(HEAD + TWO.format("len('ab') * h + x"))
    with pytest.raises(ArgumentError, match=r"NAME: got 'len', a name that a\.py uses"):
        text_like(find("a.py:two"), "len")


@pytest.mark.parametrize(
    "head",
    [
        codecs.BOM_UTF8 + "# grün\n".encode(),
        "# -*- coding: latin-1 -*-\n# grün\n".encode("latin-1"),
        "#!/usr/bin/python\n# vim: set fileencoding=latin-1 :\n# grün\n".encode("latin-1"),
        "# grün\r\n".encode(),
    ],
    ids=["byte order mark", "latin-1", "second line", "carriage returns"],
)
def test_a_file_in_another_encoding_becomes_utf_8(head: bytes) -> None:
    Path("a.py").write_bytes(head + (HEAD + ONE.format("h") + TWO.format("h + x")).encode())
    Path("fresh.py").write_bytes(text_like(find("a.py:two"), "fresh").encode())
    assert trace(find("fresh.py")).name == "fresh"
    shown = Path("fresh.py").read_text(encoding="utf-8")
    assert "# grün\n" in shown
    assert not re.search("latin|\ufeff|\r", shown)


@pytest.mark.parametrize(
    ("name", "body"),
    [("two", "'\\0'\n    return h + x"), ("\ufb01t", "fit = h + x\n    return fit")],
    ids=["a docstring with a null", "a name spelt otherwise"],
)
def test_what_can_not_be_copied_is_refused(name: str, body: str) -> None:
    text = f"{HEAD}@cell\ndef {name}(h: State, x: Input):\n    {body}\n"
    Path("a.py").write_text(text, encoding="utf-8")
    with pytest.raises(ArgumentError) as caught:
        text_like(find("a.py"), "fresh")
    assert str(caught.value) == (
        "--like: a.py is written in a way that rnncc can't copy.\n"
        "Fix: copy the file and rename the cell there"
    )
