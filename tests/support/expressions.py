"""One list of expressions that every printer prints, with one value."""

import numpy as np
import sympy
import torch
from numpy.typing import NDArray
from sympy import Expr, Float, Integer, Rational

from rnncc.codegen.printer import TorchPrinter
from rnncc.export import torch_loop as reference
from rnncc.ir import functions

Array = NDArray[np.float64]
x, y, z = sympy.symbols("x y z", real=True)
call = functions.call

# An expression and how C++ prints it; PyTorch must print it too, with the same value.
EXPRESSIONS: dict[str, tuple[Expr, str]] = {
    "a symbol": (x, "x"),
    "an integer": (Integer(3), "3.0f"),
    "a negative integer": (Integer(-3), "-3.0f"),
    "a float that float32 holds": (Float(0.5), "0.5f"),
    "a float that float32 rounds": (Float(0.1), "real(0.1)"),
    "a tiny constant": (Float(1e-40) * x, "real(1e-40) * x"),
    "a huge constant": (Float(1e300) * x, "real(1e+300) * x"),
    "an integer beyond int64": (Integer(10**25) * x, "real(1e+25) * x"),
    "a power of two": (Integer(2**80) * x, "1.2089258196146292e+24f * x"),
    "a third": (x / 3, "x / 3.0f"),
    "two thirds": (2 * x / 3, "2.0f * x / 3.0f"),
    "a rational alone": (Rational(1, 3), "real(0.3333333333333333)"),
    "a sum": (x + y + z, "x + y + z"),
    "a sum with a constant": (x + 1, "x + 1.0f"),
    "a complement": (1 - x, "1.0f - x"),
    "a difference": (x - y, "x - y"),
    "a negative sum": (-x - y, "-x - y"),
    "a difference of differences": (x - (y - z), "x - y + z"),
    "a negation": (-x, "-x"),
    "a negation of a product": (-x * y, "-x * y"),
    "a negation of a power": (-(x**2), "-x * x"),
    "a negated base": ((-x) ** 3, "-x * x * x"),
    "minus times minus": ((x - 1) * (1 - y), "(1.0f - y) * (x - 1.0f)"),
    "a product of sums": ((x + 1) * (y - z), "(x + 1.0f) * (y - z)"),
    "a product in a sum": (x * y - z * (x + y), "x * y - z * (x + y)"),
    "a square": (x**2, "x * x"),
    "a cube": (x**3, "x * x * x"),
    "a fourth power": (x**4, "x * x * x * x"),
    "a square of a sum": ((x + y) ** 2, "(x + y) * (x + y)"),
    "a seventh power": (x**7, "(x * x * x) * (x * x * x) * x"),
    "a power in a product": (x**2 * y, "x * x * y"),
    "a reciprocal": (1 / x, "1.0f / x"),
    "a reciprocal square": (x**-2, "1.0f / (x * x)"),
    "a quotient": (x / y, "x / y"),
    "a quotient of products": (x * y / (z * z + 1), "x * y / (z * z + 1.0f)"),
    "a quotient by a product": (x / (y * z), "x / (y * z)"),
    "a negative quotient": (-x / y, "-x / y"),
    "a quotient in a sum": (1 - x / y, "1.0f - x / y"),
    "a named quotient": (call("div", x + 1, y * z), "(x + 1.0f) / (y * z)"),
    "a named quotient by powers": (
        call("div", x, y, Integer(2), z, Integer(3)),
        "x / (y * y * z * z * z)",
    ),
    "a gradient that is absent": (
        call("where", call("absent", x), y, z),
        "(absent(x) ? y : z)",
    ),
    "a named quotient in a product": (call("div", x, y) * z, "z * x / y"),
    "a function": (call("tanh", x + y), "tanh(x + y)"),
    "a function of a constant": (call("tanh", Integer(1)) * x, "x * tanh(real(1.0))"),
    "functions of one another": (call("exp", -call("abs", x)), "exp(-abs(x))"),
    "a square of a function": (1 - call("tanh", x) ** 2, "1.0f - tanh(x) * tanh(x)"),
    "a maximum with a constant": (call("maximum", x, Integer(0)), "maximum(x, real(0.0))"),
    "a clip": (call("clip", x, Integer(-1), y), "clip(x, real(-1.0), y)"),
    "a power with a symbol": (call("pow", call("abs", x), y), "pow(abs(x), y)"),
    "a choice": (call("where", call("gt", x, y), z, Integer(1)), "(x > y ? z : real(1.0))"),
    "a choice by sums": (
        call("where", call("le", x + 1, y - z), x + y, -x),
        "(x + 1.0f <= y - z ? x + y : -x)",
    ),
    "a choice in a product": (
        z * call("where", call("eq", x, Integer(1)), x, Float(0.1)),
        "z * (x == 1.0f ? x : real(0.1))",
    ),
    "a choice within a choice": (
        call("where", call("lt", x, y), call("where", call("ge", x, z), x, y), z),
        "(x < y ? (x >= z ? x : y) : z)",
    ),
    "a choice by two conditions": (
        call("where", call("both", call("gt", x, y), call("ne", y, z)), x, y),
        "((x > y) && (y != z) ? x : y)",
    ),
    "a choice by either": (
        call("where", call("either", call("gt", x, y), call("negate", call("lt", y, z))), x, y),
        "((x > y) || (!(y < z)) ? x : y)",
    ),
    "a spike": (call("spike_fast_sigmoid", x - y, Float(25.0)), "heaviside(x - y)"),
    **{
        name: (call(name, call("abs", x) + 1), f"{name}(abs(x) + 1.0f)")
        for name in (
            "exp log log1p expm1 exprel exprel_slope sqrt rsqrt sigmoid tanh softplus logsigmoid "
            "sin cos sinh cosh erf relu abs sign floor round atan asinh acosh log2 exp2 "
            "finite_part pivot stop_gradient elu mish softsign"
        ).split()
    },
    "minimum": (call("minimum", x, y), "minimum(x, y)"),
    **{name: (call(name, x / 4), f"{name}(x / 4.0f)") for name in ("atanh", "asin", "acos")},
    **{
        name: (call(name, x, y - 5), f"{name}(x, y - 5.0f)")
        for name in ("atan2", "atan2_slope", "remainder", "floor_divide", "at_least", "at_most")
    },
    "forward_as": (call("forward_as", x, y + 1), "forward_as(x, y + 1.0f)"),
    "spike_own": (call("spike_own", x - y, call("exp", x)), "heaviside(x - y)"),
    **{
        f"spike_{name}": (call(f"spike_{name}", x, Float(2)), "heaviside(x)")
        for name in functions.SURROGATES
    },
}  # fmt: skip
POINTS = np.array([-2.5, -1.0, -0.3, 0.0, 0.4, 1.0, 1.7])


def by_torch(point: Array) -> Array:
    names = {
        "torch": torch,
        "_tensor": lambda value: torch.tensor(float(value), dtype=torch.float64),
        **reference.FUNCTIONS,
        "_heaviside": lambda u, _: (u > 0).to(u.dtype),
        **dict(zip("xyz", torch.from_numpy(point), strict=True)),
    }
    texts = [TorchPrinter().text(expr) for expr, _ in EXPRESSIONS.values()]
    return np.array([float(eval(text, dict(names))) for text in texts])
