"""Random calls of random cells: shapes, dtypes, strides, solver, sequences, gradients wanted."""

from __future__ import annotations

import itertools
import math
import random
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tests.support.fuzz.cells import MOST_OF_A_BLOCK, Argument, RandomCell
from tests.support.fuzz.tree import nodes

COMPUTE = {"float32": "float32", "float64": "float64", "bfloat16": "float32", "float16": "float32"}


@dataclass(frozen=True)
class Setting:
    """What all calls of a cell share, so that it is built once.

    Attributes:
        level: of the compiler's optimisation.
        emulated: run the text of kernel.cu.
    """

    dtype: str
    level: str
    emulated: bool


@dataclass(frozen=True)
class RandomCall:
    """A call, but for its numbers, which follow from `seed` and a name.

    Attributes:
        h0: "none" for the cell's inits, or the dtype of the state that is given.
        params: their dtype.
        options: solver, segment, ... and reverse.
        lengths, cu_seqlens, reset: of the sequences; `reset` is how likely a step has one.
        layouts: how an input lies in memory, by name; see LAYOUTS.
        without: leaves that require no gradient.
        ignored: results into which no gradient flows.
        form: "positional", "keywords", "inference" (under no_grad).
        scales: how large inputs, params and states are.
    """

    seed: str
    leading: tuple[int, ...]
    steps: int
    channels: int
    dtype: str
    h0: str
    params: str
    options: dict[str, Any] = field(default_factory=dict)
    lengths: tuple[int, ...] | None = None
    cu_seqlens: tuple[int, ...] | None = None
    reset: float = 0.0
    layouts: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    return_states: bool = False
    form: str = "positional"
    scales: tuple[float, float, float] = (1.0, 1.0, 1.0)
    threads: int = 1

    @property
    def batch(self) -> int:
        return math.prod(self.leading)

    @property
    def rows(self) -> list[tuple[int, int, int]]:
        """Row, first step and end of each sequence."""
        if self.cu_seqlens is not None:
            return [(0, first, end) for first, end in itertools.pairwise(self.cu_seqlens)]
        ends = self.lengths or (self.steps,) * self.batch
        return [(b, 0, end) for b, end in enumerate(ends)]

    @property
    def resets(self) -> Tensor | None:
        """[*leading, T] bool."""
        if not self.reset:
            return None
        return (
            torch.rand(*self.leading, self.steps, generator=_generator(self.seed, "reset"))
            < self.reset
        )

    def as_dict(self) -> dict[str, Any]:
        """What isn't as by default."""
        plain = {k: v for k, v in asdict(self).items() if v not in (None, {}, (), 0.0, False)}
        return {**plain, "leading": list(self.leading)}


def _generator(*key: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32("/".join(key).encode()))


def normal(seed: str, what: str, size: tuple[int, ...]) -> Tensor:
    """Float64, the same for the same seed and name."""
    return torch.randn(size, generator=_generator(seed, what), dtype=torch.float64)


# --- drawing ---------------------------------------------------------------------------------


def random_setting(seed: str) -> Setting:
    rng = random.Random(f"setting {seed}")
    dtype = rng.choices(["float32", "float64", "bfloat16", "float16"], [62, 24, 8, 6])[0]
    level = rng.choices(["-O0", "-O1", "-O3"], [82, 8, 10])[0]
    return Setting(dtype, level, rng.random() < 0.05)


def long_call(call: RandomCall, cell: RandomCell, budget: int) -> RandomCall:
    """So long and narrow that the planner takes segments by itself, where the cell is small."""
    steps = min(4500, max(2, budget // operations(cell)))
    options = {k: v for k, v in call.options.items() if k in ("checkpoint", "reverse")}
    return replace(
        call, leading=(1,), steps=steps, channels=cell.group, lengths=None, cu_seqlens=None,
        reset=0.0, layouts={}, options=options,
    )  # fmt: skip


def operations(cell: RandomCell) -> int:
    """Of a step."""
    largest = max((n for a in cell.arguments for n in a.size), default=1)
    return largest * sum(1 for body in cell.bodies for _ in nodes(body))


def random_call(seed: str, cell: RandomCell, setting: Setting, budget: int) -> RandomCall:
    """A call of a cell.

    Args:
        budget: operations x steps of the loop that it is compared with.
    """
    rng = random.Random(f"call {seed}")
    size = operations(cell)
    solver = rng.choices(["auto", "sequential", "segmented", "newton"], [30, 15, 45, 10])[0]
    kind = rng.choices(["plain", "lengths", "cu_seqlens", "reset"], [60, 15, 13, 12])[0]
    leading = rng.choice([(1,), (2,), (3,), (), (2, 2), (1,)])
    leading = rng.choice([(1,), ()]) if kind == "cu_seqlens" else leading
    most = max(2, budget // (size * (1 if kind == "plain" else max(1, math.prod(leading)))))
    steps = rng.choice(
        [1, 2, 3, 7, 16, 17, 19, 33, 64, 65, 130, 500, 1500, 4000, rng.randint(1, 300)]
    )
    steps = min(steps, most)
    k = cell.group
    own = any(
        not a.shared for a in cell.of("input", "param", "matrix")
    )  # else nothing says how many
    channels = (
        1
        if not own
        else k * rng.choice([1, 1, 2, 3, 5, 9, 17, max(1, rng.choice([8, 16, 33]) // k)])
    )
    compute = COMPUTE[setting.dtype]
    options = _options(rng, solver, steps)
    if cell.values > MOST_OF_A_BLOCK:  # one pass only
        options = {k: v for k, v in options.items() if k in ("checkpoint", "reverse")}
    without, ignored = _unwanted(rng, cell)
    lengths = cu_seqlens = None
    if kind == "lengths":
        lengths = tuple(
            rng.choice([0, 1, steps, rng.randint(0, steps)]) for _ in range(math.prod(leading))
        )
    if kind == "cu_seqlens":
        cuts = sorted(rng.randint(0, steps) for _ in range(rng.randint(0, 4)))
        cu_seqlens = (0, *cuts, steps)
    small = rng.random() < 0.1
    return RandomCall(
        seed, leading, steps, channels, setting.dtype,
        h0=rng.choice(["none", compute, compute, setting.dtype]),
        params=rng.choice([compute, compute, setting.dtype]),
        options=options, lengths=lengths, cu_seqlens=cu_seqlens,
        reset=rng.choice([0.05, 0.3, 1.0]) if kind == "reset" or rng.random() < 0.05 else 0.0,
        layouts=_layouts(rng, cell, setting.dtype == compute),
        without=without, ignored=ignored,
        return_states=rng.random() < 0.15,
        form=rng.choices(["positional", "keywords", "inference"], [60, 30, 10])[0],
        scales=(
            rng.choice([1.0, 1.0, 0.3, 3.0, 1e-4 if small else 1.0]),
            rng.choice([1.0, 1.0, 0.3, 2.5, 5.0]),
            rng.choice([1.0, 1.0, 0.1, 4.0, 1e-4 if small else 1.0]),
        ),
        threads=rng.choice([1, 2, 2, 3]),
    )  # fmt: skip


def _layouts(rng: random.Random, cell: RandomCell, is_full: bool) -> dict[str, str]:
    """The first input that isn't shared has all dimensions, so that the others may lack some.

    In half precision none lacks any: PyTorch would sum gradients that are rounded already.
    """
    inputs = cell.of("input")
    whole = next((a for a in inputs if not a.shared), inputs[0])
    found = {
        a.name: rng.choice((VIEWS if a is whole else LAYOUTS) if is_full else ONE_TO_ONE)
        for a in inputs
        if rng.random() < 0.4
    }
    others = [*learned_of(cell)] + [f"h0 {s.name}" for s in cell.states]
    return found | {n: "every second" for n in others if rng.random() < 0.08}


def _options(rng: random.Random, solver: str, steps: int) -> dict[str, Any]:
    found: dict[str, Any] = {} if solver == "auto" and rng.random() < 0.5 else {"solver": solver}
    if solver == "segmented":
        segment = rng.choice([1, 2, 3, 5, 7, 16, 31, 64, 100, rng.randint(1, max(1, steps))])
        if rng.random() < 0.9:
            found["segment"] = segment
        if rng.random() < 0.2:
            found["iterations"] = rng.choice([1, 2, 3, 10, 50])
        if rng.random() < 0.15:
            found["tol"] = rng.choice([1e-12, 1e-14, 0.0])  # a looser one may cost digits
    if solver == "newton":
        found["iterations"] = rng.choice([3, 10, steps, steps + 1])
        found["on_failure"] = rng.choice(["raise", "warn", "sequential", "sequential"])
    if rng.random() < 0.4:
        found["checkpoint"] = rng.choice([1, 2, 3, 5, 8, 16, 17, 32, 100, 10000])
    if rng.random() < 0.25:
        found["reverse"] = True
    return found


def _unwanted(rng: random.Random, cell: RandomCell) -> tuple[tuple[str, ...], tuple[str, ...]]:
    leaves = [a.name for a in cell.of("input")] + [*learned_of(cell)]
    leaves += [f"h0 {s.name}" for s in cell.states]
    results = [f"output {o}" for o in cell.output_names]
    results += [f"{what} {s.name}" for what in ("last", "states") for s in cell.states]
    without = [leaf for leaf in leaves if rng.random() < 0.25] if rng.random() < 0.35 else []
    ignored = [r for r in results if rng.random() < 0.4] if rng.random() < 0.5 else []
    return tuple(without), tuple(ignored)


# --- numbers ---------------------------------------------------------------------------------


def random_leaves(cell: RandomCell, call: RandomCall) -> dict[str, Tensor]:
    """Inputs as they lie in memory, params, and `h0 NAME` of each state if it is given."""
    inputs, params, states = call.scales
    io, leaves = getattr(torch, call.dtype), {}
    for a in cell.of("input"):
        shape = base_shape(call, call.layouts.get(a.name, "plain"), a.shared, a.size)
        leaves[a.name] = (inputs * normal(call.seed, a.name, shape)).to(io)
    for leaf, a in learned_of(cell).items():
        if leaf in cell.starts and call.h0 != "none":
            continue
        shared = a.learned == "shared" or a.shared
        shape = _stretched(call, leaf, param_shape(call.channels, shared, a.block, a.extra))
        drawn = (states if a.learned else params) * normal(call.seed, leaf, shape)
        drawn = drawn * 0.7 / math.sqrt(a.block) if a.block else drawn
        leaves[leaf] = drawn.to(getattr(torch, call.params))
    if call.h0 != "none":
        for s in cell.states:
            whole = (*state_leading(call), call.channels, *s.extra)
            size = _stretched(call, f"h0 {s.name}", whole)
            leaves[f"h0 {s.name}"] = (states * normal(call.seed, f"h0 {s.name}", size)).to(
                getattr(torch, call.h0)
            )
    return leaves


def learned_of(cell: RandomCell) -> dict[str, Argument]:
    """Params and matrices, then the states whose start is learned, by the leaf's name."""
    return {a.name: a for a in cell.of("param", "matrix")} | cell.starts


def param_shape(
    channels: int, shared: bool, block: int, size: tuple[int, ...] = ()
) -> tuple[int, ...]:
    if block:
        return (channels // block, block, block)
    return (1 if shared else channels, *size)


def state_leading(call: RandomCall) -> tuple[int, ...]:
    return call.leading if call.cu_seqlens is None else (len(call.cu_seqlens) - 1,)


def _stretched(call: RandomCall, leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-1], shape[-1] * (2 if leaf in call.layouts else 1))


def given(call: RandomCall, leaf: str, leaves: Mapping[str, Tensor]) -> Tensor:
    """A param or initial state as it is given: every second entry, perhaps."""
    return leaves[leaf][..., ::2] if leaf in call.layouts else leaves[leaf]


ONE_TO_ONE = ("transposed", "time first", "every second")
VIEWS = (*ONE_TO_ONE, "expanded")
LAYOUTS = (*VIEWS, "one batch", "one step", "one channel")


def base_shape(
    call: RandomCall, layout: str, shared: bool, size: tuple[int, ...] = ()
) -> tuple[int, ...]:
    """Of the leaf from which an input is made."""
    last = size if shared else (call.channels, *size)
    if layout == "transposed" and not shared:
        return (*call.leading, call.channels, call.steps, *size)
    if layout in ("time first", "transposed"):
        return (call.steps, *call.leading, *last)
    if layout == "every second":
        whole = (*call.leading, call.steps, *last)
        return (*whole[:-1], 2 * whole[-1])
    if layout in ("one batch", "expanded") and call.cu_seqlens is None:
        return (*(1 for _ in call.leading), call.steps, *last)
    if layout == "one step":
        return (*call.leading, 1, *last)
    if layout == "one channel" and not shared:
        return (*call.leading, call.steps, 1, *size)
    return (*call.leading, call.steps, *last)


def as_given(
    call: RandomCall, layout: str, shared: bool, leaf: Tensor, size: tuple[int, ...] = ()
) -> Tensor:
    """The input that is made from a leaf: a view of it."""
    if layout == "transposed" and not shared:
        return leaf.transpose(-1 - len(size), -2 - len(size))
    if layout in ("time first", "transposed"):
        return leaf.movedim(0, len(call.leading))
    if layout == "every second":
        return leaf[..., ::2]
    if layout == "expanded":
        last = size if shared else (call.channels, *size)
        return leaf.expand(*call.leading, call.steps, *last)
    return leaf


def inputs_of(
    cell: RandomCell, call: RandomCall, leaves: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """As they are given."""
    return {
        a.name: as_given(call, call.layouts.get(a.name, "plain"), a.shared, leaves[a.name], a.size)
        for a in cell.of("input")
    }


def with_gradients(
    run: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    leaves: Mapping[str, Tensor],
    call: RandomCall,
) -> dict[str, Tensor]:
    """Results, and the gradients of those leaves that want one, by name."""
    own = {n: t.detach().clone() for n, t in leaves.items()}
    wanted = [n for n in own if n not in call.without and call.form != "inference"]
    for n in wanted:
        own[n].requires_grad_()
    with torch.set_grad_enabled(call.form != "inference"):
        results = run(own)
    flowing = {n: r for n, r in results.items() if n not in call.ignored and r.requires_grad}
    found = {n: r.detach() for n, r in results.items()}
    if not wanted:
        return found
    gradients: Any = [None] * len(wanted)
    if flowing:
        upstream = [_upstream(call, n, tuple(r.shape)).to(r.dtype) for n, r in flowing.items()]
        gradients = torch.autograd.grad(
            list(flowing.values()), [own[n] for n in wanted], upstream, allow_unused=True
        )
    for n, g in zip(wanted, gradients, strict=True):
        found[f"gradient of {n}"] = torch.zeros_like(own[n]) if g is None else g
    return found


def _upstream(call: RandomCall, result: str, shape: tuple[int, ...]) -> Tensor:
    """Rounded to the dtype in which a kernel returns the result."""
    dtype = COMPUTE[call.dtype] if result.startswith("last") else call.dtype
    return normal(call.seed, f"into {result}", shape).to(getattr(torch, dtype))
