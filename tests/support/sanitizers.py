"""Python under AddressSanitizer and UndefinedBehaviorSanitizer, to load what they instrument."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from rnncc.errors import BuildError
from rnncc.runtime.cpu.build import Compiler, find_compiler
from tests.support.emulation_build import is_clang

PRELOADED = "RNNCC_EMULATION_SANITIZER"


class EmulationError(AssertionError):
    """A kernel broke a rule of GPUs, or depends on an order that a GPU doesn't guarantee."""


def under_sanitizer() -> bool:
    """Whether this process can load libraries built with sanitize=True."""
    return PRELOADED in os.environ


def run_sanitized(*arguments: str, timeout: float = 600) -> str:
    """Run Python with the sanitizers loaded: ("-c", code) or ("-m", "pytest", "tests/test_x.py").

    Returns:
        Its output.

    Raises:
        EmulationError: it failed; the message holds the sanitizer's report.
    """
    compiler = find_compiler()
    if compiler is None:
        raise BuildError("no C++ compiler was found.\nFix: install g++ or clang++")
    environment = os.environ | {
        "LD_PRELOAD": " ".join(_sanitizers(compiler)),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1",
        "PYTHONMALLOC": "malloc",  # guards for small objects too
        PRELOADED: "1",
    }
    result = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if result.returncode:
        raise EmulationError(_report(result.stderr) or result.stdout[-4000:])
    return result.stdout


def _report(stderr: str) -> str:
    """The sanitizer's report without the part on its shadow memory, or the last lines."""
    found = re.search(r"^.*(runtime error:|ERROR: AddressSanitizer)", stderr, re.MULTILINE)
    if not found:
        return stderr[-4000:]
    report = stderr[found.start() :].partition("Shadow bytes")[0]
    place = re.search(r"^kernel '.*$", stderr, re.MULTILINE)
    if not place:
        return report[:6000]
    return f"{place[0]}\n{report.replace(place[0], '').strip()[:6000]}"


def _sanitizers(compiler: Compiler) -> list[str]:
    if is_clang(compiler):
        names = [f"libclang_rt.asan-{os.uname().machine}.so", "libstdc++.so.6"]
    else:
        names = ["libasan.so", "libstdc++.so.6"]
    paths = []
    for name in names:
        command = [*compiler.command, f"-print-file-name={name}"]
        found = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        if not Path(found).exists():
            raise BuildError(f"the compiler has no {name}.\nFix: install its sanitizers")
        paths.append(str(Path(found).resolve()))
    return paths
