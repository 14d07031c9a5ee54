"""Stored: built libraries in the cache. Whole or not there; the oldest go first; litter is swept.

Beside each library lie its source, the hash of its content, and the lock of those that build it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from pathlib import Path

import filelock

from rnncc.cache import read_private, write_private

LIBRARY, SOURCE, HASH, LOCK, TEMPORARY = ".so", ".cpp", ".sha256", ".so.lock", ".tmp"
# A file of another name belongs to another program, or to the user.
STEM = r"\w+-b?float\d+-[0-9a-f]{20}"
OURS = re.compile(
    rf"{STEM}(\.so|\.cpp|\.cu|\.sha256|\.so\.lock|(\.(so|cpp|cu|sha256)\.\w+)?\.tmp)"
    r"|(cells|calibration-[0-9a-f]{20})\.json\.\w{8}\.tmp"
)
LIMIT = 512 * 2**20  # bytes of all libraries
OLD = 3600.0  # seconds after which a temporary file without a lock is nobody's


def is_whole(library: Path) -> bool:
    """Whether it is there as it was built: a library that was cut kills the process."""
    try:
        wanted = read_private(library.with_suffix(HASH))
        return _hash(read_private(library)) == wanted
    except OSError:
        return False


def keep(built: Path, library: Path) -> None:
    """Move a library that was built beside its place there, and note its hash."""
    content = built.read_bytes()
    built.chmod(0o700)
    write_private(library.with_suffix(HASH), _hash(content))
    os.replace(built, library)


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode() + b"\n"


def files(folder: Path) -> list[Path]:
    """Those that rnncc wrote for kernels, and what it left of others."""
    try:
        return sorted(f for f in folder.iterdir() if OURS.fullmatch(f.name) and f.is_file())
    except (FileNotFoundError, NotADirectoryError):
        return []


def trim(folder: Path, kept: Path) -> None:
    """Delete the least recently used libraries beyond the limit."""
    found = []
    for file in files(folder):
        if file.suffix == LIBRARY:
            with contextlib.suppress(FileNotFoundError):  # another process trims as well
                found.append((file.stat(), file))
    total = 0
    for stat, file in sorted(found, key=lambda pair: pair[0].st_atime, reverse=True):
        total += stat.st_size
        if total > LIMIT and file != kept:
            for suffix in (LIBRARY, SOURCE, HASH, LOCK):
                file.with_suffix(suffix).unlink(missing_ok=True)


def sweep(folder: Path, held: Path) -> None:
    """Delete what builds left that were killed: temporary files that nobody is writing.

    Args:
        held: the library whose lock this process holds.
    """
    for file in files(folder):
        if file.suffix != TEMPORARY:
            continue
        with contextlib.suppress(OSError, NotImplementedError, filelock.Timeout):
            stem = re.match(STEM, file.name)
            lock = folder / f"{stem[0]}{LOCK}" if stem else None
            if lock == held.with_suffix(LOCK):
                file.unlink()
            elif lock is not None and lock.exists():
                with filelock.FileLock(lock, timeout=0):
                    file.unlink()
            elif time.time() - file.stat().st_mtime > OLD:
                file.unlink()
