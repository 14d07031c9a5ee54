"""Launch: a grid of one kernel, and what a module does with it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol


class Launch(NamedTuple):
    """One launch.

    Attributes:
        kernel: its name in the source, extern "C".
        grid: how many blocks, along x; 0 launch nothing.
        block: how many threads a block has, along x and y.
        shared: bytes of dynamic shared memory of a block.
        changes: words of the struct, by place, that are others than in the launch before.
    """

    kernel: str
    grid: int
    block: tuple[int, int]
    shared: int
    changes: tuple[tuple[int, int], ...] = ()


# A launch, and what puts it on a stream: of that, the address of the parameters' addresses, and 0.
Ready = tuple[Launch, Callable[[int, int, int], None] | None]


class Module(Protocol):
    """The kernels of one source for one dtype on one device."""

    def ready(self, launch: Launch, size: int) -> Ready:
        """What a launch needs, looked up once; for as long as the module is.

        Args:
            size: bytes of the struct that the kernel takes by value as its only parameter.
        Raises:
            BuildError: a CUDA graph is being captured, and this kernel is not loaded yet.
            RnnccError: the source has no such kernel, or it takes more than CUDA passes.
        """

    def run(self, series: Sequence[Ready], words: array[int]) -> None:
        """Put launches on the stream that is PyTorch's current one of the device; never waits.

        Args:
            series: of this module, or of others of the device.
            words: the struct. Each launch copies it before this returns; the tensors that it points
                to must outlive the kernels. It is left as the last launch has changed it.
        Raises:
            RnnccError: CUDA refuses a launch.
        """


def launch_one(module: Module, launch: Launch, *words: int) -> None:
    """A launch by itself, of a kernel that takes a struct of these words."""
    struct = array("q", words)
    module.run([module.ready(launch, struct.itemsize * len(struct))], struct)
