"""Layer: a compiled cell with its input projection as an nn.Module."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from rnncc.errors import ArgumentError
from rnncc.ir.choices import Choices, takes_choices
from rnncc.nn import ops
from rnncc.nn.arguments import (
    check_groups,
    compute_params,
    initial_states,
    needs_initial,
    stack_states,
    unpack,
)
from rnncc.nn.decoder import Decoder
from rnncc.nn.direction import (
    Direction,
    check_directions,
    check_forward,
    directions,
    endings,
    side_by_side,
)
from rnncc.nn.fits import Wanted, check_values
from rnncc.nn.initialize import fill
from rnncc.nn.named import Takes, by_place, time_first, time_last
from rnncc.nn.order import KEY, order_of, restore_order
from rnncc.nn.packed_sequence import read_packing, refuse_beside_packed
from rnncc.nn.projection import Layout, extent, without
from rnncc.nn.projection import inputs as projection_inputs
from rnncc.nn.projection import reset as reset_projection
from rnncc.nn.refusal import check_dtype
from rnncc.nn.sequences import read_sequences, without_padding
from rnncc.nn.settings import LINEAR, check_stack, read_sizes, show_settings
from rnncc.nn.solution import Solution
from rnncc.nn.status import Solve
from rnncc.nn.steps import Forms, step
from rnncc.nn.vectors import learned_of, split
from rnncc.runtime.backend import backend_of
from rnncc.runtime.kernel import COMPUTE, Kernel
from rnncc.runtime.sequences import Sequences

States = Tensor | tuple[Tensor, ...]


class CellLayer(nn.Module):
    """A compiled cell with its input projection, used like torch.nn.GRU, batch first.

    Args:
        input_size: features of x.
        hidden_size: channels N of the recurrence; without a projection the only size.
        num_layers: layers on top of each other, each of which reads the outputs of the one below.
        bias: whether the projection adds a bias; if not, `Input(bias=...)` of the cell has no
            effect.
        batch_first: if not, time is the first dimension of x, outputs, given inputs and resets.
        dropout: the probability with which training drops a value between stacked layers.
        bidirectional: run forward and, with weights of its own, from the end; outputs are then
            [..., T, 2 * N].
        projection: "linear"; None for inputs that are given as they are, in the cell's order or by
            name, [..., T, N] each, shared ones [..., T]: `layer(u, v)`, `layer(u, v, state)`.
        kernel: the compiled cell; a generated class brings its own.
        choices: solver, segment, iterations, tol, on_failure, checkpoint and reverse (from the end
            of each sequence to its beginning), see `choices.Choices`.

    Attributes:
        projection: the Linear that computes all inputs of the cell but the given ones at once, N
            rows for each in turn, then one for each shared input that is projected; or None.
        one Parameter for each param and matrix of the cell, under the cell's own name. Those of the
            second direction, and its projection, end in _reverse, those of the second layer in _l1,
            its second direction's in _l1_reverse, and so on.
        choices: how calls are solved.
        last_solve: how the last call was solved, outside of torch.compile: a `status.Solve`, one
            for each direction of each layer if there are several, or None.
    """

    kernel: Kernel
    projection: nn.Linear
    last_solve: Solve | tuple[Solve, ...] | None

    @takes_choices
    def __init__(
        self,
        input_size: int | None = None,
        hidden_size: int | None = None,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        projection: str | None = LINEAR,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        kernel: Kernel | None = None,
        **choices: Any,
    ) -> None:
        super().__init__()
        if kernel is not None:
            self.kernel = kernel
        spec, projected = self.kernel.spec, projection is not None
        self.choices = Choices.of(choices, OPTIONS)
        sizes = read_sizes(spec, input_size, hidden_size, projection)
        if dtype is not None:
            check_dtype(dtype)
        check_groups(spec, sizes.channels)
        check_directions(bidirectional, self.choices.reverse)
        check_stack(spec, num_layers, dropout, batch_first, projected)
        self.input_size, self.hidden_size = sizes
        self.num_layers, self.dropout, self.batch_first = num_layers, dropout, batch_first
        self.bidirectional = bidirectional
        self.last_solve = None
        self._known = Forms()  # of steps
        self._spec = spec if projected else without(spec)
        self._takes = Takes.of(self._spec, projected)
        if not projected:
            self.register_forward_pre_hook(by_place, with_kwargs=True)
        self._wanted = Wanted(self.input_size, 2, math.inf, batch_first, False)
        self._initial_given = needs_initial(spec)
        self._plain = "x" if projected else ""
        self._layout = Layout.of(self._spec, self.hidden_size, not projected)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self._directions = directions(spec, CellLayer, endings(num_layers, bidirectional))
        for k, direction in enumerate(self._directions):
            self._add_parameters(direction, self._features(k), bias, factory)
        self.reset_parameters()

    def _features(self, k: int) -> int | None:
        """What the projection of the k-th direction reads; None if there is no projection."""
        ways = 1 + self.bidirectional
        return self.input_size if k < ways else ways * self.hidden_size

    def _add_parameters(
        self, direction: Direction, features: int | None, bias: bool, factory: dict[str, Any]
    ) -> None:
        spec, size, linear = self.kernel.spec, self.hidden_size, None
        if features is not None:
            linear = nn.Linear(features, self._layout.width, bias=bias, **factory)
        setattr(self, direction.projection, linear)
        for vector, param in learned_of(spec):
            shape: tuple[int, ...] = (1,) if param.shared else (size,)
            if param.block is not None:
                shape = (size // param.block, param.block, param.block)
            empty = nn.Parameter(torch.empty((*shape, *vector.shape), **factory))
            self.register_parameter(direction.params[vector.name], empty)

    def reset_parameters(self) -> None:
        """Initialize all parameters: by the cell's inits, the rest as nn.Linear does."""
        spec = self.kernel.spec
        for direction in self._directions:
            reset_projection(getattr(self, direction.projection), spec, self.hidden_size)
            for vector, param in learned_of(spec):
                own = getattr(self, direction.params[vector.name])
                fill(own.data, param.init, rank=len(vector.shape))

    def forward(
        self,
        x: Tensor | PackedSequence | None = None,
        *args: Tensor | PackedSequence | States,
        state: States | None = None,
        lengths: Any = None,
        cu_seqlens: Any = None,
        reset: Tensor | None = None,
        return_states: bool = False,
        **named: Any,
    ) -> tuple[Any, ...]:
        """Run over a sequence: `layer(x)`, `layer(x, state)`, `layer(x, state=state, dt=dt)`.

        Args:
            x: [..., T, input_size], [T, input_size] for one sequence, or a PackedSequence; without
                a projection the first input.
            args: without a projection the other inputs, in the cell's order; then state.
            state: the states to continue from, [..., N] each, as returned; None for the inits.
                Those of a PackedSequence are in the batch's own order, not sorted.
            lengths: [...] ints, the steps of each sequence of a padded batch. Outputs after the end
                are 0, and the last state is the one there.
            cu_seqlens: [S + 1] ints, the boundaries of S sequences that lie one after another in x
                [total, input_size] or [1, total, input_size]; the states are [S, N].
            reset: [..., T] bool: before these steps the state is reset to `state`, or without one
                to the inits.
            return_states: also return the states after each step, of stacked layers the last one's.
            named: each input of the cell that isn't computed from x: [..., T] if all channels share
                it, else [..., T, N], or packed as x is. In half precision it may be in float32, and
                isn't rounded then.
        Returns:
            (y, state), or with return_states (y, states, state): y [..., T, N], a tuple for several
            outputs; states [..., T, N] and state [..., N], tuples for several states. Packed as x
            is, but for the last state. All are differentiable. With L stacked layers of D
            directions, where L * D > 1, each state is [L * D, ..., N], layer by layer, the forward
            direction first, and y is [..., T, D * N].
        Raises:
            ArgumentError: a shape, dtype or device that doesn't fit; it names the argument.
            ConvergenceError: the solver is "newton" and did not converge.
        """
        values, state = self._takes.bind((x, *args) if args or x is not None else (), state, named)
        one = next(iter(values.values()))
        if isinstance(one, PackedSequence):
            refuse_beside_packed(lengths=lengths, cu_seqlens=cu_seqlens, reset=reset)
            return self._run_packed(values, state, return_states)
        first = self.batch_first
        check_values(values, self._like(), self._wanted)
        if not first or self._spec.vectors:
            values = values if first else time_last(values, self._takes.ranks)
            values = split(self._spec, values, self._plain)
            one = next(iter(values.values()))
        if self.input_size is None:
            leading, steps, _ = extent(self._layout, list(values.values()))
        else:
            leading, steps = tuple(one.shape[:-2]), one.shape[-2]
        sequences = read_sequences(lengths, cu_seqlens, reset, leading, steps, one.device, first)
        found = self._run(values, state, leading, sequences, return_states)
        return found if first else (*time_first(found[:-1], len(leading)), found[-1])

    def step(
        self, *args: Tensor | States, state: States | None = None, **named: Any
    ) -> tuple[Any, Any]:
        """Run one step, for decoding: x [..., input_size] -> (y [..., N], state).

        Without a projection it takes the inputs, [..., N] each, shared ones [...]. `decoder` does
        it in memory that is kept.
        """
        check_forward("step", self.bidirectional, self.choices.reverse)
        return step(self, args, state, named)

    def decoder(self, batch: int = 1, graph: bool = True) -> Decoder:
        """Steps without gradients in memory that is kept, for `batch` sequences; see `Decoder`."""
        return Decoder(self, batch, graph)

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
        self, values: dict[str, Any], state: States | None, return_states: bool
    ) -> tuple[Any, ...]:
        """With the sequences laid one after another, and the results packed as the first value."""
        first = next(iter(values))
        packing = read_packing(values[first], first)
        joined = {name: packing.join(name, value) for name, value in values.items()}
        check_values(joined, self._like(), Wanted(self.input_size, 2, 2, self.batch_first, True))
        joined = split(self._spec, joined, self._plain)
        leading: tuple[int, ...] = ()
        if self.input_size is None:
            leading, _, _ = extent(self._layout, list(joined.values()))
        *rows, last = self._run(joined, state, leading, packing.sequences, return_states)
        return *map(packing.pack, rows), last

    def _run(
        self,
        values: dict[str, Tensor],
        state: States | None,
        leading: tuple[int, ...],
        sequences: Sequences,
        return_states: bool,
    ) -> tuple[Any, ...]:
        """All directions of all layers."""
        x = values.pop("x") if self.input_size is not None else None
        if x is not None and torch.is_grad_enabled():
            x = without_padding(x, sequences)
        state_leading = leading if sequences.starts is None else (sequences.starts.shape[0],)
        count, ways = len(self._directions), 1 + self.bidirectional
        if count > 1:
            state_leading = (count, *state_leading)
        call = (state, state_leading, sequences, return_states, values)
        solutions: list[Solution] = []
        whole: Solution | None = None
        for level in range(self.num_layers):
            x = x if whole is None else self._between(whole.y[0], leading)
            for k in range(level * ways, (level + 1) * ways):
                solutions.append(self._solve(k, x, *call))
            whole = side_by_side(*solutions[-2:]) if ways == 2 else solutions[-1]
        assert whole is not None
        if not torch.compiler.is_compiling():
            last = Solve(whole.status)
            self.last_solve = tuple(Solve(s.status) for s in solutions) if count > 1 else last
        if count > 1:
            h = torch.cat([found.h for found in solutions], 1)
            whole = Solution(whole.y, whole.z, h, whole.status)
        return unpack(self.kernel.spec, whole, leading, state_leading, True)  # type: ignore[no-any-return]

    def _between(self, y: Tensor, leading: tuple[int, ...]) -> Tensor:
        """x of a layer from the outputs [B, T, D * N] below."""
        y = y if len(leading) == 1 else y.reshape(*leading, *y.shape[1:])
        return functional.dropout(y, self.dropout, self.training) if self.dropout else y

    def _solve(
        self,
        k: int,
        x: Tensor | None,
        state: States | None,
        state_leading: tuple[int, ...],
        sequences: Sequences,
        return_states: bool,
        given: dict[str, Tensor],
    ) -> Solution:
        """The k-th direction: projection, recurrence, results in the projection's dtype."""
        kernel, size, choices = self.kernel, self.hidden_size, self.choices
        direction, count = self._directions[k], len(self._directions)
        linear = getattr(self, direction.projection)
        inputs, packed, dtype = projection_inputs(linear, self._layout, x, given)
        bound = self._learned(k)
        params = compute_params(kernel.spec, bound, dtype)
        initial, device = None, inputs[0].device
        if state is not None:
            stacked = stack_states(kernel.spec, state, state_leading, size, dtype, device, "state")
            initial = stacked.tensor_split(count, 1)[k] if count > 1 else stacked
        elif self._initial_given:
            sequence_count = math.prod(state_leading) // count
            initial = initial_states(kernel.spec, bound, sequence_count, size, dtype, device)
        if self.bidirectional:
            choices = replace(choices, reverse=direction.back)
        solution = ops.solve(
            kernel, inputs, packed, params, initial, choices, sequences, return_states
        )
        if inputs[0].dtype == dtype:
            return solution
        y, z = ([v.to(dtype) for v in rows] for rows in (solution.y, solution.z))
        return solution._replace(y=y, z=z)

    def _learned(self, k: int) -> dict[str, Tensor]:
        """The learned values of the k-th direction, by the names of the cell's scalars."""
        bound, own = {}, self._parameters  # of which the modules' own search takes a while
        for name, attribute in self._directions[k].params.items():
            found = own.get(attribute)
            bound[name] = getattr(self, attribute) if found is None else found
        spec = self.kernel.spec
        return split(spec, bound) if spec.vectors else bound

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
        return order_of(self._spec)

    def set_extra_state(self, state: Any) -> None:
        """It is read before the weights, in `_load_from_state_dict`."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """With the rows in this cell's order; a state_dict of earlier versions has none."""
        names = [direction.projection for direction in self._directions]
        problem = restore_order(self._spec, self.hidden_size, names, state_dict, prefix)
        state_dict.setdefault(prefix + KEY, None)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if problem:
            rest[-1].append(problem)

    def extra_repr(self) -> str:
        return show_settings(self)

    def __getstate__(self) -> dict[str, Any]:
        """State for copies and pickles, without what belongs to this process."""
        return {**self.__dict__, "last_solve": None, "_known": Forms()}


OPTIONS = tuple(inspect.signature(CellLayer.__init__).parameters)[1:]
