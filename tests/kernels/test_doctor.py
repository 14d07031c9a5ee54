"""The doctor on this machine, which builds kernels."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from rnncc.cli.main import main
from tests.support.doctor import call, data


def test_doctor_finds_everything_needed_to_run_a_kernel() -> None:
    result = call()
    assert (result.exit_code, result.stderr) == (0, "")
    for topic in ("Python", "PyTorch", "C++ compiler", "Kernel cache"):
        assert re.search(rf"^  {re.escape(topic)} +ok ", result.stdout, re.MULTILINE)
    for topic in ("GPU", "CuPy", "NVRTC", "CUDA headers"):
        assert re.search(rf"^  {topic} +(ok|optional|fault) ", result.stdout, re.MULTILINE)
    assert result.stdout.endswith("Kernels can be built and run here.\n")


def test_doctor_as_data_holds_the_facts() -> None:
    found = data()
    facts = {finding["topic"]: finding["facts"] for finding in found["findings"]}
    assert found["healthy"]
    assert facts["C++ compiler"]["builds"]
    assert set(facts["Kernel cache"]) == {"folder", "files", "bytes", "writable"}
    assert set(facts["PyTorch"]) == {"version", "threads", "cuda", "gpu"}
    assert set(facts["Threads"]) == {"shares_pool"}
    assert set(facts["GPU"]) == {"gpus", "driver", "usable", "torch_cuda"}
    assert set(facts["CuPy"]) == {"installed", "cuda", "error"}
    assert set(facts["NVRTC"]) == {"version", "wheels", "toolkit", "error"}
    assert set(facts["CUDA headers"]) == {"wheels", "toolkit"}


def test_doctor_stands_a_cache_that_changes_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = tmp_path / "para_gru-float32-0123456789abcdef0123.so"
    monkeypatch.setattr("rnncc.runtime.cpu.stored.files", lambda _: [gone])
    assert data()["healthy"]


@pytest.mark.parametrize(
    ("value", "state", "seen", "fix"),
    [
        ("open", "fault", "which can be written by other users", "RNNCC_CACHE_DIR to a folder of"),
        ("~nobody_here", "missing", "names no folder", "RNNCC_CACHE_DIR=/an/absolute/path"),
        ("file/x", "missing", "can't be written", "set RNNCC_CACHE_DIR to a folder that can"),
    ],
)
def test_doctor_names_the_variable_of_a_cache_that_can_not_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, state: str, seen: str, fix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("RNNCC_CACHE_DIR", value)
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    findings = data(exit_code=3 if state == "missing" else 0)["findings"]
    found = next(f for f in findings if f["topic"] == "Kernel cache")
    assert found["state"] == state
    assert seen in found["seen"]
    assert fix in found["fix"]


def test_clearing_the_cache_deletes_rnnccs_files_and_no_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(cache))
    built = CliRunner().invoke(main, ["compile", "elman", "--build", "--out", str(tmp_path)])
    assert built.exit_code == 0
    (cache / "elman-float32-0123456789abcdef0123.cu").write_text("refused by NVRTC")
    sizes = [path.stat().st_size for path in cache.iterdir()]
    (cache / "notes.cpp").write_text("mine")
    assert data("--clear-cache") == {
        "cleared": {"folder": str(cache), "files": len(sizes), "bytes": sum(sizes)}
    }
    assert [path.name for path in cache.iterdir()] == ["notes.cpp"]
    assert call("--clear-cache").stdout == f"{cache}: 0 files deleted, 0.0 MiB.\n"
