"""Cells in the words that people write: their kernels against loops of plain PyTorch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rnncc.ir.functions import TABLE, Opaque
from rnncc.nn.vectors import elements, join, joined, states_of
from tests.support.runs import (
    Call,
    Outcome,
    assert_agree,
    by_kernel,
    compiled,
    gradients,
    listed,
    random_call,
)
from tests.support.tolerances import assert_close
from tests.support.words import WORDS

EVERY_TARGET = True  # see conftest.py
SHAPE = (2, 40, 5)
SOLVERS: dict[str, dict[str, Any]] = {
    "auto": {},
    "one pass": {"solver": "sequential", "checkpoint": 8},
    "segments": {"solver": "segmented", "segment": 8},
    "newton": {"solver": "newton", "iterations": 40},
}
DAILY = ("mixture", "learned_start", "delta_rule", "echo", "every_kink")
EVERY = ("every_smooth", "every_kink", "every_surrogate")  # of the table's functions
each_word = pytest.mark.parametrize(
    "word", [w if w in DAILY else pytest.param(w, marks=pytest.mark.slow) for w in WORDS]
)
each_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def run(word: str, arguments: dict[str, Tensor], states: Any) -> tuple[list[Any], list[Any]]:
    """The plain loop, on the tensors that a user has: outputs [B, T, N, ...] and last states."""
    inputs = {v for v in arguments if v in _inputs(word)}
    rows = []
    for t in range(SHAPE[1]):
        now = {n: v[:, t] if n in inputs else v for n, v in arguments.items()}
        states, outputs = WORDS[word][1](states, SimpleNamespace(**now))
        rows.append(outputs)
    return [torch.stack(column, 1) for column in zip(*rows, strict=True)], list(states)


def _inputs(word: str) -> set[str]:
    inputs = compiled(word).stages.cell.inputs
    return {i.vector.name if i.vector else i.name for i in inputs}


def by_loop(word: str, call: Call) -> Outcome:
    """In float64, from the scalars that kernels have and back to them."""
    spec = compiled(word).spec
    leaves = {n: t.detach().double().requires_grad_() for n, t in call.arguments.items()}
    if call.h0 is None:
        first = [leaves[f"{s.name}_init"].expand(SHAPE[0], SHAPE[2]) for s in spec.states]
    else:
        first = [h.detach().double().requires_grad_() for h in call.h0]
        leaves |= {f"h0 ({s.name})": h for s, h in zip(spec.states, first, strict=True)}
    given = joined(spec, {n: leaves[n] for n in call.arguments})
    y, h = run(word, given, tuple(join(spec, "state", first)))
    ys = [e for v in y for e in elements("y", v, tuple(v.shape[3:]))]
    roles = states_of(spec)
    hs = [e for r, v in zip(roles, h, strict=True) for e in elements(r.name, v, r.shape)]
    return Outcome(ys, hs, gradients([*ys, *hs], [*call.dy, *call.dh], leaves))


@each_word
@each_dtype
def test_every_solver_gives_outputs_states_and_gradients_of_the_loop(
    word: str, dtype: torch.dtype, target: str
) -> None:
    started = "learned" not in word and "shared" not in word
    call = random_call(word, SHAPE, dtype, start=started, seed=1)
    expected, block = by_loop(word, call), compiled(word).structure.block
    for solver, choices in SOLVERS.items():
        if solver in ("auto", "one pass") or block <= 8:
            got = by_kernel(word, call, **choices)
            assert_agree(word, call, got, expected, f"{word} by {solver}")


@each_word
def test_a_layer_without_a_projection_is_the_loop(word: str, target: str) -> None:
    call = random_call(word, SHAPE, torch.float32, start=False)
    spec = compiled(word).spec
    given = joined(spec, call.arguments)
    inputs = {n: given.pop(n) for n in list(given) if n in _inputs(word)}
    layer = compiled(word).layer(SHAPE[2], projection=None)
    layer.load_state_dict(layer.state_dict() | given)
    with torch.no_grad():
        y = listed(layer(**inputs)[0])
    starts = [
        call.arguments.get(f"{s.name}_init", torch.tensor(s.init)).double().expand(2, SHAPE[2])
        for s in compiled(word).stages.cell.states
    ]
    wide = {n: v.double() for n, v in (inputs | given).items()}
    expected, _ = run(word, wide, tuple(join(spec, "state", starts)))
    for got, row in zip(y, expected, strict=True):
        assert_close(got, row, torch.float32, word)


def test_every_function_has_a_part_in_a_word() -> None:
    lets = [let for word in EVERY for let in compiled(word).stages.program.lets]
    used = {type(o).__name__ for let in lets for o in let.expr.atoms(Opaque)}
    assert used == TABLE.keys() - {"exprel_slope", "atan2_slope", "absent"}
