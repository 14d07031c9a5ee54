"""Terminal: results -> rich output on a terminal, plain text elsewhere; errors -> exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import click

from rnncc.errors import BuildError, ProblemsError, RnnccError

Row = Sequence[str]
STOPPED = 130  # as a shell says of a program that Ctrl-C ended

# --- results ---------------------------------------------------------------------------------


def rich_output() -> bool:
    """Whether stdout is a terminal that can show more than plain text."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def line(text: str = "") -> None:
    """One line, never wrapped."""
    click.echo(text)


def heading(text: str) -> None:
    """The title of what follows."""
    click.echo()
    click.echo(_styled(text, sys.stdout, bold=True))


def block(text: str, indent: str = "  ") -> None:
    """Lines, indented and never wrapped."""
    for each in text.splitlines():
        click.echo(f"{indent}{each}".rstrip())


def code(text: str, language: str) -> None:
    """Source text, coloured on a terminal."""
    if not rich_output():
        click.echo(text)
        return
    from rich.console import Console
    from rich.syntax import Syntax

    shown = Syntax(text, language, theme="ansi_dark", background_color="default")
    Console().print(shown, soft_wrap=True)


def table(headers: Row, rows: Sequence[Row]) -> None:
    """A table; plain columns where stdout is no terminal."""
    if not rich_output():
        _plain_table(headers, rows)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for header in headers:
        shown.add_column(header, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    Console().print(shown)


def _plain_table(headers: Row, rows: Sequence[Row]) -> None:
    lines = [headers, *rows]
    widths = [max(len(row[i]) for row in lines) for i in range(len(headers))]
    for row in lines:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  " + "  ".join(cells).rstrip())


def as_json(data: dict[str, Any]) -> None:
    """The one object that `--json` prints."""
    click.echo(json.dumps(data, indent=2))


class Progress:
    """A spinner with a line of text, on a terminal's stderr; nothing elsewhere."""

    def __init__(self, status: Any = None) -> None:
        self._status = status

    def say(self, text: str) -> None:
        if self._status is not None:
            self._status.update(text)


@contextlib.contextmanager
def progress(text: str, wanted: bool = True) -> Iterator[Progress]:
    """Show that work goes on."""
    if not (wanted and sys.stderr.isatty()):
        yield Progress()
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield Progress(status)


# --- errors ----------------------------------------------------------------------------------


class SeveralError(Exception):
    """Some of several things failed; `done` is what `--json` says of the others."""

    def __init__(self, errors: Sequence[Exception], done: dict[str, Any]) -> None:
        super().__init__("\n\n".join(error_message(error) for error in errors))
        self.errors = tuple(errors)
        self.done = done


class Commands(click.Group):
    """Commands in the order of their definition; every error is a message and an exit code.

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


def fail(error: Exception, words: Sequence[str]) -> int:
    """Say what went wrong, where `words` (the command line) want it; returns the exit status."""
    if "--traceback" in words or os.environ.get("RNNCC_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exception(error)
    if "--json" in words:
        done = error.done if isinstance(error, SeveralError) else {}
        as_json({**done, "error": error_data(error)})
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
    """What `--json` says of an error: the type of the first, the problems of all."""
    errors = error.errors if isinstance(error, SeveralError) else (error,)
    problems = [p for each in errors if isinstance(each, ProblemsError) for p in each.problems]
    return {
        "type": type(errors[0]).__name__,
        "message": error_message(error),
        "problems": [vars(problem) for problem in problems],
    }


def error_message(error: Exception) -> str:
    """What is wrong and how to fix it, in words."""
    if isinstance(error, (RnnccError, SeveralError)):
        return str(error)
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, click.Abort):
        return "stopped."
    if isinstance(error, ImportError):
        package = (error.name or "").partition(".")[0]
        return f"a package is missing or broken: {error}.\nFix: pip install {package or 'rnncc'}"
    if isinstance(error, OSError):
        return f"{error}.\nFix: see that the file can be reached and written, and the disk has room"
    if isinstance(error, MemoryError):
        return "there is not enough memory.\nFix: a smaller shape"
    return (
        f"rnncc itself failed: {type(error).__name__}: {error}.\n"
        "Fix: this is a fault of rnncc; run it again with --traceback and report what it says"
    )


def _print_message(message: str) -> None:
    for each in message.splitlines():
        advice = each.startswith("Fix:")
        click.echo(_styled(each, sys.stderr, fg="green" if advice else None), err=True)


def _styled(text: str, stream: Any, **style: Any) -> str:
    plain = not stream.isatty() or "NO_COLOR" in os.environ
    return text if plain else click.style(text, **style)
