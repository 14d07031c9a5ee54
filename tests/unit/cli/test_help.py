"""Help, version, and what a command imports."""

import re

import pytest

from rnncc import __version__
from tests.support.command_line import good, process

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
