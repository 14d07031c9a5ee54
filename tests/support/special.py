"""Every function of the language at special values, beside PyTorch's own."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import logsigmoid

from rnncc.export.torch_loop import FUNCTIONS

SIZES = (0.0, 1e-40, 1e-30, 1e-20, 1e-10, 1e-3, 0.5, 1.0, 1.5, 2.0, 3.0, 20.0, 88.5, 1e3)
LARGE = (1e7, 1e10, 1e20, 1e30, math.inf)
FEW = (0.0, 1e-20, 0.5, 1.0, 2.0, 1e20, math.inf)
COTANGENTS = (1.0, -2.0, 0.0, math.inf, math.nan)


@dataclass(frozen=True)
class Row:
    """One function.

    Attributes:
        text: in the language, of x, or of x, p and q.
        torch: the same in PyTorch.
        apart: the points at which it differs, as docs/numerics.md says.
    """

    text: str
    torch: Callable[..., Tensor]
    apart: Callable[..., Tensor] | None = None
    of_finite: bool = False  # gradients; an infinite one meets itself on two ways, and is NaN

    @property
    def names(self) -> str:
        return "".join(name for name in "xpq" if re.search(rf"\b{name}\b", self.text))


class Step(torch.autograd.Function):
    """A spike with a surrogate's derivative."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(u)
        ctx.slope = slope
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.slope(*ctx.saved_tensors), None


class Straight(torch.autograd.Function):
    """One value with another's gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradient_of: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def spike(surrogate: str, slope: Callable[[Tensor], Tensor]) -> Row:
    def step(u: Tensor) -> Tensor:
        return Step.apply(u, slope)  # type: ignore[no-any-return, no-untyped-call]

    return Row(f"spike(x, '{surrogate}', 2.0)", step, is_nan)


def is_nan(x: Tensor) -> Tensor:
    return x.isnan()


def is_far(x: Tensor) -> Tensor:
    return x.abs() >= 2**30


def is_minus_infinity(x: Tensor, *_: Tensor) -> Tensor:
    return x == -math.inf


def is_saturated(x: Tensor) -> Tensor:
    """Where 1 - y has lost its digits, in PyTorch as well."""
    return x.abs() > 10


def is_end(x: Tensor) -> Tensor:
    """Where the slope is infinite."""
    return x.abs() == 1


def is_past_digits(x: Tensor) -> Tensor:
    """Where the slope is the difference of two that are alike, in PyTorch as well."""
    return x.abs() > 100


def is_infinite(*at: Tensor) -> Tensor:
    return torch.stack([x.isinf() for x in at]).any(0)


def is_far_remainder(x: Tensor, p: Tensor) -> Tensor:
    """Where the quotient has no digits left behind the point, or is near a whole number."""
    quotient = (x / p).abs()
    return (
        is_infinite(x, p)
        | quotient.isnan()
        | (p.abs() < 1e-38)
        | (quotient > 100)
        | (quotient < 1e-3)
    )


def is_not_moderate(*at: Tensor) -> Tensor:
    """Where a square under- or overflows in PyTorch, and at NaN and -0."""
    sizes = torch.stack(at).abs()
    zero = torch.stack(at) == 0
    inside = (sizes > 1e-15) & (sizes < 1e15)
    origin = zero.all(0)  # its slope is 0, with NaN for a gradient too
    return origin | ~((inside | zero) & ~(zero & torch.stack(at).signbit())).all(0)


def is_large(x: Tensor, p: Tensor) -> Tensor:
    """Where PyTorch's slope, exp(x - y), has lost its digits; at infinities too."""
    return torch.maximum(x.abs(), p.abs()) > 1e3


def is_one_sided(x: Tensor, p: Tensor) -> Tensor:
    """Where PyTorch's slope y - y * y has lost digits; at +infinity too."""
    return ((x - p).abs() > 10) | (x == math.inf) | (p == math.inf)


def is_odd_power(x: Tensor, p: Tensor) -> Tensor:
    return ((x == -math.inf) & (p != p.floor())) | ((x == -1) & p.isinf())


def is_tiny_divisor(x: Tensor, p: Tensor) -> Tensor:
    return (p.abs() < 1e-38) & (p != 0)


def is_infinite_quotient(x: Tensor, p: Tensor) -> Tensor:
    return is_tiny_divisor(x, p) | ((x / p**3).isinf() & (p != 0))


ALL_ROWS = (
    *(Row(f"{f.__name__}(x)", f) for f in (torch.exp, torch.log, torch.log1p, torch.expm1)),
    *(Row(f"{f.__name__}(x)", f) for f in (torch.sqrt, torch.rsqrt, torch.tanh)),
    Row("sigmoid(x)", torch.sigmoid, is_saturated),
    *(Row(f"{f.__name__}(x)", f) for f in (torch.sinh, torch.cosh, torch.erf, torch.floor)),
    Row("exprel(x)", FUNCTIONS["_exprel"]),
    Row("softplus(x)", lambda x: -logsigmoid(-x)),
    Row("logsigmoid(x)", logsigmoid),
    Row("sin(x)", torch.sin, is_far),
    Row("cos(x)", torch.cos, is_far),
    Row("relu(x)", torch.relu),
    *(Row(f"{f.__name__}(x)", f) for f in (torch.round, torch.ceil, torch.atan, torch.asinh)),
    *(Row(f"{f.__name__}(x)", f) for f in (torch.acosh, torch.atanh, torch.log2, torch.exp2)),
    Row("trunc(x)", torch.trunc),
    Row("log10(x)", torch.log10),
    Row("asin(x)", torch.asin, is_end, of_finite=True),
    Row("acos(x)", torch.acos, is_end, of_finite=True),
    Row("hardsigmoid(x)", lambda x: functional.relu6(x + 3) / 6, is_nan),
    Row("hardtanh(x)", functional.hardtanh, is_nan),
    Row("leaky_relu(x)", functional.leaky_relu),
    Row("elu(x)", functional.elu, is_saturated),
    Row("selu(x)", functional.selu, is_saturated),
    Row("mish(x)", functional.mish, is_saturated, of_finite=True),
    Row("softsign(x)", functional.softsign, is_past_digits),
    Row("abs(x)", torch.abs, is_nan),
    Row("sign(x)", torch.sign, is_nan),
    Row("x**2", lambda x: x**2),
    Row("x**7", lambda x: x**7),
    Row("x**65", lambda x: x**65),
    Row("x**-1", lambda x: x**-1),
    Row("x**-2", lambda x: x**-2),
    Row("x**-3", lambda x: x**-3),
    Row("(x*x + 1)**-8", lambda x: (x * x + 1) ** -8),
    Row("x**0.5", lambda x: x**0.5, is_minus_infinity),
    Row("x**-0.5", lambda x: x**-0.5, is_minus_infinity),
    Row("x**1.5", lambda x: x**1.5, is_minus_infinity),
    Row("x**-1.5", lambda x: x**-1.5, is_minus_infinity),
    Row("0**x", lambda x: 0**x),
    Row("2**x", lambda x: 2**x),
    Row("2/x", lambda x: 2 / x),
    Row("clip(x, -1, 2)", lambda x: x.clamp(-1, 2)),
    spike("fast_sigmoid", lambda u: 1 / (1 + 2 * u.abs()) ** 2),
    spike("atan", lambda u: 1 / (1 + (math.pi * u) ** 2)),
    spike("sigmoid", lambda u: 2 * torch.sigmoid(2 * u) * (1 - torch.sigmoid(2 * u))),
    spike("triangle", lambda u: 2 * torch.relu(1 - 2 * u.abs())),
    Row("x + p", torch.add),
    Row("x - p", torch.sub),
    Row("x * p", torch.mul),
    Row("x / p", torch.div, is_tiny_divisor),
    Row("x / p**2", lambda x, p: x * p**-2, is_infinite_quotient),
    Row("x * p**-3", lambda x, p: x * p**-3, is_infinite_quotient),
    Row("x**p", torch.pow, is_odd_power),
    Row("stop_gradient(x) * p", lambda x, p: x.detach() * p),
    Row("x % p", torch.remainder, is_far_remainder),
    Row("x // p", lambda x, p: torch.div(x, p, rounding_mode="floor"), is_far_remainder),
    Row("atan2(x, p)", torch.atan2, is_not_moderate),
    Row("softmax([x, p])[0]", lambda x, p: torch.stack([x, p]).softmax(0)[0], is_one_sided),
    Row("logsumexp([x, p])", lambda x, p: torch.stack([x, p]).logsumexp(0), is_large),
    Row("forward_as(x, gradient_of=p)", lambda x, p: Straight.apply(x, p)),
    Row(
        "where((x > p) ^ (x < 2), x, p)",
        lambda x, p: torch.where((x > p) ^ (x < 2), x, p),
    ),
    Row("maximum(x, p)", torch.maximum),
    Row("minimum(x, p)", torch.minimum),
    *(
        Row(f"where(x {sign} p, x, p)", lambda x, p, f=f: torch.where(f(x, p), x, p))
        for sign, f in {
            **{">": torch.gt, ">=": torch.ge, "<": torch.lt},
            **{"<=": torch.le, "==": torch.eq, "!=": torch.ne},
        }.items()
    ),
    Row(
        "where((x > p) & (x < 2) | ~(p > 1), x, p)",
        lambda x, p: torch.where((x > p) & (x < 2) | ~(p > 1), x, p),
    ),
    Row("clip(x, p, q)", torch.clamp),
)


def source(rows: Sequence[Row]) -> str:
    """A cell with an output for each function, of inputs of its own."""
    inputs = [f"{name}{i}: Input" for i, row in enumerate(rows) for name in row.names]
    outputs = [
        f'"y{i}": ' + re.sub(r"\b([xpq])\b", rf"\g<1>{i}", row.text) for i, row in enumerate(rows)
    ]
    signature = ", ".join(["h: State", *inputs])
    body = ", ".join(['"h": 0.5 * h', *outputs])
    head = "from rnncc import *\nfrom rnncc import abs, cell\n\n\n@cell\n"
    return f"{head}def special({signature}):\n    return {{{body}}}\n"


def points(row: Row, dtype: torch.dtype, count: int) -> list[Tensor]:
    """All combinations of special values, [count] each; the rest are ones."""
    sizes = FEW if len(row.names) == 3 else SIZES + LARGE
    values = [*sizes, *(-size for size in sizes), math.nan]
    grid = torch.tensor(list(itertools.product(values, repeat=len(row.names))), dtype=dtype)
    filled = torch.ones(count, len(row.names), dtype=dtype)
    filled[: len(grid)] = grid
    return list(filled.unbind(1))


def most_points() -> int:
    return max((2 * len(SIZES + LARGE) + 1) ** 2, (2 * len(FEW) + 1) ** 3)


def by_torch(row: Row, at: Sequence[Tensor], cotangent: float) -> list[Tensor]:
    """The value, then the gradient of each argument."""
    leaves = [x.clone().requires_grad_() for x in at]
    y = row.torch(*leaves)
    found = torch.autograd.grad(y, leaves, torch.full_like(y, cotangent), allow_unused=True)
    return [
        y.detach(),
        *(torch.zeros_like(x) if g is None else g for g, x in zip(found, at, strict=True)),
    ]


def differences(
    row: Row, at: Sequence[Tensor], got: Sequence[Tensor], cotangent: float
) -> Mapping[str, list[str]]:
    """The results that are not as PyTorch's, by name.

    Where PyTorch overflows on the way, the result of float64 counts as right too.
    """
    dtype = at[0].dtype
    expected = by_torch(row, at, cotangent)
    signed_zero = torch.stack([(x == 0) & x.signbit() for x in at]).any(0)
    exact = [e.to(dtype) for e in by_torch(row, [x.double() for x in at], cotangent)]
    slopes = by_torch(row, at, 1.0)
    wrong = {}
    for name, g, e, wide, slope in zip(
        ["y", *row.names], got, expected, exact, slopes, strict=True
    ):
        ok = is_close(g, e) | (~e.isfinite() & is_close(g, wide))
        ok |= signed_zero & g.isinf() & e.isinf()  # a zero has no sign in rnncc
        if math.isinf(cotangent):
            ok |= slope.abs() < torch.finfo(dtype).tiny  # it may count as 0
            ok |= torch.full_like(ok, row.of_finite and name != "y")
        if row.apart:
            ok |= row.apart(*at)
        places = (~ok).nonzero().flatten().tolist()
        said = [f"{[x[i].item() for x in at]}: {g[i].item()}, not {e[i].item()}" for i in places]
        if said:
            wrong[f"{name} of {row.text}, gradient {cotangent}"] = said
    return wrong


def is_close(a: Tensor, b: Tensor) -> Tensor:
    """Equal up to rounding; what is smaller than all normal numbers is 0."""
    relative = 1e-4 if a.dtype == torch.float32 else 1e-9
    small = 4 * torch.finfo(a.dtype).tiny
    near = ((a - b).abs() <= relative * b.abs()) & b.isfinite()
    return (a == b) | (a.isnan() & b.isnan()) | near | ((a.abs() < small) & (b.abs() < small))
