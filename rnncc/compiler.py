"""Compiler: a cell -> the compiled cell, by all passes in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rnncc.calculus.analyse import analyse
from rnncc.calculus.tangent import tangent
from rnncc.codegen.emit import emit
from rnncc.codegen.kernel_spec import kernel_spec
from rnncc.errors import ArgumentError
from rnncc.ir.choices import RULES, Choices
from rnncc.ir.program import CellIR, Compiled, Structure
from rnncc.ir.spec import FILES, KernelSpec
from rnncc.lang.dsl import Cell
from rnncc.lang.loader import find
from rnncc.lang.names import OPTIONS
from rnncc.lang.trace import trace
from rnncc.runtime.source import join, of_the_cell

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rnncc.nn.layer import CellLayer
    from rnncc.planner.plan import Plan
    from rnncc.runtime.kernel import Kernel


# The passes, in order. `analyse` is those of the calculus, from the structure to the fission.
#
#   lang.loader.find                 a path or a name -> Cell
#   lang.signature.read_signature    Cell -> (Argument, ...), constants
#   lang.trace.trace                 Cell -> CellIR
#   calculus.tangent.tangent         CellIR -> CellIR of its derivative, at its first use
#   calculus.structure.classify      CellIR -> Structure
#   calculus.lower.lower             CellIR -> Program
#   calculus.differentiate           Program -> JacobianIR, AdjointIR
#   calculus.rematerialize           Program, JacobianIR, AdjointIR -> Rematerialized
#   calculus.fission                 Program -> Fission
#   codegen.kernel_spec              Compiled (all of these) -> KernelSpec
#   codegen.emit.emit                Compiled -> {file name: text}
#   runtime.source.join              texts of the cell, headers of the driver -> one text a target
#   runtime.kernel.Kernel            KernelSpec, texts -> kernels, built at their first use


class CompiledCell:
    """A cell that runs: `c(xz, ...)` is the recurrence, `c.layer(256, 512)` a module.

    Attributes:
        stages: every stage's result, from the traced recurrence to the adjoint.
        spec: the record from which the run time plans and runs it.
        files: those that `rnncc compile` writes, by name.
    """

    def __init__(
        self, cell: Cell | CellIR, constants: Mapping[str, float], fast_math: bool = False
    ) -> None:
        traced = cell if isinstance(cell, CellIR) else trace(cell, constants)
        self.stages: Compiled = analyse(traced)
        self.spec: KernelSpec = kernel_spec(self.stages, fast_math)
        self.files: dict[str, str] = emit(self.stages, fast_math, self.spec)
        self._kernel: Kernel | None = None
        self._run: Callable[..., Any] | None = None
        self._tangent: CompiledCell | None = None

    @property
    def name(self) -> str:
        return self.stages.cell.name

    @property
    def structure(self) -> Structure:
        """The structure that was proved of the Jacobian."""
        return self.stages.structure

    @property
    def kernel(self) -> Kernel:
        """The kernel, built at its first run."""
        if self._kernel is None:
            from rnncc.runtime.kernel import Kernel

            self._kernel = Kernel(self.spec, self.files, lambda: self.tangent.kernel)
        return self._kernel

    @property
    def tangent(self) -> CompiledCell:
        """The cell of the derivative in a direction, compiled at its first use.

        Derivatives in a direction run it, and so do gradients of gradients.
        """
        if self._tangent is None:
            self._tangent = CompiledCell(tangent(self.stages.cell), {}, self.spec.fast_math)
        return self._tangent

    def files_with_tangent(self) -> dict[str, str]:
        """The files of a package that has its tangent cell too, by name."""
        return emit(self.stages, self.spec.fast_math, self.spec, self.tangent.files)

    def source(self, target: str = "cpp", whole: bool = True) -> str:
        """The emitted text for a target.

        Args:
            whole: with the driver, as the one self-contained text that is compiled.
        Raises:
            ArgumentError: unknown target.
        """
        if target not in FILES:
            raise ArgumentError(
                f"target: got {target!r}, expected one of {', '.join(FILES)}.\nFix: source('cpp')"
            )
        return (join if whole else of_the_cell)(self.files, target)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Solve the recurrence; arguments as in `rnncc.nn.functional.run`."""
        if self._run is None:  # an import takes a while each time
            from rnncc.nn.functional import run

            self._run = run
        if not kwargs:
            return self._run(self.kernel, args)
        options = {k: kwargs.pop(k) for k in [*kwargs] if k in OPTIONS}
        return self._run(self.kernel, args, kwargs, **options)

    def jacobians(self, /, *args: Any, h0: Any = None, **kwargs: Any) -> Tensor:
        """d h_t / d h_(t-1) along the sequence: [..., T, N / group, D, D], D = group * states."""
        from rnncc.nn.functional import jacobians

        return jacobians(self.kernel, args, kwargs, h0=h0)

    def layer(
        self,
        input_size: int | None = None,
        hidden_size: int | None = None,
        num_layers: int = 1,
        *more: Any,
        **options: Any,
    ) -> CellLayer:
        """An nn.Module with input projection, like torch.nn.GRU, batch first.

        Args:
            more: bias, batch_first, dropout and bidirectional, as of torch.nn.GRU.
            options: see `CellLayer`.

        `layer(N, projection=None)` is one that is given the cell's inputs as they are.
        """
        from rnncc.nn.layer import CellLayer

        sizes = (input_size, hidden_size, num_layers)
        return CellLayer(*sizes, *more, kernel=self.kernel, **options)

    def explain(
        self,
        batch: int,
        steps: int,
        channels: int,
        dtype: str = "float32",
        device: str = "cpu",
        **choices: Any,
    ) -> str:
        """Which solver a call of this shape runs, why, how long it should take, and its memory.

        Args:
            device: "cpu", "cuda" for the GPU here, or the name of one: "H100".
            choices: solver, segment, ... as in a call.
        """
        from rnncc.planner.explain import as_text

        return as_text(self.explanation(batch, steps, channels, dtype, device, **choices), dtype)

    def explanation(
        self,
        batch: int,
        steps: int,
        channels: int,
        dtype: str = "float32",
        device: str = "cpu",
        **choices: Any,
    ) -> dict[str, Any]:
        """The same for machines."""
        import torch

        from rnncc.nn.arguments import check_groups
        from rnncc.planner.explain import explain
        from rnncc.runtime.kernel import COMPUTE

        for name, size in (("batch", batch), ("steps", steps), ("channels", channels)):
            if not isinstance(size, int) or size < 1:
                raise ArgumentError(
                    f"{name}: got {size!r}, expected an int of at least 1.\nFix: {name}=8"
                )
        kernel, io = self.kernel, getattr(torch, str(dtype), None)
        if io not in COMPUTE:
            known = ", ".join(str(known).removeprefix("torch.") for known in COMPUTE)
            raise ArgumentError(
                f"dtype: got {dtype!r}, expected one of {known}.\nFix: dtype='float32'"
            )
        check_groups(kernel.spec, channels)
        shape, options = (batch, steps, channels), ("dtype", "device", *RULES)
        plan = _plan(kernel, shape, io, Choices.of(choices, options), device)
        return explain(kernel.spec, plan, shape, io.itemsize, COMPUTE[io].itemsize)

    def __repr__(self) -> str:
        return f"<compiled cell '{self.name}', {self.structure.kind}>"


def _plan(
    kernel: Kernel, shape: tuple[int, int, int], dtype: torch.dtype, choices: Choices, device: str
) -> Plan:
    """On the CPU, the GPU that is here, or one that is known by name."""
    import torch

    from rnncc.planner.cuda import Gpu, plan
    from rnncc.planner.devices import find_device
    from rnncc.runtime.backend import DEFAULTS, backend_of
    from rnncc.runtime.kernel import COMPUTE

    device = str(device)
    if device in DEFAULTS:
        here = torch.device(device)
        return backend_of(here).plan(kernel, shape, dtype, choices, shape[0] * shape[1], here)
    known = find_device(device)
    gpu = Gpu(known.multiprocessors, known.bandwidth / known.clock)
    size = COMPUTE[dtype].itemsize
    return plan(kernel.spec, shape, size, gpu, choices, io=dtype.itemsize)


def compile_cell(
    cell: Cell | str | os.PathLike[str], /, *, fast_math: bool = False, **constants: float
) -> CompiledCell:
    """Compile a cell in memory, with new values for its compile-time constants by name.

    Args:
        cell: a function under `@cell`, or where `lang.loader.find` finds one.
        fast_math: let CUDA kernels take sigmoid and tanh from the GPU's own tanh, whose relative
            error is 2^-11; float32 and half dtypes only, and not on the CPU.
    Raises:
        ArgumentError: it is neither.
        LoadError: no such cell or file.
        CellError: the cell uses something that can't be compiled.
        StructureError: its channels couple.
    """
    if isinstance(cell, (str, os.PathLike)):
        cell = find(os.fspath(cell))
    if not isinstance(fast_math, bool):
        raise ArgumentError(
            f"fast_math: got {fast_math!r}, expected True or False.\nFix: fast_math=True"
        )
    if not isinstance(cell, Cell):
        raise ArgumentError(
            f"cell: got {type(cell).__name__}, expected a function under @cell, or the name of a "
            "shipped cell or file.\n"
            "Fix: put @cell (from rnncc import cell) above the function"
        )
    return CompiledCell(cell, constants, fast_math)
