"""Peers: a cell and a shape -> the programs of other projects that its kernel is timed against.

All but cuDNN's are optional, and none of these has run: none was installed beside a GPU. What one
raises is the reason that it is left out.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rnncc.bench.baselines import Shape, UnavailableError
from rnncc.bench.timing import Run
from rnncc.bench.workload import with_gradients, without_gradients
from rnncc.compiler import CompiledCell
from rnncc.ir.program import Structure

HALF_OR_SINGLE = (torch.float32, torch.float16, torch.bfloat16)
SCANNED = [2**n for n in range(5, 17)]  # the steps that accelerated-scan takes
MAMBA_STATES = 16  # of a channel, mamba's own default
HEAD = 64  # FlashRNN's widest head that stays in one kernel, by its page

# The cells whose gates are those of a function of FlashRNN (gates, biases, states), or of a cell of
# pararnn-torch: theirs mix the channels of a head by a matrix, and project x, respectively.
FLASH = {
    "para_gru": ("gru", 3, 4, 1),
    "para_lstm": ("lstm", 4, 4, 2),
    "lstm": ("lstm", 4, 4, 2),
    "slstm": ("slstm", 4, 4, 4),
    "elman": ("elman", 1, 1, 1),
}
PARARNN = {"para_gru": "ParaGRU", "para_lstm": "ParaLSTM", "slstm": "ParaSLSTM"}

Prepare = Callable[[CompiledCell, Shape, torch.dtype, torch.device, str], Run]


class Peer(NamedTuple):
    """A program of another project.

    Attributes:
        fits: whether it computes something comparable to a cell.
        prepare: makes a run of a shape, dtype, device and direction; raises UnavailableError.
        serial: it walks over time, so that a few steps predict the time of all.
        builds: it compiles for long, for every batch.
    """

    fits: Callable[[CompiledCell], bool]
    prepare: Prepare
    serial: bool = False
    builds: bool = False


def peers_of(compiled: CompiledCell, direction: str) -> dict[str, Peer]:
    """Those that compare with a cell, by name."""
    decode = direction == "decode"
    return {
        name: peer
        for name, peer in PEERS.items()
        if peer.fits(compiled) and (not decode or name in DECODING)
    }


# --- cuDNN -----------------------------------------------------------------------------------


def cudnn(
    kind: Callable[..., nn.Module],
    shape: Shape,
    dtype: torch.dtype,
    device: torch.device,
    direction: str,
) -> Run:
    """A whole layer of as many features as channels, in the layout that suits it best.

    Its recurrence can't be run without its matrix products, so both are timed.

    Raises:
        UnavailableError: not in this dtype.
    """
    _check_dtype(dtype, "compared in")
    batch, steps, channels = shape
    layer = kind(channels, channels, device=device, dtype=dtype)
    x = torch.randn(1 if direction == "decode" else steps, batch, channels, device=device).to(dtype)
    if direction == "forward+backward":
        return with_gradients(lambda: layer(x)[0], [x.requires_grad_(), *layer.parameters()])
    layer.eval()
    with torch.no_grad():
        state = layer(x)[1] if direction == "decode" else None
    return without_gradients(lambda: layer(x, state))


# --- scans, for cells that are affine in one state -------------------------------------------


def scans(structure: Structure) -> bool:
    """Whether a scan solves such a cell: one state, affine, each channel alone."""
    return structure.affine and structure.block == 1


def accelerated_scan(shape: Shape, dtype: torch.dtype, device: torch.device, direction: str) -> Run:
    """Its scan of h_t = gate_t * h_(t-1) + value_t, given both in its layout: [B, N, T].

    Neither the cell's own computation of gates and values, nor the change of layout, is timed.

    Raises:
        UnavailableError: it isn't installed, or doesn't take such a shape or dtype.
    """
    batch, steps, channels = shape
    if direction == "decode" or steps not in SCANNED:
        raise UnavailableError("takes a power of two of steps, from 32 to 65536")
    _check_dtype(dtype, "takes")
    scan = _module("accelerated_scan.warp").scan
    size = (batch, channels, steps)
    gates = torch.rand(size, device=device).to(dtype)
    values = torch.randn(size, device=device).to(dtype)
    return _run(direction, lambda: scan(gates, values), [gates, values])


def mamba_scan(shape: Shape, dtype: torch.dtype, device: torch.device, direction: str) -> Run:
    """Mamba's selective scan over [B, N, T], of 16 states a channel, its gates computed within.

    Never run: written from its signature.

    Raises:
        UnavailableError: it isn't installed, or doesn't take such a dtype.
    """
    _check_dtype(dtype, "takes")
    scan = _module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    batch, steps, channels = shape
    u, delta = (torch.rand(batch, channels, steps, device=device).to(dtype) for _ in range(2))
    a = -torch.rand(channels, MAMBA_STATES, device=device)
    b, c = (torch.randn(batch, MAMBA_STATES, steps, device=device).to(dtype) for _ in range(2))
    return _run(direction, lambda: scan(u, delta, a, b, c), [u, delta, a, b, c])


# --- cells whose channels mix, or that project x ---------------------------------------------


def flash_rnn(
    function: str,
    gates: int,
    biases: int,
    states: int,
    shape: Shape,
    dtype: torch.dtype,
    device: torch.device,
    direction: str,
) -> Run:
    """FlashRNN's function of that name, heads of 64 channels, each with its recurrent matrix.

    Given the gates' inputs, as our kernels are; but it also multiplies by that matrix. Never run:
    only its arguments were tried, with FlashRNN's own loop on a CPU.

    Raises:
        UnavailableError: it isn't installed, or doesn't take such a shape or dtype.
    """
    batch, steps, channels = shape
    if channels % HEAD:
        raise UnavailableError(f"takes heads of {HEAD} channels here")
    if dtype not in (torch.float16, torch.bfloat16):
        raise UnavailableError("compared in float16 and bfloat16 only")
    solve, heads = _module("flashrnn").flashrnn, channels // HEAD
    there: Any = {"device": device, "dtype": dtype}
    x = torch.randn(batch, steps, gates, heads, HEAD, **there)
    r = torch.randn(gates, heads, HEAD, HEAD, **there) / HEAD
    b = torch.zeros(biases, heads, HEAD, **there)
    h0 = torch.zeros(states, batch, 1, heads, HEAD, **there)
    name = str(dtype).removeprefix("torch.")

    def call() -> Tensor:
        found: Tensor = solve(
            x, r, b, states=h0, function=function, backend="cuda_fused", dtype=name
        )[0]
        return found

    return _run(direction, call, [x, r, b])


def pararnn_torch(
    kind: str, shape: Shape, dtype: torch.dtype, device: torch.device, direction: str
) -> Run:
    """A whole layer of pararnn-torch by Newton's iteration, 3 times, as many features as channels.

    Its projection of x is timed with it. Run on a CPU only.

    Raises:
        UnavailableError: it isn't installed, or doesn't take such a dtype.
    """
    _check_dtype(dtype, "compared in")
    package = _module("pararnn")
    if not hasattr(package, "newton_apply"):
        raise UnavailableError("the installed 'pararnn' isn't pararnn-torch")
    batch, steps, channels = shape
    cell = getattr(package, kind)(channels, channels, device=device, dtype=dtype)
    config = package.NewtonConfig(max_iters=3)
    x = torch.randn(batch, steps, channels, device=device).to(dtype)

    def call() -> Tensor:
        found: Tensor = package.newton_apply(cell, x, config)
        return found

    return _run(direction, call, [x, *cell.parameters()])


def ml_pararnn() -> Run:
    """Apple's ml-pararnn, which PyPI doesn't have and whose interface was not at hand.

    Raises:
        UnavailableError: always.
    """
    raise UnavailableError("not on PyPI, and not known here how to call it; see its own programs")


# --- what they share -------------------------------------------------------------------------


def _check_dtype(dtype: torch.dtype, does: str) -> None:
    if dtype not in HALF_OR_SINGLE:
        raise UnavailableError(f"{does} float32, float16 and bfloat16 only")


def _module(name: str) -> Any:
    """A module of a peer, some of which build kernels when they are imported."""
    try:
        with _stdout_to_stderr():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        own = str(error.name).partition(".")[0] == name.partition(".")[0]
        raise UnavailableError("not installed" if own else f"needs {error.name}") from None
    except Exception as error:  # of whatever kind: it's their code
        raise UnavailableError(str(error).strip().partition("\n")[0]) from None


def _run(direction: str, call: Callable[[], Tensor], leaves: Sequence[Tensor]) -> Run:
    if direction == "forward+backward":
        return with_gradients(call, [leaf.requires_grad_() for leaf in leaves])
    return without_gradients(call)


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Compilers write to the file, not to sys.stdout, which is for --json."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


# --- the list --------------------------------------------------------------------------------


def _layer(kind: Callable[..., nn.Module]) -> Prepare:
    return lambda _, *there: cudnn(kind, *there)


def _scanned(compiled: CompiledCell) -> bool:
    return scans(compiled.structure)


PEERS: dict[str, Peer] = {
    "nn.GRU": Peer(lambda _: True, _layer(nn.GRU), serial=True),
    "nn.LSTM": Peer(lambda _: True, _layer(nn.LSTM), serial=True),
    "accelerated-scan": Peer(_scanned, lambda _, *there: accelerated_scan(*there)),
    "mamba's scan": Peer(_scanned, lambda _, *there: mamba_scan(*there)),
    "FlashRNN": Peer(
        lambda c: c.name in FLASH,
        lambda c, *there: flash_rnn(*FLASH[c.name], *there),
        serial=True,
        builds=True,
    ),
    "pararnn-torch": Peer(
        lambda c: c.name in PARARNN, lambda c, *there: pararnn_torch(PARARNN[c.name], *there)
    ),
    "ml-pararnn": Peer(lambda c: c.name in ("para_gru", "para_lstm"), lambda *_: ml_pararnn()),
}
DECODING = ("nn.GRU", "nn.LSTM")
