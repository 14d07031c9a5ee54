"""cpp/math.h and common/functions.h, compiled alone: accuracy, special values, speed."""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.testing import assert_close

from rnncc.cache import cpu_identity
from rnncc.export.torch_loop import FUNCTIONS
from tests.support.headers import ARCHITECTURE, HEADERS, compile_source

Array = NDArray[Any]
DTYPES = (np.float32, np.float64)
C_TYPE = {np.float32: "float", np.float64: "double"}
LANES = 16


@dataclass(frozen=True)
class Accuracy:
    """A function's reference in long double, where it is sampled, and its allowed error in ulp."""

    exact: Callable[[Array], Array]
    spans: tuple[tuple[float, float], ...]
    ulp32: float
    ulp64: float
    reach: bool = True  # also sample up to where float32 or float64 overflow


def softplus(x: Array) -> Array:
    result: Array = np.maximum(x, 0) + np.log1p(np.exp(-abs(x)))
    return result


def exprel(x: Array) -> Array:
    result: Array = np.where(abs(x) < 1e-10, 1 + x / 2, np.expm1(x) / np.where(x == 0, 1, x))
    return result


def exprel_slope(x: Array) -> Array:
    """Near 0 by its Taylor series, whose term k is (k + 1) / (k + 2)! x^k."""
    terms = [(k + 1) / np.longdouble(math.factorial(k + 2)) * x**k for k in range(30)]
    far = np.where(abs(x) < 1, 1, x)
    result: Array = np.where(abs(x) < 1, sum(terms), (np.exp(far) - np.expm1(far) / far) / far)
    return result


WIDE = ((-3.0, 3.0), (-20.0, 20.0))
POSITIVE = ((1e-3, 4.0), (0.99, 1.01), (0.0, 1e30))
CIRCLE = ((-10.0, 10.0), (-1e5, 1e5))

UNARY = {
    "exp": Accuracy(np.exp, WIDE, 1.5, 1.5),
    "log": Accuracy(np.log, POSITIVE, 1.5, 2, reach=False),
    "log1p": Accuracy(np.log1p, ((-1.0, 1.0), *POSITIVE), 2, 2.5, reach=False),
    "expm1": Accuracy(np.expm1, WIDE, 2, 2.5),
    "exprel": Accuracy(exprel, WIDE, 2.5, 3),
    "exprel_slope": Accuracy(exprel_slope, WIDE, 8, 8),
    "floor": Accuracy(np.floor, WIDE, 0, 0),
    "round": Accuracy(np.rint, WIDE, 0, 0),
    "log2": Accuracy(np.log2, POSITIVE, 2, 3, reach=False),
    "exp2": Accuracy(np.exp2, WIDE, 2, 2, reach=False),
    "atan": Accuracy(np.arctan, (*WIDE, (-1e5, 1e5)), 2.5, 2.5),
    "asinh": Accuracy(np.arcsinh, (*WIDE, (-1e12, 1e12)), 4, 4),
    "acosh": Accuracy(np.arccosh, ((1.0, 1.01), (1.0, 20.0), (1.0, 1e12)), 4, 4, reach=False),
    "atanh": Accuracy(np.arctanh, ((-1.0, 1.0),), 4, 4, reach=False),
    "asin": Accuracy(np.arcsin, ((-1.0, 1.0), (0.99, 1.0)), 4, 4, reach=False),
    "acos": Accuracy(np.arccos, ((-1.0, 1.0), (0.99, 1.0)), 4, 4, reach=False),
    "elu": Accuracy(lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), WIDE, 2, 2.5),
    "mish": Accuracy(lambda x: x * np.tanh(softplus(x)), WIDE, 6, 6, reach=False),
    "softsign": Accuracy(lambda x: x / (1 + abs(x)), WIDE, 2, 2),
    "finite_part": Accuracy(lambda x: x, WIDE, 0, 0),
    "pivot": Accuracy(lambda x: x, WIDE, 0, 0),
    "stop_gradient": Accuracy(lambda x: x, WIDE, 0, 0),
    "sqrt": Accuracy(np.sqrt, POSITIVE, 0.51, 0.51, reach=False),
    "rsqrt": Accuracy(lambda x: 1 / np.sqrt(x), POSITIVE, 1.6, 1.6, reach=False),
    "sigmoid": Accuracy(lambda x: 1 / (1 + np.exp(-x)), WIDE, 3, 3),
    "tanh": Accuracy(np.tanh, WIDE, 3, 3),
    "softplus": Accuracy(softplus, WIDE, 2.5, 3),
    "logsigmoid": Accuracy(lambda x: -softplus(-x), WIDE, 2.5, 3),
    "relu": Accuracy(lambda x: np.maximum(x, 0), WIDE, 0, 0),
    "abs": Accuracy(np.abs, WIDE, 0, 0),
    "sign": Accuracy(np.sign, WIDE, 0, 0),
    "heaviside": Accuracy(lambda x: (x > 0).astype(x.dtype), WIDE, 0, 0),
    "sin": Accuracy(np.sin, (*CIRCLE, (-1e6, 1e6)), 0.6, 3, reach=False),
    "cos": Accuracy(np.cos, (*CIRCLE, (-1e6, 1e6)), 0.6, 3, reach=False),
    "sinh": Accuracy(np.sinh, WIDE, 2, 2),
    "cosh": Accuracy(np.cosh, WIDE, 2, 2),
    "erf": Accuracy(np.vectorize(math.erf, otypes=[np.float64]), ((-7.0, 7.0),), 1.5, 11),
}
REMAINDERS = ("remainder", "floor_divide")
BINARY = (
    "maximum",
    "minimum",
    "at_least",
    "at_most",
    "pow",
    "forward_as",
    "atan2",
    "atan2_slope",
    *REMAINDERS,
)
NEAR_ZERO = (
    *("log1p", "expm1", "tanh", "sinh", "sin", "erf", "atan", "asinh", "atanh", "asin", "elu"),
    "softsign",
)


def harness() -> str:
    """Every function over arrays: `simd_F_T` in a simd loop, `scalar_F_T` one call at a time."""
    lines = [*HEADERS, '#define C extern "C" void']
    signatures = [*((name, "x") for name in UNARY), *((name, "xy") for name in BINARY)]
    for (name, args), dtype in itertools.product([*signatures, ("clip", "xyz")], DTYPES):
        t = C_TYPE[dtype]
        params = ", ".join([*(f"const {t}* {a}" for a in args), f"{t}* out, long n"])
        call = ", ".join(f"{a}[i]" for a in args)
        one = ", ".join(f"{t} {a}" for a in args)
        lines += [
            f"static __attribute__((noinline)) {t} one_{name}_{t}({one})"
            f" {{ return rnncc::{name}({', '.join(args)}); }}",
            f"C scalar_{name}_{t}({params})"
            f" {{ for (long i = 0; i < n; ++i) out[i] = one_{name}_{t}({call}); }}",
            f"C simd_{name}_{t}({params}) {{ for (long b = 0; b < n; b += {LANES}) {{",
            f'_Pragma("omp simd") for (long i = b; i < b + {LANES}; ++i)'
            f" out[i] = rnncc::{name}({call}); }} }}",
        ]
    return "\n".join(lines) + "\n"


def compilers() -> list[str]:
    if "CXX" in os.environ:
        return [os.environ["CXX"]]
    return [name for name in ("g++", "clang++") if shutil.which(name)]


def widths() -> list[str]:
    """Flags of a processor's widest vectors, as kernels are built with, and of AVX2."""
    if "-march=native" not in ARCHITECTURE or "avx512f" not in cpu_identity():
        return [ARCHITECTURE]
    return [f"{ARCHITECTURE} -mprefer-vector-width=512", "-march=haswell"]


each_width = pytest.mark.parametrize("width", widths())


class Library:
    """The harness as functions of NumPy arrays."""

    def __init__(self, path: Path) -> None:
        self._functions = ctypes.CDLL(str(path))

    def __call__(self, name: str, *args: Array, mode: str = "simd") -> Array:
        dtype, size = args[0].dtype, len(args[0])
        assert all(a.dtype == dtype and len(a) == size for a in args)
        padded = [np.resize(a, -(-size // LANES) * LANES) for a in args]
        out = np.full_like(padded[0], np.nan)
        function = getattr(self._functions, f"{mode}_{name}_{C_TYPE[dtype.type]}")
        function(*(a.ctypes.data_as(ctypes.c_void_p) for a in [*padded, out]), len(out))
        return out[:size]


@pytest.fixture(scope="module", params=itertools.product(compilers() or [""], widths()), ids=str)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    compiler, width = request.param
    if not compiler:
        pytest.skip("no C++ compiler: set CXX, or install g++ or clang++")
    folder = tmp_path_factory.mktemp("math")
    (folder / "harness.cpp").write_text(harness())
    compile_source(compiler, folder / "harness.cpp", folder / "harness.so", *width.split())
    return Library(folder / "harness.so")


def samples(accuracy: Accuracy, dtype: type[Any]) -> Array:
    random = np.random.default_rng(7)
    spans = list(accuracy.spans)
    if accuracy.reach:
        spans.append((-float(np.log(np.finfo(dtype).max)), float(np.log(np.finfo(dtype).max))))
    uniform = [random.uniform(lo, hi, 20_000) for lo, hi in spans]
    tiny = np.exp(random.uniform(np.log(np.finfo(dtype).tiny), 0, 20_000))
    signs = [tiny] if accuracy.spans is POSITIVE else [tiny, -tiny]
    x: Array = np.concatenate([*uniform, *signs]).astype(dtype)
    lowest = {id(UNARY["log1p"]): -1, id(UNARY["acosh"]): 1}.get(id(accuracy), -math.inf)
    return x[x > lowest]


def worst_ulp(got: Array, exact: Array) -> float:
    """The largest error in ulp of the result's type, where the exact result is a normal number."""
    limits = np.finfo(got.dtype)
    normal = (abs(exact) <= limits.max) & (abs(exact) >= limits.tiny)
    spacing = np.spacing(abs(exact[normal]).astype(got.dtype))
    error = abs(got[normal].astype(exact.dtype) - exact[normal]) / spacing
    assert not np.isnan(error).any(), "NaN where the exact result is finite"
    return float(error.max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", UNARY)
def test_error_stays_within_its_bound(library: Library, name: str, dtype: type[Any]) -> None:
    accuracy = UNARY[name]
    x = samples(accuracy, dtype)
    worst = worst_ulp(library(name, x), accuracy.exact(x.astype(np.longdouble)))
    assert worst <= (accuracy.ulp32 if dtype is np.float32 else accuracy.ulp64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pow_stays_within_one_ulp(library: Library, dtype: type[Any]) -> None:
    random = np.random.default_rng(7)
    x = np.exp(random.uniform(-8, 8, 20_000)).astype(dtype)
    y = random.uniform(-9, 9, 20_000).astype(dtype)
    assert worst_ulp(library("pow", x, y), np.power(x, y, dtype=np.longdouble)) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_atan2_is_right_in_every_quadrant(library: Library, dtype: type[Any]) -> None:
    random = np.random.default_rng(7)
    y, x = (np.exp(random.uniform(-20, 20, 20_000)) * random.choice([-1, 1], 20_000) for _ in "yx")
    y, x = y.astype(dtype), x.astype(dtype)
    exact = np.arctan2(y, x, dtype=np.longdouble)
    assert worst_ulp(library("atan2", y, x), exact) <= 4
    wide = [v.astype(np.longdouble) for v in (y, x)]
    assert worst_ulp(library("atan2_slope", y, x), wide[0] / (wide[0] ** 2 + wide[1] ** 2)) <= 4
    some = [0.0, -0.0, 1.0, -1.0, INF, -INF]
    y, x = (np.array(v, dtype=dtype) for v in zip(*itertools.product(some, some), strict=True))
    got, exact = library("atan2", y, x), np.arctan2(y, x)
    np.testing.assert_allclose(got, exact, rtol=2 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(exact))


@pytest.mark.parametrize("dtype", DTYPES)
def test_remainders_are_exact(library: Library, dtype: type[Any]) -> None:
    random = np.random.default_rng(7)
    x = (np.exp(random.uniform(-9, 30, 20_000)) * random.choice([-1, 1], 20_000)).astype(dtype)
    y = random.uniform(-9, 9, 20_000).astype(dtype)
    x[::3], y[::3] = np.round(x[::3]) / 10, np.round(y[::3]) + 0.5  # near whole quotients
    np.testing.assert_array_equal(library("remainder", x, y), np.remainder(x, y))
    few = abs(x / y) < 0.1 / np.finfo(dtype).eps  # beyond, NumPy rounds it
    x, y = x[few], y[few]
    np.testing.assert_array_equal(library("floor_divide", x, y), np.floor_divide(x, y))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*UNARY, *BINARY, "clip"])
def test_simd_loop_equals_scalar_calls(library: Library, name: str, dtype: type[Any]) -> None:
    x = samples(UNARY.get(name, UNARY["exp"]), dtype)[::7]
    args = [x, *([np.roll(x, 1), np.roll(x, 2)][: 0 if name in UNARY else 1 + (name == "clip")])]
    simd, scalar = library(name, *args), library(name, *args, mode="scalar")
    # Not bit for bit: a compiler may choose other multiply-adds to fuse.
    np.testing.assert_allclose(simd, scalar, rtol=4 * np.finfo(dtype).eps)


INF, NAN = math.inf, math.nan
SPECIAL: dict[str, dict[float, float]] = {
    "exp": {INF: INF, -INF: 0, 0: 1, 1e4: INF, -1e4: 0, 1e30: INF, -1e30: 0},
    "log": {INF: INF, -INF: NAN, 0: -INF, 1: 0, -1: NAN, -1e-40: NAN},
    "log1p": {INF: INF, -INF: NAN, 0: 0, -1: -INF, -1.5: NAN},
    "expm1": {INF: INF, -INF: -1, 0: 0, 1e4: INF, -1e4: -1, 1e30: INF, -1e30: -1},
    "exprel": {INF: INF, -INF: 0, 0: 1, 1e-40: 1, 1e4: INF},
    "exprel_slope": {INF: INF, -INF: 0, 0: 0.5, 1e4: INF},
    "floor": {INF: INF, -INF: -INF, 0: 0, 1.5: 1, -1.5: -2, 1e30: 1e30},
    "round": {INF: INF, -INF: -INF, 0: 0, 0.5: 0, 1.5: 2, -2.5: -2, 1e30: 1e30},
    "log2": {INF: INF, -INF: NAN, 0: -INF, 1: 0, -1: NAN, 8: 3, 0.0625: -4},
    "exp2": {INF: INF, -INF: 0, 0: 1, 10: 1024, -3: 0.125, 1e4: INF, -1e30: 0},
    "atan": {0: 0, 1e30: math.pi / 2, -1e30: -math.pi / 2, INF: math.pi / 2, -INF: -math.pi / 2},
    "asinh": {INF: INF, -INF: -INF, 0: 0},
    "acosh": {INF: INF, 1: 0, 0.5: NAN, -2: NAN, -INF: NAN},
    "atanh": {INF: NAN, -INF: NAN, 0: 0, 1: INF, -1: -INF, 2: NAN},
    "asin": {0: 0, 1: math.pi / 2, -1: -math.pi / 2, 1.5: NAN, INF: NAN, -INF: NAN},
    "acos": {0: math.pi / 2, 1: 0, -1: math.pi, -1.5: NAN, INF: NAN, -INF: NAN},
    "elu": {0: 0, 2: 2, INF: INF, -INF: -1, -1e30: -1},
    "mish": {0: 0, INF: INF, -INF: NAN, 1e4: 1e4, -1e4: 0},
    "softsign": {0: 0, 1: 0.5, -3: -0.75, INF: NAN, -INF: NAN, 1e30: 1},
    "finite_part": {INF: 0, -INF: 0, 0: 0, -2: -2},
    "pivot": {INF: INF, -INF: -INF, 0: 0, -2: -2},
    "stop_gradient": {INF: INF, -INF: -INF, 0: 0, -2: -2},
    "sqrt": {INF: INF, -INF: NAN, 0: 0, 4: 2, -1: NAN},
    "rsqrt": {INF: 0, 0: INF, 4: 0.5, -1: NAN},
    "sigmoid": {INF: 1, -INF: 0, 0: 0.5, 1e4: 1, -1e4: 0, 1e30: 1, -1e30: 0},
    "tanh": {INF: 1, -INF: -1, 0: 0, 25: 1, -25: -1, 1e30: 1, -1e30: -1},
    "softplus": {INF: INF, -INF: 0, 1e4: 1e4, -1e4: 0, 1e30: 1e30, -1e30: 0},
    "logsigmoid": {INF: 0, -INF: -INF, 1e4: 0, -1e4: -1e4, 1e30: 0, -1e30: -1e30},
    "relu": {INF: INF, -INF: 0, 0: 0, -2: 0},
    "abs": {INF: INF, -INF: INF, 0: 0, -2: 2},
    "sign": {INF: 1, -INF: -1, 0: 0, -1e-40: -1},
    "heaviside": {INF: 1, -INF: 0, 0: 0, 1e-40: 1},
    "sin": {INF: NAN, -INF: NAN, 0: 0, 1e30: NAN},
    "cos": {INF: NAN, -INF: NAN, 0: 1, -1e30: NAN},
    "sinh": {INF: INF, -INF: -INF, 0: 0, 1e4: INF, -1e30: -INF},
    "cosh": {INF: INF, -INF: INF, 0: 1, 1e4: INF, -1e30: INF},
    "erf": {INF: 1, -INF: -1, 0: 0, 7: 1, -1e30: -1},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", UNARY)
def test_special_values(library: Library, name: str, dtype: type[Any]) -> None:
    table = SPECIAL[name] | {NAN: NAN}
    x = np.array(list(table), dtype=dtype)
    np.testing.assert_array_equal(library(name, x), np.array(list(table.values()), dtype=dtype))


@pytest.mark.parametrize("name", ["exprel", "exprel_slope"])
def test_special_values_of_the_oracles_own_functions(name: str) -> None:
    table = SPECIAL[name] | {NAN: NAN}
    x = torch.tensor(list(table), dtype=torch.float64)
    exact = torch.tensor(list(table.values()), dtype=torch.float64)
    assert_close(FUNCTIONS[f"_{name}"](x), exact, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "factor"), [("exp", 1), ("expm1", 1), ("sinh", 2), ("cosh", 2)])
def test_right_up_to_the_largest_finite_result(
    library: Library, name: str, factor: int, dtype: type[Any]
) -> None:
    edge = dtype(np.log(np.longdouble(np.finfo(dtype).max) * factor))  # exp(edge) / factor is max
    x = np.array([edge * (1 - k * np.finfo(dtype).eps) for k in range(-4, 30)], dtype=dtype)
    exact = UNARY[name].exact(x.astype(np.longdouble))
    got = library(name, x)
    assert worst_ulp(got, exact) <= 2.5
    assert np.isinf(got[exact > np.longdouble(np.finfo(dtype).max)]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NEAR_ZERO)
def test_denormal_in_gives_denormal_or_zero_out(
    library: Library, name: str, dtype: type[Any]
) -> None:
    step = np.finfo(dtype).smallest_subnormal
    x = (np.array([1, 2, 3, 1000, -1, -1000]) * step).astype(dtype)
    got, exact = library(name, x), UNARY[name].exact(x.astype(np.longdouble))
    assert ((got == 0) | (abs(got - exact) <= 1.5 * step)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_takes_denormals(library: Library, dtype: type[Any]) -> None:
    x = (np.array([1, 2, 3, 1000]) * np.finfo(dtype).smallest_subnormal).astype(dtype)
    assert worst_ulp(library("log", x), np.log(x.astype(np.longdouble))) <= 1.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "lo", "hi"), [("sigmoid", 0, 1), ("tanh", -1, 1), ("erf", -1, 1), ("sin", -1, 1)]
)
def test_rounding_never_leaves_the_range(
    library: Library, name: str, lo: float, hi: float, dtype: type[Any]
) -> None:
    got = library(name, np.linspace(-40, 40, 100_001, dtype=dtype))
    assert got.min() >= lo
    assert got.max() <= hi


@pytest.mark.parametrize("dtype", DTYPES)
def test_maximum_minimum_and_clip_propagate_nan(library: Library, dtype: type[Any]) -> None:
    values = [NAN, -INF, INF, 0.0, -1.5, 1.5]
    x, y = np.array(list(itertools.product(values, values)), dtype=dtype).T.copy()
    np.testing.assert_array_equal(library("maximum", x, y), np.maximum(x, y))
    np.testing.assert_array_equal(library("minimum", x, y), np.minimum(x, y))
    x, lo, hi = np.array(list(itertools.product(values, repeat=3)), dtype=dtype).T.copy()
    np.testing.assert_array_equal(library("clip", x, lo, hi), np.minimum(np.maximum(x, lo), hi))


@pytest.mark.parametrize("dtype", DTYPES)
def test_pow_agrees_with_c_at_special_values(library: Library, dtype: type[Any]) -> None:
    bases = [0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 1e30, INF, NAN]
    exponents = [0.0, 1.0, -1.0, 2.0, 3.0, -3.0, 0.5, -0.5, 1e30, INF, -INF, NAN]
    x, y = np.array(list(itertools.product(bases, exponents)), dtype=dtype).T.copy()
    documented = (x == -1) & np.isinf(y)  # NaN here, 1 in C
    x, y = x[~documented], y[~documented]
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(library("pow", x, y), np.power(x, y), rtol=2e-7)


# as loops over channels have them
LOOPS = {
    **{(name, t): f"rnncc::{name}(x[i])" for name in UNARY for t in C_TYPE.values()},
    **{(name, t): f"rnncc::{name}(x[i], y[i])" for name in BINARY for t in C_TYPE.values()},
    **{("where", t): "x[i] > y[i] ? rnncc::exp(x[i]) : x[i] * y[i]" for t in C_TYPE.values()},
    ("gru", "float"): "(1 - rnncc::sigmoid(x[i])) * y[i] + rnncc::sigmoid(x[i]) * x[i]",
}
COPIES = ("forward_as", "stop_gradient", "pivot")
OTHERS = {("pow", "double"), *itertools.product(COPIES, C_TYPE.values())}  # pow: the C library's
LOOPS = {key: text for key, text in LOOPS.items() if key not in OTHERS}


@each_width
@pytest.mark.parametrize("compiler", compilers())
def test_every_function_vectorises_with_gcc(compiler: str, width: str, tmp_path: Path) -> None:
    version = subprocess.run(
        [*shlex.split(compiler), "--version"], capture_output=True, text=True, check=True
    )
    if "Free Software Foundation" not in version.stdout:
        pytest.skip("only g++ reports what it vectorised")
    loops = [
        f"void {name}_{t}(const {t}* x, const {t}* y, {t}* out) "
        f'{{ (void)y; _Pragma("omp simd") for (int i = 0; i < {LANES}; ++i) out[i] = {text}; }}'
        for (name, t), text in LOOPS.items()
    ]
    source = tmp_path / "hot.cpp"
    source.write_text("\n".join([*HEADERS, *loops]) + "\n")
    report = compile_source(compiler, source, tmp_path / "hot.so", "-fopt-info-vec", *width.split())
    found = {int(n) for n in re.findall(r"hot\.cpp:(\d+):.*loop vectorized", report)}
    first = len(HEADERS) + 1
    left = [key for n, key in enumerate(LOOPS, start=first) if n not in found]
    assert left == [], report
