"""The limits of unit tests: one that builds a kernel or takes over a second fails and says why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

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
def test_it():
    done = subprocess.run([sys.executable, "-c", RUN], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
"""
COMPILES_FOR_A_GPU = """
from rnncc.runtime.cuda import nvrtc
def test_it(): nvrtc.compile("x", "", "float32")
"""
LASTS = """
import time
def test_it():
    end = time.process_time() + 4  # over the limit on a slow machine too
    while time.process_time() < end: pass
"""
WAITS = """
import time
def test_it(): time.sleep(1.1)
"""
TOO_DEAR = "a unit test builds a kernel. Fix: move it to tests/kernels"
TOO_SLOW = "s of processor time, at most 1 s are allowed.\nFix: make it cheaper, or move it"


FAILING = {
    "builds": (BUILDS, TOO_DEAR),
    "builds_elsewhere": (BUILDS_ELSEWHERE, TOO_DEAR),
    "compiles_for_a_gpu": (COMPILES_FOR_A_GPU, TOO_DEAR),
    "lasts": (LASTS, TOO_SLOW),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """pytest's message for each test under the unit tests' conftest.py; empty if it passes."""
    folder = tmp_path_factory.mktemp("limits")
    package, report = folder / "unit", folder / "report.xml"
    package.mkdir()
    shutil.copy(ROOT / "tests" / "unit" / "conftest.py", package)
    (package / "__init__.py").touch()
    for name, test in {**{n: t for n, (t, _) in FAILING.items()}, "waits": WAITS}.items():
        (package / f"test_{name}.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(package)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*command, f"--junitxml={report}"], cwd=folder, env=environment, check=False)
    return {
        case.attrib["classname"].rpartition("test_")[2]: "".join(case.itertext())
        for case in ElementTree.parse(report).iter("testcase")
    }


@pytest.mark.parametrize("name", FAILING)
def test_a_unit_test_beyond_its_limits_fails(name: str, said: dict[str, str]) -> None:
    assert FAILING[name][1] in said[name]


def test_a_unit_test_may_wait_as_it_does_on_a_busy_machine(said: dict[str, str]) -> None:
    assert said["waits"] == ""
