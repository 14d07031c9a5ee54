"""Kernel: a compiled cell at run time, and the registry in which the operators find it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from rnncc.errors import ArgumentError, LoadError
from rnncc.ir.spec import RECORD, SOURCES, TANGENT, KernelSpec, digest_of
from rnncc.runtime.source import join

if TYPE_CHECKING:
    from rnncc.paths import Traversable

COMPUTE = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}


@dataclass(frozen=True)
class Kernel:
    """One compiled cell: its spec and its emitted files; libraries are built at first use.

    Attributes:
        files: cell.h, kernel.cpp and kernel.cu, by name.
        linear: the kernel of the tangent cell, or what derives it, see `tangent`.
        key: hash of both, by which the operators of `ops` find it in this process.
    """

    spec: KernelSpec
    files: Mapping[str, str]
    linear: Kernel | Callable[[], Kernel] | None = field(default=None, repr=False, compare=False)
    key: str = field(default="", init=False)
    _joined: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        emitted = (f"{name}\0{self.files[name]}" for name in SOURCES)
        content = "\0".join((self.spec.model_dump_json(), *emitted))
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        object.__setattr__(self, "key", f"{self.spec.name}-{digest}")
        if KERNELS.setdefault(self.key, self).linear is None:
            KERNELS[self.key] = self

    @property
    def tangent(self) -> Kernel:
        """The kernel that carries tangents, see calculus/tangent.py; derived at its first use.

        Raises:
            LoadError: it was not written with the kernel, and there is no cell to derive it from.
        """
        found = self.linear
        if found is None:
            raise LoadError(_no_tangent(self.spec.name))
        if not isinstance(found, Kernel):
            found = found()
            object.__setattr__(self, "linear", found)
        return found

    def source(self, target: str) -> str:
        """The self-contained text that is compiled for "cpp" or "cuda"; joined at its first use."""
        if target not in self._joined:
            self._joined[target] = join(self.files, target)
        return self._joined[target]

    def __reduce__(self) -> tuple[Any, ...]:
        linear = self.linear if isinstance(self.linear, Kernel) else None
        return Kernel, (self.spec, self.files, linear)

    @classmethod
    def read(cls, folder: Traversable, digest: str = "", tangent: str = "") -> Kernel:
        """The kernel of a generated folder: cell.json, cell.h, kernel.cpp and kernel.cu.

        Args:
            digest: the hash of these files, as the module beside them has it.
            tangent: that of the files of the tangent cell, in a folder of their own, if there are.
        Raises:
            LoadError: a file is missing, another version of rnncc wrote it, or they don't belong
                together.
        """
        try:
            record = (folder / RECORD).read_text(encoding="utf-8")
            spec = KernelSpec.read(record)
            files = {name: (folder / name).read_text(encoding="utf-8") for name in SOURCES}
        except (OSError, ValueError) as error:
            raise LoadError(
                f"the generated folder {folder} can't be read: {error}.\n"
                "Fix: regenerate it with rnncc compile"
            ) from error
        found = digest_of({RECORD: record, **files})
        if found != digest:
            names = f"{', '.join((RECORD, *SOURCES[:-1]))} and {SOURCES[-1]}"
            raise LoadError(
                f"the generated folder {folder}: its files don't belong together: the hash of "
                f"{names} is {found}, expected {digest or 'none'}, which __init__.py names. They "
                "are of two versions of the cell, or one was changed.\n"
                "Fix: regenerate it with rnncc compile; or, to run files that you changed on "
                f'purpose, Kernel.read(..., "{found}") in __init__.py'
            )
        return cls(spec, files, cls.read(folder / TANGENT, tangent) if tangent else None)


def _no_tangent(name: str) -> str:
    return (
        f"'{name}': a derivative in a direction (jvp), or of a gradient (create_graph=True), needs "
        "the tangent cell, which is not here: this kernel was loaded from files without it.\n"
        "Fix: layers and functions of rnncc.compile(the cell), which derive it, to any order; or "
        "rnncc compile --tangent, which writes it into the package, for jvp and second derivatives"
    )


KERNELS: dict[str, Kernel] = {}


def kernel_of(key: str) -> Kernel:
    """The kernel that an operator names."""
    if key not in KERNELS:
        raise ArgumentError(
            f"the kernel '{key}' is not loaded in this process.\n"
            "Fix: import the generated module of this cell (or rnncc.compile it) first"
        )
    return KERNELS[key]
