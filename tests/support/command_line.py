"""The command line in this process or another: its output, its data, and its refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from rnncc.cli.main import main

ROOT = Path(__file__).parents[2]

COUPLED = """
from rnncc import Input, Matrix, State, cell, tanh

@cell
def mix(h: State, x: Input, R: Matrix):
    return tanh(R @ h + x)
"""
WRONG = """
from rnncc import Input, State, cell

@cell
def wrong(h: State, x: Input, y: Input):
    return h + x
"""
LOUD = """
from rnncc import Input, State, cell
print("hello from the file")

@cell
def loud(h: State, x: Input):
    print("hello from the cell")
    return 0.5 * h + x
"""
UNITS = '''
"""A membrane.

v is its potential (mV), w a current, which grows (in a way); I is in uA/cm2, dt in ms.
Field: neuroscience.
Source: nobody, who measured h in mV.
"""
from rnncc import Input, State, cell, constant, uniform

@cell
def membrane(
    v: State(init=-65), w: State, h: State, I: Input(typical=uniform(0, 20)),
    g: Input(bias=constant(1)), dt: Input(shared=True), tau=5.0,
):
    return {"v": v + dt * (I - w - h - v) / tau, "w": w + g * v, "h": h / 2, "a": v, "b": w}
'''


def call(*words: str) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(main, words, prog_name="rnncc")


def good(*words: str) -> str:
    result = call(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def data(*words: str, exit_code: int = 0) -> dict[str, Any]:
    """The output of --json: one object on stdout, and nothing on stderr."""
    result = call(*words, "--json")
    assert (result.exit_code, result.stderr) == (exit_code, "")
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def refused(exit_code: int, *words: str) -> str:
    """The message of a failure on stderr; stdout stays empty."""
    result = call(*words)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    return result.stderr


def process(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m rnncc` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "rnncc", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        check=False,
    )


def written(folder: str) -> dict[str, str]:
    """The files in a folder, by name."""
    return {path.name: path.read_text() for path in Path(folder).iterdir()}
