"""Large cells: a C++ compiler gets each function once, or it takes most of a minute."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from rnncc.runtime.cpu.build import library_path, load
from tests.support.runs import compiled

needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm, of binutils")
FUNCTIONS = {
    "crf": {"whole_step<true, true>", "jacobian", "adjoint<true>", "adjoint<false>"},
    # its step without the lets of derivatives is another: their stores are a fifth of its time
    "rk4_neuron": {
        "whole_step<true, false>",
        "whole_step<true, true>",
        "jacobian",
        "whole_adjoint<true>",
    },
}


@needs_nm
@pytest.mark.slow
@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_a_library_holds_each_function_once(name: str) -> None:
    source = compiled(name).source("cpp")
    load(name, source, "float32")
    command = ["nm", "-C", str(library_path(name, source, "float32"))]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"rnncc::Lanes::(\w+(?:<[^>]*>)?)\(", symbols)
    assert sorted(found) == sorted(
        FUNCTIONS[name] | {"carry<false>", "carry<true>", "step_to_store"}
    )


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_a_library_is_built_in_seconds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In three of the processor, on the machine where this was written; it has taken minutes."""
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(tmp_path))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    load(name, compiled(name).source("cpp"), "float32")
    assert 0 < resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 12
