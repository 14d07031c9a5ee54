"""The fuzzer's own parts: what it draws, how it judges, and what it says. No kernel is built."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import rnncc
from tests.support.catalogue import tool
from tests.support.fuzz.calls import RandomCall, Setting, random_call, random_leaves
from tests.support.fuzz.cells import RandomCell
from tests.support.fuzz.draw import random_cell
from tests.support.fuzz.judge import Question, error_of, judge
from tests.support.fuzz.layers import random_form
from tests.support.fuzz.loop import Probe, by_loop
from tests.support.fuzz.several import SEVERAL
from tests.support.fuzz.shrink import shrink
from tests.support.fuzz.tree import Evaluation, Node, apply, name, nodes, text_of
from tests.support.fuzz.widen import widened

CELLS = 200
NOT_FUNCTIONS = {
    "dot",
    "vector",
    "mean",
    "shift",
    "cell",
    "compile",
    "constant",
    "normal",
    "spaced",
    "uniform",
}


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


def test_vectors_delays_and_learned_starts_are_drawn() -> None:
    wide = [widened(f"unit/{i}", c, 1.0) for i, c in enumerate(cells()[:60])]
    drawn = {n.op for c in wide for body in c.bodies for n in nodes(body)}
    assert drawn >= SEVERAL
    arguments = [a for c in wide for a in c.arguments]
    assert {(a.kind, len(a.size)) for a in arguments if a.size} == {
        *(("state", 1), ("input", 1), ("param", 1), ("param", 2))
    }
    assert {a.learned for a in arguments} == {"", "own", "shared"}
    assert any(a.delay for a in arguments)
    assert any(a.delay and a.size and a.learned for a in arguments)
    assert any(c.shapes[o] for c in wide for o in c.outputs)
    some = [widened(f"unit/{i}", c) for i, c in enumerate(cells())]
    assert 0.2 < sum(c is not plain for c, plain in zip(some, cells(), strict=True)) / CELLS < 0.6


def test_layers_of_every_form_are_drawn() -> None:
    setting = Setting("float32", "-O0", False)
    wide = [widened(f"unit/{i}", c) for i, c in enumerate(cells())]
    forms = [random_form(c, random_call(f"unit/{i}", c, setting, 1000)) for i, c in enumerate(wide)]
    for field in ("projected", "both", "batch_first"):
        assert {getattr(form, field) for form in forms} == {True, False}
    assert {form.levels for form in forms} == {1, 2, 3}


def test_the_text_of_an_operation_on_vectors_has_its_value() -> None:
    h, a = name("h"), name("a")
    mixed = Node("matvec", (h,), ((1, 2), (0.5, 0)))
    tree = Node("dot", (mixed * a, Node("turned", (h,)))) + Node("ago", (name("d"),), 2)
    one, two, three = (torch.tensor([v], dtype=torch.float64) for v in (0.5, -2.0, 3.0))
    values = {"h": (one, two), "a": (three, one), "d.ago(2)": three}
    assert text_of(tree) == "(dot((([[1, 2], [0.5, 0]] @ h) * a), h[::-1]) + d.ago(2))"
    found = Evaluation(torch.float64, 1)(tree, values)
    assert float(found) == (0.5 - 4) * 3 * -2 + 0.25 * 0.5 * 0.5 + 3


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

    loop = lambda own, probe: by_loop(gru, call, own, probe=probe)  # noqa: E731
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

    def chaotic(own: dict[str, Tensor], probe: Probe | None = None) -> dict[str, Tensor]:
        found = plain.loop(own, probe)
        return {n: (v * 1e9).sin() if n == h else v for n, v in found.items()}

    def rounded(own: dict[str, Tensor]) -> dict[str, Tensor]:
        return chaotic({n: t * (1 + 1e-14) for n, t in own.items()})

    assert judge(dataclasses.replace(plain, loop=chaotic, kernel=rounded)).state == "unsteady"


def test_a_gradient_below_the_normal_numbers_has_fewer_digits() -> None:
    expected = torch.tensor([2.4e-43, 3.4e-137], dtype=torch.float64)
    got = torch.tensor([2.45e-43, -2.8e-45])
    assert error_of("gradient of h", got, expected, torch.float32) < 0.01
    assert error_of("gradient of h", got * 1e6, expected * 1e6, torch.float32) > 10


def test_a_rough_loop_errs_to_one_side_as_an_approximation_does() -> None:
    x = torch.full((1000,), 0.3, dtype=torch.float64)
    for op in ("erf", "tanh", "add"):
        evaluation = Evaluation(torch.float64, 1, rough=torch.Generator().manual_seed(1), unit=1e-6)
        exact = apply(op, name("x"), *([1.0] if op == "add" else []))
        value = evaluation(exact, {"x": x})
        off = (value / Evaluation(torch.float64, 1)(exact, {"x": x}) - 1).mean().abs()
        assert bool(off > 2e-6) is (op != "add"), op


def test_a_spike_of_nan_is_near_a_jump() -> None:
    evaluation = Evaluation(torch.float64, 1, margin=1.0)
    evaluation(Node("spike", (name("x"),), ("atan", 2.0)), {"x": torch.tensor([torch.nan])})
    assert evaluation.margin == 0.0


def test_in_half_precision_no_input_is_expanded() -> None:
    setting = Setting("bfloat16", "-O0", False)
    calls = [random_call(f"unit/{i}", c, setting, 1000) for i, c in enumerate(cells())]
    assert not {"one step", "one batch", "expanded"} & {
        layout for call in calls for layout in call.layouts.values()
    }


def test_a_failing_cell_shrinks_to_what_fails() -> None:
    cell = next(c for c in cells() if any(n.op == "erf" for b in c.bodies for n in nodes(b)))
    call = random_call("unit", cell, Setting("float32", "-O0", False), 1000)

    def fails(cell: RandomCell, call: RandomCall) -> bool:
        return any(n.op == "erf" for body in cell.bodies for n in nodes(body))

    smaller, small = shrink(cell, call, fails)
    assert sum(1 for body in smaller.bodies for _ in nodes(body)) <= len(smaller.arguments) + 2
    assert (small.steps, small.options.keys() - {"solver"}) == (1, set())


@pytest.mark.parametrize("value", [-2, -0.5])
def test_a_negative_number_stands_in_parentheses(value: float) -> None:
    assert text_of(name("h") ** value) == f"(h ** ({value}))"


# --- the tool --------------------------------------------------------------------------------

FUZZ = tool("fuzz")
WRONG = {"kind": "wrong", "what": "call", "text": "got 1, expected 2", "cell": "def f", "call": {}}


def run_tool(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str, odd: int = -1
) -> tuple[int, str]:
    """With a stand-in for the processes that run cases; the case `odd` is a disagreement."""

    def run(worker: Any, case: int) -> dict[str, Any]:
        return {"findings": [WRONG] if case == odd else [], "verdicts": {"right": 3}}

    monkeypatch.setattr(FUZZ.Worker, "run", run)
    monkeypatch.setattr("sys.argv", ["fuzz", *words])
    code = FUZZ.main()
    return code, capsys.readouterr().out


def test_a_run_prints_its_seed_and_ends_with_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = run_tool(monkeypatch, capsys, "--cells", "5", "--seed", "s1")
    assert code == 0
    assert out.startswith("fuzz: seed s1, ")
    assert "5 cells, 15 runs (15 right), 0 disagreements" in out


def test_a_disagreement_is_told_with_the_command_that_repeats_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = run_tool(monkeypatch, capsys, "--cells", "5", "--seed", "s1", odd=3)
    assert code == 1
    assert "--- disagreement 1: case 3, wrong: call\ndef f\ncall: {}\ngot 1, expected 2\n" in out
    assert "once more: make fuzz SEED=s1 CASE=3" in out


def test_a_case_that_ends_its_process_is_a_disagreement(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = FUZZ.Worker("s1", "")
    dead = subprocess.Popen(
        [sys.executable, "-c", "import os; input(); os.abort()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    worker.process, worker.left = dead, 2
    answer = worker.run(0)
    assert answer["verdicts"] == {"dies": 1}
    assert "the process died" in answer["findings"][0]["text"]
    assert worker.process is None
    assert dead.stdin is not None
    assert dead.stdout is not None
    dead.stdin.close()
    dead.stdout.close()
