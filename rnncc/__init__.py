"""rnncc: a compiler for recurrent cells.

Write the recurrence of one channel under `@cell`; `rnncc compile cell.py` makes a PyTorch layer
of it whose forward and backward run as fused kernels.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

import rnncc.process  # noqa: F401  so that a fork from here on is noticed
from rnncc.errors import (
    ArgumentError,
    BuildError,
    CellError,
    ConvergenceError,
    LoadError,
    RnnccError,
    StructureError,
)
from rnncc.lang.dsl import (
    Cell,
    Input,
    Matrix,
    Param,
    State,
    abs,
    acosh,
    asinh,
    atan,
    atanh,
    cell,
    clip,
    constant,
    cos,
    cosh,
    erf,
    exp,
    exp2,
    expm1,
    exprel,
    floor,
    log,
    log1p,
    log2,
    logsigmoid,
    maximum,
    mean,
    minimum,
    normal,
    relu,
    round,
    rsqrt,
    shift,
    sigmoid,
    sign,
    sin,
    sinh,
    spaced,
    spike,
    sqrt,
    tanh,
    uniform,
    where,
)
from rnncc.lang.library import (
    acos,
    asin,
    atan2,
    ceil,
    elu,
    forward_as,
    gelu,
    hardsigmoid,
    hardtanh,
    leaky_relu,
    log10,
    logsumexp,
    mish,
    selu,
    silu,
    softmax,
    softplus,
    softsign,
    stop_gradient,
    trunc,
)
from rnncc.lang.vectors import dot, vector

if TYPE_CHECKING:
    from rnncc.compiler import CompiledCell

__version__ = "0.1.0"


def compile(
    cell: Cell | str | PathLike[str], /, *, fast_math: bool = False, **constants: float
) -> CompiledCell:
    """Compile a cell in memory; `rnncc compile` on the command line writes files.

    Args:
        cell: a function under `@cell`, the name of a shipped cell, a file, or "file.py:name".
        fast_math: let CUDA kernels compute sigmoid and tanh with the GPU's own, less exact tanh.
        constants: new values for its compile-time constants, by name.
    Raises:
        LoadError: no such cell or file.
        CellError: the cell uses something that can't be compiled.
        StructureError: its channels couple.
    """
    from rnncc.compiler import compile_cell

    return compile_cell(cell, fast_math=fast_math, **constants)


def __getattr__(name: str) -> Any:
    """`rnncc.CompiledCell`, imported on first use."""
    if name == "CompiledCell":
        from rnncc.compiler import CompiledCell

        return CompiledCell
    raise AttributeError(f"module 'rnncc' has no attribute '{name}'")


__all__ = [
    "ArgumentError",
    "BuildError",
    "Cell",
    "CellError",
    "CompiledCell",
    "ConvergenceError",
    "Input",
    "LoadError",
    "Matrix",
    "Param",
    "RnnccError",
    "State",
    "StructureError",
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "ceil",
    "cell",
    "clip",
    "compile",
    "constant",
    "cos",
    "cosh",
    "dot",
    "elu",
    "erf",
    "exp",
    "exp2",
    "expm1",
    "exprel",
    "floor",
    "forward_as",
    "gelu",
    "hardsigmoid",
    "hardtanh",
    "leaky_relu",
    "log",
    "log1p",
    "log2",
    "log10",
    "logsigmoid",
    "logsumexp",
    "maximum",
    "mean",
    "minimum",
    "mish",
    "normal",
    "relu",
    "round",
    "rsqrt",
    "selu",
    "shift",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "sinh",
    "softmax",
    "softplus",
    "softsign",
    "spaced",
    "spike",
    "sqrt",
    "stop_gradient",
    "tanh",
    "trunc",
    "uniform",
    "vector",
    "where",
]  # fmt: skip
