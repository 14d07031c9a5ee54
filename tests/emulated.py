"""Tensors on the CPU take the CUDA kernels, run by their emulation; what the emulated tests build on."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from rnncc import marshal, modules
from tests import emulate

SHARED_UNASKED = 40 * 1024  # bytes; beyond, a kernel has to be allowed more


@dataclass
class Emulated:
    """An emulated module, as `modules.Module` is called."""

    module: emulate.EmulatedModule
    launches: list[str]

    def launch(
        self, kernel: str, grid: int, block: tuple[int, int], shared: int, args: int, size: int
    ) -> None:
        assert self.module.argument_bytes(kernel) == size, "Args here and in kernel.cu differ"
        if shared > SHARED_UNASKED:
            self.module.opt_in(kernel, shared)
        self.launches.append(kernel.rpartition("_")[2])
        self.module.launch(kernel, grid, block, shared, args)


@contextmanager
def emulated(
    seed: int = 0, *, races: bool = False, sanitize: bool = False
) -> Iterator[list[str]]:
    """Within it, every call runs the text of kernel.cu on the host.

    Yields:
        the kernels that were launched, by the last word of their names.
    """
    launches: list[str] = []

    def load(name: str, source: str, dtype: str, device: torch.device) -> Emulated:
        module = _module(source, dtype, sanitize, races)
        module.seed = seed
        return Emulated(module, launches)

    before = marshal.ON_CPU, modules.load
    marshal.ON_CPU, modules.load = "cuda", load
    try:
        yield launches
    finally:
        marshal.ON_CPU, modules.load = before


@functools.cache
def _module(source: str, dtype: str, sanitize: bool, races: bool) -> emulate.EmulatedModule:
    """All parts of a source in one library."""
    first, _, rest = source.partition("\n")
    whole = rest if first.startswith("#define RNNCC_PART") else source
    return _whole(whole, dtype, sanitize, races)


@functools.cache
def _whole(source: str, dtype: str, sanitize: bool, races: bool) -> emulate.EmulatedModule:
    return emulate.load(source, dtype, sanitize=sanitize, races=races)
