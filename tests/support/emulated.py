"""What emulated tests build on: tensors on the CPU that take the CUDA kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from rnncc.runtime import call as marshal
from rnncc.runtime.cuda import module as modules
from tests.support import emulate


@dataclass
class Emulated:
    """An emulated module as `modules.Module`, which notes what is launched."""

    module: emulate.EmulatedModule
    launches: list[str]

    def launch(
        self, kernel: str, grid: int, block: tuple[int, int], shared: int, args: int, size: int
    ) -> None:
        self.launches.append(kernel)
        self.module.launch(kernel, grid, block, shared, args, size)


@contextmanager
def emulated(
    seed: int = 0,
    *,
    races: bool = False,
    sanitize: bool = False,
    edit: Callable[[str], str] | None = None,
) -> Iterator[list[str]]:
    """Within it, every call runs the text of kernel.cu on the host.

    Args:
        seed, races, sanitize: see `emulate.load`.
        edit: changes the text before it is built.
    Yields:
        the names of the kernels that were launched.
    """
    launches: list[str] = []

    def load(name: str, source: str, dtype: str, device: torch.device) -> Emulated:
        text = _all_parts(source)
        module = _module(edit(text) if edit else text, dtype, sanitize, races)
        module.seed, module.most_shared = seed, emulate.SHARED_ON_REQUEST
        return Emulated(module, launches)

    before = marshal.ON_CPU, modules.load
    marshal.ON_CPU, modules.load = "cuda", load
    try:
        yield launches
    finally:
        marshal.ON_CPU, modules.load = before


def _all_parts(source: str) -> str:
    """So that one library serves all of them."""
    first, _, rest = source.partition("\n")
    return rest if first.startswith("#define RNNCC_PART") else source


@functools.cache
def _module(source: str, dtype: str, sanitize: bool, races: bool) -> emulate.EmulatedModule:
    return emulate.load(source, dtype, sanitize=sanitize, races=races)
