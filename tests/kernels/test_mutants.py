"""A kernel whose derivatives are off by a percent is noticed by the comparison with autograd."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import rnncc.compiler
from rnncc import Input, Param, State, cell, tanh
from tests.support.cells import assert_kernel_is_right

analyse = rnncc.compiler.analyse


@cell
def mutant(h: State, x: Input, a: Param):
    return tanh(a * h + x)


def off_by_a_percent(cell: Any) -> Any:
    stages = analyse(cell)
    first, *others = stages.adjoint.lets
    lets = (replace(first, expr=1.01 * first.expr), *others)
    return replace(stages, adjoint=replace(stages.adjoint, lets=lets))


def test_a_kernel_with_a_mutated_adjoint_is_found_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_kernel_is_right(mutant)
    monkeypatch.setattr(rnncc.compiler, "analyse", off_by_a_percent)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        assert_kernel_is_right(mutant)
