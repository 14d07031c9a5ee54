"""Errors of a call: every message at run time, word for word, with its fix."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from rnncc.errors import ArgumentError, ConvergenceError, LoadError
from rnncc.ir import choices
from rnncc.nn import ops, sequences
from rnncc.nn.functional import run
from rnncc.runtime import call as calls
from rnncc.runtime import kernel
from rnncc.runtime.backend import registered
from rnncc.runtime.cpu import backend as cpu_backend
from rnncc.runtime.cpu.backend import CpuBackend, Functions
from rnncc.runtime.cuda import backend as cuda_backend
from tests.support.runs import compiled

B, T, N = 2, 5, 4


def gru(**options: Any) -> Any:
    """para_gru on good arguments with these options."""
    arguments = {name: torch.randn(B, T, N) for name in ("xz", "xr", "xc")}
    arguments |= {name: 9 * torch.rand(N) - 4 for name in ("az", "ar", "ac")}
    return compiled("para_gru")(**arguments, **options)


def joined_gru(bounds: Any, steps: int = T) -> Any:
    params = [torch.rand(N) for _ in range(3)]
    return compiled("para_gru")(*[torch.randn(steps, N)] * 3, *params, cu_seqlens=bounds)


def resetting(*size: int, dtype: torch.dtype = torch.bool, device: str = "cpu") -> Any:
    return gru(reset=torch.zeros(*size, dtype=dtype, device=device))


def derived_twice() -> None:
    leaf = torch.rand(B, T, N, requires_grad=True)
    params = [torch.rand(N) for _ in range(3)]
    y = compiled("para_gru")(leaf, leaf, leaf, *params)
    (dx,) = torch.autograd.grad(y.sum(), leaf, create_graph=True)
    dx.sum().backward()


def too_long_for_a_gpu() -> None:
    x = torch.zeros(1, 1, 1).expand(1, 2**31, 1)
    call = (compiled("elman").kernel, choices.AUTO, [x], False, [torch.zeros(1)], None)
    calls.plan_call(cuda_backend.BACKEND, *call)


def lengths_while_capturing() -> None:
    with mock.patch("torch.cuda.is_current_stream_capturing", return_value=True):
        sequences.to_device("lengths", torch.tensor([1]), torch.device("cuda"))


def without_memory() -> None:
    class Failing(CpuBackend):
        def functions(self, *_: Any) -> Functions:
            return Functions(*[lambda address: 1] * 3)

    with registered("cpu", Failing()):
        gru()


def elman(**options: Any) -> Any:
    """By the generated function."""
    return importlib.import_module("generated.elman").elman(
        torch.zeros(B, T, N), torch.zeros(N), **options
    )


OF_THE_SOLVER = "solver, segment, iterations, tol, on_failure, checkpoint, reverse"


OF_A_CALL = "h0, return_state, return_states, lengths, cu_seqlens, reset, observe, " + OF_THE_SOLVER


SUM_IT = "torch.cumsum of the lengths, with a 0 in front"


FROM_0 = "torch.cumsum of the lengths, a 0 in front"


RISING = "expected offsets that rise from 0 to 5, the steps of the inputs"


RUN_TIME: dict[str, tuple[Callable[[], Any], type[Exception], str, str]] = {
    "an unknown solver": (
        lambda: gru(solver="deer"),
        ArgumentError,
        "solver: got 'deer', expected one of auto, sequential, segmented, newton",
        "solver='auto'",
    ),
    "an unknown option": (
        lambda: run(compiled("elman").kernel, (), solvr="auto"),
        ArgumentError,
        f"solvr: no option has this name, expected one of {OF_A_CALL}",
        "solver=...",
    ),
    "an option of a call, misspelt": (
        lambda: elman(return_stat=True),
        ArgumentError,
        f"return_stat: no option has this name, expected one of {OF_A_CALL}",
        "return_state=...",
    ),
    "an argument of the function that solves": (
        lambda: elman(kernel=3),
        ArgumentError,
        f"kernel: no option has this name, expected one of {OF_A_CALL}",
        "leave it out",
    ),
    "arguments by name beside the cell's own": (
        lambda: elman(kwargs={"foo": 1}),
        ArgumentError,
        f"kwargs: no option has this name, expected one of {OF_A_CALL}",
        "leave it out",
    ),
    "an option of a layer, misspelt": (
        lambda: compiled("elman").layer(3, 4, bidirection=True),
        ArgumentError,
        "bidirection: no option has this name, expected one of bias, bidirectional, device, "
        f"dtype, kernel, {OF_THE_SOLVER}",
        "bidirectional=...",
    ),
    "an option of a plan, misspelt": (
        lambda: compiled("elman").explain(1, 1, 1, solvr="auto"),
        ArgumentError,
        f"solvr: no option has this name, expected one of dtype, device, {OF_THE_SOLVER}",
        "solver=...",
    ),
    "an option that the solver does not use": (
        lambda: gru(solver="sequential", segment=16),
        ArgumentError,
        "segment: got 16, but the solver 'sequential' does not use it",
        "leave it out, or solver='segmented'",
    ),
    "no steps in a segment": (
        lambda: gru(solver="segmented", segment=0),
        ArgumentError,
        "segment: got 0, expected an int from 1 to 2147483648",
        "segment=16",
    ),
    "a tolerance below 0": (
        lambda: gru(solver="newton", tol=-1),
        ArgumentError,
        "tol: got -1, expected a number from 0 to 1",
        "tol=1e-6",
    ),
    "an unknown way to fail": (
        lambda: gru(solver="newton", on_failure="ignore"),
        ArgumentError,
        "on_failure: got 'ignore', expected one of raise, warn, sequential",
        "on_failure='raise'",
    ),
    "a direction that isn't a bool": (
        lambda: gru(reverse=-1),
        ArgumentError,
        "reverse: got -1, expected True or False",
        "reverse=True",
    ),
    "lengths and boundaries": (
        lambda: gru(lengths=[1, 2], cu_seqlens=[0, 5]),
        ArgumentError,
        "cu_seqlens: got both lengths and cu_seqlens, expected one of them",
        "lengths= for padded inputs [B, T, N], cu_seqlens= for joined ones [1, total, N]",
    ),
    "boundaries in a batch": (
        lambda: gru(cu_seqlens=[0, 5]),
        ArgumentError,
        "cu_seqlens: got inputs with the leading dimensions [2], expected all sequences one "
        "after another, [total, N] or [1, total, N]",
        "lengths= for a padded batch",
    ),
    "boundaries in two dimensions": (
        lambda: joined_gru([[0, 5]]),
        ArgumentError,
        "cu_seqlens: got the shape [1, 2], expected [S + 1], 0 first and the total last",
        SUM_IT,
    ),
    "no boundary": (
        lambda: joined_gru([]),
        ArgumentError,
        "cu_seqlens: got the shape [0], expected [S + 1], 0 first and the total last",
        SUM_IT,
    ),
    "boundaries without a sequence": (
        lambda: joined_gru([0]),
        ArgumentError,
        "cu_seqlens: got [0], which has no sequence, for 5 steps, expected the total last",
        "cu_seqlens=[0, 5] for one sequence",
    ),
    "boundaries that fall": (
        lambda: joined_gru([0, 4, 2, 5]),
        ArgumentError,
        f"cu_seqlens: got boundaries from 0 to 5, falling in between, {RISING}",
        FROM_0,
    ),
    "boundaries that end too early": (
        lambda: joined_gru([0, 4]),
        ArgumentError,
        f"cu_seqlens: got boundaries from 0 to 4, {RISING}",
        FROM_0,
    ),
    "boundaries that begin too late": (
        lambda: joined_gru([1, 5]),
        ArgumentError,
        f"cu_seqlens: got boundaries from 1 to 5, {RISING}",
        FROM_0,
    ),
    "lengths of another batch": (
        lambda: gru(lengths=[1, 2, 3]),
        ArgumentError,
        "lengths: got the shape [3], expected [2], the inputs' leading dimensions",
        "one length per sequence",
    ),
    "lengths that are no integers": (
        lambda: gru(lengths=torch.tensor([1.0, 2.0])),
        ArgumentError,
        "lengths: got float32, expected integers",
        "lengths.long()",
    ),
    "lengths that are no numbers": (
        lambda: gru(lengths="long"),
        ArgumentError,
        "lengths: got str 'long', expected integers",
        "a list or a tensor of ints",
    ),
    "a length beyond the inputs": (
        lambda: gru(lengths=[6, 2]),
        ArgumentError,
        "lengths: got 6, expected between 0 and 5, the steps of the inputs",
        "the number of steps of each sequence",
    ),
    "a length below 0": (
        lambda: gru(lengths=[5, -1]),
        ArgumentError,
        "lengths: got -1, expected between 0 and 5, the steps of the inputs",
        "the number of steps of each sequence",
    ),
    "a mask of integers": (
        lambda: resetting(B, T, dtype=torch.int64),
        ArgumentError,
        "reset: got int64, expected a bool tensor [2, 5], true where the state is reset before the "
        "step",
        "reset.bool()",
    ),
    "a mask that isn't a tensor": (
        lambda: gru(reset=[True]),
        ArgumentError,
        "reset: got list, expected a bool tensor [2, 5], true where the state is reset before the "
        "step",
        "reset.bool()",
    ),
    "a mask of another shape": (
        lambda: resetting(B, T + 1),
        ArgumentError,
        "reset: got the shape [2, 6], expected [2, 5]",
        "one value per sequence and step",
    ),
    "a mask elsewhere": (
        lambda: resetting(B, T, device="meta"),
        ArgumentError,
        "reset: got a tensor on meta, expected cpu, as the inputs",
        "reset.to('cpu')",
    ),
    "Newton that has not converged": (
        lambda: gru(solver="newton", iterations=1, tol=0.0),
        ConvergenceError,
        "solver: newton on 'para_gru' has not converged within 1 iterations: residual X, "
        "expected at most 0",
        "solver='auto', which doesn't depend on convergence; or iterations=, tol=, "
        "on_failure='sequential'",
    ),
    "a second derivative": (
        derived_twice,
        NotImplementedError,
        "rnncc has first derivatives only; gradients of gradients (create_graph=True and a "
        "second backward) are not supported",
        "a plain PyTorch module with the same parameters, rnncc show NAME --stage torch",
    ),
    "a kernel of another process": (
        lambda: kernel.kernel_of("gone-0123"),
        ArgumentError,
        "the kernel 'gone-0123' is not loaded in this process",
        "import the generated module of this cell (or rnncc.compile it) first",
    ),
    "a folder that was never generated": (
        lambda: kernel.Kernel.read(Path("nowhere")),
        LoadError,
        "the generated folder nowhere can't be read: "
        "[Errno 2] No such file or directory: 'nowhere/cell.json'",
        "regenerate it with rnncc compile",
    ),
    "more steps than a GPU's kernels count": (
        too_long_for_a_gpu,
        ArgumentError,
        "inputs: got 2147483648 steps, expected fewer than 2147482624 on a GPU",
        "chunks, each from the state that the one before returns",
    ),
    "lengths on the CPU in a CUDA graph": (
        lengths_while_capturing,
        ArgumentError,
        "lengths: got a tensor or list on the CPU while a CUDA graph is being captured, expected a "
        "tensor on cuda",
        "make it before the capture",
    ),
    "no memory left": (
        without_memory,
        MemoryError,
        "a kernel could not allocate its scratch memory",
        "",
    ),
}


@pytest.mark.parametrize("case", RUN_TIME)
def test_an_impossible_call_is_refused_with_a_fix(case: str) -> None:
    call, kind, seen, fix = RUN_TIME[case]
    with pytest.raises(kind) as refusal:
        call()
    message = re.sub(r"residual \S+,", "residual X,", str(refusal.value))
    assert message == (f"{seen}.\nFix: {fix}" if fix else seen)


def test_newton_may_warn_in_the_same_words() -> None:
    message = r"newton on 'para_gru' has not converged within 1 iterations: residual .*\nFix: "
    with pytest.warns(UserWarning, match=message):
        gru(solver="newton", iterations=1, tol=0.0, on_failure="warn")


def test_every_place_that_raises_at_run_time_has_a_case_here() -> None:
    reached: set[tuple[str, int]] = set()
    for call, kind, _, _ in RUN_TIME.values():
        with pytest.raises(kind) as refusal:
            call()
        trace_back = refusal.value.__traceback__
        while trace_back is not None:
            reached.add((trace_back.tb_frame.f_code.co_filename, trace_back.tb_lineno))
            trace_back = trace_back.tb_next
    missed = [
        f"{Path(str(module.__file__)).name}:{node.lineno}"
        for module in (choices, sequences, kernel, calls, ops, cpu_backend, cuda_backend)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Raise)
        and not any(
            (module.__file__, line) in reached
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        )
    ]
    assert missed == []
