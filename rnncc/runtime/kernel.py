"""Kernel: a compiled cell at run time, and where the operators find it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rnncc.errors import ArgumentError, LoadError
from rnncc.ir.spec import FILES, KernelSpec

COMPUTE = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}


@dataclass(frozen=True)
class Kernel:
    """One compiled cell: its spec and its emitted sources; libraries are built at first use.

    Attributes:
        sources: target ("cpp" or "cuda") -> emitted text.
        key: hash of both, by which the operators of `ops` find it.
    """

    spec: KernelSpec
    sources: dict[str, str]
    key: str = ""

    def __post_init__(self) -> None:
        content = self.spec.model_dump_json() + "\0".join(
            f"{k}\0{v}" for k, v in sorted(self.sources.items())
        )
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        object.__setattr__(self, "key", f"{self.spec.name}-{digest}")
        KERNELS.setdefault(self.key, self)

    def __reduce__(self) -> tuple[Any, ...]:
        return Kernel, (self.spec, self.sources)

    @classmethod
    def read(cls, folder: Path) -> Kernel:
        """The kernel of a generated folder: cell.json, kernel.cpp and kernel.cu.

        Raises:
            LoadError: a file is missing or was written by another version of rnncc.
        """
        try:
            spec = KernelSpec.model_validate_json(
                (folder / "cell.json").read_text(encoding="utf-8")
            )
            sources = {t: (folder / file).read_text(encoding="utf-8") for t, file in FILES.items()}
            return cls(spec, sources)
        except (OSError, ValueError) as error:
            raise LoadError(
                f"the generated folder {folder} can't be read: {error}.\n"
                "Fix: write it again with rnncc compile"
            ) from error


KERNELS: dict[str, Kernel] = {}


def kernel_of(key: str) -> Kernel:
    """The kernel that an operator names."""
    if key not in KERNELS:
        raise ArgumentError(
            f"the kernel '{key}' is not loaded in this process.\n"
            "Fix: import the generated module of this cell (or rnncc.compile it) first"
        )
    return KERNELS[key]
