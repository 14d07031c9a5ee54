"""The training loop of `train_bytes.py` and its progress bar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from byte_model import ByteModel, Corpus
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

Show = Callable[[float, int, float], None]


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        rows, length: bytes of a batch.
        rate: the largest learning rate; warm-up and cosine depend on the share that is done.
        seconds: of training, unless `steps` gives the number of steps.
    """

    rows: int
    length: int
    rate: float
    seconds: float
    steps: int | None = None


def train(
    model: ByteModel, corpus: Corpus, recipe: Recipe, seed: int, show: Show
) -> tuple[int, float]:
    """AdamW; `show(share done, steps, bits per byte of the batch)` after each step.

    Returns:
        (steps, seconds).
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    started, steps, spent = time.perf_counter(), 0, 0.0
    while (done := _share(recipe, steps, spent)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * min(1.0, done / 0.05 + 0.02) * _cosine(done)
        loss = step(model, corpus.batch(recipe.rows, recipe.length, generator), optimizer)
        steps, spent = steps + 1, time.perf_counter() - started
        show(min(1.0, _share(recipe, steps, spent)), steps, loss)
    return steps, spent


def _share(recipe: Recipe, steps: int, spent: float) -> float:
    return steps / recipe.steps if recipe.steps else spent / recipe.seconds


def _cosine(done: float, floor: float = 0.02) -> float:
    return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2


def step(model: ByteModel, window: Tensor, optimizer: torch.optim.Optimizer | None = None) -> float:
    """Forward, backward, clipping and, with an optimizer, the update; bits per byte."""
    model.zero_grad()
    loss = model.loss(window)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if optimizer is not None:
        optimizer.step()
    return float(loss.detach())


@contextmanager
def progress(console: Console) -> Iterator[Show]:
    """A bar on a terminal, a line at every tenth elsewhere."""
    columns = (
        SpinnerColumn(),
        TextColumn("training"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[what]}"),
        TimeRemainingColumn(compact=True),
    )
    mean, tenth = 8.0, 0
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=1.0, what="")

        def show(done: float, steps: int, loss: float) -> None:
            nonlocal mean, tenth
            mean = 0.9 * mean + 0.1 * loss
            what = f"{mean:.2f} bits per byte, step {steps}"
            bar.update(task, completed=done, what=what)
            if int(10 * done) > tenth and not console.is_terminal:
                console.print(f"    {done:4.0%}               {what}", markup=False)
            tenth = int(10 * done)

        yield show
