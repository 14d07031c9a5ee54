"""Where the templates and the shipped cells lie: in the wheel, or at the root of the repository."""

from __future__ import annotations

import sys
from importlib import resources
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

if sys.version_info >= (3, 11):
    from importlib.resources.abc import Traversable as Traversable
else:
    from importlib.abc import Traversable as Traversable

HERE = Path(__file__).parent


def templates() -> Path:
    """The folder of the templates."""
    return _folder("_templates", "templates")


def headers() -> Path:
    """Where `#include "rnncc/..."` finds the driver."""
    return templates() / "include"


def header(name: str) -> str:
    """The text of one of them; from a zip file too, if rnncc is in one.

    Raises:
        FileNotFoundError: there is none of that name.
    """
    inside = resources.files("rnncc") / "_templates"
    folder = inside / "include" if inside.is_dir() else headers()
    return (folder / name).read_text(encoding="utf-8")


def folder_of(spec: ModuleSpec) -> Traversable:
    """What lies beside a package's __init__.py; of a package in a zip file too."""
    package = ModuleType(spec.name)  # of sys.modules there may be none
    package.__spec__ = spec
    return resources.files(package)


def cells() -> Path:
    """The folder of the cells that ship."""
    return _folder("_cells", "cells")


def _folder(packaged: str, at_root: str) -> Path:
    inside = HERE / packaged
    return inside if inside.is_dir() else HERE.parent / at_root
