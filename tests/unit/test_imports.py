"""Imports: `import rnncc` is light, and data flows one way through the packages."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# A package imports only from those before it; `front` and `back` meet only in `ir`.
FRONT = ("lang", "calculus", "codegen")
BACK = ("planner", "runtime", "nn")
ORDER = (
    *("process", "errors", "paths", "cache", "kernel", "ir", *FRONT, *BACK, "generated", "export"),
    *("compiler", "inspect", "cells", "doctor", "bench", "analysis", "cli", "__main__"),
)
ONLY_IN = {"jinja2": "codegen/emit", "cupy": "runtime/cuda/", "ctypes": "runtime/"}
HEAVY = ("torch", "sympy", "cupy", "jinja2", "numpy", "pydantic")

PACKAGE = Path(__file__).parents[2] / "rnncc"
FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


def place(path: Path) -> str:
    """The package or module of rnncc that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_import_rnncc_imports_nothing_heavy() -> None:
    code = f"import sys, rnncc; print([n for n in {HEAVY} if n in sys.modules])"
    run = [sys.executable, "-c", code]
    assert subprocess.check_output(run, cwd=PACKAGE.parent, text=True).strip() == "[]"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_data_flows_one_way(path: Path) -> None:
    here = place(path)
    above = {*ORDER[: ORDER.index(here) + 1], "__version__"}
    above -= {*BACK} if here in FRONT else {*FRONT} if here in BACK else set()
    foreign = [
        f"{path.name}:{line} imports {name}"
        for line, name in imports(path)
        if (name.startswith("rnncc.") and name.split(".")[1] not in above)
        or not str(path.relative_to(PACKAGE)).startswith(ONLY_IN.get(name.split(".")[0], ""))
    ]
    assert foreign == []


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"
