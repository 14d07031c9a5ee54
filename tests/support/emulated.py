"""The base of emulated tests: tensors on the CPU that take the CUDA kernels."""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from rnncc.planner.cuda import Gpu
from rnncc.runtime.backend import registered
from rnncc.runtime.cuda.backend import CudaBackend
from rnncc.runtime.cuda.launch import Launch, Ready
from tests.support import emulate


@dataclass
class EmulatedModule:
    """An emulated module as `cuda.module.Module`, which records its launches."""

    module: emulate.EmulatedModule
    launches: list[str]

    def ready(self, launch: Launch, size: int) -> Ready:
        def put(_stream: int, parameters: int, _extra: int) -> None:
            kernel, *sizes = launch[:4]
            self.launches.append(kernel)
            address = ctypes.c_uint64.from_address(parameters).value
            self.module.launch(kernel, *sizes, address, size)

        return launch, put

    def run(self, series: Sequence[Ready], words: array[int]) -> None:
        pointers = array("Q", (words.buffer_info()[0],))
        for launch, put in series:
            for place, value in launch.changes:
                words[place] = value
            if put is not None:
                put(0, pointers.buffer_info()[0], 0)


class Emulation(CudaBackend):
    """The backend for GPUs on the host: its kernels are emulated, of a GPU of 8 processors."""

    def __init__(
        self, seed: int, races: bool, sanitize: bool, edit: Callable[[str], str] | None
    ) -> None:
        super().__init__()
        self.seed, self.races, self.sanitize, self.edit = seed, races, sanitize, edit
        self.launches: list[str] = []

    def load(self, name: str, source: str, dtype: str, device: torch.device) -> EmulatedModule:
        text = _all_parts(source)
        text = self.edit(text) if self.edit else text
        module = _module(text, dtype, self.sanitize, self.races)
        module.seed, module.most_shared = self.seed, emulate.SHARED_ON_REQUEST
        return EmulatedModule(module, self.launches)

    def gpu(self, device: torch.device) -> Gpu:
        return Gpu(8)

    def record(self, run: Callable[[], None], device: torch.device) -> Callable[[], None]:
        """Nothing is captured on the host; what is launched comes to the same."""
        return run


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
    backend = Emulation(seed, races, sanitize, edit)
    with registered("cpu", backend):
        yield backend.launches


def _all_parts(source: str) -> str:
    """So that one library serves all of them."""
    first, _, rest = source.partition("\n")
    return rest if first.startswith("#define RNNCC_PART") else source


@functools.cache
def _module(source: str, dtype: str, sanitize: bool, races: bool) -> emulate.EmulatedModule:
    return emulate.load(source, dtype, sanitize=sanitize, races=races)
