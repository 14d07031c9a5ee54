"""The command line: the group of all commands, their error messages and exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from rnncc import __version__
from rnncc.cli import options, terminal
from rnncc.cli.bench import bench
from rnncc.cli.check import check
from rnncc.cli.compile import SeveralError, compile
from rnncc.cli.doctor import doctor
from rnncc.cli.list import list_cells
from rnncc.cli.new import new
from rnncc.cli.show import show
from rnncc.errors import BuildError, ProblemsError, RnnccError

STOPPED = 130  # as shells report a program that Ctrl-C ended


class Commands(click.Group):
    """Commands in the order in which they were added; every error is a message and an exit code.

    0 done, 1 the cell or input is at fault, 2 wrong usage, 3 the environment.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **options: Any
    ) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        options["standalone_mode"] = False
        try:
            status = super().main(words, prog_name, **options)
        except Exception as error:
            status = fail(error, words)
        raise SystemExit(status or 0)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
PATH is a file, file.py:name where a file holds several cells, or a shipped cell's name.
Exit codes: 0 done, 1 the cell or input is at fault, 2 wrong usage, 3 the environment.

\b
Examples:
  rnncc list                     the cells that ship
  rnncc new my_cell              a cell to edit: my_cell.py
  rnncc check my_cell.py         what rnncc makes of it
  rnncc compile my_cell.py       the layer: generated/my_cell/""",
)
@click.version_option(__version__, prog_name="rnncc", message="%(prog)s %(version)s")
@options.traceback
def main() -> None:
    """Compile recurrent cells to fused PyTorch layers."""


for command in (check, compile, show, list_cells, new, bench, doctor):
    main.add_command(command)


def fail(error: Exception, words: Sequence[str]) -> int:
    """Print the error as the command line `words` asks for it; returns the exit status."""
    if "--traceback" in words or os.environ.get("RNNCC_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exception(error)
    if "--json" in words:
        done = error.done if isinstance(error, SeveralError) else {}
        terminal.as_json({**done, "error": error_data(error)})
    elif isinstance(error, click.ClickException):
        error.show()
    else:
        _print_message(error_message(error))
    return exit_status(error)


def exit_status(error: Exception) -> int:
    """0 done, 1 the cell or input is at fault, 2 wrong usage, 3 the environment."""
    if isinstance(error, SeveralError):
        return max(exit_status(each) for each in error.errors)
    if isinstance(error, click.ClickException):
        return error.exit_code
    if isinstance(error, click.Abort):
        return STOPPED
    return 3 if isinstance(error, (BuildError, ImportError, MemoryError, OSError)) else 1


def error_data(error: Exception) -> dict[str, Any]:
    """An error for `--json`: the type of the first, the problems of all."""
    errors = error.errors if isinstance(error, SeveralError) else (error,)
    problems = [p for each in errors if isinstance(each, ProblemsError) for p in each.problems]
    return {
        "type": type(errors[0]).__name__,
        "message": error_message(error),
        "problems": [vars(problem) for problem in problems],
    }


def error_message(error: Exception) -> str:
    """The error and its fix, in words."""
    if isinstance(error, SeveralError):
        return "\n\n".join(map(error_message, error.errors))
    if isinstance(error, RnnccError):
        return str(error)
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, click.Abort):
        return "stopped."
    if isinstance(error, ImportError):
        package = (error.name or "").partition(".")[0]
        return f"a package is missing or broken: {error}.\nFix: pip install {package or 'rnncc'}"
    if isinstance(error, OSError):
        return (
            f"{error}.\n"
            "Fix: check that the file can be reached and written, and that the disk has room"
        )
    if isinstance(error, MemoryError):
        return "there is not enough memory.\nFix: a smaller shape"
    return (
        f"rnncc itself failed: {type(error).__name__}: {error}.\n"
        "Fix: this is a bug in rnncc; run it again with --traceback and report the output"
    )


def _print_message(message: str) -> None:
    for each in message.splitlines():
        advice = each.startswith("Fix:")
        click.echo(terminal.styled(each, sys.stderr, fg="green" if advice else None), err=True)
