"""Peak memory of a training step against the length of the sequence, by the states that are saved.

    python tools/memory.py [--write]

Each figure is taken in a process of its own: the growth of its peak over that of a small call. The
inputs, outputs and all gradients are in it; "beside" is the rest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
CELL, CHANNELS = "lstm", 16
LENGTHS = (4096, 65536, 1048576)
SAVED = ("plain loop", "1", "16", "256", "4096")
LONGEST_PLAIN = 4096  # the plain loop keeps every value of every step

MEASURED = """
import json, sys, time, torch
import rnncc
from rnncc.lang.loader import find
from rnncc.export.torch_loop import plain_loop, plain_step

name, saved, steps, channels = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
compiled = rnncc.compile(find(name))
cell = compiled.stages.cell
plain = plain_step(cell, torch.float32)

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

def call(steps):
    shape = (1, steps, channels)
    arguments = {x.name: torch.randn(shape).requires_grad_() for x in cell.inputs}
    arguments |= {p.name: torch.rand(channels).requires_grad_() for p in cell.params}
    start = time.perf_counter()
    if saved == "plain loop":
        y = plain_loop(cell, arguments, step=plain)[0][0]
    else:
        y = compiled(**arguments, checkpoint=int(saved))
    y.backward(torch.ones(()).expand_as(y))
    seconds = time.perf_counter() - start
    tensors = [*arguments.values(), *(t.grad for t in arguments.values()), y]
    return sum(t.nbytes for t in tensors), seconds

call(64)
before = peak()
tensors, seconds = call(steps)
print(json.dumps({"peak": peak() - before, "tensors": tensors, "seconds": seconds}))
"""


def measure(saved: str, steps: int) -> dict[str, Any]:
    """Bytes and seconds of one training step, in a fresh process."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, CELL, saved, str(steps), str(CHANNELS)],
        cwd=ROOT,
        env={**os.environ, "RNNCC_KEPT_BYTES": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    return {"kept_every": saved, "steps": steps, **json.loads(run.stdout)}


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: a row for each length and each choice of saved states."""
    lines = [
        "| steps | states saved | peak | inputs, outputs, gradients | beside | time |",
        "|---|---|---|---|---|---|",
    ]
    for r in results:
        saved = r["kept_every"]
        words = {"plain loop": "plain PyTorch loop", "1": "all"}.get(saved, f"every {saved}")
        beside = max(0, r["peak"] - r["tensors"])
        sizes = " | ".join(f"{r[k] / 2**20:.1f} MiB" for k in ("peak", "tensors"))
        row = f"{r['steps']} | {words} | {sizes} | {beside / 2**20:.1f} MiB"
        lines.append(f"| {row} | {r['seconds'] * 1e3:.0f} ms |")
    return "\n".join(lines)


@click.command()
@click.option("--write", is_flag=True, help="Write docs/memory.json as well.")
def main(write: bool) -> None:
    """Measure and print the table."""
    results = []
    with Console(stderr=True).status("measuring") as status:
        for steps in LENGTHS:
            for saved in SAVED:
                if saved == "plain loop" and steps > LONGEST_PLAIN:
                    continue
                status.update(f"{steps} steps, states saved: {saved}")
                results.append(measure(saved, steps))
    click.echo(f"{CELL}, 1 sequence, {CHANNELS} channels, float32\n\n{table(results)}")
    if write:
        file = ROOT / "docs" / "memory.json"
        found = {"cell": CELL, "channels": CHANNELS, "dtype": "float32", "results": results}
        file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        click.echo(f"\n{file.relative_to(ROOT)}: written")


if __name__ == "__main__":
    main()
