"""Golden output: generated/ is what the shipped cells give, and args.h what ir/abi.py lists.

python -m tests.support.golden             say what differs; exit 1 if anything does
python -m tests.support.golden --update    write both again, and delete what no cell gives
"""

from __future__ import annotations

import argparse
import difflib
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import rnncc
from rnncc.codegen.args_header import PATH, args_header
from rnncc.codegen.writer import MARK, write
from rnncc.lang.loader import cells_of, shipped

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "generated"
ARGS_HEADER = ROOT / "templates" / "include" / PATH
SHOWN_LINES = 40


@dataclass(frozen=True)
class Difference:
    """One file that is not as it should be; a side is None where the file is missing."""

    path: str
    found: str | None
    expected: str | None

    def __str__(self) -> str:
        if self.expected is None:
            return f"{self.path}: orphan, no cell gives it"
        if self.found is None:
            return f"{self.path}: missing"
        diff = list(
            difflib.unified_diff(
                self.found.splitlines(),
                self.expected.splitlines(),
                self.path,
                "what follows now",
                lineterm="",
            )
        )
        left = len(diff) - SHOWN_LINES
        more = [f"... {left} more lines"] if left > 0 else []
        return "\n".join([f"{self.path}: differs", *diff[:SHOWN_LINES], *more])


def packages(cells: Sequence[Path] | None = None) -> dict[str, dict[str, str]]:
    """Package name -> its files, for every cell that ships."""
    found = [c for path in cells or shipped() for c in cells_of(path.resolve()).values()]
    return {cell.name: rnncc.compile(cell).files for cell in found}


def expected_files(emitted: dict[str, dict[str, str]]) -> dict[str, str]:
    """Path below generated/ -> text."""
    return {
        f"{name}/{file}": text for name, texts in emitted.items() for file, text in texts.items()
    }


def differences(folder: Path, expected: dict[str, str]) -> list[Difference]:
    """Files that differ, are missing, or that no cell gives."""
    found = {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8", errors="replace")
        for path in _files(folder)
    }
    paths = sorted({*found, *expected})
    all_ = (Difference(path, found.get(path), expected.get(path)) for path in paths)
    return [d for d in all_ if d.found != d.expected]


def of_the_header() -> list[Difference]:
    """The same for args.h."""
    found = ARGS_HEADER.read_text(encoding="utf-8") if ARGS_HEADER.is_file() else None
    return [Difference(PATH, found, args_header())] if found != args_header() else []


def update(folder: Path, emitted: dict[str, dict[str, str]]) -> None:
    """Write every package as `rnncc compile` does, and delete the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    for difference in differences(folder, expected_files(emitted)):
        if difference.expected is None:
            (folder / difference.path).unlink()
    for name, files in emitted.items():
        if not (folder / name / MARK).is_file():
            shutil.rmtree(folder / name, ignore_errors=True)  # a broken package, no longer known
        write(files, folder / name)
    for path in folder.iterdir():
        if path.is_dir() and not any(_files(path)):
            shutil.rmtree(path)


def _files(folder: Path) -> Iterator[Path]:
    """Skip files that Python itself leaves behind."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.golden", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--update", action="store_true", help="write generated/ and args.h again")
    parser.add_argument("--folder", type=Path, default=GENERATED, help="in the place of generated/")
    options = parser.parse_args(arguments)
    emitted = packages()
    expected = expected_files(emitted)
    found = [*of_the_header(), *differences(options.folder, expected)]
    count = len(expected) + 1
    if options.update:
        ARGS_HEADER.write_text(args_header(), encoding="utf-8")
        update(options.folder, emitted)
        changed = ", ".join(d.path for d in found) or "nothing"
        print(f"golden: {count} files written; changed: {changed}")
        return 0
    for difference in found:
        print(difference)
    if found:
        print(f"\ngolden: {len(found)} of {count} files differ. Fix: make golden, then review")
        return 1
    print(f"golden: {count} files are as the cells and ir/abi.py give them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
