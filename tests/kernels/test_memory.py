"""Peak memory of forward and backward, beyond inputs, outputs and gradients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 1.2

# a first small call brings in code, threads and allocator pools, which don't grow with the shape
MEASURED = """
import json, sys, torch
from tests.support.runs import compiled

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

def call(shape):
    cell = compiled(sys.argv[1]).stages.cell
    arguments = {x.name: torch.rand(shape).requires_grad_() for x in cell.inputs}
    for p in cell.params:
        arguments[p.name] = torch.rand(shape[-1]).requires_grad_()
    y = compiled(sys.argv[1])(**arguments)
    y.backward(torch.ones(()).expand_as(y))
    tensors = [*arguments.values(), *(t.grad for t in arguments.values()), y]
    return sum(t.nbytes for t in tensors)

call((1, 64, 256))
before = peak()
needed = call((8, 2048, 256))
print(json.dumps([peak() - before, needed]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["para_gru", "lstm", "slstm"])
def test_forward_and_backward_take_little_more_than_their_tensors(name: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, name],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    taken, needed = json.loads(run.stdout)
    assert needed > 8 * 2048 * 256 * 4 * 7
    assert 0.8 * needed < taken < LIMIT * needed, f"{taken / needed:.3f} of what the tensors take"
