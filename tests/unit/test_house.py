"""The house in order: small files and functions, tests that share helpers only by tests/support."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(p for folder in ("rnncc", "tools") for p in (ROOT / folder).rglob("*.py"))
HEADERS = sorted((ROOT / "templates" / "include").rglob("*.h"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
CLOCKS = {"perf_counter", "perf_counter_ns", "monotonic", "process_time"}
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_a_module_and_its_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    long = [
        f"{shown(path)}:{node.lineno}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= MOST_LINES_OF_A_FUNCTION
    ]
    lines = len(text.splitlines())
    assert lines <= MOST_LINES, f"{shown(path)}: {lines} lines. Fix: split it by what it does"
    assert long == [], "Fix: give a part of each a name"


# From the first line of a function to the brace that closes it; control flow has other words.
FUNCTION = re.compile(
    r"^( *)(?!(?:if|for|while|else|struct|switch|namespace)\b)[A-Za-z][^;{}#]*\) (?:const )?\{\n"
    r"(?:.*\n)*?\1\}\n",
    re.MULTILINE,
)


def long_functions(text: str) -> list[str]:
    found = (match.group().strip() for match in FUNCTION.finditer(text))
    lengths = {one.splitlines()[0]: len(one.splitlines()) for one in found}
    return [f"{n} lines: {head}" for head, n in lengths.items() if n > MOST_LINES_OF_A_FUNCTION]


@pytest.mark.parametrize("path", HEADERS, ids=shown)
def test_a_header_and_its_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines <= MOST_LINES, f"{shown(path)}: {lines} lines. Fix: split it by what it does"
    assert long_functions(text) == [], "Fix: give a part of each a name"


@pytest.mark.parametrize("lines", [58, 59])
def test_a_long_function_of_a_header_is_found(lines: int) -> None:
    text = (
        "struct S {\n  int f(int x,\n        int y) const {\n"
        + "    x;\n" * (lines - 1)
        + "  }\n};\n"
    )
    assert len(long_functions(text)) == (lines > 58)


@pytest.mark.parametrize("path", TESTS, ids=shown)
def test_no_test_imports_from_another(path: Path) -> None:
    imported = {
        node.module or ""
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
    }
    foreign = {m for m in imported if m.startswith("tests.") and m.split(".")[1] != "support"}
    assert foreign == set(), f"{shown(path)}. Fix: move what is shared to tests/support"


@pytest.mark.parametrize("path", TESTS, ids=shown)
def test_no_test_holds_a_time(path: Path) -> None:
    """A busy machine would fail it; hold what takes the time by its number."""
    read = [
        f"{shown(path)}:{call.lineno}: {test.name}"
        for test in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(test, ast.FunctionDef) and test.name.startswith("test_")
        for call in ast.walk(test)
        if isinstance(call, ast.Call) and ast.unparse(call.func).removeprefix("time.") in CLOCKS
    ]
    assert read == []
