"""Seconds of a CPU that NVRTC takes for each part of a cell's kernels, for all cells that ship.

    python tools/nvrtc_times.py [CELL ...] [--dtype float32] [--arch sm_90]

Needs CuPy and NVRTC, no GPU. Slowest cells last; the parts are those of rnncc/ir/spec.py.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator

import click
from rich.console import Console
from rich.table import Table

import rnncc
from rnncc.ir.spec import CUDA_KERNELS
from rnncc.lang.loader import find, shipped
from rnncc.runtime.cuda import nvrtc
from rnncc.runtime.cuda.backend import part_of

WIDTH = 140  # also where there is no terminal


@click.command()
@click.argument("cells", nargs=-1)
@click.option("--dtype", default="float32", show_default=True)
@click.option("--arch", default="sm_90", show_default=True)
def main(cells: tuple[str, ...], dtype: str, arch: str) -> None:
    """Compile each part of CELLs, of all that ship if none is named, and print the seconds."""
    found = {}
    for name in cells or [path.stem for path in shipped()]:
        print(f"compiling {name}", file=sys.stderr)
        found[name] = list(seconds(rnncc.compile(find(name)), dtype, arch))
    table = Table("cell", *CUDA_KERNELS, "all")
    for name, each in sorted(found.items(), key=lambda item: sum(item[1])):
        table.add_row(name, *(f"{s:.1f}" for s in (*each, sum(each))))
    Console(width=WIDTH).print(table)


def seconds(compiled: rnncc.CompiledCell, dtype: str, arch: str) -> Iterator[float]:
    """User time of each part: unlike the clock's, it counts no other process."""
    for part in range(len(CUDA_KERNELS)):
        source = part_of(compiled.source("cuda"), part)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        nvrtc.compile(compiled.name, source, dtype, arch)
        yield resource.getrusage(resource.RUSAGE_SELF).ru_utime - before


if __name__ == "__main__":
    main()
