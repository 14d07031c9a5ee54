"""List: filters -> the cells that ship and fit them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from rnncc.cli import options, render, terminal

if TYPE_CHECKING:
    from rnncc.inspect.catalogue import CatalogueEntry


@click.command(
    name="list",
    epilog="""\b
Examples:
  rnncc list
  rnncc list --affine --states 2
  rnncc list --field neuroscience --spiking reset
  rnncc list --json | jq '.cells[].name'""",
)
@click.argument("words", nargs=-1, metavar="[WORD...]")
@click.option("--states", metavar="N", type=click.IntRange(1), help="Cells with N states.")
@click.option(
    "--affine/--nonlinear", default=None, help="Cells that are affine in the state, or not."
)
@click.option("--spiking", is_flag=True, help="Cells with a spike.")
@click.option("--smooth", is_flag=True, help="Cells without kinks, jumps and choices.")
@click.option("--field", metavar="TEXT", help="Cells of a field whose name contains TEXT.")
@options.common
def list_cells(
    words: tuple[str, ...],
    states: int | None,
    affine: bool | None,
    spiking: bool,
    smooth: bool,
    field: str | None,
    json: bool,
) -> None:
    """List the cells that ship.

    With WORDs, only cells that have all of them in their name or description; with options, only
    cells that fit all of these.
    """
    from rnncc.inspect.catalogue import catalogue, select

    cells = catalogue()
    found = select(cells, words, states, affine, spiking, smooth, field)
    if json:
        terminal.as_json({"cells": [cell.data() for cell in found]})
    elif found:
        headers = ("cell", "states", "structure", "kind", "field", "what", "source")
        terminal.table(headers, [_row(cell) for cell in found])
    else:
        _print_filters(cells)


def _row(cell: CatalogueEntry) -> render.Row:
    structure, _, *kind = render.structure_words(cell.structure)
    lists = ", ".join(cell.states), structure, ", ".join(kind), ", ".join(cell.fields)
    return cell.name, *lists, cell.what, cell.source


def _print_filters(cells: Sequence[CatalogueEntry]) -> None:
    """Say that no cell fits, and which filters there are."""
    fields = sorted({field for cell in cells for field in cell.fields})
    counts = map(str, sorted({len(cell.states) for cell in cells}))
    terminal.line(
        "No shipped cell fits all filters.\n"
        f"Filters: words, --states {' | '.join(counts)}, --affine | --nonlinear, --spiking, "
        f"--smooth, --field.\nFields: {', '.join(fields)}."
    )
