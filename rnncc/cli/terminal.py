"""Terminal: results -> rich output on a terminal, plain text elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

Row = Sequence[str]


def rich_output() -> bool:
    """Whether stdout is a terminal that can show more than plain text."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def line(text: str = "") -> None:
    """One line, never wrapped."""
    click.echo(text)


def heading(text: str) -> None:
    """A title."""
    click.echo()
    click.echo(styled(text, sys.stdout, bold=True))


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
    """A table; plain columns where stdout isn't a terminal."""
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
    """Show that work is in progress."""
    if not (wanted and sys.stderr.isatty()):
        yield Progress()
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield Progress(status)


def styled(text: str, stream: Any, **style: Any) -> str:
    """Text in colours, where the stream is a terminal and NO_COLOR is not set."""
    plain = not stream.isatty() or "NO_COLOR" in os.environ
    return text if plain else click.style(text, **style)
