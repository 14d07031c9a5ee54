"""Where the templates and the shipped cells lie: in the wheel, or at the root of the repository."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def templates() -> Path:
    return _folder("_templates", "templates")


def cells() -> Path:
    return _folder("_cells", "cells")


def _folder(packaged: str, at_root: str) -> Path:
    inside = HERE / packaged
    return inside if inside.is_dir() else HERE.parent / at_root
