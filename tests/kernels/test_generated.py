"""generated/ follows from the shipped cells, in any process, and imports from the root."""

from __future__ import annotations

import os
import subprocess
import sys

from rnncc.lang.loader import shipped
from tests.support.golden import GENERATED, ROOT, differences, expected_files, packages

CELLS = [path.stem for path in shipped()]
SEEDS = ("0", "1", "12345")
HASHED = ("slstm", "block_elman", "lru")
PRINT_FILES = """
import json, sys
import rnncc
from rnncc.lang.loader import find
print(json.dumps({name: rnncc.compile(find(name)).files_with_tangent() for name in sys.argv[1:]}))
"""


def test_generated_follows_from_the_cells() -> None:
    """So the other tests' findings about generated/ hold for rnncc's output."""
    found = differences(GENERATED, expected_files(packages()))
    shown = "\n\n".join(map(str, found[:3]))
    assert not found, f"{len(found)} files differ. Fix: make golden, then review.\n{shown}"


def test_generated_packages_import_from_the_root() -> None:
    names = ", ".join(f"generated.{name}" for name in CELLS)
    code = f"import {names}\nfrom generated.para_gru import ParaGRU, para_gru"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_output_does_not_depend_on_the_hash_seed() -> None:
    texts = set()
    for seed in SEEDS:
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PRINT_FILES, *HASHED]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        texts.add(run.stdout)
    assert len(texts) == 1
    assert all(name in texts.pop() for name in HASHED[:1])


def test_importing_a_generated_module_reads_no_header() -> None:
    code = (
        "import generated.para_gru\n"
        "from rnncc.runtime.source import header\n"
        "print(header.cache_info().misses)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout == "0\n"
