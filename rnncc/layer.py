"""Layer: the functional form of a compiled cell and its nn.Module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rnncc import launch, ops
from rnncc.errors import ArgumentError
from rnncc.launch import COMPUTE, Kernel
from rnncc.plan import check_solver
from rnncc.spec import InitSpec, KernelSpec

States = Tensor | tuple[Tensor, ...]


# --- checking arguments ----------------------------------------------------------------------


def _show(tensor: Any) -> str:
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)} on {tensor.device}"


def _refuse(name: str, seen: str, expected: str, fix: str) -> ArgumentError:
    return ArgumentError(f"{name}: got {seen}, expected {expected}.\nFix: {fix}")


def _check_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise _refuse(name, _show(value), "a torch.Tensor", f"torch.as_tensor({name})")
    if value.layout != torch.strided:
        layout = str(value.layout).removeprefix("torch.")
        raise _refuse(name, f"a {layout} tensor", "a dense one", f"{name}.to_dense()")
    if value.dtype not in COMPUTE:
        raise _refuse(
            name,
            _show(value),
            "float32, bfloat16, float16 or float64",
            f"{name}.float()",
        )
    if value.device.type != "cpu":
        raise _refuse(name, _show(value), "a tensor on the CPU", f"{name}.cpu()")


def _common_dtype(names: Sequence[str], inputs: Sequence[Tensor]) -> torch.dtype:
    """One dtype for all inputs; under autocast they are promoted, otherwise they must agree."""
    dtypes = {x.dtype for x in inputs}
    if len(dtypes) == 1:
        return inputs[0].dtype
    if torch.is_autocast_enabled("cpu"):
        result = inputs[0].dtype
        for x in inputs:
            result = torch.promote_types(result, x.dtype)
        return result
    odd = next(i for i, x in enumerate(inputs) if x.dtype != inputs[0].dtype)
    wanted = str(inputs[0].dtype).removeprefix("torch.")
    raise _refuse(
        names[odd],
        _show(inputs[odd]),
        f"{wanted}, the dtype of {names[0]}",
        f"{names[odd]}.to({inputs[0].dtype}), or torch.autocast to promote",
    )


def _bind(spec: KernelSpec, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Positional and keyword arguments by name, in the order of the cell's signature."""
    signature = f"{spec.name}({', '.join(spec.arguments)})"
    if len(args) > len(spec.arguments):
        raise ArgumentError(
            f"{signature}: got {len(args)} positional arguments, expected "
            f"{len(spec.arguments)}.\nFix: give inputs and params in this order; "
            "the state goes to h0="
        )
    bound = dict(zip(spec.arguments, args, strict=False))
    for name, value in kwargs.items():
        if name not in spec.arguments or name in bound:
            problem = "given twice" if name in bound else "not an argument of this cell"
            raise ArgumentError(f"{name}: {problem}.\nFix: {signature}")
        bound[name] = value
    missing = [name for name in spec.arguments if name not in bound]
    if missing:
        raise ArgumentError(f"{missing[0]}: missing.\nFix: {signature}")
    return bound


def _broadcast(
    spec: KernelSpec, names: Sequence[str], inputs: Sequence[Tensor]
) -> tuple[tuple[int, ...], int, int | None]:
    """(leading dimensions, T, N) that all inputs broadcast to; N is None if all are shared."""
    shape: tuple[int, ...] = ()
    for name, described, x in zip(names, spec.inputs, inputs, strict=True):
        wanted = "[..., T]" if described.shared else "[..., T, N]"
        if x.dim() < (1 if described.shared else 2):
            raise _refuse(name, _show(x), f"{wanted}", f"give {name} a time dimension")
        whole = (*x.shape, 1) if described.shared else tuple(x.shape)
        if not shape:
            shape = whole
        if whole == shape:
            continue
        try:
            shape = torch.broadcast_shapes(shape, whole)
        except RuntimeError:
            raise _refuse(
                name,
                _show(x),
                f"{wanted} that broadcasts to {list(shape)}, as the inputs before it",
                f"make {name} agree in every dimension, or 1 there",
            ) from None
    channels = None if all(i.shared for i in spec.inputs) else shape[-1]
    return shape[:-2], shape[-2], channels


def _check_params(spec: KernelSpec, bound: dict[str, Any], channels: int | None) -> int:
    """All params have the right shape; returns N. Inputs of one channel broadcast."""
    given = "the inputs have" if channels not in (None, 1) else ""
    for param in spec.params:
        value = bound[param.name]
        if param.shared:
            continue
        size = _channels_of_param(param.name, value, param.block)
        if not given:
            channels, given = size, f"{param.name} has"
        if size != channels:
            raise _refuse(
                param.name,
                _show(value),
                f"{_param_shape(param.block, channels)}: {given} {channels} channels",
                "give params and inputs the same number of channels",
            )
    for param in spec.params:
        value = bound[param.name]
        if param.shared and value.numel() != 1:
            raise _refuse(
                param.name,
                _show(value),
                "one value for all channels, [1]",
                f"declare '{param.name}' as Param for one value per channel",
            )
    return 1 if channels is None else channels


def _channels_of_param(name: str, value: Tensor, block: int | None) -> int:
    if block is None and value.dim() == 1:
        return value.shape[0]
    if block is not None and value.dim() == 3 and value.shape[1:] == (block, block):
        return value.shape[0] * block
    raise _refuse(
        name, _show(value), _param_shape(block, None), "one value per channel, see rnncc check"
    )


def _param_shape(block: int | None, channels: int | None) -> str:
    n = "N" if channels is None else channels
    if block is None:
        return f"[{n}]"
    return f"[{'N / ' + str(block) if channels is None else channels // block}, {block}, {block}]"


def _stack_states(
    spec: KernelSpec, h0: Any, lead: tuple[int, ...], channels: int, dtype: torch.dtype
) -> Tensor | None:
    """[states, B, N] in the compute dtype from a tensor or a tuple of tensors."""
    if h0 is None:
        return None
    names = [s.name for s in spec.states]
    values = tuple(h0) if isinstance(h0, (tuple, list)) else (h0,)
    if len(values) != len(names):
        raise _refuse(
            "h0",
            f"{len(values)} tensor{'' if len(values) == 1 else 's'}",
            f"one for each state: {', '.join(names)}",
            "give the tuple that return_state=True returns",
        )
    compute = COMPUTE[dtype]
    rows = []
    for name, value in zip(names, values, strict=True):
        label = "h0" if len(names) == 1 else f"h0 ({name})"
        _check_tensor(label, value)
        if value.dtype not in (dtype, compute):
            raise _refuse(
                label,
                _show(value),
                f"{str(compute).removeprefix('torch.')}, as the state of {dtype} inputs is",
                f"h0.to({compute})",
            )
        expected = (*lead, channels)
        if tuple(value.shape) != expected:
            raise _refuse(label, _show(value), f"{list(expected)}", "one state per sequence")
        rows.append(value.to(compute).reshape(math.prod(lead), channels))
    return rows[0].unsqueeze(0) if len(rows) == 1 else torch.stack(rows)


# --- the functional form ---------------------------------------------------------------------


def run(
    kernel: Kernel,
    args: Sequence[Any],
    kwargs: dict[str, Any] | None = None,
    *,
    h0: Any = None,
    return_state: bool = False,
    solver: str = "auto",
) -> Any:
    """Solve the recurrence of a compiled cell.

    Args:
        args, kwargs: inputs [..., T, N] (shared ones [..., T]; 1 broadcasts; any strides) of one
            dtype, and params [N] ([1] if shared, matrices [N / k, k, k]), in the cell's order or by
            name.
        h0: the states before the first step, [..., N] each; a tuple for several. Differentiable.
        return_state: also return the states after the last step, in float32 for half inputs.
        solver: "auto" or "sequential".
    Returns:
        the output [..., T, N] in the inputs' dtype (a tuple for several); with `return_state`
        (output, states).
    Raises:
        ArgumentError: a shape, dtype, device or option that doesn't fit; it names the argument.
    """
    check_solver(solver)
    call = _prepare(kernel.spec, args, kwargs or {}, h0)
    y, h = ops.solve(kernel.key, call.inputs, False, call.params, call.h0)
    return _unpack(kernel.spec, y, h, call.lead, return_state)


def jacobians(
    kernel: Kernel, args: Sequence[Any], kwargs: dict[str, Any] | None = None, *, h0: Any = None
) -> Tensor:
    """The step Jacobians d h_t / d h_(t-1) along the sequence, from the emitted code.

    Args:
        args, kwargs, h0: as in `run`.
    Returns:
        [..., T, N / group, D, D] with D = group * states, not differentiable.
    """
    call = _prepare(kernel.spec, args, kwargs or {}, h0)
    tensors = [t.detach() for t in (*call.inputs, *call.params)]
    n = len(call.inputs)
    start = None if call.h0 is None else call.h0.detach().contiguous()
    params = [p.contiguous() for p in tensors[n:]]
    result = launch.jacobian(kernel, tensors[:n], params, start)
    return result.reshape(*call.lead, *result.shape[1:])


class _Call(NamedTuple):
    """A checked call: tensors as the operators want them, and the leading dimensions."""

    inputs: list[Tensor]
    params: list[Tensor]
    h0: Tensor | None
    lead: tuple[int, ...]


def _prepare(spec: KernelSpec, args: Sequence[Any], kwargs: dict[str, Any], h0: Any) -> _Call:
    bound = _bind(spec, args, kwargs)
    for name, value in bound.items():
        _check_tensor(name, value)
    names = [i.name for i in spec.inputs]
    inputs = [bound[name] for name in names]
    dtype = _common_dtype(names, inputs)
    lead, steps, channels = _broadcast(spec, names, inputs)
    channels = _check_params(spec, bound, channels)
    _check_groups(spec, channels)
    inputs = [
        _fit(x.to(dtype), lead, (steps,) if i.shared else (steps, channels))
        for i, x in zip(spec.inputs, inputs, strict=True)
    ]
    params = _compute_params(spec, bound, dtype)
    return _Call(inputs, params, _stack_states(spec, h0, lead, channels, dtype), lead)


def _fit(x: Tensor, lead: tuple[int, ...], rest: tuple[int, ...]) -> Tensor:
    """Broadcast x, without a copy, to [*lead, *rest] and make the leading dimensions one."""
    if tuple(x.shape) != (*lead, *rest):
        x = x.expand(*lead, *rest)
    return x if len(lead) == 1 else x.reshape(math.prod(lead), *rest)


def _check_groups(spec: KernelSpec, channels: int) -> None:
    if channels % spec.group:
        raise ArgumentError(
            f"channels: got {channels}, expected a multiple of {spec.group}, the group that "
            f"'{spec.name}' mixes.\nFix: hidden_size={-(-channels // spec.group) * spec.group}"
        )


def _compute_params(spec: KernelSpec, bound: dict[str, Any], dtype: torch.dtype) -> list[Tensor]:
    """Params in the dtype that the recurrence is computed in."""
    params = []
    for param in spec.params:
        value = bound[param.name]
        if COMPUTE[value.dtype] != COMPUTE[dtype]:
            raise _refuse(
                param.name,
                _show(value),
                f"{str(COMPUTE[dtype]).removeprefix('torch.')}, to go with {dtype} inputs",
                f"{param.name}.to({COMPUTE[dtype]})",
            )
        params.append(value.to(COMPUTE[dtype]).reshape(-1) if param.shared else value)
    return [p.to(COMPUTE[dtype]) for p in params]


def _unpack(
    spec: KernelSpec, y: Sequence[Tensor], h: Tensor, lead: tuple[int, ...], return_state: bool
) -> Any:
    if len(lead) != 1:
        y = [v.reshape(*lead, *v.shape[1:]) for v in y]
        h = h.reshape(h.shape[0], *lead, h.shape[-1])
    outputs = y[0] if len(y) == 1 else tuple(y)
    if not return_state:
        return outputs
    return outputs, h[0] if len(spec.states) == 1 else h.unbind(0)


# --- the module ------------------------------------------------------------------------------

TAKEN = {"kernel", "projection", "input_size", "hidden_size", *nn.Module().__dict__}


class CellLayer(nn.Module):
    """A compiled cell with its input projection, used like torch.nn.GRU, batch first.

    Args:
        input_size: features of x.
        hidden_size: channels N of the recurrence.
        bias: whether the projection adds a bias.
        kernel: the compiled cell; a generated class brings its own.

    Attributes:
        projection: Linear(input_size, G * N) that computes all G inputs of the cell at once.
        one Parameter for each param and matrix of the cell, under the cell's own name.
    """

    kernel: Kernel

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        super().__init__()
        if kernel is not None:
            self.kernel = kernel
        spec = self.kernel.spec
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size)):
            if not isinstance(value, int) or value < 1:
                raise ArgumentError(f"{name}: got {value!r}, expected a positive int.\nFix: 64")
        _check_groups(spec, hidden_size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self._projected = sum(not i.shared for i in spec.inputs)
        self._shared = tuple(i.name for i in spec.inputs if i.shared)
        self.projection = nn.Linear(
            input_size, max(1, self._projected) * hidden_size, bias=bias, **factory
        )
        for param in spec.params:
            shape: tuple[int, ...] = (1,) if param.shared else (hidden_size,)
            if param.block is not None:
                shape = (hidden_size // param.block, param.block, param.block)
            name = self._attribute(param.name)
            self.register_parameter(name, nn.Parameter(torch.empty(shape, **factory)))
        self.reset_parameters()

    def _attribute(self, name: str) -> str:
        """The attribute of a param: its own name, with an underscore where a Module has that."""
        return f"{name}_" if name in TAKEN or hasattr(CellLayer, name) else name

    def reset_parameters(self) -> None:
        """Draw all parameters anew: the projection as nn.Linear does, the rest as the cell says."""
        self.projection.reset_parameters()
        for param in self.kernel.spec.params:
            _initialise(getattr(self, self._attribute(param.name)), param.init)

    def forward(self, x: Tensor, state: States | None = None, **shared: Tensor) -> tuple[Any, Any]:
        """Run over a sequence.

        Args:
            x: [..., T, input_size], or [T, input_size] for one sequence.
            state: the states to go on from, [..., N] each, as returned; None starts anew.
            shared: each input of the cell that all channels share, [..., T].
        Returns:
            (y, state): y [..., T, N], a tuple for several outputs; state [..., N], a tuple for
            several states; both differentiable.
        Raises:
            ArgumentError: a shape, dtype or device that doesn't fit; it names the argument.
        """
        self._check_x(x, "[..., T, input_size]", 2, shared)
        spec, n = self.kernel.spec, self.hidden_size
        lead, steps = tuple(x.shape[:-2]), x.shape[-2]
        width = max(1, self._projected)
        packed = self.projection(x).reshape(math.prod(lead), steps, width, n)
        inputs = [packed]
        for name in self._shared:
            _check_tensor(name, shared[name])
            try:
                whole = shared[name].to(packed.dtype).expand(*lead, steps)
            except RuntimeError:
                raise _refuse(
                    name, _show(shared[name]), f"{[*lead, steps]}", "one value per step"
                ) from None
            inputs.append(whole.reshape(math.prod(lead), steps))
        if not self._projected:
            inputs = inputs[1:]
        bound = {p.name: getattr(self, self._attribute(p.name)) for p in spec.params}
        params = _compute_params(spec, bound, packed.dtype)
        start = _stack_states(spec, state, lead, n, packed.dtype)
        y, h = ops.solve(self.kernel.key, inputs, self._projected > 0, params, start)
        return _unpack(spec, y, h, lead, return_state=True)  # type: ignore[no-any-return]

    def step(self, x: Tensor, state: States | None = None, **shared: Tensor) -> tuple[Any, Any]:
        """Run one step, for decoding: x [..., input_size] -> (y [..., N], state)."""
        self._check_x(x, "[..., input_size]", 1, shared)
        for name, value in shared.items():
            _check_tensor(name, value)
        shared = {name: value.unsqueeze(-1) for name, value in shared.items()}
        y, h = self(x.unsqueeze(-2), state, **shared)
        return (tuple(v.squeeze(-2) for v in y) if isinstance(y, tuple) else y.squeeze(-2)), h

    def _check_x(self, x: Tensor, wanted: str, dims: int, shared: dict[str, Tensor]) -> None:
        _check_tensor("x", x)
        if x.dim() < dims or x.shape[-1] != self.input_size:
            raise _refuse(
                "x",
                _show(x),
                f"{wanted} with input_size={self.input_size}",
                "batch first: [batch, time, features]",
            )
        weight = self.projection.weight
        if x.dtype != weight.dtype and not torch.is_autocast_enabled("cpu"):
            raise _refuse(
                "x",
                _show(x),
                f"{str(weight.dtype).removeprefix('torch.')}, as the layer's parameters",
                f"x.to({weight.dtype}) or layer.to({x.dtype})",
            )
        if set(shared) != set(self._shared):
            odd = sorted(set(shared) ^ set(self._shared))[0]
            expected = ", ".join(self._shared) or "none"
            raise ArgumentError(
                f"{odd}: {'missing' if odd in self._shared else 'not a shared input'}.\n"
                f"Fix: give the shared inputs of '{self.kernel.spec.name}' by name: {expected}"
            )

    def extra_repr(self) -> str:
        return f"{self.kernel.spec.name}, {self.input_size}, {self.hidden_size}"


def _initialise(parameter: nn.Parameter, init: InitSpec) -> None:
    with torch.no_grad():
        if init.kind == "uniform":
            parameter.uniform_(init.a, init.b)
        elif init.kind == "normal":
            parameter.normal_(init.a, init.b)
        else:
            parameter.fill_(init.a)
