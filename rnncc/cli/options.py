"""Options: those that several commands share, and how their values are read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
Constants = dict[str, float]
Shape = tuple[int, int, int]


def traceback(command: Command) -> Command:
    """`--traceback`, which `main.fail` looks for in the command line."""
    return click.option(
        "--traceback", is_flag=True, expose_value=False, help="On an error, show where it arose."
    )(command)


def common(command: Command) -> Command:
    """The options of every command."""
    return click.option("--json", is_flag=True, help="Print one JSON object.")(traceback(command))


def constants(command: Command) -> Command:
    """`--set name=value`, repeatable; the command receives a dict."""
    return click.option(
        "--set",
        "constants",
        metavar="NAME=NUMBER",
        multiple=True,
        callback=_read_constants,
        help="A new value for a compile-time constant of the cell; repeatable.",
    )(command)


def fast_math(command: Command) -> Command:
    """`--fast-math`."""
    return click.option(
        "--fast-math",
        is_flag=True,
        help="On a GPU compute sigmoid and tanh with its own, less exact tanh.",
    )(command)


def dtype(text: str) -> Callable[[Command], Command]:
    """`--dtype bfloat16`."""
    choice = click.Choice(["float32", "bfloat16", "float16", "float64"])
    return click.option("--dtype", type=choice, default="float32", show_default=True, help=text)


def shape(text: str, multiple: bool = False) -> Callable[[Command], Command]:
    """`--shape 8x2048x256`; the command receives a tuple, or with `multiple` a list of them."""
    name = "shapes" if multiple else "shape"
    read = _read_shapes if multiple else _read_shape
    return click.option(
        "--shape", name, metavar="BxTxN", multiple=multiple, callback=read, help=text
    )


def _read_constants(_: Any, __: Any, values: tuple[str, ...]) -> dict[str, float]:
    return dict(map(_constant, values))


def _constant(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    for read in (int, float):
        with contextlib.suppress(ValueError):
            if name.isidentifier():
                return name, read(number)
    raise click.BadParameter(f"got {text!r}, expected NAME=NUMBER, for example slope=10")


def _read_shapes(_: Any, __: Any, values: tuple[str, ...]) -> list[Shape]:
    return list(map(_shape, values))


def _read_shape(_: Any, __: Any, value: str | None) -> Shape | None:
    return None if value is None else _shape(value)


def _shape(text: str) -> Shape:
    sizes = text.lower().split("x")
    if len(sizes) == 3 and all(s.isascii() and s.isdigit() and int(s) > 0 for s in sizes):
        return int(sizes[0]), int(sizes[1]), int(sizes[2])
    raise click.BadParameter(f"got {text!r}, expected BATCHxSTEPSxCHANNELS, such as 8x2048x256")
