"""Paths: each file that the sources, the templates or the documents name is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("rnncc", "templates", "docs")
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
SUFFIXES = {".py", ".h", ".j2", ".md"}
READ = [
    *(p for f in FOLDERS for p in sorted((ROOT / f).rglob("*")) if p.suffix in SUFFIXES),
    *DOCUMENTS,
]
FILES = [
    f"/{path.relative_to(ROOT).as_posix()}"
    for folder in (*FOLDERS, "cells", "examples", "generated", "tests", "tools")
    for path in (ROOT / folder).rglob("*")
]
# `folder/file.py`, in any words; not what the system or a template's name holds.
NAMED = re.compile(r"(?<![\w/.<{}-])(\w[\w/]*/\w+\.(?:py|h))(?![\w.]*\.j2|\w)")


def missing(text: str) -> Iterator[str]:
    """Named with the last folders of its path, as `cuda/math.h`, or with all."""
    for name in NAMED.findall(text):
        if not any(path.endswith(f"/{name}") for path in FILES):
            yield name


@pytest.mark.parametrize("path", READ, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_that_is_named_is_there(path: Path) -> None:
    assert list(missing(path.read_text(encoding="utf-8"))) == []


def test_one_that_is_not_is_found() -> None:
    text = "See rnncc/runtime/launch.py, `cuda/math.h`, include/cuda/math.h and module.py.j2."
    assert list(missing(text)) == ["rnncc/runtime/launch.py", "include/cuda/math.h"]
