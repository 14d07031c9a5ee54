"""Layer: a compiled cell with its input projection as an nn.Module."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnncc.errors import ArgumentError
from rnncc.ir.choices import Choices, options_of, takes_choices
from rnncc.nn import ops, projection
from rnncc.nn.arguments import (
    check_groups,
    check_tensor,
    compute_params,
    stack_states,
    unpack,
)
from rnncc.nn.direction import Direction, check_directions, directions, side_by_side
from rnncc.nn.initialize import fill
from rnncc.nn.ops import Solution
from rnncc.nn.order import KEY, order_of, restore_order
from rnncc.nn.packed_sequence import read_packing, refuse_beside_packed
from rnncc.nn.refusal import check_dtype, refuse, show
from rnncc.nn.sequences import read_sequences, without_padding
from rnncc.nn.status import Solve
from rnncc.runtime.backend import backend_of
from rnncc.runtime.kernel import COMPUTE, Kernel
from rnncc.runtime.sequences import Sequences

States = Tensor | tuple[Tensor, ...]


class CellLayer(nn.Module):
    """A compiled cell with its input projection, used like torch.nn.GRU, batch first.

    Args:
        input_size: features of x.
        hidden_size: channels N of the recurrence.
        bias: whether the projection adds a bias; if not, `Input(bias=...)` of the cell has no
            effect.
        bidirectional: run forward and, with weights of its own, from the end; outputs are then
            [..., T, 2 * N], and each state is [2, ..., N], the forward one first.
        kernel: the compiled cell; a generated class brings its own.
        choices: solver, segment, iterations, tol, on_failure, checkpoint and reverse (from the end
            of each sequence to its beginning), see `choices.Choices`.

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

    @takes_choices
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        kernel: Kernel | None = None,
        **choices: Any,
    ) -> None:
        super().__init__()
        if kernel is not None:
            self.kernel = kernel
        spec = self.kernel.spec
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size)):
            if not isinstance(value, int) or value < 1:
                raise ArgumentError(f"{name}: got {value!r}, expected a positive int.\nFix: 64")
        if dtype is not None:
            check_dtype(dtype)
        check_groups(spec, hidden_size)
        self.choices = Choices.of(choices, OPTIONS)
        check_directions(bidirectional, self.choices.reverse)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bidirectional = bidirectional
        self.last_solve = None
        self._layout = projection.Layout.of(spec, hidden_size)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        endings = ("", "_reverse") if bidirectional else ("",)
        self._directions = directions(spec, CellLayer, endings)
        for direction in self._directions:
            self._add_parameters(direction, bias, factory)
        self.reset_parameters()

    def _add_parameters(self, direction: Direction, bias: bool, factory: dict[str, Any]) -> None:
        spec, size = self.kernel.spec, self.hidden_size
        width = projection.width(spec, size)
        linear = nn.Linear(self.input_size, width, bias=bias, **factory)
        self.add_module(direction.projection, linear)
        for param in spec.params:
            shape: tuple[int, ...] = (1,) if param.shared else (size,)
            if param.block is not None:
                shape = (size // param.block, param.block, param.block)
            empty = nn.Parameter(torch.empty(shape, **factory))
            self.register_parameter(direction.params[param.name], empty)

    def reset_parameters(self) -> None:
        """Initialize all parameters: by the cell's inits, the rest as nn.Linear does."""
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
        **given: Any,
    ) -> tuple[Any, ...]:
        """Run over a sequence.

        Args:
            x: [..., T, input_size], [T, input_size] for one sequence, or a PackedSequence.
            state: the states to continue from, [..., N] each, as returned; None for the inits.
                Those of a PackedSequence are in the batch's own order, not sorted.
            lengths: [...] ints, the steps of each sequence of a padded batch. Outputs after the end
                are 0, and the last state is the one there.
            cu_seqlens: [S + 1] ints, the boundaries of S sequences that lie one after another in x
                [total, input_size] or [1, total, input_size]; the states are [S, N].
            reset: [..., T] bool: before these steps the state is reset to `state`.
            return_states: also return the states after each step.
            given: by name, each input of the cell that isn't computed from x: [..., T] if all
                channels share it, else [..., T, N], or packed as x is. In half precision it may be
                in float32, and isn't rounded then.
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
            return self._run_packed(x, state, return_states, given)
        self._check_x(x, "[..., T, input_size]", 2, given)
        leading, steps = tuple(x.shape[:-2]), x.shape[-2]
        sequences = read_sequences(lengths, cu_seqlens, reset, leading, steps, x.device)
        return self._run(x, state, sequences, return_states, given)

    def step(self, x: Tensor, state: States | None = None, **given: Tensor) -> tuple[Any, Any]:
        """Run one step, for decoding: x [..., input_size] -> (y [..., N], state)."""
        if self.bidirectional or self.choices.reverse:
            option = "bidirectional" if self.bidirectional else "reverse"
            raise ArgumentError(
                f"step: got a layer with {option}=True, which begins at the last step of a "
                "sequence, expected one that runs forward.\nFix: layer(x) on the whole sequence"
            )
        self._check_x(x, "[..., input_size]", 1, given)
        steps = {}
        for i in self._layout.given:
            check_tensor(i.name, given[i.name])
            steps[i.name] = given[i.name].unsqueeze(-1 if i.shared else -2)
        y, h = self(x.unsqueeze(-2), state, **steps)
        return (tuple(v.squeeze(-2) for v in y) if isinstance(y, tuple) else y.squeeze(-2)), h

    def warmup(self, dtype: torch.dtype | None = None) -> None:
        """Build and load all kernels for the device that the layer is on, ahead of the first call.

        A CUDA graph can be captured after it.

        Args:
            dtype: of the recurrence's inputs; None for that of the weights. Autocast makes it
                another, and so do inputs that are given in float32 to a layer in half precision.
        Raises:
            BuildError: no compiler was found, or it refused the kernel.
        """
        if dtype is not None:
            check_dtype(dtype)
        like = self._like()
        if like is None:
            raise ArgumentError(
                "warmup: got a layer without parameters of its own, expected one that is on a "
                "device.\nFix: one call, which builds what it needs"
            )
        backend_of(like.device).warmup(self.kernel, dtype or like.dtype, like.device)

    def _run_packed(
        self, x: PackedSequence, state: States | None, return_states: bool, given: dict[str, Any]
    ) -> tuple[Any, ...]:
        """With the sequences laid one after another, and the results packed as x is."""
        self._check_x(x.data, "a PackedSequence of [total, input_size]", 2, given, most=2)
        packing = read_packing(x)
        joined = {name: packing.join(name, value) for name, value in given.items()}
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
        given: dict[str, Tensor],
    ) -> tuple[Any, ...]:
        """All directions, on x [..., T, input_size]."""
        leading = tuple(x.shape[:-2])
        if torch.is_grad_enabled():
            x = without_padding(x, sequences)
        state_leading = leading if sequences.starts is None else (sequences.starts.shape[0],)
        if self.bidirectional:
            state_leading = (2, *state_leading)
        call = (x, state, state_leading, sequences, return_states, given)
        solutions = []
        for direction in self._directions:
            solutions.append(self._solve(direction, *call))
        first = solutions[0]
        if not torch.compiler.is_compiling():
            last = Solve(first.status)
            self.last_solve = (last, Solve(solutions[1].status)) if self.bidirectional else last
        whole = side_by_side(*solutions) if self.bidirectional else first
        return unpack(self.kernel.spec, whole, leading, state_leading, True)  # type: ignore[no-any-return]

    def _solve(
        self,
        direction: Direction,
        x: Tensor,
        state: States | None,
        state_leading: tuple[int, ...],
        sequences: Sequences,
        return_states: bool,
        given: dict[str, Tensor],
    ) -> Solution:
        """One direction: x projected, the recurrence, its results in the projection's dtype."""
        kernel, size, choices = self.kernel, self.hidden_size, self.choices
        linear = getattr(self, direction.projection)
        inputs, packed, dtype = projection.inputs(linear, self._layout, x, given)
        bound = {}
        for name, attribute in direction.params.items():
            bound[name] = getattr(self, attribute)
        params = compute_params(kernel.spec, bound, dtype)
        initial = None
        if state is not None:
            initial = stack_states(kernel.spec, state, state_leading, size, dtype, x.device)
        if self.bidirectional:
            initial = None if initial is None else initial.tensor_split(2, 1)[direction.back]
            choices = replace(choices, reverse=direction.back)
        found = ops.solve(
            kernel, inputs, packed, params, initial, choices, sequences, return_states
        )
        if inputs[0].dtype == dtype:
            return found
        return found._replace(y=[v.to(dtype) for v in found.y], z=[v.to(dtype) for v in found.z])

    def _check_x(
        self,
        x: Tensor,
        wanted: str,
        least: int,
        given: dict[str, Any],
        most: float = math.inf,
    ) -> None:
        """One of `least` to `most` dimensions, and the given inputs by name."""
        like = self._like()
        on_meta = like is not None and like.is_meta
        check_tensor("x", x, None if like is None or on_meta else like.device)
        if on_meta:
            fix = "layer.to_empty(device='cpu'), then load_state_dict or reset_parameters()"
            raise refuse("x", show(x), "a layer whose weights aren't on meta, without values", fix)
        if not least <= x.dim() <= most or x.shape[-1] != self.input_size:
            raise refuse(
                "x",
                show(x),
                f"{wanted} with input_size={self.input_size}",
                "batch first: [batch, time, features]",
            )
        other = like is not None and x.dtype != like.dtype
        if like is not None and other and not torch.is_autocast_enabled(x.device.type):
            raise refuse(
                "x",
                show(x),
                f"{str(like.dtype).removeprefix('torch.')}, as the layer's parameters",
                f"x.to({like.dtype}) or layer.to({x.dtype})",
            )
        if given or self._layout.given:
            projection.check_given(self.kernel.spec, given)

    def _like(self) -> Tensor | None:
        """A tensor with the layer's dtype and device: a param of the cell, or else a weight.

        The module in the projection's place may have weights of other dtypes, or none.
        """
        for own in self._parameters.values():
            if own is not None:
                return own
        weight = getattr(self.projection, "weight", None)
        return weight if isinstance(weight, Tensor) and weight.dtype in COMPUTE else None

    def get_extra_state(self) -> Tensor:
        """For the state_dict: the order in which the projection's rows belong to inputs."""
        return order_of(self.kernel.spec)

    def set_extra_state(self, state: Any) -> None:
        """It is read before the weights, in `_load_from_state_dict`."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """With the rows in this cell's order; a state_dict of earlier versions has none."""
        names = [direction.projection for direction in self._directions]
        problem = restore_order(self.kernel.spec, self.hidden_size, names, state_dict, prefix)
        state_dict.setdefault(prefix + KEY, None)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if problem:
            rest[-1].append(problem)

    def extra_repr(self) -> str:
        options = [f"{self.kernel.spec.name}, {self.input_size}, {self.hidden_size}"]
        options += ["bidirectional=True"] if self.bidirectional else []
        for field in fields(self.choices):
            value = getattr(self.choices, field.name)
            options += [f"{field.name}={value!r}"] if value != field.default else []
        return ", ".join(options)

    def __getstate__(self) -> dict[str, Any]:
        """State for copies and pickles, without `last_solve`."""
        return {**self.__dict__, "last_solve": None}


OPTIONS = options_of(CellLayer.__init__)
