"""Options: what the commands share, and the types of their values."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
Shape = tuple[int, int, int]


class ConstantType(click.ParamType):
    """NAME=NUMBER -> (name, number)."""

    name = "NAME=NUMBER"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        name, _, number = str(value).partition("=")
        for read in (int, float):
            with contextlib.suppress(ValueError):
                if name.isidentifier():
                    return name, read(number)
        self.fail(f"got {value!r}, expected NAME=NUMBER, for example slope=10", param, ctx)


class ShapeType(click.ParamType):
    """8x2048x256 -> (8, 2048, 256)."""

    name = "BxTxN"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Shape:
        sizes = str(value).lower().split("x")
        if len(sizes) == 3 and all(s.isascii() and s.isdigit() and int(s) > 0 for s in sizes):
            return int(sizes[0]), int(sizes[1]), int(sizes[2])
        self.fail(
            f"got {value!r}, expected BATCHxSTEPSxCHANNELS, for example 8x2048x256", param, ctx
        )


def common(command: Command) -> Command:
    """The options of every command."""
    where = click.option(
        "--traceback", is_flag=True, expose_value=False, help="On an error, show where it arose."
    )
    return click.option("--json", is_flag=True, help="Print one JSON object.")(where(command))


def constants(command: Command) -> Command:
    """`--set name=value`, repeatable."""
    return click.option(
        "--set",
        "constants",
        type=ConstantType(),
        multiple=True,
        help="A new value for a compile-time constant of the cell; repeatable.",
    )(command)
