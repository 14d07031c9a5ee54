"""Printed expressions have the same value in C++ as in PyTorch."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from rnncc.codegen.printer import CPrinter
from rnncc.runtime.cpu.build import find_compiler
from tests.support.expressions import EXPRESSIONS, POINTS, Array, by_torch
from tests.support.headers import HEADERS, compile_source


def harness() -> str:
    lines = [*HEADERS, "namespace rnncc {"]
    for i, (expr, _) in enumerate(EXPRESSIONS.values()):
        lines += [
            "template <typename real>",
            f"RNNCC_FN real e{i}(real x, real y, real z) {{",
            f"  (void)x; (void)y; (void)z; return {CPrinter().text(expr)};",
            "}",
        ]
    lines.append("}  // namespace rnncc")
    for t in ("float", "double"):
        lines.append(f'extern "C" void all_{t}(const {t}* in, {t}* out) {{')
        lines += [
            f"  out[{i}] = rnncc::e{i}<{t}>(in[0], in[1], in[2]);" for i in range(len(EXPRESSIONS))
        ]
        lines.append("}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("printer")
    (folder / "printed.cpp").write_text(harness())
    command = " ".join(compiler.command)
    compile_source(command, folder / "printed.cpp", folder / "printed.so", "-O1")
    return ctypes.CDLL(str(folder / "printed.so"))


def by_c(library: ctypes.CDLL, point: Array, dtype: type) -> Array:
    given, out = point.astype(dtype), np.full(len(EXPRESSIONS), np.nan, dtype)
    kind = "float" if dtype is np.float32 else "double"
    pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (given, out)]
    getattr(library, f"all_{kind}")(*pointers)
    return out.astype(np.float64)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 2e-5)])
def test_c_and_pytorch_print_the_same_value(
    dtype: type, tolerance: float, library: ctypes.CDLL
) -> None:
    names = list(EXPRESSIONS)
    for a in POINTS:
        for b, c in ((0.7, -1.25), (a, a), (1.7, 0.4)):
            point = np.array([a, b, c]).astype(dtype).astype(np.float64)
            got, wanted = by_c(library, point, dtype), by_torch(point)
            finite = np.abs(wanted) < (1e38 if dtype is np.float32 else np.inf)
            close = np.isclose(got, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
            off = {names[i] for i in np.flatnonzero(finite & ~close)}
            beyond = {"a huge constant"} if dtype is np.float32 else set()  # infinite there
            assert off <= beyond, f"at {point}"
