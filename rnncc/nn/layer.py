"""Layer: the functional form of a compiled cell and its nn.Module."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnncc.errors import ArgumentError
from rnncc.ir.spec import KernelSpec
from rnncc.nn import ops, projection
from rnncc.nn.arguments import (
    check_groups,
    check_tensor,
    compute_params,
    prepare,
    refuse,
    show,
    stack_states,
    unpack,
)
from rnncc.nn.initialize import fill
from rnncc.nn.ops import Solution
from rnncc.nn.packed_sequence import read_packing, refuse_beside_packed
from rnncc.nn.sequences import read_sequences
from rnncc.nn.status import Solve
from rnncc.planner.choices import Choices
from rnncc.runtime.call import Call
from rnncc.runtime.kernel import Kernel
from rnncc.runtime.sequences import Sequences

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
    result = ops.jacobian(Call(kernel, ONE_PASS, tensors[:n], False, params, start))
    return result.reshape(*call.lead, *result.shape[1:])


ONE_PASS = Choices(solver="sequential")

# --- the module ------------------------------------------------------------------------------

OWN = ("kernel", "projection", "projection_reverse", "input_size", "hidden_size")
TAKEN = {*OWN, "warmup", "bidirectional", "choices", "last_solve", *nn.Module().__dict__}


class Direction(NamedTuple):
    """One way through time.

    Attributes:
        projection: the attribute that holds its projection.
        params: for each param of the cell the attribute that holds it.
        back: it is the second of two, from the end.
    """

    projection: str
    params: dict[str, str]
    back: bool


class CellLayer(nn.Module):
    """A compiled cell with its input projection, used like torch.nn.GRU, batch first.

    Args:
        input_size: features of x.
        hidden_size: channels N of the recurrence.
        bias: whether the projection adds a bias; without one an input that the cell starts with a
            bias of its own has none either.
        bidirectional: run forward and, with weights of its own, from the end; outputs are then
            [..., T, 2 * N], and each state is [2, ..., N], the forward one first.
        reverse: run from the end of each sequence to its beginning.
        solver, segment, iterations, tol, on_failure, checkpoint: see `choices.Choices`.
        kernel: the compiled cell; a generated class brings its own.

    Attributes:
        projection: the Linear that computes all inputs of the cell but the given ones at once, N
            rows for each in turn, then one for each shared input that is projected.
        one Parameter for each param and matrix of the cell, under the cell's own name; those of the
            second direction, and its projection, end in _reverse.
        choices: how calls are solved.
        last_solve: how the last call was solved, outside of torch.compile: a `status.Solve`, two if
            bidirectional, or None.
    """

    kernel: Kernel
    projection: nn.Linear
    last_solve: Solve | tuple[Solve, ...] | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        bidirectional: bool = False,
        reverse: bool = False,
        solver: str = "auto",
        segment: int | None = None,
        iterations: int | None = None,
        tol: float | None = None,
        on_failure: str | None = None,
        checkpoint: int | None = None,
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
        self.choices = Choices(solver, segment, iterations, tol, on_failure, checkpoint, reverse)
        _check_directions(bidirectional, reverse)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bidirectional = bidirectional
        self.last_solve = None
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self._directions = _directions(spec, ("", "_reverse") if bidirectional else ("",))
        for direction in self._directions:
            width = projection.width(spec, hidden_size)
            linear = nn.Linear(input_size, width, bias=bias, **factory)
            self.add_module(direction.projection, linear)
            for param in spec.params:
                shape: tuple[int, ...] = (1,) if param.shared else (hidden_size,)
                if param.block is not None:
                    shape = (hidden_size // param.block, param.block, param.block)
                empty = nn.Parameter(torch.empty(shape, **factory))
                self.register_parameter(direction.params[param.name], empty)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew: as the cell says, and the rest as nn.Linear does."""
        spec = self.kernel.spec
        for direction in self._directions:
            projection.reset(getattr(self, direction.projection), spec, self.hidden_size)
            for param in spec.params:
                fill(getattr(self, direction.params[param.name]).data, param.init)

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: States | None = None,
        *,
        lengths: Any = None,
        cu_seqlens: Any = None,
        reset: Tensor | None = None,
        return_states: bool = False,
        **shared: Any,
    ) -> tuple[Any, ...]:
        """Run over a sequence.

        Args:
            x: [..., T, input_size], [T, input_size] for one sequence, or a PackedSequence.
            state: the states to go on from, [..., N] each, as returned; None starts anew. Those of
                a PackedSequence are in the batch's own order, not sorted.
            lengths: [...] ints, the steps of each sequence of a padded batch. Outputs after the end
                are 0, and the last state is the one there.
            cu_seqlens: [S + 1] ints, the boundaries of S sequences that lie one after another in x
                [total, input_size] or [1, total, input_size]; the states are [S, N].
            reset: [..., T] bool: before these steps the state starts anew, from `state`.
            return_states: also return the states after each step.
            shared: each input of the cell that all channels share, [..., T], or packed as x is.
        Returns:
            (y, state), or with return_states (y, states, state): y [..., T, N], a tuple for several
            outputs; states [..., T, N] and state [..., N], tuples for several states. Packed as x
            is, but for the last state. All are differentiable.
        Raises:
            ArgumentError: a shape, dtype or device that doesn't fit; it names the argument.
            ConvergenceError: the solver is "newton" and did not converge.
        """
        if isinstance(x, PackedSequence):
            refuse_beside_packed(lengths=lengths, cu_seqlens=cu_seqlens, reset=reset)
            return self._run_packed(x, state, return_states, shared)
        self._check_x(x, "[..., T, input_size]", 2, shared)
        lead, steps = tuple(x.shape[:-2]), x.shape[-2]
        sequences = read_sequences(lengths, cu_seqlens, reset, lead, steps, x.device)
        return self._run(x, state, sequences, return_states, shared)

    def step(self, x: Tensor, state: States | None = None, **shared: Tensor) -> tuple[Any, Any]:
        """Run one step, for decoding: x [..., input_size] -> (y [..., N], state)."""
        if self.bidirectional or self.choices.reverse:
            option = "bidirectional" if self.bidirectional else "reverse"
            raise ArgumentError(
                f"step: got a layer with {option}=True, which begins at the last step of a "
                "sequence, expected one that runs forward.\nFix: layer(x) on the whole sequence"
            )
        self._check_x(x, "[..., input_size]", 1, shared)
        for name, value in shared.items():
            check_tensor(name, value)
        shared = {name: value.unsqueeze(-1) for name, value in shared.items()}
        y, h = self(x.unsqueeze(-2), state, **shared)
        return (tuple(v.squeeze(-2) for v in y) if isinstance(y, tuple) else y.squeeze(-2)), h

    def warmup(self, dtype: torch.dtype | None = None) -> None:
        """Build and load all kernels for the device that the layer is on, ahead of the first call.

        A CUDA graph can be captured after it.

        Args:
            dtype: of the recurrence's inputs; None for that of the weights. Autocast makes it
                another.
        Raises:
            BuildError: no compiler was found, or it refused the kernel.
        """
        weight = self.projection.weight
        ops.warmup(self.kernel, dtype or weight.dtype, weight.device)

    def _run_packed(
        self, x: PackedSequence, state: States | None, return_states: bool, shared: dict[str, Any]
    ) -> tuple[Any, ...]:
        """With the sequences laid one after another, and the results packed as x is."""
        self._check_x(x.data, "a PackedSequence of [total, input_size]", 2, shared, most=2)
        packing = read_packing(x)
        joined = {name: packing.join(name, value) for name, value in shared.items()}
        *rows, last = self._run(
            x.data[packing.there], state, packing.sequences, return_states, joined
        )
        return *map(packing.pack, rows), last

    def _run(
        self,
        x: Tensor,
        state: States | None,
        sequences: Sequences,
        return_states: bool,
        shared: dict[str, Tensor],
    ) -> tuple[Any, ...]:
        """All directions, on x [..., T, input_size]."""
        spec, lead = self.kernel.spec, tuple(x.shape[:-2])
        state_lead = lead if sequences.starts is None else (sequences.starts.shape[0],)
        if self.bidirectional:
            state_lead = (2, *state_lead)
        solutions = [
            self._solve(direction, x, state, state_lead, sequences, return_states, shared)
            for direction in self._directions
        ]
        if not torch.compiler.is_compiling():
            solves = tuple(Solve(solution.status) for solution in solutions)
            self.last_solve = solves if self.bidirectional else solves[0]
        whole = _side_by_side(*solutions) if self.bidirectional else solutions[0]
        return unpack(spec, whole, lead, state_lead, True)  # type: ignore[no-any-return]

    def _solve(
        self,
        direction: Direction,
        x: Tensor,
        state: States | None,
        state_lead: tuple[int, ...],
        sequences: Sequences,
        return_states: bool,
        shared: dict[str, Tensor],
    ) -> Solution:
        """One direction."""
        inputs, params = self._arguments(direction, x, shared)
        spec, like = self.kernel.spec, inputs[0]
        start = stack_states(spec, state, state_lead, self.hidden_size, like.dtype, like.device)
        choices = self.choices
        if self.bidirectional:
            start = None if start is None else start.tensor_split(2, 1)[direction.back]
            choices = replace(choices, reverse=direction.back)
        return ops.solve(
            self.kernel.key,
            inputs,
            bool(projection.unshared(spec)),
            params,
            start,
            choices,
            sequences,
            return_states,
        )

    def _arguments(
        self, direction: Direction, x: Tensor, shared: dict[str, Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Inputs and params of a direction: x projected, as one, and the shared inputs."""
        spec, linear = self.kernel.spec, getattr(self, direction.projection)
        inputs = projection.inputs(linear, spec, self.hidden_size, x, shared)
        bound = {name: getattr(self, attribute) for name, attribute in direction.params.items()}
        return inputs, compute_params(spec, bound, inputs[0].dtype)

    def _check_x(
        self,
        x: Tensor,
        wanted: str,
        least: int,
        shared: dict[str, Any],
        most: float = math.inf,
    ) -> None:
        """One of `least` to `most` dimensions, and the shared inputs by name."""
        weight = self.projection.weight
        check_tensor("x", x, None if weight.is_meta else weight.device)
        if not least <= x.dim() <= most or x.shape[-1] != self.input_size:
            raise refuse(
                "x",
                show(x),
                f"{wanted} with input_size={self.input_size}",
                "batch first: [batch, time, features]",
            )
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise refuse(
                "x",
                show(x),
                f"{str(weight.dtype).removeprefix('torch.')}, as the layer's parameters",
                f"x.to({weight.dtype}) or layer.to({x.dtype})",
            )
        wanted_names = projection.given(self.kernel.spec)
        if set(shared) != set(wanted_names):
            odd = sorted(set(shared) ^ set(wanted_names))[0]
            expected = ", ".join(wanted_names) or "none"
            raise ArgumentError(
                f"{odd}: {'missing' if odd in wanted_names else 'not a shared input'}.\n"
                f"Fix: give the shared inputs of '{self.kernel.spec.name}' by name: {expected}"
            )

    def extra_repr(self) -> str:
        options = [f"{self.kernel.spec.name}, {self.input_size}, {self.hidden_size}"]
        options += ["bidirectional=True"] if self.bidirectional else []
        for field in fields(self.choices):
            value = getattr(self.choices, field.name)
            options += [f"{field.name}={value!r}"] if value != field.default else []
        return ", ".join(options)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a file takes along: not how the last call went."""
        return {**self.__dict__, "last_solve": None}


def _check_directions(bidirectional: bool, reverse: bool) -> None:
    if not isinstance(bidirectional, bool):
        raise ArgumentError(
            f"bidirectional: got {bidirectional!r}, expected True or False.\n"
            "Fix: bidirectional=True"
        )
    if bidirectional and reverse:
        raise ArgumentError(
            "reverse: got True with bidirectional=True, which runs both ways already, expected one "
            "of them.\nFix: leave reverse out"
        )


def _directions(spec: KernelSpec, endings: Sequence[str]) -> list[Direction]:
    """The attributes of each direction: a param's own name and the ending.

    Where a module, or another param, has that name already, an underscore follows.
    """
    taken, directions = set(TAKEN), []
    for ending in endings:
        params = {}
        for param in spec.params:
            attribute = f"{param.name}{ending}"
            while attribute in taken or hasattr(CellLayer, attribute):
                attribute += "_"
            taken.add(attribute)
            params[param.name] = attribute
        directions.append(Direction(f"projection{ending}", params, ending != ""))
    return directions


def _side_by_side(ahead: Solution, back: Solution) -> Solution:
    """Both directions in one: outputs and states along the way beside each other."""
    y = [torch.cat(pair, -1) for pair in zip(ahead.y, back.y, strict=True)]
    z = [torch.cat(pair, -1) for pair in zip(ahead.z, back.z, strict=True)]
    return Solution(y, z, torch.cat([ahead.h, back.h], 1), ahead.status)
