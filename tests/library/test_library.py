"""The cells that ship, on the CPU and the emulated GPU: right by every solver, and as layers.

Those of `runs.CORE` go through much more than this, in the files named after the stages.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from rnncc.ir.functions import Opaque, row_of
from rnncc.ir.spec import CUDA_KERNELS
from rnncc.lang.loader import shipped
from rnncc.nn.vectors import learned_of
from rnncc.runtime.cuda import nvrtc
from rnncc.runtime.cuda.backend import part_of
from tests.support.runs import (
    CORE,
    SHIPPED,
    SMOOTH_SHIPPED,
    assert_agree,
    by_kernel,
    by_oracle,
    compiled,
    fitting,
    listed,
    random_call,
    solve,
)
from tests.support.tolerances import assert_close

EVERY_TARGET = True  # see conftest.py
FIELDS = {"language models", "time series", "neuroscience", "dynamical systems"}
SHAPES = [(2, 1, 7), (3, 33, 12), (1, 260, 5), (0, 4, 4), (2, 0, 4)]
LONG = 100  # steps that are dear to the oracle
SOLVERS: dict[str, dict[str, Any]] = {
    "one pass": {"solver": "sequential", "checkpoint": 8},
    "short segments": {"solver": "segmented", "segment": 4},
    "segments": {"solver": "segmented", "segment": 24},
    "newton": {"solver": "newton", "iterations": 70},
}
OTHERS = [name for name in SHIPPED if name not in CORE]
SMOOTH = [name for name in OTHERS if name in SMOOTH_SHIPPED]

each_cell = pytest.mark.parametrize("name", OTHERS)


def only_where_it_solves(name: str, solver: str) -> None:
    if compiled(name).spec.one_pass and solver != "one pass":
        pytest.skip("more than 8 values in a channel are solved by one pass")


def dtypes_of(target: str) -> tuple[torch.dtype, ...]:
    """Of a GPU one, since each takes a build; its other dtypes are those of the core cells."""
    return (torch.float32,) if target == "emulated" else (torch.float32, torch.float64)


@each_cell
def test_outputs_states_and_all_gradients_equal_the_oracle(name: str, target: str) -> None:
    for dtype, (seed, shape) in itertools.product(dtypes_of(target), enumerate(SHAPES)):
        for start in (True, False) if shape[1] < LONG else (True,):
            fitted = (*shape[:2], fitting(name, shape[2]))
            call = random_call(name, fitted, dtype, seed=seed, start=start)
            expected = by_oracle(name, call)
            assert_agree(name, call, by_kernel(name, call), expected, f"{name} {fitted} {dtype}")
            assert all(bool(y.isfinite().all()) for y in expected.y), name


@pytest.mark.parametrize("solver", SOLVERS)
@each_cell
def test_every_solver_gives_the_answer_of_the_oracle(name: str, solver: str, target: str) -> None:
    """Newton's iteration as well, given as many iterations as there are steps."""
    only_where_it_solves(name, solver)
    for dtype in dtypes_of(target):
        call = random_call(name, (2, 70, fitting(name, 6)), dtype, seed=3)
        got = by_kernel(name, call, **SOLVERS[solver])
        assert_agree(name, call, got, by_oracle(name, call), f"{name} by {solver}")


@each_cell
def test_chunks_with_carried_state_equal_one_run(name: str, target: str) -> None:
    cell = compiled(name).stages.cell
    call = random_call(name, (2, 40, fitting(name, 9)), torch.float32, start=False)
    y, h = solve(name, call.arguments, None, solver="sequential")
    rows, state = [], None
    for first, last in itertools.pairwise((0, 1, 18, 40)):
        inputs = {i.name: call.arguments[i.name][:, first:last] for i in cell.inputs}
        out, state = solve(name, call.arguments | inputs, state, solver="sequential")
        rows.append(out)
    pieces = [torch.cat(column, 1) for column in zip(*rows, strict=True)]
    for whole, parts in zip((*y, *h), (*pieces, *(state or ())), strict=True):
        if target == "cpp":
            assert torch.equal(whole, parts)
        else:  # a GPU's compiler may fuse what it walks step by step otherwise than blocks
            assert_close(whole, parts, whole.dtype, name)


@pytest.mark.parametrize("solver", ["one pass", "short segments"])
@pytest.mark.parametrize("name", SMOOTH)
def test_gradcheck_passes(name: str, solver: str, target: str) -> None:
    if target == "emulated":
        pytest.skip("in float64 on the CPU only, since each dtype takes a build")
    only_where_it_solves(name, solver)
    call = random_call(name, (2, 12, fitting(name, 2)), torch.float64)
    leaves = {n: t.clone().requires_grad_() for n, t in call.arguments.items()}
    start = [h.clone().requires_grad_() for h in call.h0 or ()]

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(leaves, tensors, strict=False))
        y, h = solve(name, given, tensors[len(leaves) :], **SOLVERS[solver])
        return (*y, *h)

    assert torch.autograd.gradcheck(function, (*leaves.values(), *start), fast_mode=True)


@each_cell
def test_a_layer_of_it_takes_its_projections_names_its_params_and_steps(
    name: str, target: str
) -> None:
    torch.manual_seed(0)
    cell = compiled(name).stages.cell
    channels = fitting(name, 8)
    layer = compiled(name).layer(3, channels)
    rows = sum(1 if i.shared else channels for i in cell.inputs if i.projected)
    assert layer.projection.weight.shape == (rows, 3)
    own = {n for n, _ in layer.named_parameters() if not n.startswith("projection.")}
    assert own == {vector.name for vector, _ in learned_of(compiled(name).spec)}
    assert all(bool(p.isfinite().all()) for p in layer.parameters())
    given = {
        i.name: torch.rand((2, 7) if i.shared else (2, 7, channels))
        for i in cell.inputs
        if not i.projected
    }
    x = torch.randn(2, 7, 3)
    y, h = layer(x, **given)
    sum(out.mean() for out in listed(y)).backward()
    assert any(bool((p.grad != 0).any()) for p in layer.parameters() if p.grad is not None)
    assert all(bool(p.grad.isfinite().all()) for p in layer.parameters() if p.grad is not None)
    state, steps = None, []
    for t in range(7):
        row, state = layer.step(x[:, t], state, **{n: v[:, t] for n, v in given.items()})
        steps.append(listed(row))
    for got, expected in zip(zip(*steps, strict=True), listed(y), strict=True):
        assert_close(torch.stack(got, 1), expected, torch.float32, name)
    for got, expected in zip(listed(state), listed(h), strict=True):
        assert_close(got, expected, torch.float32, name)


# --- without running it ----------------------------------------------------------------------


# Bytes of a thread that backward tiles spill, where the registers of a group of one don't suffice.
SPILLS = {"compressor": 232, "lmu": 24, "mlstm": 84, "phase": 12}


@each_cell
def test_nvrtc_compiles_its_tiles_without_a_warning_or_more_spills(name: str, target: str) -> None:
    """Tiles hold more in registers than all other kernels do; cells that mix channels may spill."""
    if target == "cpp":
        pytest.skip("kernel.cu is the GPU's")
    only_where_it_solves(name, "segments")
    pytest.importorskip("cupy")
    for part in ("tiles", "back_tiles"):
        text = part_of(compiled(name).source("cuda"), list(CUDA_KERNELS).index(part))
        made = nvrtc.compile(name, text, "float32", "sm_90")
        assert made.warnings == ()
        spilled = max(max(r.spill_stores, r.spill_loads) for r in made.resources)
        most = SPILLS.get(name, 0) if part == "back_tiles" else 0
        assert spilled <= most or compiled(name).spec.group > 1
        assert {r.kernel for r in made.resources} == {f"{name}_{part}"}


def test_its_file_is_short_and_says_field_and_source(target: str) -> None:
    for path in shipped():
        text = path.read_text()
        assert len(text.splitlines()) < 40, path
        (fields,) = re.findall(r"^Field: (.+)\.$", text, re.MULTILINE)
        assert set(fields.split(", ")) <= FIELDS, path
        assert re.search(r"^Source: .*(19|20)\d\d", text, re.MULTILINE | re.DOTALL), path


def test_the_cells_whose_derivative_is_chosen_are_those_that_say_so(target: str) -> None:
    def chosen(name: str) -> bool:
        lets = compiled(name).stages.program.lets
        rows = [row_of(call) for let in lets for call in let.expr.atoms(Opaque)]
        return any(row.slope is not None for row in rows if row)

    assert [name for name in SHIPPED if not chosen(name)] == SMOOTH_SHIPPED
