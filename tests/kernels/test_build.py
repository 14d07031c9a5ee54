"""Building kernels: the cache, the compilers, and the messages of failures."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rnncc import BuildError
from rnncc.cache import cache_dir
from rnncc.runtime.backend import registered
from rnncc.runtime.cpu import build, stored, waiting
from rnncc.runtime.cpu.backend import CpuBackend
from rnncc.runtime.kernel import Kernel
from tests.support.runs import assert_agree, by_kernel, by_oracle, compiled, random_call

ROOT = Path(__file__).parents[2]
TINY = 'extern "C" __attribute__((visibility("default"))) int answer() { return 42; }\n'
NAME = "tiny"
FILES = [".cpp", ".sha256", ".so", ".lock"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    return folder


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler of our own that counts its calls in a file, a line each."""
    log = tmp_path / "calls"
    log.touch()
    script = tmp_path / "counting-g++"
    real = shutil.which("g++") or shutil.which("clang++")
    assert real, "the tests need a C++ compiler"
    script.write_text(f'#!/bin/sh\necho "$@" >> "{log}"\nexec "{real}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return log


def calls(log: Path) -> int:
    return len(log.read_text().splitlines())


def answer(library: ctypes.CDLL) -> int:
    result: int = library.answer()
    return result


# --- the cache -------------------------------------------------------------------------------


def test_the_same_source_is_compiled_once(cache: Path, counted: Path) -> None:
    for _ in range(3):
        assert answer(build.load(NAME, TINY, "float32")) == 42
    assert calls(counted) == 1


def test_another_source_dtype_or_compiler_is_another_library(
    cache: Path, counted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build.library_path(NAME, TINY, "float32")
    others = {
        build.library_path(NAME, TINY + "\n", "float32"),
        build.library_path(NAME, TINY, "float64"),
    }
    monkeypatch.setenv("CXX", "clang++")
    others.add(build.library_path(NAME, TINY, "float32"))
    monkeypatch.setattr(build, "FLAGS", [*build.FLAGS, "-DMORE"])
    others.add(build.library_path(NAME, TINY, "float32"))
    monkeypatch.setattr(build, "cpu_identity", lambda: "another machine")
    others.add(build.library_path(NAME, TINY, "float32"))
    assert len(others - {first}) == 5


def test_the_cache_lies_where_the_variable_says(cache: Path) -> None:
    build.load(NAME, TINY, "float32")
    assert build.library_path(NAME, TINY, "float32").parent == cache
    assert [f.suffix for f in sorted(cache.iterdir())] == FILES


def test_without_the_variable_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RNNCC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    if sys.platform == "linux":
        assert cache_dir() == Path("/somewhere/rnncc")


def test_a_warm_cache_loads_without_a_compiler_and_without_another_process(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = compiled("para_gru")
    CpuBackend().functions(Kernel(c.kernel.spec, c.kernel.files), torch.float32)
    monkeypatch.setattr(build, "find_compiler", lambda: None)
    monkeypatch.setattr(subprocess, "Popen", None)
    CpuBackend().functions(Kernel(c.kernel.spec, c.kernel.files), torch.float32)


def test_the_least_recently_used_libraries_go_first_when_the_cache_is_full(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for age, text in enumerate("abc"):
        source = f"// {text}\n{TINY}"
        build.load(NAME, source, "float32")
        paths.append(build.library_path(NAME, source, "float32"))
        os.utime(paths[-1], (1000.0 + age, 1000.0))
    size = paths[0].stat().st_size
    monkeypatch.setattr(stored, "LIMIT", int(2.5 * size))
    build.load(NAME, f"// d\n{TINY}", "float32")
    newest = build.library_path(NAME, f"// d\n{TINY}", "float32")
    assert sorted(cache.glob("*.so")) == sorted([paths[2], newest])
    assert sorted(cache.glob("*.cpp")) == sorted(p.with_suffix(".cpp") for p in (paths[2], newest))


def test_a_read_only_cache_that_holds_the_kernel_is_enough(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.load(NAME, TINY, "float32")
    for name in ("_build_locked", "find_compiler"):
        monkeypatch.setattr(build, name, lambda *_: pytest.fail("touched the cache"))
    assert answer(build.load(NAME, TINY, "float32")) == 42


RACE = """
import sys
from rnncc.runtime.cpu import build
source = sys.stdin.read()
assert build.load("tiny", source, "float32").answer() == 42
"""


def run_race(source: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", RACE], input=source, env=environment, text=True, check=True
    )


def test_processes_that_want_the_same_kernel_build_it_once(cache: Path, counted: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACE], stdin=subprocess.PIPE, env=environment, text=True
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(TINY)
        process.stdin.close()
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    assert calls(counted) == 1
    assert [f.suffix for f in sorted(cache.iterdir())] == FILES


# --- what goes wrong -------------------------------------------------------------------------


def test_a_compiler_that_does_not_exist_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(BuildError) as error:
        build.load(NAME, TINY, "float32")
    assert str(error.value) == (
        "the compiler 'no-such-compiler' (from the variable CXX) can't be run: No such file or "
        "directory.\nFix: correct CXX, or unset it to use g++ or clang++"
    )
    assert list(cache.glob("*.tmp")) == []


def test_a_compiler_that_can_not_be_run_is_not_called_a_cache_that_can_not_be_written(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").touch()
    monkeypatch.setenv("CXX", str(tmp_path / "notes.txt"))
    with pytest.raises(
        BuildError, match=r"notes.txt' \(from the variable CXX\) can't be run: Perm"
    ):
        build.load(NAME, TINY, "float32")


def test_without_any_compiler_the_wheel_with_one_is_recommended(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BuildError) as error:
        build.load(NAME, TINY, "bfloat16")
    assert str(error.value) == (
        "no C++ compiler was found to build the kernel 'tiny' for bfloat16.\n"
        "Looked for: the variable CXX, g++, clang++, the wheel ziglang.\n"
        'Fix: pip install "rnncc[zig]", or install g++ or clang++, or set CXX'
    )


def test_a_cache_that_can_not_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(BuildError) as error:
        build.load(NAME, TINY, "float32")
    assert re.fullmatch(
        rf"the kernel cache {tmp_path}/file/cache can't be written: .*Not a directory.*\.\n"
        "Fix: set RNNCC_CACHE_DIR to a folder that can",
        str(error.value),
    )


def test_a_refused_source_is_shown_with_its_equations_and_where_it_lies(cache: Path) -> None:
    source = compiled("para_gru").source() + "\nsyntax error;\n"
    with pytest.raises(BuildError) as error:
        build.load("para_gru", source, "float32")
    text = str(error.value)
    assert text.startswith("the compiler refused the kernel 'para_gru' for float32.\n")
    assert "z = sigmoid(" in text
    assert "error" in text
    assert text.endswith("if the message names rnncc's own code, report it")
    match = re.search(r"^Full source: (.*)$", text, re.MULTILINE)
    assert match
    assert Path(match[1]).read_text() == source
    command = re.search(r"^Command: (.*)$", text, re.MULTILINE)
    assert command
    assert match[1] in command[1]
    assert list(cache.glob("*.tmp")) == list(cache.glob("*.so")) == []


DAMAGES = {
    "empty": lambda content: b"",
    "text": lambda content: b"not a library",
    "magic": lambda content: content[:4],
    "half": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "a bit": lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
}


@pytest.mark.parametrize("suffix", [".so", ".sha256"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_rebuilt(cache: Path, counted: Path, damage: str, suffix: str) -> None:
    """In a process of its own: one that loads a library that was cut is killed."""
    build.load(NAME, TINY, "float32")
    file = build.library_path(NAME, TINY, "float32").with_suffix(suffix)
    if damage == "a bit" and suffix == ".sha256":
        pytest.skip("it is shorter")
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    for _ in range(2):
        run_race(TINY)
    assert calls(counted) == 2


def test_a_library_without_a_hash_is_rebuilt(cache: Path, counted: Path) -> None:
    build.load(NAME, TINY, "float32")
    build.library_path(NAME, TINY, "float32").with_suffix(".sha256").unlink()
    run_race(TINY)
    assert calls(counted) == 2


def test_a_library_that_another_could_change_is_rebuilt(cache: Path, counted: Path) -> None:
    build.load(NAME, TINY, "float32")
    build.library_path(NAME, TINY, "float32").chmod(0o777)
    run_race(TINY)
    assert calls(counted) == 2


def test_a_library_of_another_system_is_rebuilt(cache: Path, counted: Path) -> None:
    """Whole, but it can't be loaded here."""
    cache.mkdir()
    path = build.library_path(NAME, TINY, "float32")
    foreign = cache / "foreign"
    foreign.write_bytes(b"of another system")
    stored.keep(foreign, path)
    assert stored.is_whole(path)
    run_race(TINY)
    assert calls(counted) == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ('"g++', "the variable CXX is not a command: '\"g++': No closing quotation"),
        ("true", "the compiler 'true' (from the variable CXX) succeeded, but its output"),
    ],
)
def test_a_cxx_that_builds_nothing_is_named_and_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, command: str, message: str
) -> None:
    monkeypatch.setenv("CXX", command)
    with pytest.raises(BuildError) as error:
        build.load(NAME, TINY, "float32")
    assert str(error.value).startswith(message)
    assert "Fix: " in str(error.value)
    assert list(cache.glob("*.so")) == list(cache.glob("*.tmp")) == []


# --- hostile and odd folders -------------------------------------------------------------------


@pytest.mark.parametrize("link", [".cpp", ".so", ".sha256"])
def test_nothing_is_written_through_a_link(cache: Path, tmp_path: Path, link: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    cache.mkdir(mode=0o700)
    path = build.library_path(NAME, TINY, "float32")
    path.with_suffix(link).symlink_to(precious)
    assert answer(build.load(NAME, TINY, "float32")) == 42
    assert precious.read_text() == "precious"
    assert not path.with_suffix(link).is_symlink()


def test_a_library_planted_where_others_can_write_is_not_loaded(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    build.load(NAME, TINY.replace("42", "13"), "float32")
    planted = build.library_path(NAME, TINY.replace("42", "13"), "float32")
    wanted = build.library_path(NAME, TINY, "float32")
    for suffix in (".so", ".sha256"):
        shutil.copy(planted.with_suffix(suffix), wanted.with_suffix(suffix))
    cache.chmod(0o777)
    with pytest.warns(UserWarning, match=r"can be written by other users.*\nFix: chmod go-w"):
        assert answer(build.load(NAME, TINY, "float32")) == 42
    assert build.library_path(NAME, TINY, "float32").parent == tmp_path / f"rnncc-{os.getuid()}"


@pytest.mark.parametrize("value", [".", "-x", "sub/../-y"])
def test_a_relative_cache_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RNNCC_CACHE_DIR", value)
    monkeypatch.delenv("CXX", raising=False)
    for _ in range(2):
        assert answer(build.load(NAME, TINY, "float32")) == 42
    assert build.library_path(NAME, TINY, "float32").is_file()


def test_a_name_that_is_too_long_is_said_with_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(tmp_path / ("x" * 300)))
    with pytest.raises(BuildError, match=r"too long.*\nFix: set RNNCC_CACHE_DIR to a folder"):
        build.load(NAME, TINY, "float32")


@pytest.mark.parametrize("said", ["failed to map segment", "Operation not permitted"])
def test_a_folder_from_which_nothing_may_run_is_not_blamed_on_the_compiler(
    cache: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    def refuse(path: str) -> None:
        raise OSError(f"{path}: {said} from shared object")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(BuildError, match=r"nothing may be run.*\nFix: set RNNCC_CACHE_DIR"):
        build.load(NAME, TINY, "float32")
    assert list(cache.glob("*.tmp")) == list(cache.glob("*.so")) == []


def test_what_killed_builds_left_is_swept_by_the_next_and_nothing_else(cache: Path) -> None:
    cache.mkdir(mode=0o700)
    digest = "0" * 20
    swept = [f"other-float32-{digest}.so.abcd_123.tmp", f"other-float32-{digest}.cpp.abcd_123.tmp"]
    kept = ["notes.tmp", "other-float32-abc.tmp", f"new-float32-{digest}.cu.abcd_123.tmp"]
    old = [f"old-float32-{digest}.cu.abcd_123.tmp", "cells.json.abcd_123.tmp"]
    for name in [*swept, *kept, *old, f"other-float32-{digest}.so.lock"]:
        (cache / name).touch()
    for name in (*old, *kept[:2]):
        os.utime(cache / name, (1.0, 1.0))
    build.load(NAME, TINY, "float32")
    left = {file.name for file in cache.iterdir()}
    assert left >= set(kept)
    assert not left & {*swept, *old}


def test_what_another_process_is_building_is_not_swept(cache: Path) -> None:
    cache.mkdir(mode=0o700)
    stem = f"other-float32-{'0' * 20}"
    temporary = cache / f"{stem}.so.abcd_123.tmp"
    temporary.touch()
    with waiting.locked(cache / f"{stem}.so.lock", "test", 1.0):
        build.load(NAME, TINY, "float32")
    assert temporary.exists()


def test_trimming_leaves_what_rnncc_did_not_write(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir(mode=0o700)
    for name in ("simulator.so", "simulator.cpp"):
        (cache / name).write_text("a year of work")
        os.utime(cache / name, (1.0, 1.0))
    monkeypatch.setattr(stored, "LIMIT", 1)
    for source in (TINY, f"// b\n{TINY}"):
        build.load(NAME, source, "float32")
    names = {file.name for file in cache.iterdir()}
    newest = build.library_path(NAME, f"// b\n{TINY}", "float32")
    assert names == {"simulator.so", "simulator.cpp"} | {
        newest.with_suffix(suffix).name for suffix in (".cpp", ".sha256", ".so", ".so.lock")
    }


# --- waiting ---------------------------------------------------------------------------------


def hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that never ends, and whose child keeps its output open."""
    script = tmp_path / "hanging"
    script.write_text(f"#!/bin/sh\nsleep 1000 &\necho $! > {tmp_path}/child\nwait\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return tmp_path / "child"


def is_alive(process: int) -> bool:
    """Not one that was ended, and waits for whoever inherited it to take note."""
    shown = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True
    )
    return shown.stdout.strip()[:1] not in ("", "Z")


def test_a_compiler_that_hangs_is_stopped_with_all_it_started(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    child = hangs(tmp_path, monkeypatch)
    monkeypatch.setenv("RNNCC_BUILD_TIMEOUT", "1")
    monkeypatch.setattr(waiting, "FIRST_WORD", 0.3)
    with pytest.raises(BuildError) as error:
        build.load(NAME, TINY, "float32")
    assert re.fullmatch(
        rf"the compiler '{tmp_path}/hanging' \(from the variable CXX\) has not ended within 1 s, "
        r"and was stopped\.\nCommand: .*\n"
        r"Fix: correct CXX, or set RNNCC_BUILD_TIMEOUT to more seconds",
        str(error.value),
    )
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/hanging builds the kernel 'tiny' for float32: 0 s so far, at most 1 s "
        "(RNNCC_BUILD_TIMEOUT)"
    ]
    assert not is_alive(int(child.read_text()))
    assert list(cache.glob("*.tmp")) == []


def test_waiting_for_another_process_is_said_and_has_an_end(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache.mkdir(mode=0o700)
    lock = Path(f"{build.library_path(NAME, TINY, 'float32')}.lock")
    monkeypatch.setenv("RNNCC_BUILD_TIMEOUT", "0.4")
    monkeypatch.setattr(waiting, "FIRST_WORD", 0.1)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(BuildError) as error:
            build.load(NAME, TINY, "float32")
    finally:
        holder.kill()
        holder.communicate()
    assert str(error.value) == (
        "another process is building the kernel 'tiny' for float32, and has not ended within "
        f"0 s; it holds {lock}.\nFix: end that process, or set RNNCC_BUILD_TIMEOUT to more "
        "seconds, or RNNCC_CACHE_DIR to another folder"
    )
    assert "waiting for another process to build the kernel 'tiny' for float32" in caplog.text
    monkeypatch.delenv("RNNCC_BUILD_TIMEOUT")
    assert answer(build.load(NAME, TINY, "float32")) == 42  # the lock died with its process


HOLD = """
import sys, time, filelock
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan"])
def test_a_limit_that_is_none_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("RNNCC_BUILD_TIMEOUT", value)
    with pytest.raises(BuildError) as error:
        build.load(NAME, TINY, "float32")
    assert str(error.value) == (
        f"the variable RNNCC_BUILD_TIMEOUT is {value!r}, expected seconds above 0 (or inf).\n"
        "Fix: RNNCC_BUILD_TIMEOUT=600, or unset it"
    )


def test_messages_in_another_encoding_are_shown_as_far_as_they_can_be_read(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "latin"
    script.write_text("#!/bin/sh\nprintf '\\377 f\\374r' >&2; exit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(BuildError, match="\N{REPLACEMENT CHARACTER} f\N{REPLACEMENT CHARACTER}r"):
        build.load(NAME, TINY, "float32")
    found = build.find_compiler()
    assert found is not None
    assert found.version() == "\N{REPLACEMENT CHARACTER} f\N{REPLACEMENT CHARACTER}r"


# --- compilers -------------------------------------------------------------------------------


def test_cxx_comes_first_and_may_have_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "ccache g++ -O1")
    found = build.find_compiler()
    assert found is not None
    assert found.command == ("ccache", "g++", "-O1")
    assert found.origin == "the variable CXX"


def test_without_cxx_the_path_is_searched_and_then_the_wheel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    found = build.find_compiler()
    assert found is not None
    assert found.origin == "the wheel ziglang"
    for name in ("clang++", "g++"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        found = build.find_compiler()
        assert found is not None
        assert found.command == (str(tmp_path / name),)


@pytest.mark.parametrize("compiler", ["clang++", "ziglang"])
def test_another_compiler_builds_kernels_that_equal_the_oracle(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compiler == "ziglang":
        if importlib.util.find_spec("ziglang") is None:
            pytest.skip("the wheel ziglang is not installed")
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CXX", raising=False)
    else:
        if shutil.which("clang++") is None:
            pytest.skip("clang++ is not installed")
        monkeypatch.setenv("CXX", "clang++")
    found = build.find_compiler()
    assert found is not None
    assert compiler in " ".join(found.command)
    assert "clang" in found.version()
    for name in ("lstm", "crossed"):
        c = compiled(name)
        path = build.library_path(name, c.source(), "float32")
        if compiler == "ziglang":  # the key doesn't tell compilers found on the PATH apart
            monkeypatch.setenv("RNNCC_CACHE_DIR", str(tmp_path / "cache"))
            path = tmp_path / "cache" / path.name
        for shape in ((3, 33, 100), (2, 20, 6)):
            call = random_call(name, shape, torch.float32)
            with registered("cpu", CpuBackend()):  # which has loaded nothing yet
                got = by_kernel(name, call)
            assert_agree(name, call, got, by_oracle(name, call), compiler)
        assert path.exists()
