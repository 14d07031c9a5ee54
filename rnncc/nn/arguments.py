"""Arguments: those of a user's call -> checked tensors in the form that the operators take."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rnncc.errors import ArgumentError
from rnncc.ir.spec import InputSpec, KernelSpec, ParamSpec
from rnncc.ir.vector import Role, Vector
from rnncc.nn.refusal import STRIDED, check_dense, fix_of_state, refuse, refuse_device, show
from rnncc.nn.sequences import read_sequences
from rnncc.nn.vectors import elements, join, label, split, starts_of, states_of
from rnncc.runtime.backend import DEFAULTS
from rnncc.runtime.kernel import COMPUTE
from rnncc.runtime.sequences import Sequences

if TYPE_CHECKING:
    from rnncc.nn.solution import Solution


class Prepared(NamedTuple):
    """Checked arguments: tensors in the form that the operators take.

    Attributes:
        leading: the leading dimensions of the inputs.
        sequences: of the call.
        state_leading: the leading dimensions of the states.
    """

    inputs: list[Tensor]
    params: list[Tensor]
    h0: Tensor | None
    leading: tuple[int, ...]
    sequences: Sequences
    state_leading: tuple[int, ...]


def prepare(
    spec: KernelSpec,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    h0: Any = None,
    lengths: Any = None,
    cu_seqlens: Any = None,
    reset: Any = None,
    options: Sequence[str] = (),
) -> Prepared:
    """Check a call and bring its tensors into the form that the operators take.

    Args:
        options: names that the call takes as well.
    """
    bound = _bind(spec, args, kwargs, options, h0 is not None)
    device = None
    for name, value in bound.items():
        check_tensor(name, value, device)
        device = value.device
    bound = split(spec, bound) if spec.vectors else bound
    names = [i.name for i in spec.inputs]
    inputs = [bound[name] for name in names]
    dtype = common_dtype(names, inputs)
    leading, steps, channels = broadcast(spec.inputs, inputs, spec.vectors)
    channels = _check_params(spec, bound, channels)
    check_groups(spec, channels)
    inputs = [
        fit(cast(x, dtype), leading, (steps,) if i.shared else (steps, channels))
        for i, x in zip(spec.inputs, inputs, strict=True)
    ]
    params = compute_params(spec, bound, dtype)
    sequences = read_sequences(lengths, cu_seqlens, reset, leading, steps, inputs[0].device)
    state_leading = leading if sequences.starts is None else (sequences.starts.shape[0],)
    initial = None
    if h0 is None and spec.starts:
        count = math.prod(state_leading)
        initial = initial_states(spec, bound, count, channels, dtype, inputs[0].device)
    elif h0 is not None:
        initial = stack_states(spec, h0, state_leading, channels, dtype, device)
    return Prepared(inputs, params, initial, leading, sequences, state_leading)


def fit(x: Tensor, leading: tuple[int, ...], rest: tuple[int, ...]) -> Tensor:
    """Broadcast x, without a copy, to [*leading, *rest] and make the leading dimensions one."""
    if tuple(x.shape) != (*leading, *rest):
        x = x.expand(*leading, *rest)
    return x if len(leading) == 1 else x.reshape(math.prod(leading), *rest)


def check_groups(spec: KernelSpec, channels: int) -> None:
    """N must be a multiple of the group that the cell mixes."""
    if channels % spec.group:
        raise ArgumentError(
            f"channels: got {channels}, expected a multiple of {spec.group}, the group that "
            f"'{spec.name}' mixes.\nFix: hidden_size={-(-channels // spec.group) * spec.group}"
        )


def compute_params(spec: KernelSpec, bound: dict[str, Any], dtype: torch.dtype) -> list[Tensor]:
    """Params in the dtype that the recurrence is computed in."""
    params, compute = [], COMPUTE[dtype]
    for param in spec.params:
        value = bound[param.name]
        if value.dtype != compute or param.shared:
            value = _compute(param, value, dtype)
        params.append(value)
    return params


def _compute(param: ParamSpec, value: Tensor, dtype: torch.dtype) -> Tensor:
    compute = COMPUTE[dtype]
    if COMPUTE[value.dtype] != compute:
        raise refuse(
            param.name,
            show(value),
            f"{str(compute).removeprefix('torch.')}, to go with {dtype} inputs",
            f"{param.name}.to({compute})",
        )
    value = value if value.dtype == compute else value.to(compute)
    return value.reshape(-1) if param.shared else value


def needs_initial(spec: KernelSpec) -> bool:
    """Whether a layer gives the states before the first step to the kernel, as `initial_states`.

    Those that are learned; and where nothing else has the layer's channels.
    """
    own = [not i.shared for i in spec.inputs] + [not p.shared for p in spec.params]
    return bool(spec.starts) or not any(own)


def initial_states(
    spec: KernelSpec,
    bound: dict[str, Any],
    count: int,
    channels: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """The cell's states [states, S, N] before the first step of S sequences.

    They are given to the kernel as any initial state is, so the gradients of those that are learned
    come from it, summed over sequences and, if all channels share one, over channels.
    """
    rows = []
    for state in spec.states:
        if isinstance(state.init, ParamSpec):
            row = _compute(state.init, bound[state.init.name], dtype)
        else:
            row = torch.full((), state.init, dtype=COMPUTE[dtype], device=device)
        rows.append(row.expand(count, channels))
    return torch.stack(rows)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """As `tensor.to(dtype)`, which takes a while even where it has nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def unpack(
    spec: KernelSpec,
    solution: Solution,
    leading: tuple[int, ...],
    state_leading: tuple[int, ...],
    return_state: bool,
) -> Any:
    """Results as the user gave the arguments: leading dimensions, tuples only where several.

    With states in the solution: (outputs, states), or (outputs, states, last states).
    """
    outputs = _rows(spec, "output", solution.y, leading)
    results = [outputs]
    if solution.z:
        results.append(_rows(spec, "state", solution.z, leading))
    if return_state:
        h, count = solution.h, len(spec.states)
        if len(state_leading) != 1:
            h = h.reshape(count, *state_leading, h.shape[-1])
        one = count == 1 and not spec.vectors
        results.append(h[0] if one else _rows(spec, "state", [h[i] for i in range(count)]))
    return results[0] if len(results) == 1 else tuple(results)


def _rows(
    spec: KernelSpec, role: Role, rows: Sequence[Tensor], leading: tuple[int, ...] | None = None
) -> Any:
    if leading is not None and len(leading) != 1:
        rows = [v.reshape(*leading, *v.shape[1:]) for v in rows]
    if spec.vectors:
        rows = join(spec, role, rows)
    return rows[0] if len(rows) == 1 else tuple(rows)


def check_tensor(name: str, value: Any, device: torch.device | None = None) -> None:
    """A floating-point tensor on a device that has kernels; on `device` if that is given."""
    if not isinstance(value, Tensor):
        raise refuse(name, show(value), "a torch.Tensor", f"torch.as_tensor({name})")
    if value.is_nested or value.layout is not STRIDED:
        check_dense(name, value)
    if value.dtype not in COMPUTE:
        raise refuse(
            name,
            show(value),
            "float32, bfloat16, float16 or float64",
            f"{name}.float()",
        )
    if value.device == device:
        return
    if value.device.type not in DEFAULTS:
        raise refuse(name, show(value), f"a tensor on {' or '.join(DEFAULTS)}", f"{name}.cpu()")
    if device is not None:
        raise refuse_device(name, value, device)


def common_dtype(names: Sequence[str], inputs: Sequence[Tensor]) -> torch.dtype:
    """One dtype for all inputs; under autocast they are promoted, otherwise they must agree."""
    dtypes = {x.dtype for x in inputs}
    if len(dtypes) == 1:
        return inputs[0].dtype
    if torch.is_autocast_enabled(inputs[0].device.type):
        result = inputs[0].dtype
        for x in inputs:
            result = torch.promote_types(result, x.dtype)
        return result
    odd = next(i for i, x in enumerate(inputs) if x.dtype != inputs[0].dtype)
    wanted = str(inputs[0].dtype).removeprefix("torch.")
    raise refuse(
        names[odd],
        show(inputs[odd]),
        f"{wanted}, the dtype of {names[0]}",
        f"{names[odd]}.to({inputs[0].dtype}), or torch.autocast to promote",
    )


def _bind(
    spec: KernelSpec,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    options: Sequence[str],
    starts_given: bool,
) -> dict[str, Any]:
    """Positional and keyword arguments by name, in the order of the cell's signature.

    Args:
        starts_given: h0 is, so that learned starts may be missing.
    """
    signature = f"{spec.name}({', '.join(spec.arguments)})"
    if len(args) > len(spec.arguments):
        raise ArgumentError(
            f"{signature}: got {len(args)} positional arguments, expected "
            f"{len(spec.arguments)}.\nFix: give inputs and params in this order; "
            "the state goes to h0="
        )
    bound = dict(zip(spec.arguments[: len(args)], args, strict=True))
    for name, value in kwargs.items():
        if name not in spec.arguments or name in bound:
            twice, close = name in bound, difflib.get_close_matches(name, options, 1)
            problem = "given twice" if twice else "not an argument of this cell"
            meant = f"{close[0]}=..., or " if close and not twice else ""
            raise ArgumentError(f"{name}: {problem}.\nFix: {meant}{signature}")
        bound[name] = value
    starts = {s.name for s in starts_of(spec)} if spec.starts else set()
    for name in starts & bound.keys():
        if bound[name] is None:  # as a generated function hands it on
            del bound[name]
    if len(bound) < len(spec.arguments):
        needed = [n for n in spec.arguments if n not in starts or not starts_given]
        missing = [name for name in needed if name not in bound]
        if missing:
            raise ArgumentError(f"{missing[0]}: missing.\nFix: {signature}")
    return bound


def broadcast(
    described: Sequence[InputSpec], inputs: Sequence[Tensor], vectors: Sequence[Vector] = ()
) -> tuple[tuple[int, ...], int, int | None]:
    """(leading dimensions, T, N) that all inputs broadcast to; N is None if all are shared."""
    shape: tuple[int, ...] = ()
    for i, x in zip(described, inputs, strict=True):
        wanted = "[..., T]" if i.shared else "[..., T, N]"
        if x.dim() < (1 if i.shared else 2):
            name = label(vectors, i.name)
            raise refuse(name, show(x), f"{wanted}", f"give {name} a time dimension")
        whole = (*x.shape, 1) if i.shared else tuple(x.shape)
        if not shape:
            shape = whole
        if whole == shape:
            continue
        try:
            shape = torch.broadcast_shapes(shape, whole)
        except RuntimeError:
            name = label(vectors, i.name)
            one_more = i.shared and x.shape[-1] == 1 and name == i.name
            agree = f"make {name} agree in every dimension, or 1 there"
            raise refuse(
                name,
                show(x),
                f"{wanted} that broadcasts to {list(shape)}, as the inputs before it",
                f"{name}.squeeze(-1)" if one_more else agree,
            ) from None
    return shape[:-2], shape[-2], None if all(i.shared for i in described) else shape[-1]


def _check_params(spec: KernelSpec, bound: dict[str, Any], channels: int | None) -> int:
    """All params have the right shape; returns N. Inputs of one channel broadcast."""
    given = "the inputs have" if channels not in (None, 1) else ""
    learned = [p for p in spec.learned if p.name in bound] if spec.starts else spec.params
    for param in learned:
        value = bound[param.name]
        if param.shared:
            continue
        size = _channels_of_param(param.name, value, param.block)
        if not given:
            channels, given = size, f"{label(spec.vectors, param.name)} has"
        if size != channels:
            raise refuse(
                label(spec.vectors, param.name),
                show(value),
                f"{_param_shape(param.block, channels)}: {given} {channels} channels",
                "give params and inputs the same number of channels",
            )
    for param in learned:
        value = bound[param.name]
        if param.shared and value.numel() != 1:
            name = label(spec.vectors, param.name)
            raise refuse(
                name,
                show(value),
                "one value for all channels, [1]",
                f"declare '{name.partition('[')[0]}' as Param for one value per channel",
            )
    return 1 if channels is None else channels


def _channels_of_param(name: str, value: Tensor, block: int | None) -> int:
    if block is None and value.dim() == 1:
        return value.shape[0]
    if block is not None and value.dim() == 3 and value.shape[1:] == (block, block):
        return value.shape[0] * block
    raise refuse(
        name, show(value), _param_shape(block, None), "one value per channel, see rnncc check"
    )


def _param_shape(block: int | None, channels: int | None) -> str:
    n = "N" if channels is None else channels
    if block is None:
        return f"[{n}]"
    return f"[{'N / ' + str(block) if channels is None else channels // block}, {block}, {block}]"


def stack_states(
    spec: KernelSpec,
    h0: Any,
    leading: tuple[int, ...],
    channels: int,
    dtype: torch.dtype,
    device: torch.device | None = None,
    name: str = "h0",
) -> Tensor:
    """[states, B, N] in the compute dtype from a tensor or a tuple of tensors.

    Args:
        name: of the argument, "h0" of a function and "state" of a layer.
    """
    states = states_of(spec)
    names = [s.name for s in states]
    values = tuple(h0) if isinstance(h0, (tuple, list)) else (h0,)
    if len(values) != len(names):
        raise refuse(
            name,
            f"{len(values)} tensor{'' if len(values) == 1 else 's'}",
            f"one for each state: {', '.join(names)}",
            "give the tuple that "
            + ("return_state=True returns" if name == "h0" else "the layer returns"),
        )
    compute = COMPUTE[dtype]
    rows: list[Tensor] = []
    for state, value in zip(states, values, strict=True):
        label = name if len(names) == 1 else f"{name} ({state.name})"
        check_tensor(label, value, device)
        if value.dtype not in (dtype, compute):
            raise refuse(
                label,
                show(value),
                f"{str(compute).removeprefix('torch.')}, as the state of {dtype} inputs is",
                f"{name}.to({compute})",
            )
        expected = (*leading, channels, *state.shape)
        if tuple(value.shape) != expected:
            now = (*leading, channels, *state.head_shape)
            fix = fix_of_state(name, value, expected, now, len(names) == 1)
            raise refuse(label, show(value), f"{list(expected)}", fix)
        flat = value.to(compute).reshape(math.prod(leading), channels, *state.shape)
        rows += elements(label, flat, state.shape)
    return rows[0].unsqueeze(0) if len(rows) == 1 else torch.stack(rows)
