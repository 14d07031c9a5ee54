"""The roofline's counts for a function are those of NVRTC's code."""

from __future__ import annotations

import importlib.util
from collections import Counter

import pytest

from rnncc.inspect import sass
from rnncc.inspect.loops import RARE
from rnncc.ir.functions import TABLE
from rnncc.planner.devices import FLOAT32, FLOAT64
from rnncc.runtime.cuda import nvrtc
from rnncc.runtime.source import join


@pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None or sass.find_disassembler() is None,
    reason='needs pip install "rnncc[cuda13,inspect]"',
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_are_counted_as_they_are_compiled(dtype: str) -> None:
    """But for those whose usual paths the compiler mixes with rare ones."""
    table = FLOAT32 if dtype == "float32" else FLOAT64
    names = sorted(table.keys() - {"pow", "sin", "cos", "remainder", "floor_divide"})
    arguments = {name: "x, p" if TABLE[name].arity > 1 else "x" for name in names}
    values = {name: f"rnncc::{name}({arguments[name]})" for name in names}
    values |= {"div": "x / p", "nothing": "x"}
    found = {name: counts(kernel) for name, kernel in compile_each(values, dtype).items()}
    for name in names:
        more = found[name] - found["nothing"]
        call = table[name]
        assert more.total() == pytest.approx(call.instructions, rel=0.3, abs=3), name
        assert more["float"] == pytest.approx(call.floating, rel=0.3, abs=3), name
        assert more["special"] == call.special, name


# As rnncc/cuda/math.h says it, but that long functions are copied to where they are called.
COPIED = """\
#define RNNCC_FN __device__ __forceinline__
#define RNNCC_MEMBER RNNCC_FN
#define RNNCC_LONG RNNCC_FN
"""


def compile_each(values: dict[str, str], dtype: str) -> dict[str, sass.Kernel]:
    """A kernel for each expression of x and p."""
    kernels = (
        f'extern "C" __global__ void {name}_of(const RNNCC_IO* a, RNNCC_IO* b, RNNCC_IO p) '
        f"{{ const RNNCC_IO x = a[threadIdx.x]; b[threadIdx.x] = {value}; }}"
        for name, value in values.items()
    )
    kernel = COPIED + "\n".join(('#include "rnncc/common/functions.h"', *kernels))
    source = join({"kernel.cu": kernel}, "cuda")
    binary = nvrtc.compile("functions", source, dtype)
    code = sass.read(sass.disassemble(binary.cubin))
    return {name: code[f"{name}_of"] for name in values}


def counts(kernel: sass.Kernel) -> Counter[str]:
    """Instructions up to the end of the kernel but for calls that are rare."""
    end = next(i for i, j in enumerate(kernel.instructions) if j.opcode == "EXIT" and not j.guard)
    return Counter(
        instruction.kind
        for instruction in kernel.instructions[:end]
        if not any(RARE.search(target) for target in instruction.targets)
    )
