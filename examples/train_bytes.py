"""Compile cells/para_gru.py and train a small language model of bytes with it.

    make demo        or:  python examples/train_bytes.py --help

The text is the source of this Python's standard library; nothing is downloaded.
"""

from __future__ import annotations

import importlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

STARTED = time.perf_counter()  # before torch is imported, so that the total is all of it

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

import rnncc
from byte_model import ByteModel, Corpus, bits_per_byte, with_plain_loops, write_on
from rnncc import build
from rnncc.find import find
from rnncc.reference import plain_loop
from rnncc.write import write

ROOT = Path(__file__).resolve().parents[1]
CELL = ROOT / "cells" / "para_gru.py"
LIMITS = {"output": 1e-5, "gradient": 1e-4}  # float32, docs/numerics.md
CONSOLE = Console(highlight=False)


@dataclass(frozen=True)
class Size:
    """How large everything is; the whole of it fits into 90 s on two cores."""

    width: int = 128
    layers: int = 2
    rows: int = 8
    length: int = 512
    held_out: tuple[int, int] = (32, 2048)
    oracle: tuple[int, int, int] = (4, 512, 64)  # B, T, N
    timed: int = 3
    sample: int = 400
    rate: float = 3e-3
    steps: int | None = None  # train by the clock
    files: int | None = None


QUICK = Size(
    width=64,
    rows=4,
    length=128,
    held_out=(4, 512),
    oracle=(2, 64, 16),
    sample=40,
    steps=40,
    files=40,
)


@dataclass
class Report:
    """What was measured, for --json."""

    values: dict[str, Any] = field(default_factory=dict)

    def __setitem__(self, name: str, value: Any) -> None:
        self.values[name] = value


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", default=55.0, show_default=True, help="How long to train.")
@click.option("--seed", default=0, show_default=True, help="Of the parameters, batches and sample.")
@click.option("--threads", type=int, help="Of PyTorch; as many as it takes by itself if left out.")
@click.option("--quick", is_flag=True, help="A small model and a few steps: does everything work?")
@click.option(
    "--out", default=ROOT / "build" / "demo", type=Path, help="Where the emitted code goes."
)
@click.option("--json", "json_file", type=Path, help="Also write the figures into this file.")
def main(
    seconds: float, seed: int, threads: int | None, quick: bool, out: Path, json_file: Path | None
) -> None:
    """Compile a recurrent cell, prove it right, and train a language model of bytes with it."""
    size = QUICK if quick else Size()
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    report = Report()
    compiled, module = compile_cell(out, report)
    agree(compiled, size, report)
    corpus = Corpus(size.files)
    model = ByteModel(size.width, size.layers, module.ParaGRU)
    train(model, corpus, size, seconds, seed, report)
    sample(model, size, seed, report)
    compare(model, compiled, corpus, size, seed, report)
    report["total_seconds"] = time.perf_counter() - STARTED
    CONSOLE.print(f"\nDone in {report.values['total_seconds']:.0f} s, start to end.")
    if json_file:
        json_file.write_text(json.dumps(report.values, indent=2) + "\n")


def section(title: str) -> None:
    CONSOLE.print(f"\n[bold]{title}[/bold]")


def line(name: str, text: str) -> None:
    CONSOLE.print(f"  {name:<21} {text}", markup=False, soft_wrap=True)


# --- the compiler ----------------------------------------------------------------------------


def compile_cell(out: Path, report: Report) -> tuple[rnncc.CompiledCell, ModuleType]:
    """cells/para_gru.py -> a generated package in `out`, imported from there."""
    section("1. The cell and its emitted code")
    started = time.perf_counter()
    compiled = rnncc.compile(find(str(CELL)))
    files = write(compiled.files, out / "para_gru")
    line("compiled", f"{shown(CELL)} in {time.perf_counter() - started:.2f} s; the recurrence:")
    text(str(compiled.stages.cell).splitlines()[1:-2])
    line("proved", "the structure, from the symbolic Jacobian:")
    text(str(compiled.structure).splitlines())
    for file in files:
        line("written", f"{shown(file)} ({len(file.read_text().splitlines())} lines)")
    source = compiled.source().splitlines()
    first = next(i for i, s in enumerate(source) if "void para_gru_step(" in s)
    last = source.index("}", first)
    line("the emitted step", f"{shown(out / 'para_gru' / 'kernel.cpp')}:{first + 1}-{last + 1}")
    text(source[first : last + 1])
    started = time.perf_counter()
    sys.path.insert(0, str(out))
    module = importlib.import_module("para_gru")
    module.ParaGRU(1, 1)(torch.zeros(1, 1))
    compiler = build.find_compiler()
    line("built", f"in {time.perf_counter() - started:.2f} s (0 if cached) in {build.cache_dir()}")
    line("compiler", f"{' '.join(compiler.command)}" if compiler else "none: the cache had it")
    report["structure"] = compiled.structure.kind
    return compiled, module


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def text(lines: list[str]) -> None:
    for row in lines:
        CONSOLE.print(f"      {row}", markup=False, soft_wrap=True)


# --- the oracle ------------------------------------------------------------------------------


def agree(compiled: rnncc.CompiledCell, size: Size, report: Report) -> None:
    """The float32 kernel against the step-by-step loop in float64: outputs and all gradients."""
    section("2. Agreement with the oracle")
    cell = compiled.stages.cell
    batch, steps, channels = size.oracle
    tensors = {a.name: torch.randn(batch, steps, channels) for a in cell.inputs}
    tensors |= {a.name: torch.empty(channels).uniform_(-1, 1) for a in cell.params}
    tensors["h0"] = torch.randn(batch, channels)
    weight = torch.randn(batch, steps, channels)
    kernel = {name: t.requires_grad_() for name, t in tensors.items()}
    oracle = {name: t.detach().double().requires_grad_() for name, t in tensors.items()}
    y = compiled(**kernel)
    (y_oracle,), _ = plain_loop(cell, oracle, h0=[oracle["h0"]])
    (y * weight).sum().backward()
    (y_oracle * weight).sum().backward()
    line(
        "compared",
        f"float32 kernel, float64 loop in PyTorch; B, T, N = {batch}, {steps}, {channels}",
    )
    errors = {"output": float((y.detach() - y_oracle.detach()).abs().max())}
    for name in kernel:
        got, wanted = gradient(kernel[name]), gradient(oracle[name])
        errors[f"gradient of {name}"] = float((got - wanted).abs().max() / wanted.abs().max())
    for name, error in errors.items():
        limit = LIMITS[name.split()[0]]
        line(name, f"largest error {error:.1e}  (limit {limit:.0e})")
        if not error <= limit:
            raise click.ClickException(f"{name}: error {error:.1e} is over the limit {limit:.0e}")
    report["errors"] = errors


def gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


# --- training --------------------------------------------------------------------------------


def train(
    model: ByteModel, corpus: Corpus, size: Size, seconds: float, seed: int, report: Report
) -> None:
    """AdamW with warm-up and cosine; progress is counted in time, or in steps where they are set."""
    section("3. A language model of bytes")
    parameters = sum(p.numel() for p in model.parameters())
    line("text", f"{corpus.root}/**/*.py")
    line("", f"train {corpus.files[0]} files, {len(corpus.train) / 1e6:.2f} MB; "
             f"held out {corpus.files[1]} files, {len(corpus.held_out) / 1e6:.2f} MB")  # fmt: skip
    line("model", f"{size.layers} x (ParaGRU + MLP), width {size.width}, {parameters:,} parameters")
    line("step", f"{size.rows} x {size.length} bytes, {torch.get_num_threads()} threads, float32")
    windows = corpus.windows(*size.held_out)
    before = bits_per_byte(model, windows)
    line("held out, before", f"{before:.3f} bits per byte")
    steps, losses, spent = 0, [0.0], 0.0
    for steps, spent, loss in shown_progress(
        training(model, corpus, size, seconds, seed), size, seconds
    ):
        losses.append(loss)
    after = bits_per_byte(model, windows)
    rate = steps * size.rows * size.length / spent
    line("trained", f"{steps} steps in {spent:.1f} s, {rate:,.0f} bytes per second, "
                    f"{steps * size.rows * size.length / 1e6:.2f} MB in all")  # fmt: skip
    line("held out, after", f"{after:.3f} bits per byte  ({windows.numel():,} bytes)")
    report["bits_per_byte"] = {"before": before, "after": after}
    report["training"] = {"steps": steps, "seconds": spent, "bytes_per_second": rate}


def training(
    model: ByteModel, corpus: Corpus, size: Size, seconds: float, seed: int
) -> Iterator[tuple[int, float, float]]:
    """Yields (steps, seconds, bits per byte of the batch) after each step."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=size.rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    started, steps, spent = time.perf_counter(), 0, 0.0
    while (done := steps / size.steps if size.steps else spent / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = (
                size.rate * min(1, done / 0.05 + 0.02) * (1.02 + math.cos(math.pi * done)) / 2
            )
        loss = step(model, corpus.batch(size.rows, size.length, generator), optimizer)
        steps, spent = steps + 1, time.perf_counter() - started
        yield steps, spent, loss


def step(model: ByteModel, window: Tensor, optimizer: torch.optim.Optimizer | None = None) -> float:
    """Forward, backward and, with an optimizer, the update."""
    model.zero_grad()
    loss = model.loss(window)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if optimizer is not None:
        optimizer.step()
    return float(loss.detach())


def shown_progress(
    steps: Iterator[tuple[int, float, float]], size: Size, seconds: float
) -> Iterator[tuple[int, float, float]]:
    """The same steps: a bar on a terminal, a line at every tenth elsewhere."""
    columns = (
        SpinnerColumn(), TextColumn("training"), BarColumn(), TextColumn("{task.fields[what]}"),
        TimeRemainingColumn(compact=True),
    )  # fmt: skip
    tenth, mean = 0, 8.0
    with Progress(
        *columns, console=CONSOLE, transient=True, disable=not CONSOLE.is_terminal
    ) as bar:
        task = bar.add_task("", total=1.0, what="")
        for count, spent, loss in steps:
            mean = loss if count == 1 else 0.9 * mean + 0.1 * loss
            done = min(1.0, count / size.steps if size.steps else spent / seconds)
            what = f"{mean:.3f} bits per byte, step {count}"
            bar.update(task, completed=done, what=what)
            if int(10 * done) > tenth and not CONSOLE.is_terminal:
                line(f"  {done:4.0%}", what)
            tenth = int(10 * done)
            yield count, spent, loss


# --- what comes of it ------------------------------------------------------------------------


def sample(model: ByteModel, size: Size, seed: int, report: Report) -> None:
    section("4. A sample, byte by byte with `layer.step`")
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    written = write_on(model, b"def ", size.sample, generator)
    spent = time.perf_counter() - started
    printable = "".join(
        c if c.isprintable() or c == "\n" else "?" for c in written.decode(errors="replace")
    )
    text(printable.splitlines())
    line("speed", f"{size.sample / spent:,.0f} bytes per second, one sequence")
    report["sample"] = printable


def compare(
    model: ByteModel,
    compiled: rnncc.CompiledCell,
    corpus: Corpus,
    size: Size,
    seed: int,
    report: Report,
) -> None:
    """The same model, parameters and batch, its recurrences as plain PyTorch loops."""
    section("5. One training step, fused and as a plain PyTorch loop")
    window = corpus.batch(size.rows, size.length, torch.Generator().manual_seed(seed + 1))
    plain = with_plain_loops(model, compiled.stages.cell)
    losses, times = {}, {}
    for name, candidate in (("fused", model), ("plain loop", plain)):
        losses[name], times[name] = timed(lambda m=candidate: step(m, window), size.timed)
        line(name, f"{1e3 * times[name]:8.1f} ms   loss {losses[name]:.6f}")
    ratio = times["plain loop"] / times["fused"]
    line("ratio", f"{ratio:.1f} (medians of {size.timed}; the matrix products are in both)")
    if not abs(losses["fused"] - losses["plain loop"]) < 1e-4:
        raise click.ClickException("the two losses differ")
    report["step"] = {"seconds": times, "loss": losses, "ratio": ratio}


def timed(function: Callable[[], float], repetitions: int) -> tuple[float, float]:
    """(its result, median seconds) after one call to warm up."""
    result = function()
    times = []
    for _ in range(repetitions):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return result, statistics.median(times)


if __name__ == "__main__":
    main()
