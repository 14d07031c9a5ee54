"""Kernels' own headers of functions, compiled alone."""

from __future__ import annotations

import platform
import shlex
import subprocess
from pathlib import Path

from rnncc import paths
from rnncc.runtime.cpu import build

HEADERS = ['#include "rnncc/common/functions.h"']
ARCHITECTURE = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unused-function")
FLAGS = (*build.FLAGS, "-fvisibility=default", f"-I{paths.headers()}", *WARNINGS)


def compile_source(compiler: str, source: Path, output: Path, *extra: str) -> str:
    command = [*shlex.split(compiler), *FLAGS, ARCHITECTURE, *extra, str(source), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr}"
    return done.stdout + done.stderr
