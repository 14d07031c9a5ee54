"""A generated folder: one hash in its module holds its files together."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from rnncc.errors import LoadError
from rnncc.ir.spec import SOURCES
from tests.support.golden import GENERATED


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a generated folder, without a kernel of its own."""
    return Path(shutil.copytree(GENERATED / "elman", tmp_path / "elman"))


def imported(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("elman", folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def refusal(folder: Path) -> str:
    with pytest.raises(LoadError) as caught:
        imported(folder)
    return str(caught.value)


def changed(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize("name", SOURCES)
def test_a_changed_source_is_refused_with_what_to_do(folder: Path, name: str) -> None:
    changed(folder / name, "//", "// mine")
    assert re.fullmatch(
        rf"the generated folder {folder}: its files don't belong together: the hash of cell.json, "
        r"cell.h, kernel.cpp and kernel.cu is [0-9a-f]{16}, expected [0-9a-f]{16}, which "
        r"__init__.py names. They are of two versions of the cell, or one was changed.\n"
        r"Fix: regenerate it with rnncc compile; or, to run files that you changed on purpose, "
        r'Kernel.read\(..., "[0-9a-f]{16}"\) in __init__.py',
        refusal(folder),
    )


RECORDS = {"param_slots": 0, "shared_inputs": 1, "tile": 1, "arguments": ["a", "x"], "ahead": 4}


@pytest.mark.parametrize("field", RECORDS)
def test_a_changed_record_is_refused(folder: Path, field: str) -> None:
    """With a workspace of another size, say, a kernel would write beyond it."""
    record = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    assert record[field] != RECORDS[field]
    (folder / "cell.json").write_text(json.dumps(record | {field: RECORDS[field]}))
    assert "don't belong together" in refusal(folder)


@pytest.mark.parametrize("name", ["__init__.py", "cell.json", *SOURCES])
def test_a_file_of_another_cell_is_refused(folder: Path, name: str) -> None:
    shutil.copy(GENERATED / "lif" / name, folder / name)
    assert "don't belong together" in refusal(folder)


def test_a_module_without_the_hash_is_refused(folder: Path) -> None:
    changed(folder / "__init__.py", '(__spec__), "', '(__spec__))  # "')
    assert "expected none" in refusal(folder)


def test_files_changed_on_purpose_run_with_the_hash_that_the_error_names(folder: Path) -> None:
    changed(folder / "cell.h", "//", "// mine")
    module = folder / "__init__.py"
    old, new = re.search(r'"(\w+)"\)\n', module.read_text()), re.search(r'"(\w+)"', refusal(folder))
    assert old is not None
    assert new is not None
    changed(module, old[1], new[1])
    assert "// mine" in imported(folder)._KERNEL.files["cell.h"]


def test_line_ends_and_the_layout_of_the_record_do_not_count(folder: Path) -> None:
    """As Git's autocrlf and formatters of JSON and Python leave them."""
    before = imported(folder)._KERNEL
    record = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    (folder / "cell.json").write_text(json.dumps(dict(sorted(record.items())), indent=4))
    changed(folder / "__init__.py", '(__spec__), "', '(__spec__),\n    "')
    for name in ("__init__.py", "cell.json", *SOURCES):
        path = folder / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert before == imported(folder)._KERNEL
