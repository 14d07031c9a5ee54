"""`rnncc doctor` in this process."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from rnncc.cli.main import main


def call(*words: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *words], prog_name="rnncc")


def data(*words: str, exit_code: int = 0) -> dict[str, Any]:
    result = call(*words, "--json")
    assert (result.exit_code, result.stderr) == (exit_code, "")
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found
