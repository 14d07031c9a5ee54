"""Kernels on a CPU away from 256 channels: their time per element, and what `auto` loses.

    python tools/widths.py [--chunks]     # a row of any width costs what its channels cost
    python tools/widths.py --regret       # `auto` beside all plans that can be forced

Programs run in turns within one process; float32. It exits with 1 where a bound isn't held.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from typing import Any

import click
import torch
from rich.console import Console
from torch import Tensor

import rnncc
from rnncc.bench.baselines import chunked
from rnncc.bench.cpu import machine
from rnncc.bench.timing import interleave
from rnncc.bench.workload import forward, forward_backward, fused_loop, random_arguments
from rnncc.lang.loader import find

Shape = tuple[int, int, int]
DIRECTIONS = {"forward": forward, "forward+backward": forward_backward}

TUNED: Shape = (8, 2048, 256)
WIDTHS = [(16, 512, 512), (2, 2048, 1024), (8, 2048, 255), (8, 2048, 272), (32, 128, 528)]
MOST = 1.35  # of the time per element at TUNED
WIDE: Shape = (4, 4096, 1024)
LEAST = {"forward": 7.0, "forward+backward": 6.0}  # times faster than compiled chunks, at WIDE

PLANS = {
    "para_gru": [
        *[(8, 2048, 256), (2, 2048, 1024), (4, 8192, 8), (1, 4096, 64), (1, 2048, 16)],
        *[(1, 16384, 64), (1, 16384, 256), (32, 512, 16), (64, 512, 64), (1, 131072, 4)],
        *[(8, 512, 32), (4, 4096, 128)],
    ],
    "slstm": [(1, 16384, 64), (8, 1024, 512), (1, 4096, 16), (2, 8192, 32)],
    "lru": [(1, 16384, 64), (4, 8192, 8), (8, 2048, 64), (1, 65536, 16)],
}
SEGMENTS = (64, 128, 256, 512, 1024, 2048, 4096)
MEDIAN, WORST = 1.05, 1.20  # of the best forced plan's time


@click.command()
@click.option("--chunks", is_flag=True, help="Also beside the loop in compiled chunks, at 1024.")
@click.option("--regret", is_flag=True, help="What `auto` loses, instead.")
@click.option("--seconds", default=0.8, help="For each comparison.")
@click.option("--cells", default="", help="With --regret: some of its cells, by commas.")
@click.option("--json", "as_json", is_flag=True)
def main(chunks: bool, regret: bool, seconds: float, cells: str, as_json: bool) -> None:
    console = Console(stderr=as_json, highlight=False)
    rows = []
    wanted = cells.split(",") if cells else list(PLANS)
    found = regrets(wanted, seconds) if regret else widths(seconds, chunks)
    for row in found:
        rows.append(row)
        console.print(
            "  ".join(f"{v:.3g}" if isinstance(v, float) else f"{v}" for v in row.values())
        )
    failed = lost(rows, console) if regret else [row for row in rows if not row["held"]]
    if as_json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    sys.exit(1 if failed else 0)


# --- widths ----------------------------------------------------------------------------------


def widths(seconds: float, chunks: bool) -> Iterator[dict[str, Any]]:
    """Nanoseconds per element of each shape, and how many times that of TUNED measured with it."""
    compiled = rnncc.compile(find("para_gru"))
    for packed in (False, True):
        tuned = arguments_of(compiled, TUNED, packed)
        for shape in WIDTHS:
            given = arguments_of(compiled, shape, packed)
            for direction, run in DIRECTIONS.items():
                runs = {"tuned": run(fused_loop(compiled), tuned)}
                runs["here"] = run(fused_loop(compiled), given)
                times = medians(runs, seconds)
                here, there = times["here"] / size(shape), times["tuned"] / size(TUNED)
                yield {
                    "shape": name_of(shape),
                    "inputs": "packed" if packed else "separate",
                    "pass": direction,
                    "ns": 1e9 * here,
                    "tuned_ns": 1e9 * there,
                    "ratio": here / there,
                    "held": here <= MOST * there,
                }
    if chunks:
        yield from beside_chunks(compiled, seconds)


def beside_chunks(compiled: rnncc.CompiledCell, seconds: float) -> Iterator[dict[str, Any]]:
    given = arguments_of(compiled, WIDE, packed=False)
    loops = {"here": fused_loop(compiled), "chunks": chunked(compiled.stages.cell)}
    for direction, run in DIRECTIONS.items():
        times = medians({n: run(loop, given) for n, loop in loops.items()}, 4 * seconds)
        ratio = times["chunks"] / times["here"]
        yield {
            "shape": name_of(WIDE),
            "inputs": "separate",
            "pass": direction,
            "ms": 1e3 * times["here"],
            "chunks_ms": 1e3 * times["chunks"],
            "ratio": ratio,
            "held": ratio >= LEAST[direction],
        }


def arguments_of(compiled: rnncc.CompiledCell, shape: Shape, packed: bool) -> dict[str, Tensor]:
    """Packed: the inputs are parts of one tensor, as a layer's projection writes them."""
    arguments = dict(random_arguments(compiled.spec, shape))
    names = [i.name for i in compiled.spec.inputs if not i.shared]
    if packed:
        whole = torch.cat([arguments[name] for name in names], -1)
        arguments |= dict(zip(names, whole.split(shape[2], -1), strict=True))
    return arguments


# --- regret ----------------------------------------------------------------------------------


def regrets(cells: list[str], seconds: float) -> Iterator[dict[str, Any]]:
    """The time of `auto` over that of the best forced plan."""
    for cell in cells:
        compiled = rnncc.compile(find(cell))
        for shape in PLANS[cell]:
            given = random_arguments(compiled.spec, shape)
            loops = {"auto": fused_loop(compiled), "one pass": fused_loop(compiled, "sequential")}
            for segment in SEGMENTS:
                if segment < shape[1]:
                    loops[str(segment)] = fused_loop(compiled, "segmented", segment=segment)
            for direction, run in DIRECTIONS.items():
                times = medians({n: run(loop, given) for n, loop in loops.items()}, seconds)
                auto = times.pop("auto")
                best = min(times, key=lambda name: times[name])
                yield {
                    "cell": cell,
                    "shape": name_of(shape),
                    "pass": direction,
                    "auto_ms": 1e3 * auto,
                    "best_ms": 1e3 * times[best],
                    "best": best,
                    "regret": auto / times[best],
                    "plans_ms": {name: round(1e3 * t, 3) for name, t in times.items()},
                }


def lost(rows: list[dict[str, Any]], console: Console) -> bool:
    found = [row["regret"] for row in rows]
    middle, worst = statistics.median(found), max(found)
    console.print(f"median {middle:.3f} (at most {MEDIAN}), worst {worst:.3f} (at most {WORST})")
    return middle > MEDIAN or worst > WORST


# --- both --------------------------------------------------------------------------------------


def medians(runs: dict[str, Any], seconds: float) -> dict[str, float]:
    return {name: statistics.median(t) for name, t in interleave(runs, seconds).items()}


def size(shape: Shape) -> int:
    return shape[0] * shape[1] * shape[2]


def name_of(shape: Shape) -> str:
    return "x".join(map(str, shape))


if __name__ == "__main__":
    main()
