"""Frames: the cost of a call of a small layer before its kernel runs, as Python frames and time.

`cd CHECKOUT; python tools/frames.py frames.json`.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import click
import torch

ROOT = Path.cwd()  # the checkout whose rnncc is measured
sys.path.insert(0, str(ROOT))
sys.dont_write_bytecode = True
CALLS = 20_000


@click.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
def main(out: Path) -> None:
    """Write the frames and times of a call of the checkout in the working directory to OUT."""
    from generated.para_gru import ParaGRU

    torch.manual_seed(0)
    layer, x = ParaGRU(64, 64), torch.randn(1, 1, 64)
    with torch.no_grad():
        for _ in range(1000):
            layer(x)
        names, times = entered(layer, x), timed(layer, x)
    result = {"frames": len(names), "names": names, "calls": CALLS, **times}
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(names)} frames; {times['median_us']} us, {times['quartile_us']} at the quartile")


def entered(layer: Any, x: torch.Tensor) -> list[str]:
    """The frames within rnncc that one call enters, in order."""
    import rnncc

    package, found = Path(rnncc.__file__).resolve().parent, []
    if ROOT not in package.parents:
        raise click.ClickException(f"{package} is imported, not that in {ROOT}")

    def note(frame: FrameType, event: str, _: Any) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and package in file.parents:
            found.append(f"{file.relative_to(package)}: {frame.f_code.co_name}")

    sys.setprofile(note)
    try:
        layer(x)
    finally:
        sys.setprofile(None)
    return found


def timed(layer: Any, x: torch.Tensor) -> dict[str, float]:
    """Microseconds of a call."""
    samples = []
    for _ in range(CALLS):
        began = time.perf_counter_ns()
        layer(x)
        samples.append((time.perf_counter_ns() - began) / 1e3)
    quartile, median, _ = statistics.quantiles(samples, n=4)
    return {"median_us": round(median, 2), "quartile_us": round(quartile, 2)}


if __name__ == "__main__":
    main()
