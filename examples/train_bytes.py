"""Compile cells/para_gru.py and train a small language model of bytes with it.

    make demo        or:  python examples/train_bytes.py --help

The text is the source of this Python's standard library; nothing is downloaded.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

# Threads that wait for each other sleep instead of spinning: beside other work on few cores a step
# is then up to 10 times faster. OpenMP reads it when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import click
import torch
from byte_model import ByteModel, Corpus, bits_per_byte, with_plain_loops, write_on
from byte_training import Recipe, progress, step, train
from rich.console import Console
from torch import Tensor

import rnncc
from rnncc.cache import cache_dir
from rnncc.codegen.writer import write
from rnncc.export.torch_loop import plain_loop
from rnncc.lang.loader import find
from rnncc.runtime.cpu import build

ROOT = Path(__file__).resolve().parents[1]
CELL = ROOT / "cells" / "para_gru.py"
LIMITS = {"output": 1e-5, "gradient": 1e-4}  # for float32, from docs/numerics.md
SAME_LOSS = 1e-4
MOST_THREADS = 8  # the model is small
CONSOLE = Console(highlight=False)

Figures = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """The sizes of the demo; by default it takes under 90 s on two cores."""

    width: int = 128
    layers: int = 2
    rows: int = 4
    length: int = 256
    steps: int | None = None  # train by the clock
    held_out: tuple[int, int] = (32, 2048)
    oracle: tuple[int, int, int] = (4, 512, 64)  # B, T, N
    timed: int = 5
    sample: int = 400
    files: int | None = None  # all of them


QUICK = Size(
    width=64,
    rows=8,
    length=64,
    steps=60,
    held_out=(4, 512),
    oracle=(2, 64, 16),
    timed=1,
    sample=40,
    files=40,
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", default=55.0, show_default=True, help="How long to train.")
@click.option("--seed", default=0, show_default=True, help="Of parameters, batches and sample.")
@click.option(
    "--threads", type=click.IntRange(1), help="Of PyTorch; its own choice, but at most 8."
)
@click.option("--quick", is_flag=True, help="A small model and few steps: does everything work?")
@click.option("--out", default=ROOT / "build" / "demo", type=Path, help="For the emitted code.")
@click.option("--json", "json_file", type=Path, help="Also write the figures into this file.")
def main(
    seconds: float, seed: int, threads: int | None, quick: bool, out: Path, json_file: Path | None
) -> None:
    """Compile a recurrent cell, check its kernels, and train a language model of bytes with it."""
    started = time.perf_counter()
    size = QUICK if quick else Size()
    torch.set_num_threads(threads or min(torch.get_num_threads(), MOST_THREADS))
    torch.manual_seed(seed)
    figures: Figures = {"threads": torch.get_num_threads()}
    try:
        compiled, module = compile_cell(out, figures)
    except rnncc.RnnccError as error:  # no compiler, or a folder that can't be written
        raise click.ClickException(str(error)) from error
    agree(compiled, size, figures)
    corpus = Corpus(size.files)
    if not all(corpus.files):
        raise click.ClickException(f"{corpus.root} holds no source text (*.py) to train on")
    model = ByteModel(size.width, size.layers, module.ParaGRU)
    learn(model, corpus, size, seconds, seed, figures)
    sample(model, size, seed, figures)
    compare(model, compiled, corpus, size, figures)
    figures["seconds"] = time.perf_counter() - started
    CONSOLE.print(f"\nDone in {figures['seconds']:.0f} s.")
    if json_file:
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def section(title: str) -> None:
    CONSOLE.print(f"\n[bold]{title}[/bold]")


def line(name: str, text: str) -> None:
    CONSOLE.print(f"  {name:<20} {text}", markup=False, soft_wrap=True)


def block(lines: list[str]) -> None:
    for text in lines:
        CONSOLE.print(f"      {text}", markup=False, soft_wrap=True)


# --- the compiler ----------------------------------------------------------------------------


def compile_cell(out: Path, figures: Figures) -> tuple[rnncc.CompiledCell, ModuleType]:
    """cells/para_gru.py -> a generated package in `out`, imported from there."""
    section("1. The cell and its emitted code")
    started = time.perf_counter()
    compiled = rnncc.compile(find(str(CELL)))
    files = write(compiled.files, out / "para_gru")
    figures["compile_seconds"] = time.perf_counter() - started
    line("compiled", f"{_shown(CELL)} in {figures['compile_seconds']:.2f} s")
    block([str(let) for let in compiled.stages.cell.lets])
    line("structure, proved", "from the symbolic Jacobian")
    block(str(compiled.structure).splitlines())
    figures["structure"] = compiled.structure.kind
    line("written", f"the package {out.name}/para_gru")
    block([f"{_shown(f)}, {len(f.read_text().splitlines())} lines" for f in files])
    source = compiled.files["cell.h"].splitlines()
    first = next(i for i, s in enumerate(source) if "void para_gru_step(" in s)
    last = source.index("}", first)
    line("the emitted step", f"{_shown(out / 'para_gru/cell.h')}:{first + 1}-{last + 1}")
    block(source[first : last + 1])
    return compiled, _import(out, figures)


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _import(out: Path, figures: Figures) -> ModuleType:
    """Import the generated package and run it once, which builds its kernel."""
    sys.path.insert(0, str(out))
    module = importlib.import_module("para_gru")
    started = time.perf_counter()
    module.ParaGRU(1, 1)(torch.zeros(1, 1))
    figures["build_seconds"] = time.perf_counter() - started
    compiler = build.find_compiler()
    used = " ".join(compiler.command) if compiler else "no compiler"
    line("built and run", f"in {figures['build_seconds']:.2f} s, {used}, unless cached already in")
    block([str(cache_dir())])
    return module


# --- the oracle ------------------------------------------------------------------------------


def agree(compiled: rnncc.CompiledCell, size: Size, figures: Figures) -> None:
    """The float32 kernel against the step-by-step loop in float64: output and all gradients."""
    section("2. The kernel against the oracle")
    cell = compiled.stages.cell
    batch, steps, channels = size.oracle
    tensors = {a.name: torch.randn(batch, steps, channels) for a in cell.inputs}
    tensors |= {a.name: torch.empty(channels).uniform_(-1, 1) for a in cell.params}
    tensors["h0"] = torch.randn(batch, channels)
    weight = torch.randn(batch, steps, channels)
    kernel = {name: t.requires_grad_() for name, t in tensors.items()}
    oracle = {name: t.detach().double().requires_grad_() for name, t in tensors.items()}
    y = compiled(**kernel)
    (expected,), _ = plain_loop(cell, oracle, h0=[oracle["h0"]])
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    line("kernel", f"float32, B, T, N = {batch}, {steps}, {channels}")
    line("oracle", "a loop over the traced equations in PyTorch, float64; gradients by autograd")
    errors = {"output": float((y - expected).detach().abs().max())}
    for name in kernel:
        got, wanted = _gradient(kernel[name]), _gradient(oracle[name])
        errors[f"gradient of {name}"] = float((got - wanted).abs().max() / wanted.abs().max())
    for name, error in errors.items():
        limit = LIMITS[name.split()[0]]
        line(name, f"largest error {error:.1e}, limit {limit:.0e}")
        if not error <= limit:
            raise click.ClickException(f"{name}: error {error:.1e}, over its limit {limit:.0e}")
    figures["errors"] = errors


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


# --- the language model ----------------------------------------------------------------------


def learn(
    model: ByteModel, corpus: Corpus, size: Size, seconds: float, seed: int, figures: Figures
) -> None:
    section("3. A language model of bytes")
    (n_train, n_held_out), threads = corpus.files, torch.get_num_threads()
    line("text", f"{corpus.root}/**/*.py, without tests")
    line("to train on", f"{n_train} files, {len(corpus.train) / 1e6:.1f} MB")
    line("held out", f"{n_held_out} other files, {len(corpus.held_out) / 1e6:.1f} MB")
    parameters = sum(p.numel() for p in model.parameters())
    line("model", f"{size.layers} x (ParaGRU, MLP), width {size.width}, {parameters:,} parameters")
    plural = "" if threads == 1 else "s"
    line("a step", f"{size.rows} x {size.length} bytes, float32, {threads} thread{plural}")
    windows = corpus.windows(*size.held_out)
    before = bits_per_byte(model, windows)
    line("held out, before", f"{before:.3f} bits per byte")
    recipe = Recipe(size.rows, size.length, rate=6e-3, seconds=seconds, steps=size.steps)
    with progress(CONSOLE) as show:
        steps, spent = train(model, corpus, recipe, seed, show)
    after = bits_per_byte(model, windows)
    seen = steps * size.rows * size.length
    line("trained", f"{steps} steps, {seen / 1e6:.2f} MB in {spent:.1f} s")
    line("", f"{seen / spent:,.0f} bytes per second")
    line("held out, after", f"{after:.3f} bits per byte")
    figures["bits_per_byte"] = {"before": before, "after": after}
    figures["training"] = {"steps": steps, "seconds": spent, "bytes_per_second": seen / spent}


def sample(model: ByteModel, size: Size, seed: int, figures: Figures) -> None:
    section("4. A sample, byte by byte with layer.decoder, which holds the states")
    started = time.perf_counter()
    written = write_on(model, b"def ", size.sample, torch.Generator().manual_seed(seed))
    rate = size.sample / (time.perf_counter() - started)
    text = written.decode(errors="replace").expandtabs(4)
    figures["sample"] = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    block(figures["sample"].split("\n"))
    line("speed", f"{rate:,.0f} bytes per second, one sequence")


def compare(
    model: ByteModel, compiled: rnncc.CompiledCell, corpus: Corpus, size: Size, figures: Figures
) -> None:
    """The same model, parameters and batch, its recurrences as plain PyTorch loops."""
    section("5. One training step, fused and with a plain PyTorch loop")
    window = corpus.windows(size.rows, size.length)
    plain = with_plain_loops(model, compiled.stages.cell)
    losses, seconds = {}, {}
    for name, candidate in {"fused": model, "plain loop": plain}.items():
        losses[name], seconds[name] = timed(lambda: step(candidate, window), size.timed)  # noqa: B023
        line(name, f"{1e3 * seconds[name]:8.1f} ms, loss {losses[name]:.6f}")
    ratio = seconds["plain loop"] / seconds["fused"]
    line("ratio", f"{ratio:.1f}; both hold the same matrix products (medians of {size.timed})")
    if not abs(losses["fused"] - losses["plain loop"]) < SAME_LOSS:
        raise click.ClickException("the losses differ: the two models don't compute the same")
    figures["step"] = {"seconds": seconds, "loss": losses, "ratio": ratio}


def timed(function: Callable[[], float], repetitions: int) -> tuple[float, float]:
    """(its result, median seconds), after one call to warm up."""
    result, times = function(), []
    for _ in range(repetitions):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return result, statistics.median(times)


if __name__ == "__main__":
    main()
