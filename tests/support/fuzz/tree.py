"""Expression trees of random cells: printed as a cell's text, or evaluated on tensors by PyTorch.

Neither rnncc nor SymPy has a part in it, so that the two can be held to each other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tests.support.fuzz import several
from tests.support.fuzz.several import SEVERAL

SLOPES = {"fast_sigmoid": 25.0, "atan": 4.0, "sigmoid": 3.0, "triangle": 1.5}
COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
CONDITIONS = {*COMPARISONS, "both", "either", "differ", "negate"}


@dataclass(frozen=True)
class Node:
    """An operation on nodes; a name and a number have a value instead of arguments."""

    op: str
    args: tuple[Node, ...] = ()
    value: Any = None

    def __add__(self, other: Any) -> Node:
        return apply("add", self, other)

    def __radd__(self, other: Any) -> Node:
        return apply("add", other, self)

    def __sub__(self, other: Any) -> Node:
        return apply("sub", self, other)

    def __rsub__(self, other: Any) -> Node:
        return apply("sub", other, self)

    def __mul__(self, other: Any) -> Node:
        return apply("mul", self, other)

    def __rmul__(self, other: Any) -> Node:
        return apply("mul", other, self)

    def __truediv__(self, other: Any) -> Node:
        return apply("div", self, other)

    def __rtruediv__(self, other: Any) -> Node:
        return apply("div", other, self)

    def __pow__(self, other: Any) -> Node:
        return apply("pow", self, other)

    def __rpow__(self, other: Any) -> Node:
        return apply("pow", other, self)

    def __matmul__(self, other: Any) -> Node:
        return apply("mix", self, other)

    def __neg__(self) -> Node:
        return apply("neg", self)


def apply(op: str, *args: Any) -> Node:
    return Node(op, tuple(map(lift, args)))


def lift(value: Any) -> Node:
    return value if isinstance(value, Node) else Node("number", value=value)


def name(text: str) -> Node:
    return Node("name", value=text)


def nodes(node: Node) -> Iterator[Node]:
    """The node and all below it."""
    yield node
    for arg in node.args:
        yield from nodes(arg)


def names_in(node: Node) -> set[str]:
    return {n.value for n in nodes(node) if n.op == "name"}


def renamed(node: Node, names: Mapping[str, Node]) -> Node:
    """With nodes in the place of names."""
    if node.op == "name":
        return names.get(node.value, node)
    return replace(node, args=tuple(renamed(arg, names) for arg in node.args))


# --- as text ---------------------------------------------------------------------------------

OPERATORS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**", "mix": "@"}
BETWEEN = {**OPERATORS, **COMPARISONS, "both": "&", "either": "|", "differ": "^", "mod": "%"}


def text_of(node: Node) -> str:
    """As a cell has it; every operation stands in parentheses."""
    parts = [text_of(arg) for arg in node.args]
    if node.op == "name":
        return str(node.value)
    if node.op in SEVERAL:
        return several.text(node, parts)
    if node.op == "number":
        return f"({node.value!r})" if node.value < 0 else repr(node.value)
    if node.op in BETWEEN:
        return f"({parts[0]} {BETWEEN[node.op]} {parts[1]})"
    if node.op == "neg":
        return f"(-{parts[0]})"
    if node.op == "negate":
        return f"(~{parts[0]})"
    if node.op == "spike":
        surrogate, slope = node.value
        if (surrogate, slope) == ("fast_sigmoid", 25.0):
            return f"spike({parts[0]})"
        return f"spike({parts[0]}, surrogate={surrogate!r}, slope={slope!r})"
    if node.op == "total":
        return f"sum([{', '.join(parts)}])"
    if node.op == "forward_as":
        return f"forward_as({parts[0]}, gradient_of={parts[1]})"
    if node.op in ("softmax", "logsumexp"):
        listed = f"[{', '.join(parts)}]"
        return f"softmax({listed})[0]" if node.op == "softmax" else f"logsumexp({listed})"
    if node.op == "squares":
        return f"sum(each * each for each in ({', '.join(parts)}))"
    if node.op == "call":
        return f"{node.value}({', '.join(parts)})"
    return f"{node.op}({', '.join(parts)})"


# --- on tensors ------------------------------------------------------------------------------


class _Spike(torch.autograd.Function):
    """A step forward, the surrogate's derivative backward."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, surrogate: str, slope: float) -> Tensor:
        ctx.save_for_backward(u)
        ctx.surrogate, ctx.slope = surrogate, slope
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (u,) = ctx.saved_tensors
        k = ctx.slope
        derivative = {
            "fast_sigmoid": lambda: (1 + k * u.abs()) ** -2,
            "atan": lambda: k / 2 / (1 + (torch.pi / 2 * k * u) ** 2),
            # from its value, as kernels have it: a float32 loop loses as many digits in the tails
            "sigmoid": lambda: k * (s := torch.sigmoid(k * u)) * (1 - s),
            "triangle": lambda: k * torch.relu(1 - k * u.abs()),
        }[ctx.surrogate]()
        return g * derivative, None, None


def _exprel(x: Tensor) -> Tensor:
    """(exp(x) - 1) / x, by its series near 0."""
    near = x.abs() < 0.3
    safe = torch.where(near, torch.ones_like(x), x)
    inside = torch.where(near, x, torch.zeros_like(x))
    series = sum(inside**k / math.factorial(k + 1) for k in range(1, 14)) + 1.0
    return torch.where(near, series, torch.expm1(safe) / safe)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "neg": torch.neg,
    "pow": torch.pow,
    **{
        each: getattr(torch, each)
        for each in (
            *("exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "sigmoid", "tanh", "sin", "cos"),
            *("sinh", "cosh", "erf", "relu", "abs", "sign", "floor", "maximum", "minimum"),
            *("atan", "atan2", "asin", "acos", "asinh", "acosh", "atanh", "log2", "log10", "exp2"),
            *("round", "ceil", "trunc"),
            *("lt", "le", "gt", "ge", "eq", "ne"),
        )
    },
    "exprel": _exprel,
    "softplus": lambda x: functional.softplus(x, threshold=40),
    "logsigmoid": functional.logsigmoid,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "hardsigmoid": lambda x: functional.relu6(x + 3) / 6,
    **{
        each: getattr(functional, each)
        for each in ("hardtanh", "leaky_relu", "elu", "selu", "mish", "softsign")
    },
    "mod": torch.remainder,
    "stop_gradient": lambda x: x.detach(),
    "forward_as": lambda a, b: a.detach() + b - b.detach(),
    "softmax": lambda *args: torch.stack(torch.broadcast_tensors(*args)).softmax(0)[0],
    "logsumexp": lambda *args: torch.stack(torch.broadcast_tensors(*args)).logsumexp(0),
    "differ": torch.logical_xor,
    "clip": lambda *args: torch.clamp(*torch.broadcast_tensors(*args)),
    "where": torch.where,
    "both": torch.logical_and,
    "either": torch.logical_or,
    "negate": torch.logical_not,
}
FROM_VALUE: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda y: 1 - y * y,
    "sigmoid": lambda y: y * (1 - y),
}
JUMPS = {*COMPARISONS, "relu", "abs", "sign", "floor", "maximum", "minimum", "clip", "spike"}
ARITHMETIC = {"add", "sub", "mul", "div"}
FUNCTION_UNITS = 3.0  # of half a last place, which tests/kernels/test_math.py allows or more
JUMPS |= {"hardsigmoid", "hardtanh", "leaky_relu", "elu", "selu", "round", "ceil", "trunc", "mod"}
EXACT = {*CONDITIONS, *JUMPS, "where", "neg"}  # of operations, those that round nothing


def _has_other_values(op: str, args: list[Tensor]) -> bool:
    """Where docs/numerics.md has NaN, PyTorch a number: sin and cos far out, sign, spike of NaN."""
    far = op in ("sin", "cos") and bool((args[0].abs() > 2.0**29).any())
    return far or (op in ("sign", "spike") and bool(args[0].isnan().any()))


@dataclass
class Evaluation:
    """Evaluates nodes on tensors [..., N].

    Attributes:
        functions: name, parameters, body and how often it is repeated, of each helper.
        margin: how near any argument comes to a jump or kink, relative to max(1, |argument|), or
            0 where kernels have other values; None if nobody asks.
        rough: draws what each operation is off by, for a loop that is as good as any other; then
            tanh and sigmoid have their derivatives from their values, as kernels do.
        unit: how much that is, relative to the value; a function is off by FUNCTION_UNITS more,
            to the same side at each step, as an approximation is.
    """

    dtype: torch.dtype
    channels: int
    functions: Mapping[str, tuple[tuple[str, ...], Node, int]] = field(default_factory=dict)
    margin: float | None = None
    rough: torch.Generator | None = None
    unit: float = 0.0
    _numbers: dict[float, Tensor] = field(default_factory=dict)
    _sides: dict[str, float] = field(default_factory=dict)

    def __call__(self, node: Node, values: Mapping[str, Any]) -> Any:
        """A tensor [..., N], of a vector a tuple of them."""
        if node.op == "name":
            return values[node.value]
        if node.op == "number":
            if node.value not in self._numbers:
                self._numbers[node.value] = torch.tensor(float(node.value), dtype=self.dtype)
            return self._numbers[node.value]
        if node.op == "ago":
            return values[f"{node.args[0].value}.ago({node.value})"]
        args = [self(arg, values) for arg in node.args]
        if node.op in SEVERAL:
            return several.value(node, args, lambda op, *each: self._one(Node(op), each))
        if node.op == "call":
            return self._called(node.value, args)
        if node.op == "mix":
            matrix, vector = args
            return several.elementwise(lambda each: self._mixed(matrix, each), [vector])
        return several.elementwise(lambda *each: self._one(node, each), args)

    def _one(self, node: Node, given: Sequence[Tensor]) -> Tensor:
        """An operation on one value each."""
        args = list(given)
        if self.margin is not None and node.op in JUMPS:
            self._watch(node.op, [arg.detach() for arg in args])
        if _has_other_values(node.op, args):
            self.note_other_values()
        if node.op in ("total", "squares"):
            return functools.reduce(torch.add, [a * a if node.op == "squares" else a for a in args])
        if node.op == "spike":
            found: Tensor = _Spike.apply(args[0], *node.value)  # type: ignore[no-untyped-call]
            return found
        if self.rough is not None and node.op not in EXACT:
            return self._roughly(node.op, args)
        return FUNCTIONS[node.op](*args)

    def note_other_values(self) -> None:
        """Kernels may have other values here: as near to a jump as can be."""
        if self.margin is not None:
            self.margin = 0.0

    def _roughly(self, op: str, args: list[Tensor]) -> Tensor:
        if op == "silu":
            return args[0] * self._roughly("sigmoid", args)
        if op == "gelu":
            half = self._roughly("erf", [args[0] / math.sqrt(2)])
            return args[0] * (self._roughly("add", [half, torch.ones_like(half)]) / 2)
        x = args[0]
        y = FUNCTIONS[op](*(arg.detach() for arg in args) if op in FROM_VALUE else args)
        noise = torch.randn(y.shape, generator=self.rough, dtype=y.dtype)
        y = y * (1 + self.unit * (noise + self._bias(op)))
        return y + FROM_VALUE[op](y) * (x - x.detach()) if op in FROM_VALUE else y

    def _bias(self, op: str) -> float:
        if op in ARITHMETIC:
            return 0.0
        if op not in self._sides:
            up = torch.rand((), generator=self.rough) < 0.5
            self._sides[op] = FUNCTION_UNITS if up else -FUNCTION_UNITS
        return self._sides[op]

    def _called(self, function: str, args: list[Any]) -> Any:
        parameters, body, times = self.functions[function]
        own = dict(zip(parameters, args, strict=True))
        for _ in range(times):
            own[parameters[0]] = self(body, own)
        return own[parameters[0]]

    def _mixed(self, matrix: Tensor, vector: Tensor) -> Tensor:
        """matrix [G, k, k], vector [..., N], group by group."""
        whole = vector.expand(*torch.broadcast_shapes(vector.shape, (self.channels,)))
        groups = whole.unflatten(-1, (-1, matrix.shape[-1]))
        return torch.einsum("gij,...gj->...gi", matrix, groups).flatten(-2)

    def _watch(self, op: str, args: list[Tensor]) -> None:
        first, *rest = args
        if op in ("floor", "ceil", "trunc"):
            rest = [first.round()]
        elif op == "round":
            rest = [first.floor() + 0.5]
        elif op == "mod":
            first = first / rest[0]
            rest = [first.round()]
        elif op in ("hardsigmoid", "hardtanh"):
            rest = [
                torch.full_like(first, side * (3 if op == "hardsigmoid" else 1)) for side in (-1, 1)
            ]
        for other in rest or [torch.zeros_like(first)]:
            size = torch.maximum(first.abs(), other.abs()).clamp(min=1.0)
            nearest = float(((first - other).abs() / size).min())
            self.margin = min(nearest, self.margin if self.margin is not None else math.inf)
