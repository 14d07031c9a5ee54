"""Times one step of decoding: layer.step, layer.decoder, eager PyTorch and the Linear alone.

python tools/decoding.py [CELL]     microseconds, B = 1, float32, medians, one line for each N
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch

import rnncc
from rnncc.export.torch_loop import plain_step

RUNS, CALLS, SIZES = 9, 400, (128, 512)


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "para_gru"
    with torch.no_grad():
        for size in SIZES:
            times = timed(ways(name, size))
            shown = ", ".join(f"{what} {us:.1f}" for what, us in times.items())
            ratio = times["step"] / times["eager"]
            more = times["decoder"] - times["Linear"]
            print(f"N = {size}: {shown} us; step / eager {ratio:.2f}, decoder - Linear {more:.1f}")


def ways(name: str, size: int) -> dict[str, Callable[[], object]]:
    """One step of the same layer in each way, the states carried where they are returned."""
    compiled = rnncc.compile(name)
    layer, x = compiled.layer(size, size), torch.randn(1, size)
    cell, decoder, linear = compiled.stages.cell, layer.decoder(), layer.projection
    body = plain_step(cell, torch.float32)
    params = [getattr(layer, p.name).detach() for p in cell.params]
    _, state = layer.step(x)
    states = state if isinstance(state, tuple) else (state,)

    def eager() -> object:
        return body(*states, *linear(x).chunk(len(cell.inputs), -1), *params)

    return {
        "Linear": lambda: linear(x),
        "eager": eager,
        "step": lambda: layer.step(x, state),
        "decoder": lambda: decoder(x),
    }


def timed(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Medians of runs that take turns, in microseconds."""
    times: dict[str, list[float]] = {what: [] for what in ways}
    for _ in range(RUNS + 1):
        for what, call in ways.items():
            started = time.perf_counter()
            for _ in range(CALLS):
                call()
            times[what].append((time.perf_counter() - started) / CALLS * 1e6)
    return {what: statistics.median(seen[1:]) for what, seen in times.items()}


if __name__ == "__main__":
    main()
