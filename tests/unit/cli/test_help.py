"""Help, version, and what a command imports."""

import os
import re
import subprocess
import sys

import pytest

from rnncc import __version__
from tests.support.command_line import ROOT, good, process

COMMANDS = ("check", "compile", "show", "list", "new", "bench", "doctor")


def test_help_lists_the_commands_in_the_order_of_use() -> None:
    text = good("--help")
    found = [text.index(f"\n  {command} ") for command in COMMANDS]
    assert found == sorted(found)
    assert "Exit codes: 0 done, 1 the cell or input is at fault" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_ends_with_examples(command: str) -> None:
    examples = re.findall(rf"^  +rnncc {command}\b", good(command, "--help"), re.MULTILINE)
    assert 2 <= len(examples) <= 4


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_json_and_traceback(command: str) -> None:
    text = good(command, "-h")
    assert "--json" in text
    assert "--traceback" in text


def test_version_is_the_packages() -> None:
    assert process("--version").stdout == f"rnncc {__version__}\n"


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["--help"], ["torch", "sympy", "pydantic", "rich"]),
        (["new", "some_cell"], ["torch", "pydantic", "rich"]),
        (["check", "elman"], ["torch", "rich"]),
        (["compile", "elman"], ["torch", "rich"]),
        (["list"], ["torch", "rich"]),
    ],
    ids=lambda words: words[0],
)
def test_a_command_imports_no_more_than_it_needs(words: list[str], heavy: list[str]) -> None:
    program = (
        "import sys\nfrom rnncc.cli.main import main\n"
        f"try: main({words})\nexcept SystemExit as end: assert not end.code\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines()[-1] == "[]"
