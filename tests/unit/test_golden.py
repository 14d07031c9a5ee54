"""Golden output: generated/ follows from the cells, and is the same everywhere."""

from __future__ import annotations

import datetime
import re
import sys
from pathlib import Path

import pytest

import rnncc
from rnncc.lang.loader import shipped
from tests.support import golden
from tests.support.golden import (
    GENERATED,
    ROOT,
    differences,
    expected_files,
    main,
    packages,
    update,
)
from tests.support.runs import compiled

CELLS = [path.stem for path in shipped()]
FEW = [path for path in shipped() if path.stem in ("elman", "lru", "block_elman")]


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as --update leaves it, in a world of few cells."""
    monkeypatch.setattr(golden, "shipped", lambda: FEW)
    update(tmp_path / "generated", packages())
    return tmp_path / "generated"


# --- generated/ ------------------------------------------------------------------------------


def texts(name: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in (GENERATED / name).iterdir() if path.is_file()}


@pytest.mark.parametrize("name", CELLS)
def test_a_package_in_generated_follows_from_its_cell(name: str) -> None:
    """Of the core cells here; of all in tests/kernels/test_generated.py."""
    found = differences(GENERATED / name, compiled(name).files)
    assert not found, "Fix: make golden, then review.\n" + "\n\n".join(map(str, found[:3]))


@pytest.mark.parametrize("name", CELLS)
def test_every_shipped_cell_has_its_package(name: str) -> None:
    files = texts(name)
    assert set(files) == {"__init__.py", "cell.h", "cell.json", "kernel.cpp", "kernel.cu"}
    assert all(text.endswith("\n") and not text.endswith("\n\n") for text in files.values())


# --- the same everywhere ---------------------------------------------------------------------


def test_output_does_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = packages(FEW)
    monkeypatch.chdir(tmp_path)
    assert packages(FEW) == before


def leaks(text: str) -> list[str]:
    """Absolute paths, dates and versions in a text."""
    today = datetime.date.today()
    home = [str(ROOT), str(Path.home()), sys.prefix, "/tmp/", "site-packages"]
    dates = [str(today), str(today.year) + "-", today.strftime("%d.%m."), today.strftime("%b %d")]
    versions = [rnncc.__version__, sys.version.split()[0]]
    paths = re.findall(r"(?<![\w/.:])/(?:[\w.-]+/)+[\w.-]+", text)
    return [t for t in [*home, *dates, *versions] if t in text] + paths


def test_the_check_for_leaks_finds_them() -> None:
    assert leaks("from /usr/include/math.h") == ["/usr/include/math.h"]
    assert leaks(f"written by rnncc {rnncc.__version__}")
    assert leaks(f"on {datetime.date.today()}")
    assert leaks("a / b and cells/elman.py, arXiv:2510.21450, https://a.b/c/d, x/y/z") == []


@pytest.mark.parametrize("name", CELLS)
def test_output_holds_no_path_date_or_version(name: str) -> None:
    for file, text in texts(name).items():
        assert leaks(text) == [], file


# --- the tool --------------------------------------------------------------------------------


def test_an_updated_folder_has_no_differences(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--folder", str(copy)]) == 0
    assert "files are as the cells and ir/abi.py give them" in capsys.readouterr().out


def test_a_changed_file_is_shown_as_a_short_diff(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel = copy / "elman" / "cell.h"
    kernel.write_text(kernel.read_text().replace("tanh(", "sinh(").replace("const real", "real"))
    assert main(["--folder", str(copy)]) == 1
    out = capsys.readouterr().out
    assert "elman/cell.h: differs" in out
    assert "sinh(" in out
    assert "more lines" in out
    assert "1 of " in out
    assert len(out.splitlines()) < 50


def test_missing_files_and_orphans_are_listed(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "elman" / "cell.json").unlink()
    (copy / "old_cell").mkdir()
    (copy / "old_cell" / "kernel.cpp").write_text("old")
    (copy / "elman" / "__pycache__").mkdir()
    (copy / "elman" / "__pycache__" / "x.pyc").write_bytes(b"\xff")
    assert main(["--folder", str(copy)]) == 1
    out = capsys.readouterr().out
    assert "elman/cell.json: missing" in out
    assert "old_cell/kernel.cpp: orphan" in out
    assert "__pycache__" not in out


def test_update_fixes_all_of_it(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "elman" / "cell.json").unlink()
    (copy / "elman" / "kernel.cpp").write_text("broken")
    (copy / "elman" / "extra.txt").write_text("orphan")
    (copy / "old_cell").mkdir()
    (copy / "old_cell" / "kernel.cpp").write_text("old")
    assert main(["--folder", str(copy), "--update"]) == 0
    assert "changed: elman/cell.json, elman/extra.txt" in capsys.readouterr().out
    assert differences(copy, expected_files(packages())) == []
    assert not (copy / "old_cell").exists()


def test_the_header_of_the_structs_is_held_and_updated_too(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    header = copy.parent / "args.h"
    monkeypatch.setattr(golden, "ARGS_HEADER", header)
    assert main(["--folder", str(copy)]) == 1
    assert "rnncc/common/args.h: missing" in capsys.readouterr().out
    header.write_text("// old\n")
    assert main(["--folder", str(copy)]) == 1
    assert "rnncc/common/args.h: differs" in capsys.readouterr().out
    assert main(["--folder", str(copy), "--update"]) == 0
    assert "changed: rnncc/common/args.h\n" in capsys.readouterr().out
    assert main(["--folder", str(copy)]) == 0


def test_updating_correct_files_changes_nothing(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--folder", str(copy), "--update"]) == 0
    assert "changed: nothing" in capsys.readouterr().out
