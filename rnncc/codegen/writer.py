"""Writer: {file name: text} -> a folder, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rnncc.errors import LoadError

MARK = "cell.json"
RACES = 20
OWN = frozenset({"__init__.py", "__pycache__", "cell.h", "kernel.cpp", "kernel.cu", MARK})


def write(files: Mapping[str, str], folder: Path) -> list[Path]:
    """Write the files into the folder, replacing a generated folder whole.

    The files go into a new folder beside it, which then takes its place; a failure before that
    leaves the old one unchanged.

    Raises:
        LoadError: the folder holds files that rnncc did not write, or can't be written.
    """
    try:
        _refuse_foreign(folder, {*files, *OWN})
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
            _replace(_fill(Path(beside) / "new", files), folder, Path(beside))
    except OSError as error:
        reason = error.strerror or error
        raise LoadError(
            f"{folder}: can't be written: {reason}.\nFix: --out another folder"
        ) from error
    return [folder / name for name in files]


def _refuse_foreign(folder: Path, known: set[str]) -> None:
    names = _names(folder)
    foreign = sorted(names if MARK not in names else names - known)
    if foreign:
        listed = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise LoadError(
            f"{folder}: exists and holds other things than rnncc writes: {listed}.\n"
            "Fix: --out another folder, or move it away"
        )


def _names(folder: Path) -> set[str]:
    """The folder's entries, or the name of the file in its place; reread if replaced meanwhile.

    Another process that writes here moves the folder away and empties it while we list it.
    """
    for _ in range(RACES):
        if not folder.exists():
            return set()
        with contextlib.suppress(FileNotFoundError):
            before = folder.stat()
            is_folder = stat.S_ISDIR(before.st_mode)
            names = {path.name for path in folder.iterdir()} if is_folder else {folder.name}
            if os.path.samestat(before, folder.stat()):
                return names
    raise OSError(errno.EBUSY, "other processes keep replacing it")


def _fill(folder: Path, files: Mapping[str, str]) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return folder


def _replace(fresh: Path, folder: Path, beside: Path) -> None:
    """Move the old folder away and the new one in; retry if another process interfered."""
    for attempt in range(RACES):
        old = beside / f"old{attempt}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, old)
        try:
            os.rename(fresh, folder)
            return
        except OSError as error:
            lost_a_race = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
            if not lost_a_race or attempt == RACES - 1:
                if old.exists():
                    os.rename(old, folder)
                raise
