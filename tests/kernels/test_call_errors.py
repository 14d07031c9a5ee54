"""Errors of a call: every message at run time, word for word, with its fix."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence

from rnncc.errors import ArgumentError, ConvergenceError, LoadError
from rnncc.ir import choices
from rnncc.ir.spec import SOURCES, digest_of
from rnncc.nn import checks, functional, ops, refusal, second, sequences
from rnncc.nn.functional import run
from rnncc.runtime import backend as backends
from rnncc.runtime import call as calls
from rnncc.runtime import kernel, prepared
from rnncc.runtime.backend import registered
from rnncc.runtime.cpu import backend as cpu_backend
from rnncc.runtime.cpu.backend import CpuBackend, Functions
from rnncc.runtime.cuda import backend as cuda_backend
from tests.support.golden import GENERATED
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
    loaded = compiled("para_gru").kernel
    alone = kernel.Kernel(loaded.spec.model_copy(update={"constants": {"alone": 1}}), loaded.files)
    leaf = torch.rand(B, T, N, requires_grad=True)
    y = run(alone, [leaf, leaf, leaf, *[torch.rand(N) for _ in range(3)]])
    (dx,) = torch.autograd.grad(y.sum(), leaf, create_graph=True)
    dx.sum().backward()


def too_long_for_a_gpu() -> None:
    x = torch.zeros(1, 1, 1).expand(1, 2**31, 1)
    call = (compiled("elman").kernel, choices.AUTO, [x], False, [torch.zeros(1)], None)
    calls.plan_call(cuda_backend.BACKEND, *call)


def on_a_gpu_after_a_fork() -> None:
    x = torch.zeros(1, 1, 1)
    call = (compiled("elman").kernel, choices.AUTO, [x], False, [torch.zeros(1)], None)
    with mock.patch("torch.cuda._is_in_bad_fork", return_value=True):
        calls.plan_call(cuda_backend.BACKEND, *call)


def lengths_while_capturing() -> None:
    with mock.patch("torch.cuda.is_current_stream_capturing", return_value=True):
        sequences.to_device("lengths", torch.tensor([1]), torch.device("cuda"))


def operator(**changed: Any) -> Any:
    """The raw forward of elman, on tensors that have no memory, so that nothing is built."""
    given: dict[str, Any] = {
        "key": compiled("elman").kernel.key,
        "choices": "",
        "inputs": [torch.zeros(B, T, N, device="meta")],
        "packed": False,
        "params": [torch.zeros(N, device="meta")],
        "h0": None,
        "starts": None,
        "lengths": None,
        "reset": None,
        "states": False,
        "save": False,
    }
    return torch.ops.rnncc.forward(*(given | changed).values())


def operator_backward(saved: Any) -> Any:
    given = [compiled("elman").kernel.key, "", [torch.zeros(1, 1, 1)], False, [torch.zeros(1)]]
    return torch.ops.rnncc.backward(*given, *[None] * 4, saved, [None], [], None, [True])


def packed(sizes: list[int], unsorted: list[int] | None = None) -> Any:
    """A layer on 6 rows."""
    order = None if unsorted is None else torch.tensor(unsorted)
    data = torch.zeros(6, 3)
    return compiled("elman").layer(3, N)(PackedSequence(data, torch.tensor(sizes), order, order))


def given_back() -> Any:
    x = torch.zeros(B, T, N)
    x.untyped_storage().resize_(0)
    return compiled("elman")(x, torch.zeros(N))


def nested(*tensors: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():  # they are a prototype
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([*tensors])


def forward_mode_twice() -> None:
    x = torch.zeros(B, T, N)
    with warnings.catch_warnings():  # of torch's own making
        warnings.simplefilter("ignore")
        torch.func.jvp(lambda x: torch.func.jvp(elman_of, (x,), (x,))[1], (x,), (x,))


def forward_mode_in_a_graph() -> None:
    x = torch.zeros(B, T, N)
    with mock.patch("torch.compiler.is_compiling", return_value=True):
        torch.func.jvp(elman_of, (x,), (x,))


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


def elman_of(x: torch.Tensor) -> Any:
    return importlib.import_module("generated.elman").elman(x, torch.zeros(N))


OF_THE_SOLVER = "solver, segment, iterations, tol, on_failure, checkpoint, reverse"


OF_A_CALL = "h0, return_state, return_states, lengths, cu_seqlens, reset, observe, " + OF_THE_SOLVER


SUM_IT = "torch.cumsum of the lengths, with a 0 in front"


FROM_0 = "torch.cumsum of the lengths, a 0 in front"


RISING = "expected offsets that rise from 0 to 5, the steps of the inputs"


ELMAN = GENERATED / "elman"


HASH = digest_of({name: (ELMAN / name).read_text() for name in ("cell.json", *SOURCES)})


RUN_TIME: dict[str, tuple[Callable[[], Any], type[Exception], str, str]] = {
    "the Jacobian of a block of 16": (
        lambda: compiled("head").jacobians(),
        ArgumentError,
        "jacobians: the Jacobian of 'head' has more than 64 entries that aren't zero, and isn't "
        "emitted",
        "torch.func.jacrev(lambda h: c(..., h0=h, return_state=True)[-1])(h0), step by step",
    ),
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
        "bidirection: no option has this name, expected one of input_size, hidden_size, "
        "num_layers, bias, batch_first, dropout, bidirectional, projection, device, dtype, "
        f"kernel, {OF_THE_SOLVER}",
        "bidirectional=...",
    ),
    "an option of torch.nn.LSTM": (
        lambda: compiled("elman").layer(3, 4, proj_size=2),
        ArgumentError,
        "proj_size: no option has this name, expected one of input_size, hidden_size, "
        "num_layers, bias, batch_first, dropout, bidirectional, projection, device, dtype, "
        f"kernel, {OF_THE_SOLVER}",
        "leave it out",
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
    "a mask as lengths": (
        lambda: gru(lengths=torch.ones(B, T, dtype=torch.bool)),
        ArgumentError,
        "lengths: got a mask, bool [2, 5] on cpu, expected [2] integers, the steps of each "
        "sequence",
        "lengths=mask.sum(-1) of a mask that is true within the sequences, "
        "mask.logical_not().sum(-1) of one that is true behind their ends",
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
        LoadError,
        "'para_gru': a derivative in a direction (jvp), or of a gradient (create_graph=True), "
        "needs the tangent cell, which is not here: this kernel was loaded from files without it",
        "layers and functions of rnncc.compile(the cell), which derive it, to any order; or "
        "rnncc compile --tangent, which writes it into the package, for jvp and second derivatives",
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
    "a folder whose files don't belong together": (
        lambda: kernel.Kernel.read(ELMAN, "0123456789abcdef"),
        LoadError,
        f"the generated folder {ELMAN}: its files don't belong together: the hash of cell.json, "
        f"cell.h, kernel.cpp and kernel.cu is {HASH}, expected 0123456789abcdef, which __init__.py "
        "names. They are of two versions of the cell, or one was changed",
        "regenerate it with rnncc compile; or, to run files that you changed on purpose, "
        f'Kernel.read(..., "{HASH}") in __init__.py',
    ),
    "more steps than a GPU's kernels count": (
        too_long_for_a_gpu,
        ArgumentError,
        "inputs: got 2147483648 steps, expected fewer than 2147482624 on a GPU",
        "chunks, each from the state that the one before returns",
    ),
    "a GPU in a forked process": (
        on_a_gpu_after_a_fork,
        ArgumentError,
        "inputs: got tensors on a GPU in a process that was forked from one that uses CUDA, "
        "expected them in that one or in a spawned one",
        "multiprocessing.get_context('spawn')",
    ),
    "lengths on the CPU in a CUDA graph": (
        lengths_while_capturing,
        ArgumentError,
        "lengths: got a tensor or list on the CPU while a CUDA graph is being captured, expected a "
        "tensor on cuda",
        "make it before the capture",
    ),
    "a mask that is sparse": (
        lambda: gru(reset=torch.zeros(B, T, dtype=torch.bool).to_sparse()),
        ArgumentError,
        "reset: got a sparse_coo tensor, expected a dense one",
        "reset.to_dense()",
    ),
    "lengths that have no numbers": (
        lambda: gru(lengths=torch.zeros(B, dtype=torch.int64, device="meta")),
        ArgumentError,
        "lengths: got a tensor on meta, which holds no numbers, expected integers",
        "a list of ints",
    ),
    "boundaries whose differences wrap around": (
        lambda: joined_gru([0, 2**62, -(2**63), -(2**62), 5]),
        ArgumentError,
        f"cu_seqlens: got boundaries from 0 to 5, falling in between, {RISING}",
        FROM_0,
    ),
    "a nested input": (
        lambda: compiled("elman").layer(3, N)(nested(torch.zeros(2, 3))),
        ArgumentError,
        "x: got a nested tensor, expected a dense one",
        "torch.nested.to_padded_tensor(x, 0) and lengths=",
    ),
    "weights without values": (
        lambda: compiled("elman").layer(3, N, device="meta")(torch.zeros(B, T, 3)),
        ArgumentError,
        "x: got float32 [2, 5, 3] on cpu, expected a layer whose weights aren't on meta, without "
        "values",
        "layer.to_empty(device='cpu'), then load_state_dict or reset_parameters()",
    ),
    "a layer of integers": (
        lambda: compiled("elman").layer(3, N, dtype=torch.int32),
        ArgumentError,
        "dtype: got torch.int32, expected torch.float32, bfloat16, float16 or float64",
        "dtype=torch.float32",
    ),
    "an observer that can't be called": (
        lambda: gru(observe=3),
        ArgumentError,
        "observe: got int, expected a function of a Solve",
        "observe=print",
    ),
    "a switch that is none": (
        lambda: gru(return_states="no"),
        ArgumentError,
        "return_states: got 'no', expected True or False",
        "return_states=True",
    ),
    "packed rows that don't add up": (
        lambda: packed([2, 2, 1]),
        ArgumentError,
        "x: got a PackedSequence of 6 rows with the batch_sizes [2, 2, 1], expected sizes that "
        "fall, at least 1 each, and add up to the rows",
        "torch.nn.utils.rnn.pack_sequence",
    ),
    "a packed sequence without a step": (
        lambda: packed([]),
        ArgumentError,
        "x: got a PackedSequence of 6 rows with the batch_sizes float32 [0] on cpu, expected "
        "sizes that fall, at least 1 each, and add up to the rows",
        "torch.nn.utils.rnn.pack_sequence",
    ),
    "an order that names a sequence twice": (
        lambda: packed([3, 3], [0, 0, 1]),
        ArgumentError,
        "x: got a PackedSequence with the sorted_indices [0, 0, 1], expected each number from 0 "
        "to 2 once",
        "torch.nn.utils.rnn.pack_sequence",
    ),
    "forward mode within forward mode": (
        forward_mode_twice,
        ArgumentError,
        "jvp: got forward mode within forward mode (jvp of jvp, jacfwd of jacfwd), whose outer "
        "derivative PyTorch would leave out, expected one of them",
        "reverse mode inside, as torch.func.hessian has it: jacfwd(jacrev(f)), or jvp of grad",
    ),
    "forward mode in a graph": (
        forward_mode_in_a_graph,
        ArgumentError,
        "jvp: got forward mode (jvp, jacfwd, hessian) inside of torch.compile(fullgraph=True), "
        "expected it outside",
        "torch.compile inside, as in jvp(torch.compile(f), ...), or without fullgraph=True",
    ),
    "memory that was given back": (
        given_back,
        ArgumentError,
        "a tensor [2, 5, 4] of the call has no memory, expected its values: it was given back "
        "after the tensor was made",
        "fill it before the call and its backward",
    ),
    "an operator with other options": (
        lambda: operator(choices="deer"),
        ArgumentError,
        "choices: got 'deer', expected options as 'solver=newton tol=1e-06'",
        "'' for none",
    ),
    "an operator with an input too few": (
        lambda: operator(inputs=[]),
        ArgumentError,
        "inputs: got 0, expected 1 for this cell",
        "a list of 1, in the order of the cell's signature",
    ),
    "an operator with an input of two dimensions": (
        lambda: operator(inputs=[torch.zeros(T, N, device="meta")]),
        ArgumentError,
        "inputs[0] ('x'): got float32 [5, 4] on meta, expected [B, T, N] in float32, bfloat16, "
        "float16 or float64",
        "as for the cell's own function",
    ),
    "an operator with a param too short": (
        lambda: operator(params=[torch.zeros(N - 1, device="meta")]),
        ArgumentError,
        "params[0] ('a'): got float32 [3] on meta, expected float32 [4]",
        "the shape and dtype that go with inputs[0]",
    ),
    "an operator with boundaries but no lengths": (
        lambda: operator(starts=torch.zeros(2, dtype=torch.int64, device="meta")),
        ArgumentError,
        "starts: got int64 [2] on meta with inputs of 2 rows and no lengths, expected int64 [S], "
        "lengths [S] and inputs of one row",
        "cu_seqlens[:-1] and cu_seqlens.diff()",
    ),
    "an operator on two devices": (
        lambda: operator(params=[torch.zeros(N)]),
        ArgumentError,
        "params[0]: got float32 [4] on cpu, expected a tensor on meta, as the others are",
        "params[0].to('meta')",
    ),
    "an operator on a sparse tensor": (
        lambda: operator(inputs=[torch.zeros(B, T, N).to_sparse()]),
        ArgumentError,
        "inputs[0]: got a sparse_coo tensor on cpu, expected a dense tensor on cpu or cuda",
        "a dense inputs[0], on one of these devices",
    ),
    "an operator on no tensor": (
        lambda: operator(inputs=[], params=[]),
        ArgumentError,
        "inputs: got no tensor that a kernel could read, expected one for each input",
        "give inputs and params as they are for the cell's own function",
    ),
    "an operator without saved states": (
        lambda: operator_backward(None),
        ArgumentError,
        "saved: got NoneType, expected a tensor",
        "what forward returns with save=True",
    ),
    "a device without kernels": (
        lambda: backends.backend_of(torch.device("mps")),
        ArgumentError,
        "inputs: got tensors on mps, expected cpu or cuda",
        ".cpu()",
    ),
    "no memory left": (
        without_memory,
        MemoryError,
        "a kernel could not allocate its scratch memory",
        "",
    ),
}


MODULES = (
    *(choices, sequences, kernel, calls, ops, cpu_backend, cuda_backend),
    *(prepared, backends, checks, functional, refusal, second),
)


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
        for module in MODULES
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Raise)
        and not any(
            (module.__file__, line) in reached
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        )
    ]
    assert missed == []
