"""Errors: every message of the front end and of a call, word for word, with its fix."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch

import rnncc
from rnncc import compiler, errors
from rnncc.calculus import structure
from rnncc.errors import (
    ArgumentError,
    CellError,
    ConvergenceError,
    LoadError,
    Problem,
    RnnccError,
    StructureError,
)
from rnncc.lang import dsl, signature, symbols, trace
from rnncc.lang import loader as find
from rnncc.nn import ops, sequences
from rnncc.planner import choices
from rnncc.runtime import call as calls
from rnncc.runtime import kernel
from rnncc.runtime.backend import registered
from rnncc.runtime.cpu import backend as cpu_backend
from rnncc.runtime.cpu.backend import CpuBackend, Functions
from rnncc.runtime.cuda import backend as cuda_backend
from tests.support.cells import BODY_LINE, DEF_LINE, SIGNATURE, cell_from, source_of
from tests.support.runs import compiled

BODY = "return a * h + x"
WITH_MATRIX = "h: State, x: Input, R: Matrix(block=2)"
NUMBERLESS = "A cell's body runs once on symbols, which have no number yet."
OWN_FUNCTIONS = "use rnncc's own functions (from rnncc import tanh, exp, ...) on symbols"
BRANCH = "A cell's body runs once on symbols, so Python can't branch on their values."
USE_WHERE = "where(condition, a, b); combine conditions with &, | and ~"
ONE_VALUE = "A symbol is one value of one channel."
BY_NAME = "name each state, input or parameter as an argument of its own"
NUMBER = "A constant inside a cell is a Python number; what has one value per channel is a Param."
FLOAT = "float(...) for a single number, or an argument annotated Param"
CONDITION = "A comparison is a condition, not a value."
NO_CONDITION = "where(condition, 1.0, 0.0), or spike(u) where a gradient shall pass"
MATRIX = "A Matrix mixes channels: R @ h, the matrix on the left."
FINITE = "Constants of a cell are finite numbers."
RAW = "The body runs once on symbols of rnncc."
RAW_FIX = "use rnncc's functions (from rnncc import tanh, where, ...) and Python numbers"
NAMES = "Names go unchanged into C++ and CUDA."
ONE_NAME = "A name stands for one value, here and in the emitted code."
PLAIN = "is not a plain ASCII name (letters, digits, single underscores, a letter first)"
ROLES = "Each argument is a State, an Input, a Param, a Matrix, or has a numeric default."
BLOCK = "block is how many consecutive channels it mixes."
ALONE = "A fused solver needs each channel, or each group of k channels, to stand alone."
WAYS_OUT = (
    "mix within groups with Matrix(block=k), k * states <= 8, "
    "or mix outside the cell (a Linear before or after it)"
)
REGISTERS = "A fused solver keeps each block in registers: channels x states <= 8."
SMALLER = "a smaller block, matrices of the same block, or fewer states"
UNUSED = "Every argument takes part in the recurrence or in an output."
PERIODIC = "sin and cos for what is periodic"


@dataclass(frozen=True)
class Case:
    """A cell that can't be compiled, and what is said of it."""

    seen: str
    expected: str
    fix: str
    body: str = BODY
    signature: str = SIGNATURE
    line: int = BODY_LINE
    before: str = ""
    set: tuple[tuple[str, float], ...] = ()
    name: str = "odd"

    def text(self) -> str:
        line = self.line + self.before.count("\n")
        expected = f"{self.expected}\n" if self.expected else ""
        return f"odd.py:{line}: cell '{self.name}': {self.seen}.\n{expected}Fix: {self.fix}"


def numberless(seen: str, body: str, before: str = "") -> Case:
    return Case(f"{seen} is applied to a symbol", NUMBERLESS, OWN_FUNCTIONS, body, before=before)


def branch(seen: str, body: str) -> Case:
    text = f"Python decides on '{seen}' (if, while, and, or, not)"
    return Case(text, BRANCH, USE_WHERE, body)


def operand(kind: str, body: str, before: str = "") -> Case:
    return Case(f"a {kind} meets a symbol", NUMBER, FLOAT, body, before=before)


def condition(body: str, line: int = BODY_LINE) -> Case:
    text = "the condition 'h > 0' is used as a number"
    return Case(text, CONDITION, NO_CONDITION, body, line=line)


def matrix(body: str) -> Case:
    fix = "R @ h, or annotate 'R' as Param for one value per channel"
    return Case("the Matrix 'R' is used without @", MATRIX, fix, body, WITH_MATRIX)


def raw(seen: str, body: str, fix: str = RAW_FIX, before: str = "", line: int = BODY_LINE) -> Case:
    return Case(seen, RAW, fix, body, before=before, line=line)


def bad_name(name: str, reason: str, suggestion: str) -> Case:
    return Case(
        f"the local name '{name}' {reason}",
        NAMES,
        f"rename it, for example '{suggestion}'",
        f"{name} = a * h\nreturn {name} + x",
    )


def bad_argument(seen: str, expected: str, fix: str, signature: str, body: str = BODY) -> Case:
    return Case(seen, expected, fix, body, signature, line=DEF_LINE)


def bad_block(block: str) -> Case:
    signature = f"h: State, x: Input, R: Matrix(block={block})"
    seen = f"'R' is a Matrix with block={block}"
    return bad_argument(seen, BLOCK, "block=2, 4 or 8", signature, "return R @ h + x")


def bad_init(seen: str, signature: str, role: str = "Param") -> Case:
    if role == "State":
        expected, fix = "The init of a State is a finite number.", "State(init=0.0)"
    else:
        expected = "It is uniform, normal, constant or spaced, of finite numbers."
        fix = "init=uniform(-1, 1)"
    return bad_argument(seen, expected, fix, signature)


def coupled(seen: str, body: str, signature: str = SIGNATURE, line: int = BODY_LINE) -> Case:
    return Case(f"channels couple: {seen}", ALONE, WAYS_OUT, body, signature, line=line)


TRACING = {
    # --- Python that wants a number ---
    "if": branch("h > 0", "if h > 0:\n    return x\nreturn a * h"),
    "while": branch("h > 0", "while h > 0:\n    pass\nreturn a * h + x"),
    "a conditional expression": branch("a*h", "return x if a * h else h"),
    "and": branch("h > 0", "return where(h > 0 and x > 0, a, h)"),
    "not": branch("h > 0", "return where(not h > 0, a, x)"),
    "a chained comparison": branch("h > 0", "return where(0 < h < 1, a, x)"),
    "assert": branch("h > 0", "assert h > 0\nreturn a * h + x"),
    "max": branch("x > h", "return max(h, x) * a"),
    "float": numberless("a function that wants a number (math.*, float)", "return float(h) * a"),
    "int": numberless("a function that wants a number (math.*, float)", "return int(h) * a"),
    "math.tanh": numberless(
        "a function that wants a number (math.*, float)",
        "return math.tanh(h) * a + x",
        before="import math\n",
    ),
    "range": numberless(
        "a function that wants a number (math.*, float)", "return sum(range(h)) * a + x"
    ),
    "torch.tanh": numberless("torch.tanh", "return torch.tanh(h) * a + x", "import torch\n"),
    "np.tanh": numberless("numpy.tanh", "return np.tanh(h) * a + x", "import numpy as np\n"),
    "np.asarray": numberless("NumPy", "return np.asarray(h) * a + x", "import numpy as np\n"),
    "len": Case("'h' is iterated over", ONE_VALUE, BY_NAME, "return len(h) * a"),
    "indexing": Case("'a*h' is iterated over", ONE_VALUE, BY_NAME, "return (a * h)[0] + x"),
    "unpacking": Case("'h' is iterated over", ONE_VALUE, BY_NAME, "u, v = h\nreturn u * a + x"),
    "an attribute": Case(
        "'.T' is asked of a symbol", "A symbol has no attributes.", OWN_FUNCTIONS, "return h.T * a"
    ),
    "a method": Case(
        "'.exp' is asked of a symbol",
        "A symbol has no attributes.",
        OWN_FUNCTIONS,
        "return h.exp() * a",
    ),
    # --- operands ---
    "a NumPy array": operand(
        "numpy.ndarray", "return np.array([1.0, 2.0]) * h + x * a", "import numpy as np\n"
    ),
    "a NumPy array on the right": operand(
        "numpy.ndarray", "return h * np.ones(2) + x * a", "import numpy as np\n"
    ),
    "a tensor": operand("torch.Tensor", "return h * torch.ones(2) + x * a", "import torch\n"),
    "a string": operand("str", "return h * 'two' + x * a"),
    "None": operand("NoneType", "return h * None + x * a"),
    "a bool": operand("bool", "return h * True + x * a"),
    "a complex": operand("complex", "return h * 1j + x * a"),
    "a list": operand("list", "return h + [1] + x * a"),
    "a number that mixes": Case(
        "a int meets a symbol", NUMBER, FLOAT, "return R @ 2 + h * x", WITH_MATRIX
    ),
    "a generator": operand("generator", "yield a * h + x", ""),
    "a returned string": operand("str", "return 'h'"),
    "a returned bool": operand("bool", "return {'h': a * h + x, 'y': True}"),
    "a function of a string": operand("str", "return exp('a') * h + x"),
    "infinity": Case(
        "the constant inf is not finite",
        FINITE,
        "a large finite number, such as 1e30",
        "return h * float('inf') + x * a",
    ),
    "NaN": Case(
        "the constant nan is not finite",
        FINITE,
        "a large finite number, such as 1e30",
        "return h * float('nan') + x * a",
    ),
    "division by zero": Case(
        "division by the constant 0", "", "divide by something else", "return h / 0.0 + x * a"
    ),
    "division by nothing": Case(
        "'h_next' is a*h + zoo*x",
        FINITE,
        "check the arithmetic on constants in this line",
        "return a * h + x / (h - h)",
    ),
    "overflow of constants": Case(
        "'h_next' is 1.0e+309*a*h + x",
        FINITE,
        "check the arithmetic on constants in this line",
        "return h * a * 1e308 * 10 + x",
    ),
    # --- operators ---
    "//": Case(
        "the operator // on 'h'",
        "rnncc has no derivative for it.",
        PERIODIC,
        "return h // 2 * a + x",
    ),
    "% on the right": Case(
        "the operator % on 'a*h'",
        "rnncc has no derivative for it.",
        PERIODIC,
        "return 2 % (a * h) + x",
    ),
    "@ without a matrix": Case(
        "the operator @ on 'h'",
        "Only a Matrix can stand on the left of @.",
        "R @ h with R: Matrix(block=k) mixes channels; a Param multiplies by *",
        "return h @ x * a",
    ),
    # --- conditions ---
    "a condition in a sum": condition("return (h > 0) + a * x"),
    "a condition in a product": condition("return a * x * (h > 0)"),
    "a named condition": condition("up = h > 0\nreturn up * a + x", BODY_LINE + 1),
    "a negative condition": condition("return -(h > 0) * a + x"),
    "the absolute of a condition": condition("return abs(h > 0) * a + x"),
    "a function of a condition": condition("return tanh(h > 0) * a + x"),
    "a choice of conditions": condition("return where(x > 0, h > 0, a)"),
    "a comparison of conditions": condition("return where((h > 0) == (x > 0), a, x)"),
    "a returned condition": condition("return {'h': a * h + x, 'y': h > 0}"),
    "where of a value": Case(
        "where is given 'h'",
        "Its first argument is a comparison.",
        "where(h > 0, a, b)",
        "return where(h, a, x)",
    ),
    "& of a value": Case(
        "'x' is combined with a condition",
        "& and | take comparisons on both sides.",
        "bracket each comparison: (h > 0) & (h < 1)",
        "return where((h > 0) & x, a, h)",
    ),
    # --- matrices ---
    "a matrix in a product": matrix("return R * h + x"),
    "a matrix in a sum": matrix("return h + x + R"),
    "a function of a matrix": matrix("return tanh(R) + h * x"),
    "a product of matrices": matrix("return R @ R + h * x"),
    "a matrix of a condition": Case(
        "the condition 'h > 0' is used as a number",
        CONDITION,
        NO_CONDITION,
        "return R @ (h > 0) + x",
        WITH_MATRIX,
    ),
    "a returned matrix": matrix("return R"),
    # --- spike ---
    "an unknown surrogate": Case(
        "spike has no surrogate 'relu'",
        "The surrogates are fast_sigmoid, atan, sigmoid, triangle.",
        "surrogate='fast_sigmoid'",
        "return spike(h, surrogate='relu') * a + x",
    ),
    "a slope that is a symbol": Case(
        "spike's slope is a symbol",
        "The slope is a compile-time number.",
        "give the cell an argument with a numeric default: slope=25.0",
        "return spike(h, slope=a) + x",
    ),
    # --- the author's own exceptions ---
    "an unknown function": raw(
        "NameError: name 'swish' is not defined",
        "u = a * h\nreturn swish(u) + x",
        "define the name, or import the function from rnncc",
        line=BODY_LINE + 1,
    ),
    "a missing argument": raw(
        "TypeError: tanh() missing 1 required positional argument: 'x'", "return tanh() * a"
    ),
    "an exception in a helper": raw(
        "ValueError: mine",
        "return bad(h) * a + x",
        before="def bad(v):\n    raise ValueError('mine')\n",
    ),
    "recursion without end": raw(
        "RecursionError: maximum recursion depth exceeded",
        "return deep(h) * a + x",
        before="def deep(v):\n    return deep(v) + 1\n",
    ),
    "overflow at compile time": raw("OverflowError: math range error", "return exp(1000) * h + x"),
    "an integer too large": raw(
        "OverflowError: int too large to convert to float", "return h * 10**400 + x"
    ),
    "a shift by a symbol": numberless(
        "a function that wants a number (math.*, float)", "return shift(h, x) * a"
    ),
    "another cell": Case(
        "calls the cell 'other'",
        "A cell can't run inside another cell.",
        "make 'other' a plain Python function (without @cell) and call that",
        "return other(h, x)",
        before="@cell\ndef other(h: State, x: Input):\n    return h + x\n",
    ),
    "itself": Case(
        "calls the cell 'odd'",
        "A cell can't run inside another cell.",
        "make 'odd' a plain Python function (without @cell) and call that",
        "return odd(h, x, a)",
    ),
    # --- names ---
    "a C++ keyword": bad_name("double", "is a reserved word of C++ or CUDA", "double_"),
    "a CUDA name": bad_name("threadIdx", "is a reserved word of C++ or CUDA", "threadIdx_"),
    "a macro of C": bad_name("NULL", "is a reserved word of C++ or CUDA", "NULL_"),
    "a function's name": bad_name("tanh", "is the name of a function of rnncc", "tanh_"),
    "a letter outside ASCII": bad_name("für", PLAIN, "für_"),
    "a leading underscore": bad_name("_u", PLAIN, "u_"),
    "a double underscore": bad_name("u__v", PLAIN, "u__v_"),
    "rnncc's prefix": bad_name("RNNCC_u", "starts with RNNCC, which is rnncc's own", "RNNCC_u_"),
    "a name used twice": Case(
        "'u' is assigned again (first in line 7)",
        ONE_NAME,
        "give the second value its own name, for example u_new",
        "u = a * h\nu = u + x\nreturn u",
        line=BODY_LINE + 1,
    ),
    "an augmented assignment": Case(
        "'u' is assigned again (first in line 7)",
        ONE_NAME,
        "give the second value its own name, for example u_new",
        "u = a * h\nu += x\nreturn u",
        line=BODY_LINE + 1,
    ),
    "an argument assigned": Case(
        "'h' is assigned again (first in the signature)",
        ONE_NAME,
        "give the second value its own name, for example h_new",
        "h = a * h + x\nreturn h",
    ),
    "an argument that becomes another": Case(
        "'x' is assigned again (first in the signature)",
        ONE_NAME,
        "give the second value its own name, for example x_new",
        "u = a * x\nx = h\nreturn u + x",
        line=BODY_LINE + 1,
    ),
    "a let in a loop": Case(
        "'u' is assigned again (first in line 8)",
        ONE_NAME,
        "give the second value its own name, for example u_new",
        "for q in (h, x):\n    u = q * a\nreturn u",
        line=BODY_LINE + 1,
    ),
    "a taken name for a result": Case(
        "the returned 'h' needs the name 'h_next', which is taken",
        "An unnamed next value of a state h is called h_next, an output by its key.",
        "return a named value, or rename 'h_next'",
        "h_next = a * h\nreturn h_next + x",
    ),
    # --- the return ---
    "a state never assigned": Case(
        "the state 'h' is never assigned",
        "The returned dict has the keys y.",
        'return {"h": ..., ...} with the next value of every state',
        "return {'y': a * h + x}",
    ),
    "an empty dict": Case(
        "the state 'h' is never assigned",
        "The returned dict has the keys none.",
        'return {"h": ..., ...} with the next value of every state',
        "u = a * h + x\nreturn {}",
        line=BODY_LINE + 1,
    ),
    "no return": Case(
        "it returns 0 values for 1 state",
        "The states are h, in this order.",
        "return h_new, or a dict where outputs are returned besides",
        "u = a * h + x",
    ),
    "too many values": Case(
        "it returns 2 values for 1 state",
        "The states are h, in this order.",
        "return h_new, or a dict where outputs are returned besides",
        "return a * h, x",
    ),
    "too few values": Case(
        "it returns 1 value for 2 states",
        "The states are h, g, in this order.",
        "return h_new, g_new, or a dict where outputs are returned besides",
        "return h * g + x",
        "h: State, g: State, x: Input",
    ),
    "a key that is no string": Case(
        "the returned dict has the key 3",
        "Keys are names of states or of outputs.",
        'return {"h": ..., "y": ...}',
        "return {'h': a * h + x, 3: x}",
    ),
    "a key that is a keyword": Case(
        "the returned key 'class' is a reserved word of C++ or CUDA",
        NAMES,
        'rename it, for example "y"',
        "return {'h': a * h + x, 'class': x}",
    ),
    "a key with a space": Case(
        f"the returned key 'y z' {PLAIN}",
        NAMES,
        'rename it, for example "y"',
        "return {'h': a * h + x, 'y z': x}",
    ),
    # --- the signature ---
    "an unused argument": bad_argument(
        "the argument 'a' is not used", UNUSED, "use it or remove it", SIGNATURE, "return h + x"
    ),
    "an argument that cancels": bad_argument(
        "the argument 'a' is not used",
        UNUSED,
        "use it or remove it",
        SIGNATURE,
        "return h + x + a - a",
    ),
    "an argument that only a dropped let uses": bad_argument(
        "the argument 'a' is not used",
        UNUSED,
        "use it or remove it",
        SIGNATURE,
        "u = tanh(a)\nreturn h + x",
    ),
    "a keyword as an argument": bad_argument(
        "the argument 'float' is a reserved word of C++ or CUDA",
        NAMES,
        "rename it, for example 'float_'",
        "h: State, x: Input, float: Param",
        "return h * float + x",
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
        "the shared argument 'x' has the name of an argument of the layer",
        "A layer takes shared inputs by name, beside its own state, x.",
        "rename it, for example 'x_'",
        "h: State, x: Input(shared=True)",
        "return h * x",
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
    "another role": bad_argument(
        "the argument 'a' has the role <class 'float'>",
        ROLES,
        "a: Input (or State, Param, Matrix(block=k))",
        "h: State, x: Input, a: float",
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
        "The inputs say how many steps there are.",
        "annotate one: x: Input",
        "h: State, x: Param, a: Param",
    ),
    "a default that is no number": bad_argument(
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
    "an annotation that fails": bad_argument(
        "an annotation can't be evaluated: NameError: name 'Nope' is not defined",
        "Annotations are State, Input, Param or Matrix, imported from rnncc.",
        "import what the annotations name at the top of the file",
        "h: State, x: Input, a: 'Nope'",
    ),
    "a block of 0": bad_block("0"),
    "a block that is no integer": bad_block("2.0"),
    "a block that is a bool": bad_block("True"),
    "a start that is no number": bad_init(
        "'h' has init='zero'", "h: State(init='zero'), x: Input, a: Param", "State"
    ),
    "a start that is NaN": bad_init(
        "'h' has init=nan", "h: State(init=float('nan')), x: Input, a: Param", "State"
    ),
    "an init that is a number": bad_init("'a' has init=3", "h: State, x: Input, a: Param(init=3)"),
    "a spaced matrix": bad_argument(
        "'R' has init=spaced(0, 1)",
        "It is uniform, normal or constant(...), of finite numbers.",
        "init=uniform(-1, 1)",
        "h: State, x: Input, R: Matrix(block=2, init=spaced(0, 1))",
        "return R @ h + x",
    ),
    "an init that is infinite at an end": bad_argument(
        "'a' has init=log(uniform(0, 1)), which can be nan",
        "It is finite wherever it can be drawn, up to 6 deviations from a normal's mean.",
        "narrow the range: log(uniform(0.1, 1)), not log(uniform(0, 1))",
        "h: State, x: Input, a: Param(init=log(uniform(0, 1)))",
    ),
    "an init that can be NaN far out": bad_argument(
        "'a' has init=sqrt(normal(1, 1)), which can be nan",
        "It is finite wherever it can be drawn, up to 6 deviations from a normal's mean.",
        "narrow the range: log(uniform(0.1, 1)), not log(uniform(0, 1))",
        "h: State, x: Input, a: Param(init=sqrt(normal(1, 1)))",
    ),
    "bounds in the wrong order": bad_argument(
        "'a' has init=uniform(1, -1)",
        "It is uniform from the lower bound to the upper, or normal with a deviation >= 0.",
        "init=uniform(-1, 1)",
        "h: State, x: Input, a: Param(init=uniform(1, -1))",
    ),
    "a word for True": bad_argument(
        "'dt' has shared='yes'",
        "It is True or False.",
        "Input(shared=True)",
        "h: State, dt: Input(shared='yes'), a: Param",
        "return a * h + dt",
    ),
    "a bias that is a number": bad_argument(
        "'x' has bias=-1",
        "It is uniform, normal, constant or spaced, of finite numbers.",
        "bias=uniform(-1, 1)",
        "h: State, x: Input(bias=-1), a: Param",
    ),
    "a bias of what is not projected": bad_argument(
        "'dt' has a bias, but is given to a layer, not projected",
        "A bias is that of the layer's projection.",
        "Input(shared=True, projected=True, bias=...), or no bias",
        "h: State, dt: Input(shared=True, bias=constant(1)), a: Param",
        "return a * h + dt",
    ),
    "typical values that are spaced": bad_argument(
        "'x' has typical=spaced(0, 1)",
        "It is uniform, normal or constant(...), of finite numbers.",
        "typical=uniform(-1, 1)",
        "h: State, x: Input(typical=spaced(0, 1)), a: Param",
    ),
    "projected without shared": bad_argument(
        "'x' has projected=True without shared=True",
        "A layer always projects an input that each channel has of its own.",
        "Input, or Input(shared=True, projected=True)",
        "h: State, x: Input(projected=True), a: Param",
    ),
    "a cell with a reserved name": Case(
        "its name is a reserved word of C++ or CUDA",
        "The name goes into C++ and CUDA.",
        "rename the cell",
        line=DEF_LINE,
        name="union",
    ),
    "an unknown --set": Case(
        "--set names 'q', which is no constant of the cell",
        "Its compile-time constants (arguments with a numeric default): k.",
        "name one of those, or give the argument a numeric default",
        "return h * k + x",
        "h: State, x: Input, k=2.0",
        line=DEF_LINE,
        set=(("q", 1.0),),
    ),
    "a --set that is no number": bad_argument(
        "the default of 'k' is True",
        "A default makes an argument a compile-time constant, a finite number.",
        "a number, or no default and a role",
        "h: State, x: Input, k=True",
        "return h * k + x",
    ),
}

STRUCTURE = {
    "a dense matrix": coupled(
        "d h[0] / d h[1] = R[0, 1]*(1 - u[0]**2)",
        "u = tanh(R @ h)\nreturn u + x",
        "h: State, x: Input, R: Matrix",
    ),
    "a shift": coupled("d h[1] / d h[0] = a[1]*x[1]", "return a * x * shift(h, 1)"),
    "a shift back": coupled("d h[0] / d h[1] = a[0]*x[0]", "return a * x * shift(h, -1)"),
    "a mean": coupled("d h[0] / d h[1] = a[0]*x[0]/3", "return a * x * mean(h)"),
    "a mean in a let": coupled(
        "d h[0] / d h[1] = a[0]/3",
        "u = mean(h)  # over channels\nreturn a * u + x",
    ),
    "a shift of an input": coupled("h_next = a*h + shift(x, 1)", "return a * h + shift(x, 1)"),
    "a far shift": coupled("h_next = a*h*x + shift(h, 90)", "return shift(h, 90) + a * h * x"),
    "a dense matrix of an input": coupled(
        "u = (R @ x)", "u = R @ x\nreturn h + u", "h: State, x: Input, R: Matrix"
    ),
    "a block too large": Case(
        "groups of 16 channels (R: block=16) with 1 state give blocks of 16",
        REGISTERS,
        SMALLER,
        "u = a * h\nreturn R @ u + x",
        "h: State, x: Input, a: Param, R: Matrix(block=16)",
        line=BODY_LINE + 1,
    ),
    "blocks that don't fit each other": Case(
        "groups of 6 channels (R: block=2, Q: block=3) with 2 states give blocks of 12",
        REGISTERS,
        SMALLER,
        "return R @ h + x, Q @ g",
        "h: State, g: State, x: Input, R: Matrix(block=2), Q: Matrix(block=3)",
    ),
    "too many states": Case(
        "9 states give blocks of 9",
        REGISTERS,
        SMALLER,
        "return b, c, d, e, f, g, h, i, a + x",
        "a: State, b: State, c: State, d: State, e: State, f: State, g: State, "
        "h: State, i: State, x: Input",
        line=DEF_LINE,
    ),
}  # fmt: skip


def compile_case(case: Case, folder: Path) -> None:
    source = source_of(case.body, case.signature, case.before, case.name)
    rnncc.compile(cell_from(folder, source), **dict(case.set))


def message_of(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The whole message, with paths relative to the cell's folder."""
    monkeypatch.chdir(folder)
    with pytest.raises((CellError, StructureError)) as caught:
        compile_case(case, folder)
    return str(caught.value)


@pytest.mark.parametrize("case", TRACING)
def test_what_cannot_be_traced_is_said_with_line_reason_and_fix(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert message_of(TRACING[case], tmp_path, monkeypatch) == TRACING[case].text()


@pytest.mark.parametrize("case", STRUCTURE)
def test_channels_that_couple_are_refused_with_a_witness(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert message_of(STRUCTURE[case], tmp_path, monkeypatch) == STRUCTURE[case].text()


# --- several at once -------------------------------------------------------------------------


def test_all_faults_of_a_signature_are_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = "\n    h: State,\n    int: Input,\n    a,\n    k='two',\n    *rest,\n"
    case = Case("", "", "", BODY, signature)
    message = message_of(case, tmp_path, monkeypatch)
    firsts = [part.splitlines()[0] for part in message.split("\n\n")]
    assert firsts == [
        f"odd.py:{DEF_LINE}: cell 'odd': the signature has *rest.",
        f"odd.py:{DEF_LINE + 2}: cell 'odd': the argument 'int' is a reserved word of C++ or CUDA.",
        f"odd.py:{DEF_LINE + 3}: cell 'odd': the argument 'a' has no role.",
        f"odd.py:{DEF_LINE + 4}: cell 'odd': the default of 'k' is 'two'.",
    ]


def test_all_unused_arguments_are_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case("", "", "", "return h + x", "h: State, x: Input, a: Param, b: Param")
    message = message_of(case, tmp_path, monkeypatch)
    assert [f"'{name}' is not used" in message for name in "hxab"] == [False, False, True, True]


def test_a_name_assigned_in_a_loop_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case("", "", "", "for k in range(4):\n    u = a * h * k\nreturn u + x")
    assert message_of(case, tmp_path, monkeypatch).count("is assigned again") == 1


def test_the_line_is_the_cells_own_even_when_a_helper_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = "def deep(v):\n    return deeper(v)\ndef deeper(v):\n    return 1 if v else 2\n"
    case = Case("", "", "", "u = a * h\nreturn (\n    u\n    + deep(x)\n)", before=helper)
    message = message_of(case, tmp_path, monkeypatch)
    assert message.startswith(f"odd.py:{BODY_LINE + 4 + 3}: cell 'odd': Python decides on 'x'")


def test_a_path_outside_the_working_directory_is_shown_whole(tmp_path: Path) -> None:
    with pytest.raises(CellError) as caught:
        compile_case(Case("", "", "", "return h + x"), tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/odd.py:{DEF_LINE}: cell 'odd': ")


# --- files and names -------------------------------------------------------------------------


def load_cases(folder: Path) -> dict[str, tuple[str, str]]:
    """What is asked for, and the message."""
    one, none, several = folder / "one.py", folder / "none.py", folder / "several.py"
    one.write_text(source_of(BODY))
    none.write_text("x = 1\n")
    several.write_text(source_of(BODY, name="first") + source_of(BODY, name="second"))
    (folder / "note.txt").write_text("text")
    (folder / "made").mkdir()
    (folder / "made" / "cell.json").write_text("{}")
    (folder / "made" / "__init__.py").write_text("")
    generated = (
        "was generated by rnncc; it is the result, not the cell.\n"
        "Fix: name the file of the cell, such as cells/made.py; import the result from Python"
    )
    lists = "`rnncc list` shows what ships, `rnncc new NAME` starts a cell"
    missing = "no such file, and no cell of that name ships.\nFix: "
    return {
        "no cell": (
            "none.py",
            "none.py: holds no cell.\n"
            "Fix: put @cell (from rnncc import cell) above a function of the module",
        ),
        "several cells": (
            "several.py",
            "several.py: holds several cells: first, second.\nFix: name one, several.py:first",
        ),
        "not in the file": (
            "several.py:third",
            "several.py: holds no cell 'third', but first, second.\nFix: name one of those",
        ),
        "nothing after the colon": (
            "one.py:",
            "'one.py:': names no cell after the colon.\n"
            "Fix: one.py, or one.py:NAME for one of several",
        ),
        "a folder": ("made/..", "made/..: is a folder.\nFix: name a file in it: made/../NAME.py"),
        "a generated folder": ("made", f"made: {generated}"),
        "a generated file": ("made/__init__.py", f"made/__init__.py: {generated}"),
        "a misspelt name": ("para_grru", f"para_grru: {missing}did you mean 'para_gru'? {lists}"),
        "nothing alike": ("xyzzy", f"xyzzy: {missing}{lists}"),
        "nothing": ("", f"'': {missing}{lists}"),
        "no Python file": (
            "note.txt",
            f"{folder}/note.txt: is no Python file.\nFix: a cell lies in a file NAME.py",
        ),
    }


def test_what_cannot_be_found_is_said_with_a_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for where, message in load_cases(tmp_path).values():
        with pytest.raises(LoadError) as caught:
            find.find(where)
        assert str(caught.value) == message


RUN_FIX = "Fix: correct that line; `rnncc new NAME` shows a cell that works"


@pytest.mark.parametrize(
    ("text", "line", "seen"),
    [
        ("import rnncc\nx = 1 / 0\n", 2, "ZeroDivisionError: division by zero"),
        ("def f(:\n", 1, "SyntaxError: invalid syntax"),
        ("x = 1\nraise SystemExit('no')\n", 2, "SystemExit: no"),
        (
            "from rnncc import State, cell\n@cell\ndef f(h: State(first=1)):\n    return h\n",
            3,
            "TypeError: State.__init__() got an unexpected keyword argument 'first'",
        ),
    ],
)
def test_a_file_that_does_not_run_is_an_error_at_its_line(
    text: str, line: int, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(CellError) as caught:
        find.find("broken.py")
    expected = f"broken.py:{line}: cell 'broken': the file does not run: {seen}.\n{RUN_FIX}"
    assert str(caught.value) == expected


def test_compiling_a_plain_function_says_what_is_missing() -> None:
    def plain() -> None: ...

    with pytest.raises(ArgumentError) as caught:
        rnncc.compile(plain)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "cell: got function, expected a function under @cell.\n"
        "Fix: put @cell (from rnncc import cell) above it"
    )


# --- the errors themselves -------------------------------------------------------------------


def test_every_error_is_an_rnncc_error() -> None:
    classes = [
        c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)
    ]
    assert len(classes) >= 6
    assert all(issubclass(c, RnnccError) for c in classes)
    assert issubclass(ArgumentError, ValueError)


def test_a_problem_reported_twice_is_told_once() -> None:
    problem = Problem("f.py", 3, "c", "seen", "expected", "fix")
    assert str(CellError([problem, problem])) == "f.py:3: cell 'c': seen.\nexpected\nFix: fix"


def test_a_symbol_used_outside_its_cell_says_so(tmp_path: Path) -> None:
    kept = "kept = []\n"
    cell = cell_from(tmp_path, source_of("kept.append(h)\nreturn a * h + x", before=kept))
    trace.trace(cell)
    symbol = cell.function.__globals__["kept"][0]
    with pytest.raises(RuntimeError, match="used outside the trace of its cell: Python decides"):
        bool(symbol)


# --- at run time -----------------------------------------------------------------------------

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


SUM_IT = "torch.cumsum of the lengths, with a 0 in front"
FROM_0 = "torch.cumsum of the lengths, a 0 in front"
RISING = "expected rising ones from 0 to 5, the steps of the inputs"

RUN_TIME: dict[str, tuple[Callable[[], Any], type[Exception], str, str]] = {
    "an unknown solver": (
        lambda: gru(solver="deer"),
        ArgumentError,
        "solver: got 'deer', expected one of auto, sequential, segmented, newton",
        "solver='auto'",
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
    "a direction that is no bool": (
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
        "cu_seqlens: got [0], which is no sequence, for 5 steps, expected the total last",
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
        "reset: got int64, expected a bool tensor [2, 5], true where the state starts anew",
        "reset.bool()",
    ),
    "a mask that is no tensor": (
        lambda: gru(reset=[True]),
        ArgumentError,
        "reset: got list, expected a bool tensor [2, 5], true where the state starts anew",
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
        "solver='auto', which is exact; or iterations=, tol=, on_failure='sequential'",
    ),
    "a second derivative": (
        derived_twice,
        NotImplementedError,
        "rnncc has first derivatives only; gradients of gradients (create_graph=True and a "
        "second backward) are not there",
        "the plain loop, rnncc show NAME --stage torch",
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
        "write it again with rnncc compile",
    ),
    "more steps than a GPU's kernels count": (
        too_long_for_a_gpu,
        ArgumentError,
        "inputs: got 2147483648 steps, expected fewer than 2147483584 on a GPU",
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
def test_what_a_call_cannot_do_is_said_with_a_fix(case: str) -> None:
    run, kind, seen, fix = RUN_TIME[case]
    with pytest.raises(kind) as refusal:
        run()
    message = re.sub(r"residual \S+,", "residual X,", str(refusal.value))
    assert message == (f"{seen}.\nFix: {fix}" if fix else seen)


def test_newton_may_warn_in_the_same_words() -> None:
    message = r"newton on 'para_gru' has not converged within 1 iterations: residual .*\nFix: "
    with pytest.warns(UserWarning, match=message):
        gru(solver="newton", iterations=1, tol=0.0, on_failure="warn")


def test_every_place_that_raises_at_run_time_has_a_case_here() -> None:
    reached: set[tuple[str, int]] = set()
    for run, kind, _, _ in RUN_TIME.values():
        with pytest.raises(kind) as refusal:
            run()
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


# --- nothing is left out ---------------------------------------------------------------------

MODULES = (symbols, dsl, signature, trace, structure, find)
REPORTS = {"fail", "add", "LoadError", "Problem", "_coupling"}


def report_sites(module: ModuleType) -> Iterator[tuple[int, int]]:
    """First and last line of every call that reports a fault."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            owner = ast.unparse(node.func).rpartition(".")[0]
            if name in REPORTS and (name != "add" or "problems" in owner):
                yield node.lineno, node.end_lineno or node.lineno


def reached_lines(
    run: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> set[tuple[str, int]]:
    """The lines on the stack whenever a fault is reported during a run."""
    reached: set[tuple[str, int]] = set()

    def note() -> None:
        frame = sys._getframe(1)
        while frame is not None:
            reached.add((frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back  # type: ignore[assignment]

    for cls in (Problem, LoadError):
        original = cls.__init__

        def noting(self: object, *args: object, original: Callable[..., None] = original) -> None:
            note()
            original(self, *args)

        monkeypatch.setattr(cls, "__init__", noting)
    run()
    return reached


def test_every_place_that_reports_a_fault_has_a_case_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = [where for where, _ in load_cases(tmp_path).values()]
    (tmp_path / "broken.py").write_text("1 / 0")

    def run() -> None:
        for case in (*TRACING.values(), *STRUCTURE.values()):
            with pytest.raises(RnnccError):
                compile_case(case, tmp_path)
        for where in (*asked, "broken.py"):
            with pytest.raises(RnnccError):
                find.find(where)
        with pytest.raises(CellError):
            cell_from(tmp_path, source_of(BODY))()

    reached = reached_lines(run, monkeypatch)
    missed = [
        f"{Path(str(module.__file__)).name}:{first}"
        for module in MODULES
        for first, last in report_sites(module)
        if not any((module.__file__, line) in reached for line in range(first, last + 1))
    ]
    assert missed == []


def test_the_compiler_refuses_an_unknown_target(tmp_path: Path) -> None:
    compiled = compiler.compile_cell(cell_from(tmp_path, source_of(BODY)))
    with pytest.raises(ArgumentError, match="target: got 'fortran', expected one of cpp"):
        compiled.source("fortran")
