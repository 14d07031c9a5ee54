"""Random calls of a cell, run by its kernel and by the oracle; the base of run-time tests."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import rnncc
from rnncc.export import torch_loop as reference
from rnncc.export.torch_loop import initial_states, plain_loop, plain_step
from rnncc.ir.program import Argument, CellIR
from rnncc.ir.vector import grouped
from rnncc.lang.loader import find, shipped
from rnncc.nn.initialize import fill
from rnncc.nn.vectors import elements, join, joined, states_of
from rnncc.runtime.kernel import COMPUTE
from tests.support.many import MANY
from tests.support.small import SMALL
from tests.support.tolerances import TOLERANCES, assert_close, limits
from tests.support.words import WORDS

SHIPPED = [path.stem for path in shipped()]
# One cell for each feature that a kernel can have. They take all tests; test_library.py has those
# that all the others take.
CORE = [
    *("elman", "para_gru", "para_lstm", "lstm", "slstm"),  # 1, 1, 2, 2 and 4 states
    *("min_gru", "lru"),  # affine, with a full block and without
    *("block_elman", "lif", "fitzhugh_nagumo"),  # mixing channels; spiking; a limit cycle
]
CELLS = [*CORE, *SMALL]
# Cells whose gradients are the derivatives of their values, and can be held to differences: those
# without a function whose derivative is chosen. One with kinks is among them: no draw lies on them.
CHOSEN = re.compile(r"\b(spike|stop_gradient|forward_as)\(")
SMOOTH_SHIPPED = [
    path.stem for path in shipped() if not CHOSEN.search(path.read_text(encoding="utf-8"))
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
DEVICE = "cpu"  # where calls run; arguments and results are on the CPU wherever that is
INFINITY = torch.tensor(torch.inf, dtype=torch.float64)
MOST_LIMITS = 100  # error of a kernel, if a float32 loop has it as well
SPIKE_MARGIN = 1e-5  # float32 holds the state of a spiking cell to about 1e-6


@functools.cache
def compiled(name: str) -> rnncc.CompiledCell:
    """A shipped cell or one of `small`, `many` and `words`, compiled once per process."""
    own = SMALL | MANY | {word: pair[0] for word, pair in WORDS.items()}
    return rnncc.compile(own[name] if name in own else find(name))


@functools.cache
def step_of(name: str) -> reference.Step:
    """The oracle's step, in float64."""
    return plain_step(compiled(name).stages.cell)


def is_spiking(name: str) -> bool:
    return compiled(name).structure.spiking


def fitting(name: str, channels: int) -> int:
    """The next number of channels that the groups of a cell divide."""
    group = compiled(name).structure.group
    return -(-channels // group) * group


@dataclass
class Call:
    """Arguments of one call, and the gradients that flow back into its results.

    Attributes:
        arguments: inputs [B, T, N] and params by name, in `dtype`.
        h0: [S, N] of each state in the compute dtype; None for the cell's inits.
        dy, dh: the upstream gradients of the outputs and of the states after the last step.
        dz: those of the states after each step; none if these are not asked for.
        sequences: lengths, cu_seqlens, reset and reverse, those that are given.
    """

    dtype: torch.dtype
    arguments: dict[str, Tensor]
    h0: tuple[Tensor, ...] | None
    dy: list[Tensor] = field(default_factory=list)
    dh: list[Tensor] = field(default_factory=list)
    dz: list[Tensor] = field(default_factory=list)
    sequences: dict[str, Any] = field(default_factory=dict)


@dataclass
class Outcome:
    """The results of a call: outputs, last states, and the gradient of every argument.

    Attributes:
        z: the states after each step, where they were asked for.
    """

    y: list[Tensor]
    h: list[Tensor]
    gradients: dict[str, Tensor]
    z: list[Tensor] = field(default_factory=list)


# --- random calls ----------------------------------------------------------------------------


def random_call(
    name: str,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    *,
    seed: int = 0,
    start: bool = True,
    weights: float | None = None,
    states: bool = False,
    **sequences: Any,
) -> Call:
    """Typical inputs, standard normal upstream gradients, params by the cell's inits.

    Args:
        shape: (B, T, N).
        start: begin at states that the cell reaches, not at its inits.
        weights: draw params uniformly within this bound instead.
        states: ask for the states after each step.
        sequences: lengths, cu_seqlens, reset, reverse.
    """
    cell = compiled(name).stages.cell
    batch, steps, channels = shape
    count = len(sequences["cu_seqlens"]) - 1 if "cu_seqlens" in sequences else batch
    for attempt in range(50):
        generator = torch.Generator().manual_seed(1000 * seed + attempt)

        def normal(*size: int, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(*size, generator=generator, dtype=torch.float64)

        learned = (*cell.params, *cell.starts)
        params = {p.name: _random_param(p, channels, weights, generator) for p in learned}
        inputs = {i.name: _typical(i, (batch, steps, channels), generator) for i in cell.inputs}
        arguments = {n: t.to(dtype) for n, t in (inputs | params).items()}
        call = Call(dtype, arguments, None, sequences=sequences)
        if start:
            warm = {i.name: _typical(i, (count, 3, channels), generator) for i in cell.inputs}
            _, reached = plain_loop(cell, _wide(arguments) | warm, step=step_of(name))
            call.h0 = tuple(h.to(COMPUTE[dtype]) for h in reached)
        call.dy = [normal(*shape).to(dtype) for _ in cell.outputs]
        call.dz = [normal(*shape).to(dtype) for _ in cell.states if states]
        call.dh = [normal(count, channels).to(COMPUTE[dtype]) for _ in cell.states]
        if not is_spiking(name) or _spike_margin(name, call) > SPIKE_MARGIN:
            return call
    raise AssertionError(f"{name} {shape}: every draw comes too close to its threshold")


def _random_param(
    param: Argument, channels: int, weights: float | None, generator: torch.Generator
) -> Tensor:
    size = (1,) if param.shared else (channels,)
    if param.block is not None:
        size = (channels // param.block, param.block, param.block)
    unit = 2 * torch.rand(*size, generator=generator, dtype=torch.float64) - 1
    if weights is not None:
        return weights * unit
    if param.init is None:
        return unit * float(param.block or 1) ** -0.5
    if param.init.kind == "constant" and not param.init.then:
        return param.init.a + 0.1 * unit
    return fill(unit, param.init, generator)


def _typical(
    described: Argument, shape: tuple[int, int, int], generator: torch.Generator
) -> Tensor:
    assert described.typical is not None
    size = shape[:2] if described.shared else shape
    return fill(torch.empty(size, dtype=torch.float64), described.typical, generator)


def _spike_margin(name: str, call: Call) -> float:
    """How near to its threshold any neuron comes."""
    nearest = torch.tensor(torch.inf, dtype=torch.float64)

    def recorded(u: Tensor, integral: Tensor) -> Tensor:
        nonlocal nearest
        nearest = torch.cat([nearest.reshape(1), u.abs().flatten()]).min()
        return (u > 0).to(u.dtype)

    step = _step(compiled(name).stages.cell, recorded)
    _loop(name, call, _wide(call.arguments), _wide_states(call), step)
    return float(nearest)


def _step(cell: CellIR, heaviside: Callable[..., Tensor]) -> reference.Step:
    """The oracle's step with another Heaviside function."""
    step = plain_step(cell)
    step.__globals__["_heaviside"] = heaviside  # type: ignore[attr-defined]
    return step


def _wide(arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.double() for name, t in arguments.items()}


def _wide_states(call: Call) -> tuple[Tensor, ...] | None:
    return None if call.h0 is None else tuple(h.double() for h in call.h0)


# --- running one -----------------------------------------------------------------------------


def by_oracle(name: str, call: Call, dtype: torch.dtype = torch.float64) -> Outcome:
    """The plain PyTorch loop and autograd, on the rounded arguments."""
    cell = compiled(name).stages.cell
    leaves = {n: t.detach().to(dtype).requires_grad_() for n, t in call.arguments.items()}
    states = None
    if call.h0 is not None:
        states = tuple(h.detach().to(dtype).requires_grad_() for h in call.h0)
        leaves |= {f"h0 ({s.name})": h for s, h in zip(cell.states, states, strict=True)}
    step = step_of(name) if dtype == torch.float64 else plain_step(cell, dtype)
    y, z, h = _loop(name, call, {n: leaves[n] for n in call.arguments}, states, step)
    upstream = [g.to(dtype) for g in (*call.dy, *call.dz, *call.dh)]
    return Outcome(y, h, gradients([*y, *z, *h], upstream, leaves), z)


def _loop(
    name: str,
    call: Call,
    arguments: dict[str, Tensor],
    h0: Sequence[Tensor] | None,
    step: reference.Step,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Outputs, states along the way if they are asked for, and last states."""
    if not call.dz and not call.sequences:
        y, h = plain_loop(compiled(name).stages.cell, arguments, h0, step)
        return y, [], h
    y, z, h = loop_over_sequences(name, arguments, h0, step, **call.sequences)
    return y, z if call.dz else [], h


def loop_over_sequences(
    name: str,
    arguments: dict[str, Tensor],
    h0: Sequence[Tensor] | None,
    step: reference.Step,
    *,
    lengths: Sequence[int] | None = None,
    cu_seqlens: Sequence[int] | None = None,
    reset: Tensor | None = None,
    reverse: bool = False,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Each sequence cut out and run by itself, from its last step if it is reversed.

    Returns:
        outputs and states after each step, [B, T, N], 0 where no sequence lies, and the states
        after the last step, [S, N].
    """
    cell = compiled(name).stages.cell
    xs = [arguments[a.name] for a in cell.inputs]
    xs = [x.unsqueeze(-1) if a.shared else x for a, x in zip(cell.inputs, xs, strict=True)]
    params = [arguments[a.name] for a in cell.params]
    batch, steps, channels = reference._shape(cell, xs, arguments)
    rows = [(b, 0, steps if lengths is None else int(lengths[b])) for b in range(batch)]
    if cu_seqlens is not None:
        bounds = [int(bound) for bound in cu_seqlens]
        rows = [(0, first, last) for first, last in itertools.pairwise(bounds)]
    found: dict[tuple[int, int], tuple[Tensor, ...]] = {}
    ends = []
    for i, (row, first, last) in enumerate(rows):
        if h0 is None:
            start = tuple(h[0] for h in initial_states(cell, arguments, xs[0], (1, channels)))
        else:
            start = tuple(h[i] for h in h0)
        states = start
        for t in reversed(range(first, last)) if reverse else range(first, last):
            if reset is not None and reset[row, t]:
                states = start
            states, outputs = step(*states, *(x[row, t] for x in xs), *params)
            found[row, t] = tuple(v.expand(channels) for v in (*outputs, *states))
        ends.append([s.expand(channels) for s in states])
    zeros = (xs[0].new_zeros(channels),) * (len(cell.outputs) + len(cell.states))
    whole = [
        torch.stack([found.get((b, t), zeros)[k] for b in range(batch) for t in range(steps)])
        if batch * steps
        else xs[0].new_zeros(0)
        for k in range(len(zeros))
    ]
    whole = [v.reshape(batch, steps, channels) for v in whole]
    last = [torch.stack(column) for column in zip(*ends, strict=True)]
    return whole[: len(cell.outputs)], whole[len(cell.outputs) :], last


def forward_by_oracle(
    name: str, arguments: dict[str, Tensor], h0: Sequence[Tensor] | None, seed: int | None = None
) -> list[Tensor]:
    """Outputs and last states without gradients, so that a spike is a plain step (of NaN: NaN).

    Args:
        seed: disturb arguments and initial states by a few units of float32's last place.
    """
    cell = compiled(name).stages.cell
    generator = torch.Generator().manual_seed(seed or 0)

    def disturbed(t: Tensor) -> Tensor:
        return t.double() if seed is None else _disturbed(t, generator)

    wide = {n: disturbed(t.detach()) for n, t in arguments.items()}
    start = None if h0 is None else [disturbed(h.detach()) for h in h0]
    step = _step(cell, lambda u, _: torch.where(u.isnan(), u, (u > 0).to(u.dtype)))
    y, h = plain_loop(cell, wide, start, step)
    return [*y, *h]


@contextmanager
def memory_full_of_nan() -> Iterator[None]:
    """`torch.empty` returns NaN, so that memory that a kernel leaves unwritten shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@memory_full_of_nan()
def by_kernel(name: str, call: Call, **choices: Any) -> Outcome:
    """The functional form of the compiled cell, with a choice of solver."""
    c = compiled(name)
    leaves = {n: t.detach().clone().requires_grad_() for n, t in call.arguments.items()}
    states = None
    if call.h0 is not None:
        states = tuple(h.detach().clone().requires_grad_() for h in call.h0)
        leaves |= {f"h0 ({s.name})": h for s, h in zip(c.stages.cell.states, states, strict=True)}
    arguments = {n: leaves[n] for n in call.arguments}
    options = call.sequences | choices
    if call.dz:
        y, z, h = solve_all(name, arguments, states, **options)
    else:
        (y, h), z = solve(name, arguments, states, **options), []
    upstream = [*call.dy, *call.dz, *call.dh]
    return Outcome(y, h, gradients([*y, *z, *h], upstream, leaves), z)


def solve(
    name: str, arguments: dict[str, Tensor], h0: Sequence[Tensor] | None, **options: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """The functional form with lists out, however many outputs and states there are."""
    y, h = _called(name, arguments, h0, return_state=True, **options)
    return y, h


def solve_all(
    name: str, arguments: dict[str, Tensor], h0: Sequence[Tensor] | None, **options: Any
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The same with the states after each step, between outputs and last states."""
    y, z, h = _called(name, arguments, h0, return_state=True, return_states=True, **options)
    return y, z, h


def _called(
    name: str, arguments: dict[str, Tensor], h0: Sequence[Tensor] | None, **options: Any
) -> list[list[Tensor]]:
    """On DEVICE, each vector as one tensor; results and gradients come back, as scalars."""
    spec = compiled(name).spec
    arguments = joined(spec, arguments)
    there = {n: _there(value) for n, value in (arguments | options).items()}
    start = None if h0 is None else tuple(map(_there, join(spec, "state", h0)))
    outputs = grouped(spec.outputs, spec.vectors, "output")
    states = states_of(spec)
    results = [listed(group) for group in compiled(name)(**there, h0=start)]
    roles = [outputs, *[states] * (len(results) - 1)]
    return [
        [e.cpu() for v, t in zip(role, group, strict=True) for e in elements(v.name, t, v.shape)]
        for role, group in zip(roles, results, strict=True)
    ]


def _there(value: Any) -> Any:
    return value.to(DEVICE) if isinstance(value, Tensor) else value


def listed(values: Any) -> list[Tensor]:
    return [values] if isinstance(values, Tensor) else list(values)


def gradients(
    results: list[Tensor], upstream: list[Tensor], leaves: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Zeros where nothing flows, as through a sequence of no steps."""
    pairs = [(r, g) for r, g in zip(results, upstream, strict=True) if r.requires_grad]
    if not pairs:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    results, upstream = (list(column) for column in zip(*pairs, strict=True))
    found = torch.autograd.grad(results, list(leaves.values()), upstream, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


# --- comparing -------------------------------------------------------------------------------


def assert_same_bits(a: Outcome, b: Outcome) -> None:
    for x, y in zip((*a.y, *a.z, *a.h), (*b.y, *b.z, *b.h), strict=True):
        assert torch.equal(x, y)
    for argument, gradient in a.gradients.items():
        assert torch.equal(gradient, b.gradients[argument]), argument


def assert_agree(name: str, call: Call, got: Outcome, expected: Outcome, what: str = "") -> None:
    """Outputs, states and all gradients within the limits of the call's dtype.

    States and their gradients are float32 for half dtypes. Where a float32 loop, or one with other
    last bits, itself comes near its limit or misses it (the contract ends there), the kernel may be
    three times as far off. Values beyond the range of the dtype are infinite.
    """
    got_all, expected_all = _named(name, got), _named(name, expected)
    assert got_all.keys() == expected_all.keys()
    others: list[dict[str, Tensor]] = []
    for label, e in expected_all.items():
        gradient = label.startswith("gradient")
        a, dtype = got_all[label], got_all[label].dtype
        tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        e = torch.where((a - e).abs() <= tiny, a.to(e.dtype), e)
        e = torch.where(e.abs() > torch.finfo(dtype).max, torch.copysign(INFINITY, e), e)
        try:
            assert_close(a, e, dtype, f"{what} {label}", gradient=gradient)
        except AssertionError:
            if COMPUTE[call.dtype] != torch.float32:
                raise
            others = others or [_named(name, outcome) for outcome in _as_uncertain(name, call)]
            limit = limits(e, TOLERANCES[dtype], gradient)
            ours, *theirs = (
                ((found[label].double() - e).abs() / limit).max() for found in (got_all, *others)
            )
            if not (max(theirs) > 1 / 3 and ours <= min(3 * max(theirs), MOST_LIMITS)):
                raise


TRANSCENDENTAL = frozenset("exp expm1 log log1p sigmoid softplus sin cos tan tanh".split())


def _as_uncertain(name: str, call: Call) -> list[Outcome]:
    """A float32 loop, and loops with errors of a few units of float32's last place.

    They are in all that is given and in what functions give. Rounding within the kernel, and the
    functions of a GPU, may change a result as much as that does.
    """
    outcomes = [by_oracle(name, call, torch.float32)]
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        arguments = {n: _disturbed(t, generator) for n, t in call.arguments.items()}
        rows = {n: [_disturbed(t, generator) for t in getattr(call, n)] for n in ("dy", "dh", "dz")}
        h0 = None if call.h0 is None else tuple(_disturbed(h, generator) for h in call.h0)
        with _DisturbedFunctions(generator):
            outcomes.append(by_oracle(name, replace(call, arguments=arguments, h0=h0, **rows)))
    return outcomes


class _DisturbedFunctions(TorchFunctionMode):
    """Within it, functions that no processor rounds right are as far off as what is given."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") not in TRANSCENDENTAL:
            return result
        with torch._C.DisableTorchFunction():
            return result + (_disturbed(result, self.generator) - result.detach())


def _disturbed(t: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(t.shape, generator=generator, dtype=torch.float64)
    return t.detach().double() * (1 + 2e-7 * noise)


def _named(name: str, outcome: Outcome) -> dict[str, Tensor]:
    cell = compiled(name).stages.cell
    result = {f"output {o}": y for o, y in zip(cell.outputs, outcome.y, strict=True)}
    result |= {f"states {s.name}": z for s, z in zip(cell.states, outcome.z, strict=False)}
    result |= {f"last {s.name}": h for s, h in zip(cell.states, outcome.h, strict=True)}
    return result | {f"gradient of {a}": g for a, g in outcome.gradients.items()}
