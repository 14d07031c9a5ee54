"""A cell's signature: every refusal word for word, with its fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from rnncc.errors import RnnccError
from rnncc.lang import signature
from tests.support.cells import DEF_LINE
from tests.support.refusals import (
    BODY,
    NAMES,
    Case,
    bad_argument,
    compile_case,
    message_of,
    missed,
)

ROLES = "Each argument is a State, an Input, a Param, a Matrix, or has a numeric default."
BLOCK = "block is the number of consecutive channels that the Matrix mixes, an int >= 1."
DRAWN = (
    "Every value that can be drawn must be finite "
    "(a normal is checked to 6 deviations from its mean)."
)


def bad_block(block: str) -> Case:
    signature = f"h: State, x: Input, R: Matrix(block={block})"
    seen = f"'R' is a Matrix with block={block}"
    return bad_argument(seen, BLOCK, "block=2, 4 or 8", signature, "return R @ h + x")


def bad_init(seen: str, signature: str, role: str = "Param") -> Case:
    if role == "State":
        expected, fix = "The init of a State must be a finite number.", "State(init=0.0)"
    else:
        expected = "init= takes uniform, normal, constant or spaced, with finite numbers."
        fix = "init=uniform(-1, 1)"
    return bad_argument(seen, expected, fix, signature)


SIGNATURES = {
    "a size that is no number": bad_argument(
        "'h' has size=0",
        "size is a whole number from 1 to 4096, or a tuple of them, or the name of a constant of "
        "the cell that is one.",
        "State(size=4)",
        "h: State(size=0), x: Input, a: Param",
    ),
    "a leading underscore": bad_argument(
        "the argument '_a' begins with an underscore",
        "Arguments are given to the layer and its functions by name.",
        "rename it, for example 'a_2'",
        "h: State, x: Input, a: Param, _a: Param",
        "return h * _a + x * a",
    ),
    "an option as an argument": bad_argument(
        "the argument 'reset' has the name of an option",
        "The generated function has the options "
        "checkpoint, cu_seqlens, h0, iterations, lengths, observe, on_failure, reset, "
        "return_state, return_states, reverse, segment, solver, tol.",
        "rename it, for example 'reset_'",
        "h: State, x: Input, reset: Input",
        "return h * reset + x",
    ),
    "a layer's argument as a shared input": bad_argument(
        "the input 'x' is given to a layer by name, and has that of a layer's argument",
        "A layer takes it beside its own x, state, self.",
        "rename it, for example 'x_'",
        "h: State, x: Input(shared=True)",
        "return h * x",
    ),
    "a layer's argument as a given input of each channel": bad_argument(
        "the input 'state' is given to a layer by name, and has that of a layer's argument",
        "A layer takes it beside its own x, state, self.",
        "rename it, for example 'state_'",
        "h: State, state: Input(projected=False)",
        "return h * state",
    ),
    "*args": bad_argument(
        "the signature has *rest",
        "Each argument has a name and a role.",
        "write every argument out",
        "h: State, x: Input, *rest",
        "return h + x",
    ),
    "**kwargs": bad_argument(
        "the signature has *rest",
        "Each argument has a name and a role.",
        "write every argument out",
        "h: State, x: Input, **rest",
        "return h + x",
    ),
    "no role": bad_argument(
        "the argument 'a' has no role",
        ROLES,
        "a: Input (or State, Param, Matrix(block=k))",
        "h: State, x: Input, a",
    ),
    "self": bad_argument(
        "the argument 'self' has no role",
        ROLES,
        "@staticmethod above @cell, or a function outside the class, without self: "
        "def odd(h: State, x: Input, a: Param):",
        "self, h: State, x: Input, a: Param",
    ),
    "another role": bad_argument(
        "the argument 'a' has the role <class 'float'>",
        ROLES,
        "a: Input (or State, Param, Matrix(block=k))",
        "h: State, x: Input, a: float",
    ),
    "a state with a default": bad_argument(
        "the argument 'h' has a role and a default",
        "A default makes an argument a compile-time constant.",
        "no default and State(init=0.5), or no role",
        "x: Input, h: State = 0.5",
        "return h + x",
    ),
    "an input with a default": bad_argument(
        "the argument 'x' has a role and a default",
        "A default makes an argument a compile-time constant.",
        "no default, or no role",
        "h: State, x: Input = 0.0",
        "return h + x",
    ),
    "a number for a param": bad_argument(
        "'a' has shared=0.5",
        "shared must be True or False.",
        "Param(init=constant(0.5))",
        "h: State, x: Input, a: Param(0.5)",
    ),
    "a word for a param": bad_argument(
        "'a' has shared='yes'",
        "shared must be True or False.",
        "Param(shared=True)",
        "h: State, x: Input, a: Param(shared='yes')",
    ),
    "a role and a default": bad_argument(
        "the argument 'a' has a role and a default",
        "A default makes an argument a compile-time constant.",
        "no default and Param(init=constant(0.5)), or no role",
        "h: State, x: Input, a: Param = 0.5",
    ),
    "no state": bad_argument(
        "it has no state",
        "A recurrence carries at least one State.",
        "annotate one: h: State",
        "h: Input, x: Input, a: Param",
    ),
    "no input": bad_argument(
        "it has no input",
        "The number of steps is that of the inputs, so there is at least one.",
        "annotate one: x: Input",
        "h: State, x: Param, a: Param",
    ),
    "a default that isn't a number": bad_argument(
        "the default of 'k' is 'two'",
        "A default makes an argument a compile-time constant, a finite number.",
        "a number, or no default and a role",
        "h: State, x: Input, k='two'",
        "return h * k + x",
    ),
    "a default that is NaN": bad_argument(
        "the default of 'k' is nan",
        "A default makes an argument a compile-time constant, a finite number.",
        "a number, or no default and a role",
        "h: State, x: Input, k=float('nan')",
        "return h * k + x",
    ),
    "a default beyond float64": bad_argument(
        "the default of 'k' is ~10**400",
        "A default makes an argument a compile-time constant, a finite number.",
        "a number, or no default and a role",
        "h: State, x: Input, k=10**400",
        "return h * k + x",
    ),
    "a start beyond float64": bad_init(
        "'h' has init=~10**5000", "h: State(init=10**5000), x: Input, a: Param", "State"
    ),
    "an annotation that fails": bad_argument(
        "an annotation can't be evaluated: NameError: name 'Nope' is not defined",
        "Annotations are State, Input, Param or Matrix, imported from rnncc.",
        "import what the annotations name at the top of the file",
        "h: State, x: Input, a: 'Nope'",
    ),
    "a block of 0": bad_block("0"),
    "a block that isn't an integer": bad_block("2.0"),
    "a block that is a bool": bad_block("True"),
    "an init that isn't a number": bad_init(
        "'h' has init='zero'", "h: State(init='zero'), x: Input, a: Param", "State"
    ),
    "a start that is NaN": bad_init(
        "'h' has init=nan", "h: State(init=float('nan')), x: Input, a: Param", "State"
    ),
    "an init that is a number": bad_argument(
        "'a' has init=3",
        "init= takes uniform, normal, constant or spaced, with finite numbers.",
        "init=constant(3)",
        "h: State, x: Input, a: Param(init=3)",
    ),
    "a spaced matrix": bad_argument(
        "'R' has init=spaced(0, 1)",
        "init= takes uniform, normal or constant(...), with finite numbers.",
        "init=uniform(-1, 1)",
        "h: State, x: Input, R: Matrix(block=2, init=spaced(0, 1))",
        "return R @ h + x",
    ),
    "an init that is infinite at an end": bad_argument(
        "'a' has init=log(uniform(0, 1)), which can be nan",
        DRAWN,
        "narrow the range: log(uniform(0.1, 1)), not log(uniform(0, 1))",
        "h: State, x: Input, a: Param(init=log(uniform(0, 1)))",
    ),
    "an init that can be NaN far out": bad_argument(
        "'a' has init=sqrt(normal(1, 1)), which can be nan",
        DRAWN,
        "narrow the range: log(uniform(0.1, 1)), not log(uniform(0, 1))",
        "h: State, x: Input, a: Param(init=sqrt(normal(1, 1)))",
    ),
    "bounds in the wrong order": bad_argument(
        "'a' has init=uniform(1, -2)",
        "uniform(a, b) needs a <= b.",
        "init=uniform(-2, 1)",
        "h: State, x: Input, a: Param(init=uniform(1, -2))",
    ),
    "a deviation below 0": bad_argument(
        "'a' has init=exp(normal(1, -0.5))",
        "normal(mean, std) needs std >= 0.",
        "init=exp(normal(1, 0.5))",
        "h: State, x: Input, a: Param(init=exp(normal(1, -0.5)))",
    ),
    "a word for True": bad_argument(
        "'dt' has shared='yes'",
        "shared must be True or False.",
        "Input(shared=True)",
        "h: State, dt: Input(shared='yes'), a: Param",
        "return a * h + dt",
    ),
    "a bias that is a number": bad_argument(
        "'x' has bias=-1",
        "bias= takes uniform, normal, constant or spaced, with finite numbers.",
        "bias=constant(-1)",
        "h: State, x: Input(bias=-1), a: Param",
    ),
    "a bias of what is not projected": bad_argument(
        "'dt' has a bias, but is given to the layer by name, not projected",
        "bias= is the init of the projection's bias, so it needs a projected input.",
        "Input(projected=True, bias=...), with shared=True where it is, or no bias",
        "h: State, dt: Input(shared=True, bias=constant(1)), a: Param",
        "return a * h + dt",
    ),
    "typical values that are spaced": bad_argument(
        "'x' has typical=spaced(0, 1)",
        "typical= takes uniform, normal or constant(...), with finite numbers.",
        "typical=uniform(-1, 1)",
        "h: State, x: Input(typical=spaced(0, 1)), a: Param",
    ),
    "a bias of a given input of each channel": bad_argument(
        "'mask' has a bias, but is given to the layer by name, not projected",
        "bias= is the init of the projection's bias, so it needs a projected input.",
        "Input(projected=True, bias=...), with shared=True where it is, or no bias",
        "h: State, mask: Input(projected=False, bias=constant(1)), a: Param",
        "return a * h + mask",
    ),
    "projected by a number": bad_argument(
        "'x' has projected=1",
        "projected must be True or False.",
        "Input(projected=True)",
        "h: State, x: Input(projected=1), a: Param",
    ),
    "a cell with a reserved name": Case(
        "the cell's name is a reserved word of C++ or CUDA",
        NAMES,
        "rename the cell, for example 'union_'",
        line=DEF_LINE,
        name="union",
    ),
    "an unknown --set": Case(
        "'q' is given a value, but isn't a constant of the cell",
        "Its compile-time constants (arguments with a numeric default): k.",
        "name one of those, or give the argument a numeric default",
        "return h * k + x",
        "h: State, x: Input, k=2.0",
        line=DEF_LINE,
        set=(("q", 1.0),),
    ),
    "a constant for a cell without any": Case(
        "'slope' is given a value, but isn't a constant of the cell",
        "Its compile-time constants (arguments with a numeric default): none.",
        "leave it out, or write the argument with a default in the cell: slope=3.0",
        line=DEF_LINE,
        set=(("slope", 3.0),),
    ),
    "an option of a call, given to compile": Case(
        "'segment' is given a value, but isn't a constant of the cell",
        "Its compile-time constants (arguments with a numeric default): none.",
        "give it to the layer or the call: compile(...).layer(64, 64, segment=16)",
        line=DEF_LINE,
        set=(("segment", 16),),
    ),
    "a constant given as no number": Case(
        "'k' is given nan",
        "A default makes an argument a compile-time constant, a finite number.",
        "a number",
        "return h * k + x",
        "h: State, x: Input, k=2.0",
        line=DEF_LINE,
        set=(("k", float("nan")),),
    ),
    "a start that is drawn but not learned": bad_argument(
        "'h' has init=uniform(0, 1)",
        "The init of a State is a number, or a Param if it is learned.",
        "State(init=Param(init=uniform(0, 1)))",
        "h: State(init=uniform(0, 1)), x: Input, a: Param",
    ),
    "a learned start that can be infinite": bad_argument(
        "'h_init' has init=log(uniform(0, 1)), which can be nan",
        "Every value that can be drawn must be finite "
        "(a normal is checked to 6 deviations from its mean).",
        "narrow the range: log(uniform(0.1, 1)), not log(uniform(0, 1))",
        "h: State(init=Param(init=log(uniform(0, 1)))), x: Input, a: Param",
    ),
    "a spaced start that is shared": bad_argument(
        "'h_init' has init=spaced(0, 1)",
        "init= takes uniform, normal or constant(...), with finite numbers.",
        "init=uniform(-1, 1)",
        "h: State(init=Param(shared=True, init=spaced(0, 1))), x: Input, a: Param",
    ),
    "a matrix as a start": bad_argument(
        "'h' has init=Matrix(block=2, init=None)",
        "The init of a State must be a finite number.",
        "State(init=0.0)",
        "h: State(init=Matrix(block=2)), x: Input, a: Param",
    ),
    "an argument with the name of a learned start": bad_argument(
        "the argument 'h_init' has the name of the learned start of 'h'",
        "State(init=Param) on 'h' makes a param 'h_init'.",
        "rename the argument, for example 'h_init_'",
        "h: State(init=Param), x: Input, h_init: Param",
        "return h_init * h + x",
    ),
    "a --set that isn't a number": bad_argument(
        "the default of 'k' is True",
        "A default makes an argument a compile-time constant, a finite number.",
        "a number, or no default and a role",
        "h: State, x: Input, k=True",
        "return h * k + x",
    ),
}


@pytest.mark.parametrize("case", SIGNATURES)
def test_a_signature_that_cannot_be_read_is_refused_with_reason_and_fix(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert message_of(SIGNATURES[case], tmp_path, monkeypatch) == SIGNATURES[case].text()


def test_all_faults_of_a_signature_are_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = "\n    h: State,\n    _i: Input,\n    a,\n    k='two',\n    *rest,\n"
    case = Case("", "", "", BODY, signature)
    message = message_of(case, tmp_path, monkeypatch)
    firsts = [part.splitlines()[0] for part in message.split("\n\n")]
    assert firsts == [
        f"odd.py:{DEF_LINE}: cell 'odd': the signature has *rest.",
        f"odd.py:{DEF_LINE + 2}: cell 'odd': the argument '_i' begins with an underscore.",
        f"odd.py:{DEF_LINE + 3}: cell 'odd': the argument 'a' has no role.",
        f"odd.py:{DEF_LINE + 4}: cell 'odd': the default of 'k' is 'two'.",
    ]


def test_every_place_that_reports_a_fault_has_a_case_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> None:
        for case in SIGNATURES.values():
            with pytest.raises(RnnccError):
                compile_case(case, tmp_path)

    assert missed((signature,), run, monkeypatch) == []
