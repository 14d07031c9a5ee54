"""Escape: nothing that an author writes as text becomes code, or hides some."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import rnncc
from rnncc.cli.importable import check_import
from rnncc.codegen import escape
from rnncc.codegen.writer import write
from rnncc.lang.loader import shipped
from tests.support.cells import cell_from, source_of

CODE = 'raise SystemExit("a comment was run")'
NOTES = {
    "latex": r"gate \xi of eq. 3, \nu, \upsilon, \N{x}",
    "path": r"C:\Users\me",
    "quotes": 'the """ gate',
    "apostrophes": "the ''' gate",
    "code": f'""" ; {CODE} ; """',
    "quote at the end": 'said "',
    "backslash": "ends with \\",
    "backslashes": "ends with \\\\\\ \\  ",
    "trigraph": "ends with ??/",
    "both": "ends with \\ ??/ \\",
    "end of a comment": f"*/ {CODE}; /*",
    "include": '#include "/etc/passwd"',
    "jinja": "{{ 1 / 0 }} {% raw %}",
    "wide": " ".join(["a wide comment that is wrapped \\"] * 20),
    "bidirectional": "\u202e } ;return 0 {\u2066 // \u2069",
    "zero width": "a\u200bb\ufeffc\u00ad",
    "control": "a\x00b\x1b[31mc\x7f\x08",
    "breaks": f"a\x0c{CODE}\x0b{CODE}\x85{CODE}\u2028{CODE}\u2029{CODE}\x1c{CODE}",
    "beyond": "\U0001f600 \U000e0041 \ue000",
}


def commented(note: str) -> str:
    """A cell whose comments and docstring are this note."""
    quoted = note.replace("\\", "\\\\").replace('"', '\\"').replace("\x00", "\\x00")
    body = (
        f'"""{quoted}\n\n    {quoted}\n    """\nz = tanh(h + x)  # {note}\nreturn a * z  # {note}'
    )
    return source_of(body)


def texts_of(folder: Path, note: str) -> dict[str, str]:
    note = "".join(c for c in note if c not in "\x00\x0c\x0b\x85\x1c\u2028\u2029\r")
    return rnncc.compile(cell_from(folder, commented(note))).files


@pytest.mark.parametrize("note", NOTES.values(), ids=NOTES)
def test_a_cell_with_any_comment_gives_a_module_of_the_same_code(tmp_path: Path, note: str) -> None:
    files, plain = texts_of(tmp_path, note), texts_of(tmp_path, "plain")
    write(files, tmp_path / "out")
    check_import(tmp_path / "out")
    assert code(files["__init__.py"]) == code(plain["__init__.py"])
    for name in ("cell.h", "kernel.cpp", "kernel.cu"):
        assert lines_of_code(files[name]) == lines_of_code(plain[name])


def code(module: str) -> str:
    """Without docstrings, and the hash over the files beside it."""
    tree = ast.parse(re.sub(r'"[0-9a-f]{16}"', '""', module))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)):
            node.body = [n for n in node.body if not is_text(n)] or [ast.Pass()]
    return ast.dump(tree)


def is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def lines_of_code(text: str) -> list[str]:
    """What a C++ compiler sees: lines that a backslash joins are one."""
    joined = re.sub(r"(\\|\?\?/)[ \t]*\n", "", text)
    bare = (re.sub(r"//.*", "", line).split() for line in re.split(r"[\n\r\v\f]", joined))
    return [" ".join(line) for line in bare if line]


@pytest.mark.parametrize("note", NOTES.values(), ids=NOTES)
@pytest.mark.parametrize("kind", ["//", "#", "docstring"])
def test_what_is_emitted_can_be_seen_and_ends_with_its_line(kind: str, note: str) -> None:
    shown = escape.docstring(note) if kind == "docstring" else escape.comment(note, kind)
    assert shown.isprintable()
    if kind == "docstring":
        assert (
            ast.literal_eval(f'"""{shown}\n"""') == escape.plain(note).replace('"""', "'''") + "\n"
        )
    else:
        assert not shown.endswith(("\\", "??/", " "))


def test_what_can_not_be_seen_is_named() -> None:
    assert escape.plain("a\u202eb\tc\u00a0d\ud800") == "a<U+202E>b c d<U+D800>"


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_ordinary_text_stays_as_it_is(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        assert escape.comment(line) == line.rstrip()


# --- names of files and constants --------------------------------------------------------------


@pytest.mark.parametrize(
    "file",
    [
        f"a\n{CODE}.py",
        'a""".py',
        "a\\.py",
        "\u202ea.py",
        "-*- coding: utf-7 -*-.py",
        "a b.py",
        "caf\udce9.py",  # not UTF-8
    ],
    ids=ascii,
)
def test_the_name_of_a_file_is_text(tmp_path: Path, file: str) -> None:
    try:
        cell = cell_from(tmp_path, source_of("return a * h + x"), file)
    except OSError:
        pytest.skip("this file system has no such name")
    files = rnncc.compile(cell).files
    write(files, tmp_path / "out")
    check_import(tmp_path / "out")
    assert [line[0] for line in files["__init__.py"].splitlines()[:2]] == ["#", "#"]


@pytest.mark.parametrize("constant", ["coding", "encoding"])
def test_a_constant_does_not_name_the_encoding_of_the_module(tmp_path: Path, constant: str) -> None:
    source = source_of(
        f"return a * h + x * {constant}", f"h: State, x: Input, a: Param, {constant}=2.0"
    )
    files = rnncc.compile(cell_from(tmp_path, source)).files
    write(files, tmp_path / "out")
    check_import(tmp_path / "out")
    assert rf"--set {constant}\=2.0" in files["__init__.py"]  # a shell reads =
    assert f"--set {constant}=2.0" in files["cell.h"]


def test_a_command_is_quoted_for_the_shell(tmp_path: Path) -> None:
    files = rnncc.compile(cell_from(tmp_path, source_of("return a * h + x"), "my cell.py")).files
    assert "rnncc compile 'my cell.py:odd'\n" in files["cell.h"]
