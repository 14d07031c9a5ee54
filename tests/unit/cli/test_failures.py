"""Failures: exit status, words, data and traceback of every class."""

import click
import pytest

from rnncc.cli import check
from rnncc.errors import BuildError, LoadError
from tests.support.command_line import data, refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compile"], "give one or several PATHs, or --all for all cells that ship"),
        (["compile", "lif", "--all"], "give one or several PATHs, or --all"),
        (["compile", "lif", "--target", "rocm"], "'rocm' is not one of 'cpp', 'cuda'"),
        (["check", "lif", "--device", "H100"], "--device needs a shape"),
        (["check", "lif", "--dtype", "float16"], "--dtype is that of a shape"),
        (["check"], "Missing argument 'PATH'"),
        (["check", "lif", "--set", "slope"], "got 'slope', expected NAME=NUMBER"),
        (["check", "lif", "--set", "slope=x"], "got 'slope=x', expected NAME=NUMBER"),
        (["check", "lif", "--set", "=1"], "got '=1', expected NAME=NUMBER"),
        (["check", "lif", "--shape", "8x4"], "got '8x4', expected BATCHxSTEPSxCHANNELS"),
        (["bench"], "Missing argument 'PATH'"),
        (["bench", "lif", "--shape", "8x4x0"], "got '8x4x0', expected BATCHxSTEPSxCHANNELS"),
        (["bench", "lif", "--threads", "0"], "0 is not in the range x>=1"),
        (["nothing_like_it"], "No such command 'nothing_like_it'"),
        (["list", "--nothing-like-it"], "No such option"),
        (["list", "--states", "0"], "0 is not in the range x>=1"),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(words: list[str], message: str) -> None:
    said = refused(2, *words)
    assert message in said
    assert "--help" in said
    error = data(*words, exit_code=2)["error"]
    assert message in error["message"]
    assert error["problems"] == []


def test_a_problem_as_data_has_its_parts() -> None:
    error = data("check", "mix.py", exit_code=1)["error"]
    (problem,) = error["problems"]
    assert error["type"] == "StructureError"
    assert error["message"].startswith("mix.py:6: cell 'mix': channels couple")
    assert set(problem) == {"file", "line", "cell", "seen", "expected", "fix"}
    assert (problem["line"], problem["cell"]) == (6, "mix")


def test_a_load_error_as_data_has_no_problems() -> None:
    error = data("check", "nothing_like_it", exit_code=1)["error"]
    assert (error["type"], error["problems"]) == ("LoadError", [])


def test_an_unknown_constant_is_the_inputs_fault() -> None:
    assert "'nope' is given a value, but isn't a constant of the cell" in refused(
        1, "check", "lif", "--set", "nope=1"
    )


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (LoadError("x: no.\nFix: y"), 1, "x: no.\nFix: y"),
        (BuildError("no compiler.\nFix: y"), 3, "no compiler.\nFix: y"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            3,
            "a package is missing or broken: No module named 'torch'.\nFix: pip install torch",
        ),
        (OSError(28, "No space left"), 3, "No space left"),
        (MemoryError(), 3, "there is not enough memory.\nFix: a smaller shape"),
        (click.Abort(), 130, "stopped."),
        (KeyError("x"), 1, "rnncc itself failed: KeyError: 'x'.\nFix: this is a bug in rnncc"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_every_class_of_failure_has_its_status_and_its_words(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, message: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(check, "load", fail)
    said = refused(status, "check", "lif")
    assert message in said
    assert "Traceback" not in said
    assert data("check", "lif", exit_code=status)["error"]["type"] == type(error).__name__


@pytest.mark.parametrize("how", ["option", "group option", "variable"])
def test_a_traceback_is_shown_on_request_only(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    assert "Traceback" not in refused(1, "check", "mix.py")
    if how == "variable":
        monkeypatch.setenv("RNNCC_TRACEBACK", "1")
    words = ["check", "mix.py", *(["--traceback"] if how == "option" else [])]
    said = refused(1, *(["--traceback"] if how == "group option" else []), *words)
    assert "Traceback (most recent call last)" in said
    assert "in _refuse_coupled" in said
