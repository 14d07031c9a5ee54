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

    At this size an operator takes longer than its arithmetic, so there are few: products of
    parameters are made before, and no module is called for a single operator.

    Args:
        heat: what logits are divided by.
    """

    def __init__(self, model: ByteModel, heat: float = 1.0) -> None:
        self.embedding, blocks = model.embedding.weight.detach().split(1), cast(Any, model.blocks)
        self.blocks = [
            (norm(block.norm_time), block.recurrence.decoder(), mix(block)) for block in blocks
        ]
        self.norm = norm(model.norm, with_parameters=False)
        weight, bias = behind(model.norm, model.head)
        self.weight, self.bias = weight / heat, bias / heat

    def step(self, byte: int) -> Tensor:
        """Read a byte; what `draw` takes, [1, width]."""
        x = self.embedding[byte]
        for norm_time, decoder, mix in self.blocks:
            x = mix(decoder(norm_time(x)).add_(x))
        return self.norm(x)

    def draw(self, x: Tensor, noise: Tensor) -> int:
        """The byte of the largest logit with its noise, to which the bias was added, [1, 256]."""
        return int(torch.addmm(noise, x, self.weight, out=noise).argmax())


def norm(module: Any, with_parameters: bool = True) -> Callable[[Tensor], Tensor]:
    """A LayerNorm."""
    shape, eps = module.normalized_shape, module.eps
    parameters = (module.weight.detach(), module.bias.detach()) if with_parameters else (None, None)
    return lambda x: torch.layer_norm(x, shape, *parameters, eps)


def behind(norm: Any, linear: Any) -> tuple[Tensor, Tensor]:
    """A Linear behind a LayerNorm, with the norm's weight and bias in its own."""
    weight = linear.weight.detach()
    bias = linear.bias.detach() + weight @ norm.bias.detach()
    return (weight * norm.weight.detach()).t().contiguous(), bias


def mix(block: Any) -> Callable[[Tensor], Tensor]:
    """`Block.mix` of one row, which it overwrites."""
    normed = norm(block.norm_mix, with_parameters=False)
    weight, bias = behind(block.norm_mix, block.up)
    # the last hidden unit is always 1, so that its weights are the bias below it
    hidden = torch.ones(1, len(bias) + 1)
    units = hidden[:, :-1]
    down = torch.cat([block.down.weight.detach().t(), block.down.bias.detach().unsqueeze(0)])

    def run(x: Tensor) -> Tensor:
        torch.addmm(bias, normed(x), weight, out=units)
        hidden.relu_().square_()
        return x.addmm_(hidden, down)

    return run


@torch.inference_mode()
def write_on(
    model: ByteModel, prompt: bytes, length: int, generator: torch.Generator, heat: float = 0.6
) -> bytes:
    """Continue the prompt byte by byte, each drawn by its logits: the largest of Gumbel noise."""
    writer, text = Writer(model, heat), list(prompt)
    for byte in prompt:
        x = writer.step(byte)
    noise = torch.rand(length, 1, 256, generator=generator).log_().neg_().log_()
    for row in writer.bias - noise:
        text.append(writer.draw(x, row))
        x = writer.step(text[-1])
    return bytes(text)
