"""Programs that tests of a GPU start: a rename elsewhere must not break what can't run here."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "gpu"


def programs() -> list[tuple[str, str]]:
    """Where each stands, and its text."""
    return [
        (f"{path.name}:{node.lineno}", node.value)
        for path in sorted(FOLDER.glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith("\nimport ")
    ]


@pytest.mark.parametrize(("where", "text"), programs(), ids=[where for where, _ in programs()])
def test_a_program_that_a_gpu_test_starts_imports_what_there_is(where: str, text: str) -> None:
    absent = [
        f"{where}: {node.module} has no {alias.name}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if not _has(str(node.module), alias.name)
    ]
    assert absent == []


def _has(module: str, name: str) -> bool:
    found = importlib.import_module(module)
    try:
        return hasattr(found, name) or bool(importlib.import_module(f"{module}.{name}"))
    except ImportError:
        return False


def test_all_of_them_are_looked_at() -> None:
    assert len(list(programs())) >= 3
