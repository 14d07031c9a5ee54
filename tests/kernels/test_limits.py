"""The limits of unit tests: one that builds a kernel or takes over a second fails and says why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILDS = """
import rnncc, torch
from rnncc.lang.loader import find
def test_it(): rnncc.compile(find("elman")).layer(2, 2)(torch.ones(1, 3, 2))
"""
BUILDS_ELSEWHERE = """
import subprocess, sys
RUN = "import rnncc; from tests.support.runs import compiled; import torch\\n"
RUN += "compiled('elman').layer(2, 2)(torch.ones(1, 3, 2))"
def test_it(): subprocess.run([sys.executable, "-c", RUN], check=True)
"""
COMPILES_FOR_A_GPU = """
from rnncc.runtime.cuda import nvrtc
def test_it(): nvrtc.compile("x", "", "float32")
"""
LASTS = """
import time
def test_it():
    end = time.process_time() + 1.1
    while time.process_time() < end: pass
"""
WAITS = """
import time
def test_it(): time.sleep(1.1)
"""
TOO_DEAR = "a unit test builds a kernel. Fix: move it to tests/kernels"
TOO_SLOW = "s of processor time, at most 1 s are allowed.\nFix: make it cheaper, or move it"


def outcome(folder: Path, test: str) -> tuple[int, str]:
    """Exit code and output of pytest for a test under the unit tests' conftest.py."""
    package = folder / "unit"
    package.mkdir()
    shutil.copy(ROOT / "tests" / "unit" / "conftest.py", package)
    (package / "__init__.py").touch()
    (package / "test_one.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(package)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("test", "said"),
    [
        (BUILDS, TOO_DEAR),
        (BUILDS_ELSEWHERE, TOO_DEAR),
        (COMPILES_FOR_A_GPU, TOO_DEAR),
        (LASTS, TOO_SLOW),
    ],
    ids=["builds", "builds elsewhere", "compiles for a GPU", "lasts"],
)
def test_a_unit_test_beyond_its_limits_fails(test: str, said: str, tmp_path: Path) -> None:
    code, text = outcome(tmp_path, test)
    assert code == 1, text
    assert said in text


def test_a_unit_test_may_wait_as_it_does_on_a_busy_machine(tmp_path: Path) -> None:
    code, text = outcome(tmp_path, WAITS)
    assert code == 0, text
