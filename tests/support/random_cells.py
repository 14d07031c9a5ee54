"""Random cells as text, run by kernels and by autograd on tensors; for their tests."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

import rnncc
from rnncc.runtime.cpu import build
from tests.support import emulation_build
from tests.support.tolerances import assert_close

BATCH, STEPS, CHANNELS, GROUP = 2, 19, 6, 2
DEPTH = 5

# Arguments of functions with a limited domain, or that grow fast, are made safe on the spot.
FORMS = [
    *("{0} + {1}", "{0} - {1}", "{0} * {1}", "{0} + 0.7", "1.3 * {0}", "1 - {0}", "-{0}"),
    *("{0} / 3", "{0} / (1.5 + sin({1}))", "{0} / (0.5 + {1} * {1})", "0.4 / (1.2 - cos({0}))"),
    *("exp(tanh({0}))", "exp(-abs({0}))", "expm1(sin({0}))", "log(softplus({0}) + 0.1)"),
    *("log1p(softplus({0}))", "sqrt(softplus({0}) + 0.1)", "rsqrt(0.5 + {0} * {0})"),
    *("sigmoid({0})", "tanh({0})", "softplus({0})", "logsigmoid({0})", "silu({0})", "gelu({0})"),
    *("relu({0})", "abs({0})", "sign({0})", "sin({0})", "cos({0})", "erf({0})"),
    *("sinh(tanh({0}))", "cosh(sin({0}))", "maximum({0}, {1})", "minimum({0}, {1})"),
    *("clip({0}, -0.8, 0.7)", "clip({0}, -sigmoid({1}), {2} * {2})"),
    *("where({0} > {1}, {2}, {0})", "where(({0} > 0.1) & ({1} <= 0.3), {2}, {1})"),
    *("where(~({0} < {1}) | ({2} >= 0), {1}, 0.25)", "where({0} != {1}, {2}, 1.0)"),
    *("tanh({0}) ** 2", "sin({0}) ** 3", "tanh({0}) ** 5", "(softplus({0}) + 0.3) ** -2"),
    *("(softplus({0}) + 0.1) ** 1.5", "(softplus({0}) + 0.1) ** 0.5", "2.0 ** tanh({0})"),
    *("(softplus({0}) + 0.2) ** tanh({1})", "(1 + {0} * {0}) ** -0.5"),
    *("spike({0})", "spike({0}, surrogate='atan', slope=4.0)"),
    *("spike({0}, surrogate='sigmoid', slope=3)", "spike({0}, surrogate='triangle', slope=1.5)"),
]
BOUNDED = [
    *("tanh({0})", "0.5 * {s} + 0.8 * sin({0})", "sigmoid({0})", "erf({0}) - 0.1 * {s}"),
    *("sigmoid({0}) * {s} + (1 - sigmoid({0})) * tanh({1})", "clip({0}, -2, 2)"),
]


@dataclass(frozen=True)
class Text:
    """A cell as text: role of each argument by name, and the body."""

    roles: dict[str, str]
    body: str

    @property
    def source(self) -> str:
        """A cell file."""
        signature = ", ".join(f"{name}: {role}" for name, role in self.roles.items())
        head = "from rnncc import *\nfrom rnncc import abs, cell\n\n\n@cell\n"
        return f"{head}def odd({signature}):\n{textwrap.indent(self.body, '    ')}\n"

    @property
    def plain(self) -> str:
        """The same as a function of tensors."""
        return f"def odd({', '.join(self.roles)}):\n{textwrap.indent(self.body, '    ')}\n"


@st.composite
def expressions(draw: st.DrawFn, names: list[str], forms: list[str], depth: int) -> str:
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(names))
    form = draw(st.sampled_from(forms))
    parts = [
        draw(expressions(names, forms, depth - 1)) if f"{{{i}}}" in form else "" for i in range(3)
    ]
    return f"({form.format(*parts)})"


@st.composite
def texts(draw: st.DrawFn, states: int, mixes: bool) -> Text:
    roles = {f"s{i}": draw(st.sampled_from(["State", "State(init=0.3)"])) for i in range(states)}
    roles |= {f"x{i}": "Input" for i in range(draw(st.integers(1, 2)))}
    roles |= {f"a{i}": "Param" for i in range(draw(st.integers(0, 2)))}
    if draw(st.booleans()):
        roles["dt"] = "Input(shared=True)"
    if draw(st.booleans()):
        roles["tau"] = "Param(shared=True)"
    names, forms = list(roles), FORMS
    if mixes:
        roles["R"] = f"Matrix(block={GROUP})"
        forms = [*FORMS, *["R @ {0}"] * 6]
    lines = []
    for i in range(draw(st.integers(0, 2))):
        lines.append(f"let{i} = {draw(expressions(names, forms, DEPTH))}")
        names = [*names, f"let{i}"]
    results = {}
    for state in (n for n, role in roles.items() if role.startswith("State")):
        parts = [draw(expressions(names, forms, DEPTH - 1)) for _ in range(2)]
        results[state] = draw(st.sampled_from(BOUNDED)).format(*parts, s=state)
    if draw(st.booleans()):
        results["y"] = draw(expressions(names, forms, DEPTH))
    # each argument takes part, even if the expressions above cancel
    some = [n for n in roles if n != "R"]
    results["s0"] += "".join(f" + {0.03 + 0.007 * i:.3f} * {n}" for i, n in enumerate(some))
    if mixes:
        results["s0"] = f"tanh({results['s0']} + R @ s0)"
    listed = "".join(f'    "{name}": {value},\n' for name, value in results.items())
    return Text(roles, "\n".join([*lines, f"return {{\n{listed}}}"]))


def tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def clip(*args: Any) -> Tensor:
    """The backward of torch.clamp wants its arguments of one shape."""
    return torch.clamp(*torch.broadcast_tensors(*(tensor(a) for a in args)))


SURROGATES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "fast_sigmoid": lambda u, k: (1 + k * u.abs()) ** -2,
    "atan": lambda u, k: k / 2 / (1 + (torch.pi / 2 * k * u) ** 2),
    "sigmoid": lambda u, k: k * torch.sigmoid(k * u) * torch.sigmoid(-k * u),
    "triangle": lambda u, k: k * torch.relu(1 - k * u.abs()),
}


class Spike(torch.autograd.Function):
    """A step forward, the surrogate's derivative backward."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, surrogate: str, slope: float) -> Tensor:
        ctx.save_for_backward(u)
        ctx.surrogate, ctx.slope = surrogate, slope
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (u,) = ctx.saved_tensors
        return g * SURROGATES[ctx.surrogate](u, ctx.slope), None, None


def spike(u: Tensor, surrogate: str = "fast_sigmoid", slope: float = 25.0) -> Tensor:
    result: Tensor = Spike.apply(u, surrogate, slope)
    return result


class Mixing:
    """R [N / k, k, k] as the left side of @, group by group."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def __matmul__(self, vector: Tensor) -> Tensor:
        vector = vector.expand(BATCH, CHANNELS)
        rows = [
            sum(self.matrix[:, i, j] * vector[:, j::GROUP] for j in range(GROUP))
            for i in range(GROUP)
        ]
        return torch.stack(rows, -1).flatten(-2)  # type: ignore[arg-type]


NAMES: dict[str, Any] = {
    **{
        name: getattr(torch, name)
        for name in (
            *("exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "sigmoid", "tanh", "relu", "abs"),
            *("sign", "sin", "cos", "sinh", "cosh", "erf", "maximum", "minimum"),
        )
    },
    "softplus": lambda x: functional.softplus(x, threshold=40),
    "logsigmoid": functional.logsigmoid,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "clip": clip,
    "where": lambda c, a, b: torch.where(c, tensor(a), tensor(b)),
    "spike": spike,
}


def by_autograd(text: Text, leaves: dict[str, Tensor]) -> list[Tensor]:
    """[*outputs, *last states] by a loop over time."""
    names = dict(NAMES)
    exec(text.plain, names)
    states = {n: leaves[n] for n, role in text.roles.items() if role.startswith("State")}
    fixed = {n: leaves[n] for n, role in text.roles.items() if role.startswith("Param")}
    if "R" in text.roles:
        fixed["R"] = Mixing(leaves["R"])  # type: ignore[assignment]
    moving = {n: leaves[n] for n, role in text.roles.items() if role.startswith("Input")}
    rows = []
    for t in range(next(iter(moving.values())).shape[1]):
        at = {n: x[:, t] if x.dim() == 3 else x[:, t, None] for n, x in moving.items()}
        results = names["odd"](**states, **at, **fixed)
        results = {n: v.expand(BATCH, CHANNELS) for n, v in results.items()}
        states = {n: results[n] for n in states}
        rows.append(
            [v for n, v in results.items() if n not in states] or [list(states.values())[-1]]
        )
    return [*(torch.stack(c, 1) for c in zip(*rows, strict=True)), *states.values()]


def by_kernel(
    c: rnncc.CompiledCell, text: Text, leaves: dict[str, Tensor], **choices: Any
) -> list[Tensor]:
    states = [n for n, role in text.roles.items() if role.startswith("State")]
    arguments = {n: t for n, t in leaves.items() if n not in states}
    start = tuple(leaves[n] for n in states)
    y, h = c(**arguments, h0=start, return_state=True, **choices)
    return [*([y] if isinstance(y, Tensor) else y), *([h] if isinstance(h, Tensor) else h)]


SIZES = {
    "State": (BATCH, CHANNELS),
    "Input": (BATCH, STEPS, CHANNELS),
    "Input(shared=True)": (BATCH, STEPS),
    "Param": (CHANNELS,),
    "Param(shared=True)": (1,),
    f"Matrix(block={GROUP})": (CHANNELS // GROUP, GROUP, GROUP),
}


def random_leaves(
    text: Text, seed: int, steps: int = STEPS, weights: float | None = None
) -> dict[str, Tensor]:
    """Standard normal, or params uniformly within `weights`."""
    generator = torch.Generator().manual_seed(seed)
    leaves = {}
    for name, role in text.roles.items():
        kind = role.replace("(init=0.3)", "")
        size = SIZES[kind]
        if kind.startswith("Input"):
            size = (BATCH, steps, *size[2:])
        if weights is not None and kind.startswith(("Param", "Matrix")):
            unit = 2 * torch.rand(*size, generator=generator, dtype=torch.float64) - 1
            leaves[name] = weights * unit
        else:
            leaves[name] = torch.randn(*size, generator=generator, dtype=torch.float64)
    return leaves


def with_gradients(
    run: Callable[[dict[str, Tensor]], list[Tensor]], leaves: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Results and the gradients of all leaves, by name."""
    leaves = {n: t.clone().requires_grad_() for n, t in leaves.items()}
    results = run(leaves)
    generator = torch.Generator().manual_seed(7)
    upstream = [torch.randn(r.shape, generator=generator, dtype=r.dtype) for r in results]
    flowing = [(r, g) for r, g in zip(results, upstream, strict=True) if r.requires_grad]
    grads = torch.autograd.grad(
        [r for r, _ in flowing],
        list(leaves.values()),
        [g for _, g in flowing],
        materialize_grads=True,
    )
    named = {f"result {i}": r.detach() for i, r in enumerate(results)}
    return named | {f"gradient of {n}": g for n, g in zip(leaves, grads, strict=True)}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """The results that differ by more than the limits of float64, in words."""
    assert a.keys() == b.keys()
    complaints = []
    for name in a:
        try:
            assert_close(a[name], b[name], torch.float64, name, gradient=name[0] == "g")
        except AssertionError as error:
            complaints.append(str(error))
    return complaints


@contextmanager
def quick_builds(level: str) -> Iterator[None]:
    """Another optimisation level than -O3, which takes ten times as long to compile as -O0.

    The emulation's -O1 takes three times as long.
    """
    with pytest.MonkeyPatch.context() as patch:
        usually = ((build, "FLAGS", "-O3"), (emulation_build, "FOR_KERNELS", "-O1"))
        for module, flags, usual in usually:
            others = [level if f == usual else f for f in getattr(module, flags)]
            patch.setattr(module, flags, others)
        yield
