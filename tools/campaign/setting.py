"""Setting: where the steps run, on a GPU or, in a rehearsal, on its emulation."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

    from rnncc.bench.timing import Place

TOOLS = Path(__file__).resolve().parents[1]
Of = TypeVar("Of")


@dataclass(frozen=True)
class Setting:
    """What a step has to know of the machine.

    Attributes:
        rehearsal: kernels are emulated, shapes small, times counted by a stub.
    """

    rehearsal: bool

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device("cpu" if self.rehearsal else "cuda:0")

    @property
    def place(self) -> Place:
        """The device and its clock, for rnncc.bench.

        Raises:
            BuildError: there is no GPU that can be used.
        """
        if self.rehearsal:
            from tests.support.clock import HERE

            return HERE
        from rnncc.bench.gpu import gpu

        return gpu()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Within it, calls on `device` take the CUDA kernels."""
        if not self.rehearsal:
            yield
            return
        import torch

        from rnncc.bench import timing
        from tests.support.emulated import emulated

        torch.set_num_threads(1)
        timing.LEAST_ROUNDS = timing.MOST_ROUNDS = timing.MOST_CALLS = 1
        with emulated():
            yield

    def choose(self, real: Of, small: Of) -> Of:
        """The second in a rehearsal."""
        return small if self.rehearsal else real

    def call(self, *arguments: str) -> list[str]:
        """The command that runs tools/gpu_call.py."""
        rehearse = ["--rehearse"] if self.rehearsal else []
        return [sys.executable, str(TOOLS / "gpu_call.py"), *arguments, *rehearse]


def broken() -> bool:
    """Whether an earlier fault leaves PyTorch's CUDA context unusable."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


@functools.cache
def compiled(name: str) -> Any:
    """A shipped cell, compiled once."""
    import rnncc
    from rnncc.lang.loader import find

    return rnncc.compile(find(name))


def name_of(shape: Sequence[int]) -> str:
    """As on the command line: 8x2048x256."""
    return "x".join(map(str, shape))
