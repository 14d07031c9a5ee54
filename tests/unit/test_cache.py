"""The cache: which folder it is, and that nobody else can put code into it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import platformdirs
import pytest

from rnncc import cache
from rnncc.cache import VARIABLE, cache_dir, make_cache_dir, read_private, write_private
from rnncc.errors import BuildError


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where private folders lie."""
    folder = tmp_path / "temporary"
    folder.mkdir(mode=0o700)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    cache._private_folder.cache_clear()
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that isn't there yet."""
    folder = tmp_path / "up" / "cache"
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_for_its_owner_only(folder: Path) -> None:
    assert cache_dir() == folder
    assert not folder.exists()
    assert make_cache_dir() == folder
    assert mode(folder) == 0o700


@pytest.mark.parametrize("open_to", [0o700, 0o755, 0o500])
def test_a_folder_that_is_there_stays_as_it_is(folder: Path, open_to: int) -> None:
    folder.mkdir(parents=True)
    folder.chmod(open_to)
    assert make_cache_dir() == folder
    assert mode(folder) == open_to


@pytest.mark.parametrize("open_to", [0o777, 0o775, 0o1777, 0o722])
def test_one_that_others_can_write_is_replaced_by_a_private_one_with_a_warning(
    folder: Path, temporary: Path, open_to: int
) -> None:
    folder.mkdir(parents=True)
    folder.chmod(open_to)
    private = temporary / f"rnncc-{os.getuid()}"
    with pytest.warns(UserWarning, match="can be written by other users") as said:
        assert make_cache_dir() == private
    assert [str(one.message) for one in said] == [
        f"the kernel cache {folder} can be written by other users, so nothing is loaded from it; "
        f"kernels are kept in {private}.\n"
        f"Fix: chmod go-w {folder}, or set RNNCC_CACHE_DIR to a folder of your own"
    ]
    assert mode(private) == 0o700
    assert cache_dir() == private  # and no second warning


def test_one_of_another_user_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True)
    owner = folder.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    if owner == 0:  # root is trusted
        monkeypatch.setattr(cache, "_stat", lambda _: os.stat_result((0o40700, *[7] * 9)))
    with pytest.warns(UserWarning, match=r"belongs to another user \(\d+\), so .*\nFix: set RNN"):
        assert cache_dir() != folder


def test_a_folder_above_it_that_anybody_can_write_to_is_as_bad(
    folder: Path, temporary: Path
) -> None:
    folder.mkdir(parents=True, mode=0o700)
    folder.parent.chmod(0o777)
    with pytest.warns(UserWarning, match=f"replaced by .* can write to {folder.parent}"):
        assert cache_dir() != folder
    folder.parent.chmod(0o1777)  # as /tmp: what is in there stays its owner's
    assert cache_dir() == folder


def test_a_link_is_followed(folder: Path, tmp_path: Path, temporary: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    folder.parent.mkdir()
    folder.symlink_to(real)
    assert make_cache_dir() == folder
    real.chmod(0o777)
    with pytest.warns(UserWarning, match="can be written by other users"):
        assert cache_dir() != folder


@pytest.mark.parametrize("trap", ["link", "open"])
def test_a_private_folder_that_was_planted_is_not_used(
    folder: Path, temporary: Path, tmp_path: Path, trap: str
) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    planted = temporary / f"rnncc-{os.getuid()}"
    if trap == "link":
        planted.symlink_to(tmp_path)
    else:
        planted.mkdir()
        planted.chmod(0o777)
    with pytest.warns(UserWarning, match="can be written by other users"):
        found = cache_dir()
    assert found != planted
    assert found.parent == temporary
    assert mode(found) == 0o700


def test_the_users_own_folder_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier version made it as the umask said."""
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda _: str(tmp_path / "rnncc"))
    (tmp_path / "rnncc").mkdir()
    (tmp_path / "rnncc").chmod(0o775)
    assert cache_dir() == tmp_path / "rnncc"
    assert mode(tmp_path / "rnncc") == 0o700


def no_home(_: str) -> str:
    raise RuntimeError("no home")


@pytest.mark.parametrize("answer", [no_home, lambda _: "~/.cache/rnncc"], ids=["raised", "tilde"])
def test_without_a_home_it_is_private_with_a_warning(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(platformdirs, "user_cache_dir", answer)
    with pytest.warns(UserWarning, match=r"no home folder.*\nFix: set RNNCC_CACHE_DIR to a folder"):
        assert make_cache_dir().parent == temporary


@pytest.mark.parametrize("value", [".", "-x", "a/../b"])
def test_a_relative_one_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, value)
    assert cache_dir() == Path(os.path.normpath(tmp_path / value))


def test_a_home_that_nobody_has_is_named_with_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "~no_such_user/x")
    with pytest.raises(BuildError) as error:
        cache_dir()
    assert str(error.value) == (
        "the variable RNNCC_CACHE_DIR names no folder: '~no_such_user/x'.\n"
        "Fix: RNNCC_CACHE_DIR=/an/absolute/path, or unset it"
    )


# --- its files -------------------------------------------------------------------------------


def test_a_file_is_written_whole_in_place_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a").symlink_to(tmp_path / "precious")
    write_private(tmp_path / "a", b"new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert read_private(tmp_path / "a") == b"new"
    assert mode(tmp_path / "a") == 0o600
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "precious", "temporary"]


def test_a_failure_leaves_the_old_one_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_private(tmp_path / "a", b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_private(tmp_path / "a", b"new")
    assert read_private(tmp_path / "a") == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "temporary"]


def test_only_a_plain_file_that_nobody_else_can_change_is_read(tmp_path: Path) -> None:
    write_private(tmp_path / "a", b"a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "open").touch()
    (tmp_path / "open").chmod(0o666)
    for name in ("link", "fifo", "open", "temporary", "nothing"):
        with pytest.raises(OSError, match=r"."):
            read_private(tmp_path / name)
