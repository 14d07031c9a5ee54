"""Times of `auto` against `sequential`, for all shipped cells at shapes from wide to narrow.

    python tools/solvers.py [--write]

Both are the fused kernels, called as users call them, in turns within one process; float32.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import click
from rich.console import Console

import rnncc
from rnncc.bench.cpu import machine
from rnncc.bench.timing import interleave
from rnncc.bench.workload import forward, forward_backward, fused_loop, random_arguments
from rnncc.lang.loader import find, shipped
from rnncc.nn.status import Solve

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docs" / "speed" / "solvers.json"
SHAPES = [
    *[(8, 2048, 256), (32, 512, 64), (8, 2048, 16), (64, 1024, 4)],
    *[(1, 16384, 64), (1, 16384, 16), (4, 8192, 8), (1, 2048, 16), (1, 131072, 4)],
]
DIRECTIONS = {"forward": forward, "forward+backward": forward_backward}
SECONDS = 1.0  # for each pair


def measure(compiled: rnncc.CompiledCell, shape: tuple[int, int, int]) -> list[dict[str, Any]]:
    """Median milliseconds of both solvers, forward, and forward and backward."""
    arguments = random_arguments(compiled.kernel.spec, shape)
    loops = {name: fused_loop(compiled, name) for name in ("auto", "sequential")}
    solves: list[Solve] = []
    fused_loop(compiled, observe=solves.append)(arguments)
    found = []
    for direction, run in DIRECTIONS.items():
        runs = {name: run(loop, arguments) for name, loop in loops.items()}
        times = interleave(runs, SECONDS)
        auto, sequential = (1e3 * statistics.median(times[name]) for name in loops)
        found.append(
            {
                "cell": compiled.name,
                "shape": list(shape),
                "pass": direction,
                "solver": solves[0].solver,
                "sweeps": solves[0].sweeps,
                "auto_ms": auto,
                "sequential_ms": sequential,
                "ratio": sequential / auto,
            }
        )
    return found


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: how many times faster `auto` is than `sequential`, a row for each cell."""
    shapes = list(dict.fromkeys("x".join(map(str, r["shape"])) for r in results))
    lines = [f"| cell | pass | {' | '.join(shapes)} |", f"|---|---|{'---|' * len(shapes)}"]
    rows: dict[tuple[str, str], list[str]] = {}
    for r in results:
        mark = "" if r["solver"] == "sequential" else f" ({r['sweeps']})"
        rows.setdefault((r["cell"], r["pass"]), []).append(f"{r['ratio']:.2f}{mark}")
    lines += [f"| {cell} | {way} | {' | '.join(row)} |" for (cell, way), row in rows.items()]
    return "\n".join(lines)


@click.command()
@click.option("--write", is_flag=True, help=f"Write {FILE.relative_to(ROOT)} as well.")
@click.argument("cells", nargs=-1)
def main(write: bool, cells: tuple[str, ...]) -> None:
    """Measure and print the table; in parentheses the sweeps, where the forward took segments."""
    results = []
    with Console(stderr=True).status("measuring") as status:
        for name in cells or [path.stem for path in shipped()]:
            compiled = rnncc.compile(find(name))
            group = compiled.kernel.spec.group
            for batch, steps, channels in SHAPES:
                shape = (batch, steps, -(-channels // group) * group)
                status.update(f"{name} {shape}")
                results += measure(compiled, shape)
    click.echo(table(results))
    slowest = min(results, key=lambda r: r["ratio"])
    click.echo(f"\nleast: {slowest['ratio']:.2f}, {slowest['cell']} {slowest['shape']}")
    if write:
        text = json.dumps({"machine": machine(), "results": results}, indent=2)
        FILE.write_text(text + "\n", encoding="utf-8")
        click.echo(f"{FILE.relative_to(ROOT)}: written")


if __name__ == "__main__":
    main()
