"""The fuzzer's own parts: what it draws, how it judges, and what it says. No kernel is built."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import pytest
import torch
from torch import Tensor

import rnncc
from tests.support.fuzz.calls import RandomCall, Setting, random_call, random_leaves
from tests.support.fuzz.cells import RandomCell
from tests.support.fuzz.draw import random_cell
from tests.support.fuzz.judge import Question, judge
from tests.support.fuzz.loop import by_loop
from tests.support.fuzz.shrink import shrink
from tests.support.fuzz.tree import Evaluation, apply, name, nodes, text_of

CELLS = 200
NOT_FUNCTIONS = {"mean", "shift", "cell", "compile", "constant", "normal", "spaced", "uniform"}


@cache
def cells() -> list[RandomCell]:
    return [random_cell(f"unit/{i}") for i in range(CELLS)]


def test_every_function_and_operator_of_the_language_is_drawn() -> None:
    drawn = {n.op for c in cells() for body in c.bodies for n in nodes(body)}
    language = {n for n in rnncc.__all__ if n.islower()} - NOT_FUNCTIONS
    operators = {*"add sub mul div neg pow mix lt le gt ge eq ne both either negate call".split()}
    assert (language | operators) - drawn == set()


def test_every_role_and_form_of_a_cell_is_drawn() -> None:
    assert {len(c.states) for c in cells()} == set(range(1, 9))
    assert {c.style for c in cells()} == {"one", "tuple", "named", "dict"}
    arguments = [a for c in cells() for a in c.arguments]
    assert {(a.kind, a.shared) for a in arguments} == {
        *(("state", False), ("matrix", False), ("constant", False)),
        *(("input", False), ("input", True), ("param", False), ("param", True)),
    }
    assert {a.given for a in arguments if a.shared} == {True, False}
    assert {h.times for c in cells() for h in c.helpers} == {1, 2, 3}
    assert any(c.changed for c in cells())


def test_every_option_of_a_call_is_drawn() -> None:
    setting = Setting("float32", "-O0", False)
    calls = [random_call(f"unit/{i}", c, setting, 1000) for i, c in enumerate(cells())]
    assert {o for call in calls for o in call.options} == {
        *("solver", "segment", "iterations", "tol", "on_failure", "checkpoint", "reverse")
    }
    for field in ("lengths", "cu_seqlens", "reset", "layouts", "without", "ignored"):
        assert any(getattr(call, field) for call in calls), field
    assert {call.form for call in calls} == {"positional", "keywords", "inference"}


def test_a_seed_gives_the_same_cell_and_call() -> None:
    setting = Setting("float32", "-O0", False)
    first, second = random_cell("unit/1"), random_cell("unit/1")
    assert first == second
    calls = [random_call("unit/1/0", c, setting, 1000) for c in (first, second)]
    assert calls[0] == calls[1]
    leaves = [random_leaves(first, call) for call in calls]
    assert all(torch.equal(t, leaves[1][n]) for n, t in leaves[0].items())


def test_the_text_of_a_tree_has_its_value() -> None:
    h, x = name("h"), name("x")
    tree = apply("where", apply("gt", h, x), -(h**2) + 3 / x, apply("exp", h - 0.5))
    values = {
        "h": torch.tensor([1.5, 0.2], dtype=torch.float64),
        "x": torch.tensor([0.5, 0.7], dtype=torch.float64),
    }
    found = Evaluation(torch.float64, 2)(tree, values)
    assert text_of(tree) == "where((h > x), ((-(h ** 2)) + (3 / x)), exp((h - 0.5)))"
    expected = [-(1.5**2) + 3 / 0.5, math.exp(0.2 - 0.5)]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-15)


# --- judging ---------------------------------------------------------------------------------


def smooth(scale: float = 1.0) -> Question:
    """A small GRU; its `kernel` is the loop, and one gradient comes out `scale` as large."""
    cell = next(c for c in cells() if c.of("param") and not c.of("matrix", "constant"))
    h, x, a = cell.states[0].name, cell.of("input")[0].name, cell.of("param")[0].name
    z = apply("sigmoid", name(a) * name(h) + name(x))
    arguments = tuple(dataclasses.replace(b, init=0.0, shared=False) for b in cell.arguments)
    kept = tuple(b for b in arguments if b.name in (h, x, a))
    gru = RandomCell("gru", kept, (), {h: z * name(h) + (1 - z) * apply("tanh", name(x))}, {})
    call = RandomCall("unit", (2,), 9, 3, "float64", "none", "float64")
    leaves = random_leaves(gru, call)

    def kernel(own: dict[str, Tensor]) -> dict[str, Tensor]:
        tilted = own[a].detach() + scale * (own[a] - own[a].detach())
        return by_loop(gru, call, {**own, a: tilted})

    loop = lambda own, margins: by_loop(gru, call, own, margins=margins)  # noqa: E731
    return Question("call", call, leaves, loop, kernel)


def test_a_loop_is_right() -> None:
    assert judge(smooth()).state == "right"


def test_a_gradient_that_is_a_little_wrong_is_found() -> None:
    verdict = judge(smooth(1 + 1e-8))
    assert verdict.state == "wrong"
    assert "gradient of" in verdict.complaints[0]


def test_a_result_that_a_loop_cannot_hold_either_is_not_held_against_a_kernel() -> None:
    plain = smooth()
    h = next(n for n in plain.expected if n.startswith("last"))

    def chaotic(own: dict[str, Tensor], margins: list[float] | None = None) -> dict[str, Tensor]:
        found = plain.loop(own, margins)
        return {n: (v * 1e9).sin() if n == h else v for n, v in found.items()}

    def rounded(own: dict[str, Tensor]) -> dict[str, Tensor]:
        return chaotic({n: t * (1 + 1e-14) for n, t in own.items()})

    assert judge(dataclasses.replace(plain, loop=chaotic, kernel=rounded)).state == "unsteady"


def test_a_failing_cell_shrinks_to_what_fails() -> None:
    cell = next(c for c in cells() if any(n.op == "erf" for b in c.bodies for n in nodes(b)))
    call = random_call("unit", cell, Setting("float32", "-O0", False), 1000)

    def fails(cell: RandomCell, call: RandomCall) -> bool:
        return any(n.op == "erf" for body in cell.bodies for n in nodes(body))

    smaller, small = shrink(cell, call, fails)
    assert sum(1 for body in smaller.bodies for _ in nodes(body)) <= len(smaller.states) + 2
    assert (small.steps, small.options.keys() - {"solver"}) == (1, set())


@pytest.mark.parametrize("value", [-2, -0.5])
def test_a_negative_number_stands_in_parentheses(value: float) -> None:
    assert text_of(name("h") ** value) == f"(h ** ({value}))"
