"""Names: no code of rnncc knows a particular cell; everything about a cell is in its own file."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rnncc.codegen.module import class_name
from rnncc.lang.loader import shipped

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "rnncc").glob("*.py"))
TEMPLATES = sorted(p for p in (ROOT / "templates").rglob("*") if p.is_file())
PLAIN_WORDS = {"phase"}  # names that are words of English, which code uses for something else
CELLS = {path.stem for path in shipped()} - PLAIN_WORDS
HELP = {"help", "epilog"}  # of a command: its examples may name cells
# In emit.py: abbreviations of the field, which are words of many a cell's name.
WORDS = {"ABBREVIATIONS", "STEMS"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ugrnn", "UGRNN"),
        ("alif", "ALIF"),
        ("rg_lru", "RGLRU"),
        ("gru_ode", "GRUODE"),
        ("rwkv4", "RWKV4"),
        ("s4d", "S4D"),
        ("selective_ssm", "SelectiveSSM"),
        ("my_mode", "MyMode"),
        ("node", "Node"),
    ],
)
def test_abbreviations_of_the_field_stay_in_capitals(name: str, expected: str) -> None:
    assert class_name(name) == expected


def names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each identifier and string that isn't a docstring, an example or a word."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.keyword) and node.arg in HELP:
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Assign) and {getattr(t, "id", "") for t in node.targets} <= WORDS:
            continue
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield line, node.value
        for field in ("id", "name", "asname", "attr", "arg"):
            if isinstance(text := getattr(node, field, None), str):
                yield line, text
        yield from names_in(node)


def cells_named_in(text: str) -> set[str]:
    return CELLS & set(re.findall(r"\w+", text))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_code_names_a_shipped_cell(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [(line, name) for line, text in names_in(tree) for name in cells_named_in(text)]
    assert found == []


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_names_a_shipped_cell(path: Path) -> None:
    assert cells_named_in(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    "code",
    [
        "CELL = 'lstm'",
        "def lif(): pass",
        "lru = 1",
        "x.slstm",
        "import elman",
        "f(elman=1)",
        "print(f'see {x} or lstm')",
        "def f(x='cells/para_gru.py'): pass",
    ],
)
def test_a_name_in_code_would_be_seen(code: str) -> None:
    assert [name for _, text in names_in(ast.parse(code)) for name in cells_named_in(text)]


@pytest.mark.parametrize(
    "code",
    [
        "def f():\n    'lstm -> LSTM'",
        "@command(epilog='rnncc show lstm')\ndef f(): pass",
        "ABBREVIATIONS = 'lstm gru'.split()",
        "x = 'LSTM'",
        "x = 'the lstms'",
    ],
)
def test_a_name_in_an_explanation_is_none(code: str) -> None:
    assert not [name for _, text in names_in(ast.parse(code)) for name in cells_named_in(text)]
