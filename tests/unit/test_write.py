"""Write: a generated folder is replaced whole or not at all; others' files are never touched."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rnncc.codegen import writer as module
from rnncc.codegen.writer import write
from rnncc.errors import LoadError

FILES = {"__init__.py": "new = 1\n", "cell.json": "{}\n", "kernel.cpp": "// Grünwald\n"}


def texts(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text(encoding="utf-8") for p in folder.iterdir() if p.is_file()}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "out" / "cell"
    write({"__init__.py": "old = 1\n", "cell.json": "{}\n", "kernel.cu": "// gone\n"}, folder)
    return folder


def test_files_are_written_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "down" / "cell"
    assert write(FILES, folder) == [folder / name for name in FILES]
    assert texts(folder) == FILES


def test_a_generated_folder_is_replaced_whole(old: Path) -> None:
    (old / "__pycache__").mkdir()
    write(FILES, old)
    assert texts(old) == FILES
    assert not (old / "__pycache__").exists()


def test_nothing_stays_beside_the_folder(old: Path) -> None:
    write(FILES, old)
    assert [path.name for path in old.parent.iterdir()] == ["cell"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "cell").mkdir()
    write(FILES, tmp_path / "cell")
    assert texts(tmp_path / "cell") == FILES


@pytest.mark.parametrize("stage", ["_fill", "_replace"])
def test_a_failure_leaves_the_old_folder_as_it_was(
    old: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    before = texts(old)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, stage, fail)
    with pytest.raises(LoadError, match="can't be written: No space left on device"):
        write(FILES, old)
    assert texts(old) == before
    assert [path.name for path in old.parent.iterdir()] == ["cell"]


def test_a_rename_that_fails_brings_the_old_folder_back(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename = texts(old), module.os.rename

    def fail_with_new(source: Path, target: Path) -> None:
        if source.name == "new":
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(module.os, "rename", fail_with_new)
    with pytest.raises(LoadError, match="Input/output error"):
        write(FILES, old)
    assert texts(old) == before


def test_writers_at_the_same_time_leave_one_whole_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    versions = [dict.fromkeys(FILES, f"{i}\n") for i in range(400)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda files: write(files, folder), versions))
    assert texts(folder) in versions
    assert [path.name for path in tmp_path.iterdir()] == ["cell"]


# --- what is refused -------------------------------------------------------------------------


def refusal(folder: Path) -> str:
    with pytest.raises(LoadError) as caught:
        write(FILES, folder)
    return str(caught.value)


@pytest.mark.parametrize(
    "names", [["__init__.py"], ["notes.txt"], ["cell.json", "notes.txt"]], ids=" ".join
)
def test_a_folder_with_other_things_is_not_touched(tmp_path: Path, names: list[str]) -> None:
    folder = tmp_path / "cell"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("mine")
    assert refusal(folder) == (
        f"{folder}: exists and holds other things than rnncc writes: {names[-1]}.\n"
        "Fix: --out another folder, or move it away"
    )
    assert texts(folder) == dict.fromkeys(names, "mine")


def test_of_many_other_things_three_are_named(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / name).write_text("mine")
    assert "than rnncc writes: a, b, c, ..." in refusal(tmp_path)


def test_a_file_of_that_name_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "cell").write_text("mine")
    assert "holds other things than rnncc writes: cell" in refusal(tmp_path / "cell")
    assert (tmp_path / "cell").read_text() == "mine"


def test_a_parent_that_is_a_file_is_named_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    folder = tmp_path / "out" / "cell"
    assert refusal(folder).startswith(f"{folder}: can't be written: ")
    assert refusal(folder).endswith("Fix: --out another folder")
