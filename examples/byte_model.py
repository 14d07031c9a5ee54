"""The text and the model of `train_bytes.py`: bytes of the standard library, recurrent blocks."""

from __future__ import annotations

import copy
import math
import sysconfig
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from rnncc.export.torch_loop import plain_loop, plain_step
from rnncc.ir.program import CellIR
from rnncc.nn.layer import CellLayer

MakeLayer = Callable[[int, int], CellLayer]

# --- the text --------------------------------------------------------------------------------

SKIPPED = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "encodings",
    "__pycache__",
}


class Corpus:
    """The bytes of this Python's standard library, about every 16th file held out.

    Which ones is decided by a hash of the file's name, so every run takes the same.

    Attributes:
        train, held_out: uint8 [bytes], files in the order of their names.
        files: how many went into each.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.root = Path(sysconfig.get_path("stdlib"))
        paths = sorted(p for p in self.root.rglob("*.py") if not SKIPPED & {*p.parts})
        held_out = [p for p in paths if zlib.crc32(self._name(p)) % 16 == 0]
        train = [p for p in paths if p not in held_out][:limit]
        self.files = len(train), len(held_out)
        self.train, self.held_out = _read(train), _read(held_out)

    def _name(self, path: Path) -> bytes:
        return path.relative_to(self.root).as_posix().encode()

    def batch(self, rows: int, length: int, generator: torch.Generator) -> Tensor:
        """Windows at random places of the training text: int64 [rows, length + 1]."""
        starts = torch.randint(len(self.train) - length, (rows, 1), generator=generator)
        return self.train[starts + torch.arange(length + 1)].long()

    def windows(self, rows: int, length: int) -> Tensor:
        """Windows spread evenly over the held-out text: int64 [rows, length + 1]."""
        starts = torch.linspace(0, len(self.held_out) - length - 1, rows).long().unsqueeze(1)
        return self.held_out[starts + torch.arange(length + 1)].long()


def _read(paths: Sequence[Path]) -> Tensor:
    text = b"".join(p.read_bytes() for p in paths) or b" "  # frombuffer takes no empty buffer
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


# --- the model -------------------------------------------------------------------------------


class Block(nn.Module):
    """A recurrent layer and an MLP, each with a norm before it and a residual path."""

    def __init__(self, width: int, make: MakeLayer) -> None:
        super().__init__()
        self.norm_time, self.norm_mix = nn.LayerNorm(width), nn.LayerNorm(width)
        self.recurrence: nn.Module = make(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def mix(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.down(relu(self.up(self.norm_mix(x))).square())
        return x + mixed

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] -> [B, T, width]."""
        y, _ = self.recurrence(self.norm_time(x))
        return self.mix(x + y)

    def step(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """One step: x [B, width], state [B, width] -> (y, state)."""
        y, state = self.recurrence.step(self.norm_time(x), state)  # type: ignore[operator]
        return self.mix(x + y), state


class ByteModel(nn.Module):
    """Bytes [B, T] -> logits of the next byte [B, T, 256]."""

    def __init__(self, width: int, layers: int, make: MakeLayer) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.blocks = nn.ModuleList(Block(width, make) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256)
        nn.init.zeros_(self.head.weight)  # starts at 8 bits per byte, a uniform guess
        nn.init.zeros_(self.head.bias)

    def forward(self, text: Tensor) -> Tensor:
        x = self.embedding(text)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def step(
        self, byte: Tensor, states: Sequence[Tensor | None] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """One byte [B] and the carried states -> (logits [B, 256], states)."""
        x = self.embedding(byte)
        carried: list[Tensor] = []
        for block, state in zip(self.blocks, states or [None] * len(self.blocks), strict=True):
            x, state = block.step(x, state)  # type: ignore[operator]
            carried.append(state)
        return self.head(self.norm(x)), carried

    def loss(self, window: Tensor) -> Tensor:
        """Mean bits per byte of a window [B, T + 1], each byte given those before it."""
        logits = self(window[:, :-1])
        return cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten()) / math.log(2)


class PlainLoop(nn.Module):
    """The same layer with the same parameters, its recurrence a Python loop over time steps."""

    def __init__(self, layer: CellLayer, cell: CellIR) -> None:
        super().__init__()
        self.layer, self.cell = layer, cell
        self.body = plain_step(cell, torch.float32)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        packed = self.layer.projection(x).unflatten(-1, (-1, self.layer.hidden_size))
        inputs = zip(self.cell.inputs, packed.unbind(-2), strict=True)
        arguments = {argument.name: value for argument, value in inputs}
        arguments |= {p.name: getattr(self.layer, p.name) for p in self.cell.params}
        (y,), (h,) = plain_loop(self.cell, arguments, step=self.body)
        return y, h


def with_plain_loops(model: ByteModel, cell: CellIR) -> ByteModel:
    """A copy of the model whose recurrent layers are plain loops over copies of the parameters."""
    plain = copy.deepcopy(model)
    for block in plain.blocks:
        block.recurrence = PlainLoop(block.recurrence, cell)  # type: ignore[arg-type]
    return plain


# --- evaluating it ---------------------------------------------------------------------------


@torch.no_grad()
def bits_per_byte(model: ByteModel, windows: Tensor, rows: int = 8) -> float:
    """The mean over all windows, a few at a time."""
    total = sum(float(model.loss(part)) * len(part) for part in windows.split(rows))
    return total / len(windows)


class Writer:
    """The model's `step` for one text, in memory that is kept; decoders hold the states.

    At this size an operator takes longer than its arithmetic, so there are few, and no module is
    called for a single one.
    """

    def __init__(self, model: ByteModel) -> None:
        self.embedding, blocks = model.embedding.weight.detach(), cast(Any, model.blocks)
        self.blocks = [
            (
                norm(block.norm_time),
                block.recurrence.decoder(),
                norm(block.norm_mix),
                linear(block.up),
                linear(block.down),
            )
            for block in blocks
        ]
        self.norm, self.head = norm(model.norm), linear(model.head)

    def step(self, byte: int) -> Tensor:
        """The logits [1, 256] of the byte after this one; the next step overwrites them."""
        x = self.embedding[byte : byte + 1]
        for norm_time, decoder, norm_mix, up, down in self.blocks:
            x = decoder(norm_time(x)).add_(x)
            x = down(up(norm_mix(x)).relu_().square_()).add_(x)
        return self.head(self.norm(x))


def linear(module: Any) -> Callable[[Tensor], Tensor]:
    """A Linear of one row, which it overwrites at the next call."""
    weight, bias = module.weight.detach().t(), module.bias.detach()
    row = torch.empty(1, len(bias))
    return lambda x: torch.addmm(bias, x, weight, out=row)


def norm(module: Any) -> Callable[[Tensor], Tensor]:
    weight, bias = module.weight.detach(), module.bias.detach()
    return lambda x: torch.layer_norm(x, module.normalized_shape, weight, bias, module.eps)


@torch.inference_mode()
def write_on(
    model: ByteModel, prompt: bytes, length: int, generator: torch.Generator, heat: float = 0.6
) -> bytes:
    """Continue the prompt byte by byte, each drawn by its logits: the largest of Gumbel noise."""
    writer, text = Writer(model), list(prompt)
    for byte in prompt:
        logits = writer.step(byte)
    noise = -torch.empty(length, 256).exponential_(generator=generator).log_()
    for drawn in noise:
        text.append(int(drawn.add_(logits[0], alpha=1 / heat).argmax()))
        logits = writer.step(text[-1])
    return bytes(text)
