"""Short calls: microseconds of calls so small that only the way to the kernel counts.

`cd CHECKOUT; python tools/short_calls.py` exits with 1 where one takes longer than it should.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path.cwd()))  # the checkout whose rnncc is run

CHANNELS = 128
BACKWARD = "forward+backward"
MOST = {"function": 15.0, f"function, {BACKWARD}": 130.0}  # microseconds


@click.command()
@click.option("--cell", default="para_gru", show_default=True)
@click.option("--rounds", default=11, show_default=True, help="Medians are over so many.")
@click.option("--as-json", is_flag=True)
def main(cell: str, rounds: int, as_json: bool) -> None:
    """Time all calls in turns, within one process."""
    torch.set_num_threads(2)
    calls = calls_of(cell)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):  # the first builds what it needs
        for name, call in calls.items():
            with torch.set_grad_enabled(BACKWARD in name):
                taken[name].append(microseconds(call))
    found = {name: round(statistics.median(times[1:]), 1) for name, times in taken.items()}
    if as_json:
        click.echo(json.dumps(found))
    else:
        for name, value in found.items():
            most = f", at most {MOST[name]:.0f}" if name in MOST else ""
            click.echo(f"{name:34} {value:8.1f} us{most}")
    sys.exit(any(found[name] > most for name, most in MOST.items()))


def microseconds(call: Callable[[], Any], count: int = 500) -> float:
    """Of one call, by many one after another."""
    begin = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - begin) / count * 1e6


def calls_of(name: str) -> dict[str, Callable[[], Any]]:
    """One step of one sequence, with and without gradients, and a small layer."""
    import rnncc
    from rnncc.export.torch_loop import plain_loop, plain_step

    c, function = rnncc.compile(name), getattr(import_module(f"generated.{name}"), name)
    cell, names = c.stages.cell, c.spec.arguments
    shapes = [(1, 1, CHANNELS)] * len(cell.inputs) + [(CHANNELS,)] * len(cell.params)
    plain = [torch.randn(shape).mul(0.5) for shape in shapes]
    leaves = [x.clone().requires_grad_() for x in plain]
    step, dy = plain_step(cell, torch.float32, torch.device("cpu")), torch.randn(1, 1, CHANNELS)

    def eager(*tensors: Tensor) -> Tensor:
        (y, *_), _ = plain_loop(cell, dict(zip(names, tensors, strict=True)), step=step)
        return y

    layer, x = c.layer(64, 64), torch.randn(1, 64, 64)
    return {
        "function": lambda: function(*plain),
        "eager PyTorch": lambda: eager(*plain),
        f"function, {BACKWARD}": lambda: torch.autograd.grad(function(*leaves), leaves, dy),
        f"eager PyTorch, {BACKWARD}": lambda: torch.autograd.grad(eager(*leaves), leaves, dy),
        "layer 1x64x64": lambda: layer(x),
        "its Linear alone": lambda: layer.projection(x),
    }


if __name__ == "__main__":
    main()
