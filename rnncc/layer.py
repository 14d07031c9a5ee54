"""Layer: the functional form of a compiled cell and its nn.Module."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rnncc import launch, ops
from rnncc.arguments import (
    check_groups,
    check_tensor,
    compute_params,
    prepare,
    refuse,
    show,
    stack_states,
    unpack,
)
from rnncc.choices import Choices
from rnncc.errors import ArgumentError
from rnncc.launch import Kernel
from rnncc.spec import InitSpec
from rnncc.status import Solve

States = Tensor | tuple[Tensor, ...]


def run(
    kernel: Kernel,
    args: Sequence[Any],
    kwargs: dict[str, Any] | None = None,
    *,
    h0: Any = None,
    return_state: bool = False,
    return_states: bool = False,
    lengths: Any = None,
    cu_seqlens: Any = None,
    reset: Tensor | None = None,
    observe: Callable[[Solve], None] | None = None,
    **choices: Any,
) -> Any:
    """Solve the recurrence of a compiled cell.

    Args:
        args, kwargs: inputs [..., T, N] (shared ones [..., T]; 1 broadcasts; any strides) of one
            dtype, and params [N] ([1] if shared, matrices [N / k, k, k]), in the cell's order or by
            name.
        h0: the states before the first step, [..., N] each; a tuple for several. Differentiable.
        return_state: also return the states after the last step, in float32 for half inputs.
        return_states: also return the states after each step, [..., T, N] in the inputs' dtype.
        lengths: [...] ints, the steps of each sequence of a padded batch. Outputs after the end are
            0, and the last state is the one there.
        cu_seqlens: [S + 1] ints, the boundaries of S sequences that lie one after another in inputs
            [total, N] or [1, total, N]; the states are [S, N].
        reset: [..., T] bool: before these steps the state starts anew, from h0.
        observe: is handed how the call was solved.
        choices: solver, segment, iterations, tol, on_failure, checkpoint and reverse, see
            `choices.Choices`.
    Returns:
        the output [..., T, N] in the inputs' dtype (a tuple for several); with `return_states` and
        `return_state` a tuple of it, the states along the way, and the last states.
    Raises:
        ArgumentError: a shape, dtype, device or option that doesn't fit; it names the argument.
        ConvergenceError: the solver was "newton" and did not converge.
    """
    chosen = Choices(**choices)
    call = prepare(kernel.spec, args, kwargs or {}, h0, lengths, cu_seqlens, reset)
    solution = ops.solve(
        kernel.key,
        call.inputs,
        False,
        call.params,
        call.h0,
        chosen,
        call.sequences,
        return_states,
    )
    if observe is not None:
        observe(Solve(solution.status))
    return unpack(kernel.spec, solution, call.lead, call.state_lead, return_state)


def jacobians(
    kernel: Kernel, args: Sequence[Any], kwargs: dict[str, Any] | None = None, *, h0: Any = None
) -> Tensor:
    """The step Jacobians d h_t / d h_(t-1) along the sequence, from the emitted code.

    Args:
        args, kwargs, h0: as in `run`.
    Returns:
        [..., T, N / group, D, D] with D = group * states, not differentiable.
    """
    call = prepare(kernel.spec, args, kwargs or {}, h0)
    tensors = [t.detach() for t in (*call.inputs, *call.params)]
    n = len(call.inputs)
    start = None if call.h0 is None else call.h0.detach().contiguous()
    params = [p.contiguous() for p in tensors[n:]]
    result = launch.jacobian(launch.Call(kernel, ONE_PASS, tensors[:n], False, params, start))
    return result.reshape(*call.lead, *result.shape[1:])


ONE_PASS = Choices(solver="sequential")

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
        check_groups(spec, hidden_size)
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
            check_tensor(name, shared[name])
            try:
                whole = shared[name].to(packed.dtype).expand(*lead, steps)
            except RuntimeError:
                raise refuse(
                    name, show(shared[name]), f"{[*lead, steps]}", "one value per step"
                ) from None
            inputs.append(whole.reshape(math.prod(lead), steps))
        if not self._projected:
            inputs = inputs[1:]
        bound = {p.name: getattr(self, self._attribute(p.name)) for p in spec.params}
        params = compute_params(spec, bound, packed.dtype)
        start = stack_states(spec, state, lead, n, packed.dtype)
        solution = ops.solve(self.kernel.key, inputs, self._projected > 0, params, start)
        return unpack(spec, solution, lead, lead, return_state=True)  # type: ignore[no-any-return]

    def step(self, x: Tensor, state: States | None = None, **shared: Tensor) -> tuple[Any, Any]:
        """Run one step, for decoding: x [..., input_size] -> (y [..., N], state)."""
        self._check_x(x, "[..., input_size]", 1, shared)
        for name, value in shared.items():
            check_tensor(name, value)
        shared = {name: value.unsqueeze(-1) for name, value in shared.items()}
        y, h = self(x.unsqueeze(-2), state, **shared)
        return (tuple(v.squeeze(-2) for v in y) if isinstance(y, tuple) else y.squeeze(-2)), h

    def _check_x(self, x: Tensor, wanted: str, dims: int, shared: dict[str, Tensor]) -> None:
        check_tensor("x", x)
        if x.dim() < dims or x.shape[-1] != self.input_size:
            raise refuse(
                "x",
                show(x),
                f"{wanted} with input_size={self.input_size}",
                "batch first: [batch, time, features]",
            )
        weight = self.projection.weight
        if x.dtype != weight.dtype and not torch.is_autocast_enabled("cpu"):
            raise refuse(
                "x",
                show(x),
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
