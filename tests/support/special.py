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
        exact: the same with a derivative that loses no digits, where PyTorch's does.
        cancels: its derivative is the difference of two that are alike, in PyTorch as well.
    """

    text: str
    torch: Callable[..., Tensor]
    apart: Callable[..., Tensor] | None = None
    exact: Callable[..., Tensor] | None = None
    cancels: bool = False

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


class Softsign(torch.autograd.Function):
    """With a derivative whose two parts don't cancel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return functional.softsign(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] / (1 + x.abs()) ** 2  # type: ignore[no-any-return]


class LogSumExp(torch.autograd.Function):
    """With a derivative that doesn't take what is left of large values."""

    @staticmethod
    def forward(ctx: Any, *values: Tensor) -> Tensor:
        ctx.save_for_backward(*values)
        return torch.stack(values).logsumexp(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return (gradients[0] * torch.stack(ctx.saved_tensors).softmax(0)).unbind(0)


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


def is_flushed(x: Tensor) -> Tensor:
    """Where exp(x) is below the smallest normal float, and x * exp(x) is not."""
    return (x < -87) & (x > -104)


def is_many_times(x: Tensor, p: Tensor) -> Tensor:
    """Where the quotient has more digits than two divisions find."""
    return (x.double() / p).abs() >= 2.0**105


def is_close_to_origin(x: Tensor, p: Tensor) -> Tensor:
    """Where the slope overflows."""
    return ((x.abs() < 1e-38) & (p.abs() < 1e-38)) & ((x != 0) | (p != 0))


def is_infinite_sum(x: Tensor, p: Tensor) -> Tensor:
    """Where all are -infinity, or another than the infinite one is large."""
    large = torch.minimum(x, p) > (88 if x.dtype == torch.float32 else 709)
    return (torch.maximum(x, p) == -math.inf) | (torch.maximum(x, p).isposinf() & large)


def is_odd_power(x: Tensor, p: Tensor) -> Tensor:
    return ((x == -math.inf) & (p != p.floor())) | ((x == -1) & p.isinf())


def is_tiny_divisor(x: Tensor, p: Tensor) -> Tensor:
    return (p.abs() < 1e-38) & (p != 0)


def is_infinite_quotient(x: Tensor, p: Tensor) -> Tensor:
    return is_tiny_divisor(x, p) | ((x / p**3).isinf() & (p != 0))


ALL_ROWS = (
    *(Row(f"{f.__name__}(x)", f) for f in (torch.exp, torch.log, torch.log1p, torch.expm1)),
    *(Row(f"{f.__name__}(x)", f) for f in (torch.sqrt, torch.rsqrt, torch.tanh)),
    Row("sigmoid(x)", torch.sigmoid, cancels=True),
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
    Row("asin(x)", torch.asin),
    Row("acos(x)", torch.acos),
    Row("hardsigmoid(x)", lambda x: functional.relu6(x + 3) / 6, is_nan),
    Row("hardtanh(x)", functional.hardtanh, is_nan),
    Row("leaky_relu(x)", functional.leaky_relu),
    Row("elu(x)", functional.elu),
    Row("selu(x)", functional.selu),
    Row("mish(x)", functional.mish, is_flushed),
    Row("softsign(x)", functional.softsign, exact=Softsign.apply),
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
    Row(
        "spike(x, lambda u: exp(-u * u))",
        lambda x: Step.apply(x, lambda u: torch.exp(-u * u)),
        is_nan,
    ),
    Row("x + p", torch.add),
    Row("x - p", torch.sub),
    Row("x * p", torch.mul),
    Row("x / p", torch.div, is_tiny_divisor),
    Row("x / p**2", lambda x, p: x * p**-2, is_infinite_quotient),
    Row("x * p**-3", lambda x, p: x * p**-3, is_infinite_quotient),
    Row("x**p", torch.pow, is_odd_power),
    Row("stop_gradient(x) * p", lambda x, p: x.detach() * p),
    Row("x % p", torch.remainder, is_many_times),
    Row("x // p", lambda x, p: torch.div(x, p, rounding_mode="floor")),
    Row("atan2(x, p)", torch.atan2, is_close_to_origin),
    Row("softmax([x, p])[0]", lambda x, p: torch.stack([x, p]).softmax(0)[0], cancels=True),
    Row(
        "logsumexp([x, p])",
        lambda x, p: torch.stack([x, p]).logsumexp(0),
        is_infinite_sum,
        exact=LogSumExp.apply,
    ),
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
    Row("clip(x, 0)", lambda x: x.clamp(min=0)),
    Row("clip(x, None, 1)", lambda x: x.clamp(max=1)),
    Row("clip(x, p, None)", lambda x, p: x.clamp(min=p)),
    Row("clip(x, None, p)", lambda x, p: x.clamp(max=p)),
    Row("clip(x, 0, math.inf)", lambda x: x.clamp(0, math.inf)),
)


def groups() -> list[list[Row]]:
    """Those that share a cell: a kernel for GPUs takes fewer than 64 tensors."""
    found: list[list[Row]] = [[]]
    for row in ALL_ROWS:
        if sum(1 + len(r.names) for r in (*found[-1], row)) >= 64:
            found.append([])
        found[-1].append(row)
    return found


def source(rows: Sequence[Row]) -> str:
    """A cell with an output for each function, of inputs of its own."""
    inputs = [f"{name}{i}: Input" for i, row in enumerate(rows) for name in row.names]
    outputs = [
        f'"y{i}": ' + re.sub(r"\b([xpq])\b", rf"\g<1>{i}", row.text) for i, row in enumerate(rows)
    ]
    signature = ", ".join(["h: State", *inputs])
    body = ", ".join(['"h": 0.5 * h', *outputs])
    head = "import math\nfrom rnncc import *\nfrom rnncc import abs, cell\n\n\n@cell\n"
    return f"{head}def special({signature}):\n    return {{{body}}}\n"


def points(row: Row, dtype: torch.dtype, count: int, denormal: bool = True) -> list[Tensor]:
    """All combinations of special values, [count] each; the rest are ones.

    Args:
        denormal: also those below the smallest normal float, which a GPU takes as 0.
    """
    sizes = FEW if len(row.names) == 3 else SIZES + LARGE
    sizes = [s for s in sizes if denormal or dtype == torch.float64 or not 0 < s < 1e-38]
    values = [*sizes, *(-size for size in sizes), math.nan]
    grid = torch.tensor(list(itertools.product(values, repeat=len(row.names))), dtype=dtype)
    filled = torch.ones(count, len(row.names), dtype=dtype)
    filled[: len(grid)] = grid
    return list(filled.unbind(1))


def most_points() -> int:
    return max((2 * len(SIZES + LARGE) + 1) ** 2, (2 * len(FEW) + 1) ** 3)


def by_torch(row: Row, at: Sequence[Tensor], cotangent: float, exact: bool = False) -> list[Tensor]:
    """The value, then the gradient of each argument."""
    leaves = [x.clone().requires_grad_() for x in at]
    y = ((exact and row.exact) or row.torch)(*leaves)
    found = torch.autograd.grad(y, leaves, torch.full_like(y, cotangent), allow_unused=True)
    return [
        y.detach(),
        *(torch.zeros_like(x) if g is None else g for g, x in zip(found, at, strict=True)),
    ]


def differences(
    row: Row, at: Sequence[Tensor], got: Sequence[Tensor], cotangent: float
) -> Mapping[str, list[str]]:
    """The results that are not as PyTorch's, by name.

    The result of float64 counts as right too: PyTorch overflows, or loses digits, on the way.
    """
    dtype = at[0].dtype
    expected = by_torch(row, at, cotangent)
    signed_zero = torch.stack([(x == 0) & x.signbit() for x in at]).any(0)
    exact = [e.to(dtype) for e in by_torch(row, [x.double() for x in at], cotangent, exact=True)]
    slopes = by_torch(row, at, 1.0)
    wrong = {}
    for name, g, e, wide, slope in zip(
        ["y", *row.names], got, expected, exact, slopes, strict=True
    ):
        ok = is_close(g, e) | is_close(g, wide)
        ok |= signed_zero & g.isinf() & e.isinf()  # a zero has no sign in rnncc
        if math.isinf(cotangent):
            ok |= slope.abs() < torch.finfo(dtype).tiny  # it may count as 0
        elif row.cancels:
            ok |= (g - e).abs() <= 4 * torch.finfo(dtype).eps * abs(cotangent)
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
