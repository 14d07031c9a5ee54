"""Policy: common/policy.h decides on the device; what the host launches for it must suffice."""

from __future__ import annotations

import ctypes
import itertools

import pytest

from rnncc.ir.abi import Solver
from rnncc.planner.cuda import AFFINE_ROUNDS, ROUNDS
from rnncc.runtime.cpu.build import find_compiler
from rnncc.runtime.cuda.series import kernels_of
from tests.support.headers import compile_source
from tests.support.runs import compiled

TOLERANCE = 1e-6
LEFT = (0.0, 0.1, 0.95, float("nan"))  # a good guess, a fair one, one that forgets too slowly
SOURCE = """
#include "rnncc/common/policy.h"
using namespace rnncc;
extern "C" int64_t most(int64_t solver, int64_t sweeps, int64_t patient, double left) {
  Args a = {};
  a.solver = Solver(solver), a.sweeps = sweeps, a.patient = patient;
  a.tolerance = TOLERANCE;
  return gives_up(a, left) ? 0 : most_sweeps(a, left);
}
extern "C" int carries(int64_t solver, int64_t sweeps, int64_t patient, double left, int64_t n) {
  Args a = {};
  a.solver = Solver(solver), a.sweeps = sweeps, a.patient = patient;
  a.tolerance = TOLERANCE;
  const Sweep sweep = sweep_after(a, left, n);
  return sweep.runs ? sweep.carry : -1;
}
"""


@pytest.fixture(scope="module", params=["elman", "lru"])
def cell(request: pytest.FixtureRequest) -> str:
    """One that isn't affine, and one that is."""
    return str(request.param)


@pytest.fixture(scope="module")
def policy(cell: str, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler, folder = find_compiler(), tmp_path_factory.mktemp(cell)
    assert compiler is not None
    (folder / "cell.h").write_text(compiled(cell).files["cell.h"], encoding="utf-8")
    (folder / "policy.cpp").write_text(SOURCE.replace("TOLERANCE", repr(TOLERANCE)))
    command, source = " ".join(compiler.command), folder / "policy.cpp"
    compile_source(command, source, folder / "p.so", f"-I{folder}", "-w")
    library = ctypes.CDLL(str(folder / "p.so"))
    i, d = ctypes.c_int64, ctypes.c_double
    library.most.argtypes, library.most.restype = (i, i, i, d), i
    library.carries.argtypes = (i, i, i, d, i)
    return library


def test_the_kernels_that_a_sweep_may_need_are_launched(cell: str, policy: ctypes.CDLL) -> None:
    affine = compiled(cell).spec.structure.affine
    for solver in (Solver.SEGMENTED, Solver.NEWTON):
        for number in range(AFFINE_ROUNDS if affine else ROUNDS):
            asked = itertools.product(range(1, ROUNDS + 1), (0, 1), LEFT)
            taken = {policy.carries(solver, *given, number) for given in asked} - {-1}
            needed = {("forward", "sweep")[carry] for carry in taken}
            launched = set(kernels_of(number, affine, solver is Solver.NEWTON))
            assert needed <= launched
            if solver is Solver.SEGMENTED:
                assert needed == launched, "one is launched in vain"


def test_an_affine_cell_has_as_many_rounds_as_its_scan_takes(
    cell: str, policy: ctypes.CDLL
) -> None:
    """Of others the plan's number is the limit."""
    affine = compiled(cell).spec.structure.affine
    for sweeps, left in itertools.product((1, 2, 3, 8), LEFT):
        rounds = max(sweeps, AFFINE_ROUNDS) if affine else sweeps
        assert policy.most(Solver.SEGMENTED, sweeps, 1, left) <= rounds
    least = max(policy.most(Solver.SEGMENTED, 1, 1, left) for left in LEFT)
    assert least == (AFFINE_ROUNDS - 1 if affine else 1)  # a correction is of the others
