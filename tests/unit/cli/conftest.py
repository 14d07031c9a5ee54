"""A working directory with cells that can't be compiled in it."""

from pathlib import Path

import pytest

from tests.support.command_line import COUPLED, LOUD, WRONG


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RNNCC_TRACEBACK", raising=False)
    for name, text in (("mix", COUPLED), ("wrong", WRONG), ("loud", LOUD)):
        Path(f"{name}.py").write_text(text)
    return tmp_path
