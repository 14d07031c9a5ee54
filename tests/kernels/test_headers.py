"""The driver's headers: each includes what it needs, and an emitted kernel compiles beside them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rnncc import paths
from rnncc.runtime.cpu.build import find_compiler
from tests.support.runs import compiled

HEADERS = sorted(
    path.relative_to(paths.headers()).as_posix()
    for folder in ("common", "cpp")
    for path in (paths.headers() / "rnncc" / folder).glob("*.h")
)


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `rnncc compile` writes it."""
    folder = tmp_path_factory.mktemp("cell")
    for name, text in compiled("para_gru").files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def refusal(file: Path, folder: Path) -> str:
    """The compiler's messages for a file, with the flags of compile_flags.txt."""
    compiler = find_compiler()
    assert compiler is not None
    flags = ("-std=c++17", "-fsyntax-only", "-x", "c++", "-w")
    command = [*compiler.command, *flags, f"-I{paths.headers()}", f"-I{folder}", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_compiles_alone(name: str, cell: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.cpp").write_text(f'#include "{name}"\n')
    assert refusal(tmp_path / "alone.cpp", cell) == ""


def test_a_kernel_compiles_where_it_was_written(cell: Path) -> None:
    assert refusal(cell / "kernel.cpp", cell) == ""
