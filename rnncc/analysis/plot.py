"""Plot: the sweeps of a probe, and the Jacobian's pattern -> one picture. Needs matplotlib."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rnncc.analysis.probe import Probe
from rnncc.analysis.sweeps import TOLERANCE, Curve
from rnncc.compiler import CompiledCell
from rnncc.errors import RnnccError
from rnncc.ir.program import Structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FLOOR = 1e-17  # where a mismatch of 0 is drawn on a logarithmic axis
CEILING = 1e6  # divergent curves leave the picture
SHADES = {"0": "#ffffff", "1": "#9db8d9", "x": "#1f4e8c"}
STYLES = ("o-", "ks--")  # of segments, and of Newton's iteration over all steps
MEANINGS = {"0": "always zero", "1": "constant", "x": "varies"}


class PlotError(RnnccError, ImportError):
    """Plotting: matplotlib is missing or broken."""


def need_matplotlib() -> None:
    """Say where it is missing, before long work.

    Raises:
        PlotError: it can't be imported.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise PlotError(
            f"--plot: matplotlib can't be imported: {error}.\nFix: pip install 'rnncc[plot]'"
        ) from error


def plot(found: Probe, curves: Sequence[Curve], compiled: CompiledCell, file: Path) -> None:
    """Write a PNG, whole or not at all: mismatch by sweep, and the pattern of a group's Jacobian.

    Raises:
        PlotError: matplotlib can't be imported.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    figure.suptitle(f"{found.cell}: {found.verdict}")
    _draw_curves(left, curves)
    _draw_pattern(right, compiled.structure, compiled.stages.jacobian.states)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150, metadata={"Software": None})
    _replace(file, picture.getvalue())


def _draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    for curve in curves:
        values = [max(mismatch, FLOOR) for mismatch in curve.mismatches]  # NaN stays, undrawn
        sweeps = range(1, len(values) + 1)
        axes.semilogy(sweeps, values, STYLES[curve is curves[-1]], ms=3, label=curve.label)
    axes.axhline(TOLERANCE, color="grey", linewidth=0.8, linestyle=":")
    axes.set_ylim(FLOOR / 2, CEILING)
    axes.set_xlabel("sweep")
    axes.set_ylabel("largest mismatch, relative to the state")
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
    what = "channel" if structure.group == 1 else f"group of {structure.group} channels"
    axes.set_title(f"Jacobian of one {what}", fontsize="medium")
    patches = [
        Patch(facecolor=shade, edgecolor="grey", label=MEANINGS[kind])
        for kind, shade in SHADES.items()
    ]
    below = (0.5, -0.08)
    axes.legend(
        handles=patches, fontsize="small", ncols=3, loc="upper center", bbox_to_anchor=below
    )


def _replace(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as beside:
        fresh = Path(beside) / file.name
        fresh.write_bytes(content)
        os.replace(fresh, file)
