"""Cache: the user's folder for kernels, measurements and traces, and the key of a machine.

Code is loaded from there, so it has to be a folder that nobody else can write to.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import platform
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from rnncc.errors import BuildError

VARIABLE = "RNNCC_CACHE_DIR"
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
WRITABLE = "can be written by other users"


def cache_dir() -> Path:
    """RNNCC_CACHE_DIR, else the user's cache folder: absolute, not always there yet.

    A private folder, with a warning, where somebody else could change what is in it.

    Raises:
        BuildError: RNNCC_CACHE_DIR names no folder.
    """
    folder = wanted_cache_dir()
    reason = "there is no home folder" if folder is None else exposed(folder)
    return _private_folder(folder, reason) if folder is None or reason else folder


def make_cache_dir() -> Path:
    """The same, made if it isn't there, for its owner only.

    Raises:
        OSError: it can't be made.
    """
    folder = cache_dir()
    with contextlib.suppress(FileExistsError):  # a file is told by whoever writes there
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    return cache_dir()  # somebody else may have made it meanwhile


def wanted_cache_dir() -> Path | None:
    """The one that the variable or the system names, whoever can write there."""
    given = os.environ.get(VARIABLE, "")
    if not given:
        return _users_cache_dir()
    try:
        return Path(os.path.abspath(Path(given).expanduser()))
    except (RuntimeError, OSError) as error:  # no such user; the working directory is gone
        reason = "" if str(error).startswith("Could not determine") else f": {error}"
        raise BuildError(
            f"the variable {VARIABLE} names no folder: {given!r}{reason}.\n"
            f"Fix: {VARIABLE}=/an/absolute/path, or unset it"
        ) from error


def _users_cache_dir() -> Path | None:
    try:
        folder = Path(platformdirs.user_cache_dir("rnncc"))
    except RuntimeError:  # the user has no home; older versions return a path that begins with ~
        return None
    _close(folder)
    return folder if folder.is_absolute() else None


def _close(folder: Path) -> None:
    """Our own folder may be open to a group, if an umask or an earlier version made it so."""
    with contextlib.suppress(OSError):
        found = folder.lstat()
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        if ours and found.st_mode & OTHERS_WRITE:
            folder.chmod(0o700)


def exposed(folder: Path) -> str:
    """How others could change the files in it, in words; empty if they can't.

    Root is trusted, and so are the groups and owners of the folders above it.
    """
    place = Path(os.path.realpath(folder))
    found = _stat(place)
    if found is not None and found.st_uid not in (os.getuid(), 0):
        return f"belongs to another user ({found.st_uid})"
    if found is not None and found.st_mode & OTHERS_WRITE:
        return WRITABLE
    for above in place.parents:
        found = _stat(above)
        if found is not None and found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            return f"can be replaced by other users, who can write to {above}"
    return ""


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


@functools.cache
def _private_folder(instead_of: Path | None, reason: str) -> Path:
    """One of this user's in the system's temporary folder; of this process, if that is taken."""
    folder = Path(tempfile.gettempdir()) / f"rnncc-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid() or exposed(folder):
        folder = Path(tempfile.mkdtemp(prefix="rnncc-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    seen, fix = f"{reason} for the kernel cache", ""
    if instead_of is not None:
        seen = f"the kernel cache {instead_of} {reason}, so nothing is loaded from it"
        fix = f"chmod go-w {instead_of}, or " if reason == WRITABLE else ""
    warnings.warn(
        f"{seen}; kernels are kept in {folder}.\nFix: {fix}set {VARIABLE} to a folder of your own",
        stacklevel=2,
    )
    return folder


# --- its files -------------------------------------------------------------------------------


def read_private(path: Path) -> bytes:
    """The content of a plain file that nobody else can write to.

    Raises:
        OSError: it isn't there, or isn't one.
    """
    # NONBLOCK: opening a FIFO would wait for a writer
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(file, "rb") as opened:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path} is not a plain file")
        if found.st_uid not in (os.getuid(), 0) or found.st_mode & OTHERS_WRITE:
            raise OSError(f"{path} {WRITABLE}")
        return opened.read()


def write_private(path: Path, content: bytes) -> None:
    """Put a file there, whole or not at all, in place of what has its name, a link too.

    Raises:
        OSError: it can't be written.
    """
    with beside(path) as temporary:
        temporary.write_bytes(content)
        os.replace(temporary, path)


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A new empty file PATH.xxxxxxxx.tmp for the owner only; gone afterwards, unless moved."""
    file, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(file)
    try:
        yield Path(name)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


# --- the machine -----------------------------------------------------------------------------


@functools.cache
def cpu_identity() -> str:
    """The CPU as -march=native sees it: a shared home never serves another machine's code."""
    text = f"{platform.system()} {platform.machine()} {platform.processor()}"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return text
    wanted = ("flags", "Features", "model name", "CPU part")
    return text + "".join(sorted({line for line in lines if line.startswith(wanted)}))
