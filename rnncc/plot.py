"""Plot: what a probe followed, and the Jacobian's pattern -> one picture. Needs matplotlib."""

from __future__ import annotations

import importlib.util
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rnncc.errors import RnnccError
from rnncc.ir import Structure
from rnncc.probe import TOLERANCE, Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FLOOR = 1e-17  # where a mismatch of 0 is drawn on a logarithmic axis
CEILING = 1e6  # what diverges leaves the picture
SHADES = {"0": "#ffffff", "1": "#9db8d9", "x": "#1f4e8c"}
MEANINGS = {"0": "always zero", "1": "constant", "x": "varies"}


class PlotError(RnnccError, ImportError):
    """Plotting: matplotlib is not installed."""


def need_matplotlib() -> None:
    """Say so at once where it is missing, before long work.

    Raises:
        PlotError: it is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise PlotError("--plot: matplotlib is not installed.\nFix: pip install 'rnncc[plot]'")


def plot(
    title: str,
    curves: Sequence[Curve],
    structure: Structure,
    states: Sequence[str],
    file: Path,
) -> None:
    """Write a PNG, whole or not at all.

    Args:
        states: the names of a block's rows.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    figure.suptitle(title)
    _draw_curves(left, curves)
    _draw_pattern(right, structure, states)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150, metadata={"Software": None})
    _replace(file, picture.getvalue())


def _draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    for curve in curves:
        values = [max(mismatch, FLOOR) for mismatch in curve.mismatches]  # NaN stays, undrawn
        newton = curve is curves[-1]
        style = {"color": "black", "linestyle": "--"} if newton else {}
        axes.semilogy(range(1, len(values) + 1), values, "o-", ms=3, label=curve.label, **style)
    axes.axhline(TOLERANCE, color="grey", linewidth=0.8, linestyle=":")
    axes.set_ylim(FLOOR / 2, CEILING)
    axes.set_xlabel("sweep")
    axes.set_ylabel("largest mismatch, relative to max(1, |state|)")
    axes.set_title("convergence", fontsize="medium")
    axes.legend(fontsize="small")


def _draw_pattern(axes: Axes, structure: Structure, states: Sequence[str]) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    kinds = list(SHADES)
    grid = [[kinds.index(entry) for entry in row] for row in structure.pattern]
    axes.imshow(grid, cmap=ListedColormap(list(SHADES.values())), vmin=0, vmax=len(kinds) - 1)
    places = range(len(states))
    axes.set_xticks(places, states)
    axes.set_yticks(places, [f"{name}'" for name in states])
    axes.set_xticks([place + 0.5 for place in places], minor=True)
    axes.set_yticks([place + 0.5 for place in places], minor=True)
    axes.grid(which="minor", color="grey", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.set_title(f"Jacobian of a group: {structure.kind}", fontsize="medium")
    patches = [
        Patch(facecolor=shade, edgecolor="grey", label=MEANINGS[kind])
        for kind, shade in SHADES.items()
    ]
    axes.legend(handles=patches, fontsize="small", loc="upper center", ncols=3, bbox_to_anchor=(0.5, -0.12))


def _replace(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as beside:
        fresh = Path(beside) / file.name
        fresh.write_bytes(content)
        os.replace(fresh, file)
