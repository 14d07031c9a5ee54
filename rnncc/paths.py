"""Where the templates and the shipped cells lie: in the wheel, or at the root of the repository."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def templates() -> Path:
    """The folder of the templates."""
    return _folder("_templates", "templates")


def headers() -> Path:
    """Where `#include "rnncc/..."` finds the driver."""
    return templates() / "include"


def cells() -> Path:
    """The folder of the cells that ship."""
    return _folder("_cells", "cells")


def _folder(packaged: str, at_root: str) -> Path:
    inside = HERE / packaged
    return inside if inside.is_dir() else HERE.parent / at_root
