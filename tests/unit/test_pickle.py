"""Pickles of what the compiler makes."""

from __future__ import annotations

import pickle

import pytest
import sympy

import rnncc
from rnncc.ir.functions import TABLE
from rnncc.lang.loader import find


@pytest.mark.parametrize("name", TABLE)
def test_an_expression_of_every_function_goes_through_a_pickle(name: str) -> None:
    function = TABLE[name]
    expr = function.symbol(*sympy.symbols("a b c d", real=True)[: function.arity])
    assert pickle.loads(pickle.dumps(expr)) == expr


@pytest.mark.parametrize("name", ["elman", "block_elman", "lif"])
def test_a_compiled_cell_goes_through_a_pickle(name: str) -> None:
    compiled = rnncc.compile(find(name))
    copied = pickle.loads(pickle.dumps(compiled))
    assert copied.spec == compiled.spec
    assert copied.files == compiled.files
    assert copied.stages.cell.name == name
