"""The public API as text: names, signatures, attributes, commands and their options.

python -m tests.support.api             print it
python -m tests.support.api --update    write it to tests/unit/api.txt (make api)
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from torch import nn

import rnncc
from rnncc.cli.main import main as command_line
from rnncc.nn.layer import CellLayer
from rnncc.nn.status import Solve
from tests.support.runs import compiled

SNAPSHOT = Path(__file__).parents[1] / "unit" / "api.txt"
GENERATED = "para_gru"  # the cell whose generated module stands for all


def text() -> str:
    """One name a line, with its signature; members of a class or command are indented."""
    lines = [line for name in sorted(rnncc.__all__) for line in _described(name)]
    lines += ["", f"generated.{GENERATED}", *_generated()]
    lines += ["", *_class("CellLayer", CellLayer, nn.Module), *_class("Solve", Solve)]
    lines += ["", *_commands(command_line, "rnncc")]
    return "\n".join(lines) + "\n"


def _described(name: str) -> Iterator[str]:
    value = getattr(rnncc, name)
    if not inspect.isclass(value):
        yield f"rnncc.{name}{_signature(value)}"
    elif issubclass(value, Exception):
        yield f"rnncc.{name}({', '.join(base.__name__ for base in value.__bases__)})"
    else:
        yield from _class(f"rnncc.{name}", value)


def _generated() -> Iterator[str]:
    module = importlib.import_module(f"generated.{GENERATED}")
    for name in sorted(module.__all__):
        yield f"  {name}{_signature(getattr(module, name))}"


def _class(name: str, value: type, but_for: type = object) -> Iterator[str]:
    """Its signature, methods, properties and attributes, but for those of a base."""
    yield f"{name}{_signature(value)}"
    inherited = set(dir(but_for))
    for member in sorted(set(dir(value)) - inherited | {*vars(value)} & {"forward"}):
        if member.startswith("_"):
            continue
        found = inspect.getattr_static(value, member)
        is_method = callable(getattr(value, member)) and not isinstance(found, property)
        yield f"  .{member}{_signature(getattr(value, member)) if is_method else ''}"
    if value is rnncc.CompiledCell:
        yield from (f"  .{n}" for n in vars(compiled(GENERATED)) if not n.startswith("_"))


def _commands(command: click.Command, name: str) -> Iterator[str]:
    options = [_option(p) for p in command.params if not getattr(p, "hidden", False)]
    yield " ".join([name, *options])
    if isinstance(command, click.Group):
        for child in sorted(command.commands):
            yield from _commands(command.commands[child], f"{name} {child}")


def _option(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return parameter.make_metavar(click.Context(click.Command("")))
    words = "/".join([*parameter.opts, *parameter.secondary_opts])
    is_flag = getattr(parameter, "is_flag", False) or getattr(parameter, "count", False)
    kind = parameter.type
    values = "|".join(kind.choices) if isinstance(kind, click.Choice) else kind.name
    return f"[{words}]" if is_flag else f"[{words} {values}]"


def _signature(value: Any) -> str:
    """With annotations as they are written."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(value)))


if __name__ == "__main__":
    if "--update" in sys.argv[1:]:
        SNAPSHOT.write_text(text(), encoding="utf-8")
    else:
        sys.stdout.write(text())
