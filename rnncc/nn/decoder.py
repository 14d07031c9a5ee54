"""Decoder: the steps of a layer one after another, in memory that is kept, without gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rnncc.ir.vector import grouped
from rnncc.nn.arguments import check_tensor, initial_states, stack_states
from rnncc.nn.direction import check_forward
from rnncc.nn.fits import Wanted, check_values
from rnncc.nn.level import Form, Stack
from rnncc.nn.projection import promoted
from rnncc.nn.refusal import refuse, show
from rnncc.nn.vectors import join
from rnncc.runtime.kernel import COMPUTE

if TYPE_CHECKING:
    from rnncc.nn.layer import CellLayer


class Decoder:
    """Runs a layer step by step without gradients: `y = decoder(x)`; it holds the states.

    Projection and recurrence of a step write into memory of the decoder, and nothing is allocated;
    on a GPU a step is one replay of a CUDA graph. What a call returns is overwritten by the next
    one: `y.clone()` is what stays. Later changes of the layer's parameters are followed, in place
    or not. Nothing is dropped between stacked layers, autocast and hooks of the layer have no
    effect, and each step is one pass, whatever the layer's solver. For one thread at a time.

    Args:
        layer: one that runs forward.
        batch: sequences, B.
        graph: on a GPU, capture a step in a CUDA graph; if not, its kernels are launched one by
            one, as a module in the projection's place may need that can't be captured.
    Raises:
        ArgumentError: the layer begins at the last step of a sequence, or batch isn't positive.
    """

    def __init__(self, layer: CellLayer, batch: int = 1, graph: bool = True) -> None:
        if type(batch) is not int or batch < 1:
            raise refuse("batch", repr(batch), "an int of at least 1", "layer.decoder(1)")
        check_forward("decoder", layer.bidirectional, layer.choices.reverse)
        self.layer, self.batch, self.graph = layer, batch, graph
        features, like = layer.input_size, layer._like()
        self._wanted = Wanted(features, 2, 2, layer.batch_first, False, batch)
        dtype = torch.get_default_dtype() if like is None else like.dtype
        device = torch.device("cpu") if like is None else like.device
        self._side, self._states = 0, torch.empty(0)
        self._build(_form([torch.empty(0, dtype=dtype, device=device)] * len(layer._takes.ranks)))
        self.reset()

    def __call__(self, *args: Tensor, **named: Tensor) -> Any:
        """Run one step, see `step`."""
        return self.step(*args, **named)

    def step(self, *args: Tensor, **named: Tensor) -> Any:
        """Run one step: x [B, input_size] -> y [B, N], a tuple for several outputs.

        Args:
            args, named: as of `layer.step`: without a projection the inputs, [B, N] each, shared
                ones [B]; inputs that aren't computed from x by name. No state.
        Raises:
            ArgumentError: a shape, dtype or device that doesn't fit; it names the argument.
        """
        if torch.compiler.is_compiling():
            return _outside(self, args, named)
        x = args[0] if args else None
        if named or len(args) != 1 or not self._fits(x) or self._stack.moved():
            x = self._take(args, named)
        if x is not None and x.requires_grad:
            x = x.detach()
        if self._recorded is None:
            self._run(self._side, x)
        else:
            self._replay(x)
        self._side = 1 - self._side
        return self._y

    def _fits(self, x: Any) -> bool:
        """It is as the one before was, and so are the threads; there is nothing else."""
        same = type(x) is Tensor and not x.is_nested and _kind(x) == self._alone
        return same and torch.get_num_threads() == self._form.threads

    def _take(self, args: tuple[Any, ...], named: dict[str, Any]) -> Tensor | None:
        """Check all values, put those that are given where the kernels read them; x."""
        layer = self.layer
        values, state = layer._takes.bind(args, None, named)
        if state is not None:
            raise refuse(
                "state", show(state), "none: the decoder holds it", "decoder.state = state"
            )
        check_values(values, layer._like(), self._wanted)
        for name, value in values.items():
            check_tensor(name, value, next(iter(values.values())).device)
        form = _form([*values.values()])
        if form != self._form or self._stack.moved():
            self._build(form)
        x: Tensor | None = values.pop("x") if layer.input_size is not None else None
        self._give(values)
        return x

    @property
    def state(self) -> Any:
        """A copy of the states, as `layer.step` returns them; another may be assigned."""
        rows = self._states[self._side].clone().transpose(0, 1)
        rows = rows if len(self._stack.levels) > 1 else rows.squeeze(1)
        found = join(self.layer.kernel.spec, "state", list(rows))
        return found[0] if len(found) == 1 else tuple(found)

    @state.setter
    def state(self, state: Any) -> None:
        layer, count = self.layer, len(self._stack.levels)
        leading = (count, self.batch) if count > 1 else (self.batch,)
        with torch.no_grad():
            whole = stack_states(
                layer.kernel.spec,
                state,
                leading,
                layer.hidden_size,
                self._dtype,
                self._form.device,
                "state",
            )
            whole = whole.unflatten(1, (count, self.batch)).transpose(0, 1)
            self._states[self._side].copy_(whole)

    def reset(self, rows: Any = None) -> None:
        """Begin anew, by the cell's inits; so that a sequence ends where others go on.

        Args:
            rows: which of the batch: an int, a list, or a tensor of ints or bools [B]; None for
                all.
        """
        layer, held = self.layer, self._states[self._side]
        with torch.no_grad():
            for level, states in zip(self._stack.levels, held, strict=True):
                new = initial_states(
                    layer.kernel.spec,
                    layer._learned(level.number),
                    self.batch,
                    layer.hidden_size,
                    self._dtype,
                    held.device,
                )
                if rows is None:
                    states.copy_(new)
                else:
                    at = self._rows(rows)
                    states[:, at] = new[:, at]

    def _rows(self, rows: Any) -> Tensor:
        """As an index on the device of the states."""
        try:
            found = torch.as_tensor(rows)
        except (TypeError, ValueError, RuntimeError):
            found = torch.tensor(math.nan)
        if found.dtype == torch.bool:
            fits = found.shape == (self.batch,)
        else:
            numbers = not (found.is_floating_point() or found.is_complex()) or not found.numel()
            found = found.long() if numbers else found
            fits = (
                numbers and found.dim() <= 1 and bool(((found >= 0) & (found < self.batch)).all())
            )
        if not fits:
            known = f"sequences of the batch, 0 to {self.batch - 1}, or bools [{self.batch}]"
            seen = show(rows) if isinstance(rows, Tensor) else repr(rows)
            raise refuse("rows", seen, known, "decoder.reset([0])")
        return found.to(self._states.device)

    def __reduce__(self) -> Any:
        """Copies have memory of their own."""
        return _restored, (self.layer, self.batch, self.graph, self.state)

    def __repr__(self) -> str:
        return f"Decoder({self.layer}, batch={self.batch})"

    def _build(self, form: Form) -> None:
        """Memory for calls of this form, and what runs in it; the states go on."""
        layer, size = self.layer, self.layer.hidden_size
        with torch.inference_mode(False), torch.no_grad():
            dtype, wide = self._dtypes(form)
            shape = (2, layer.num_layers, len(layer.kernel.spec.states), self.batch, size)
            states = torch.zeros(shape, dtype=COMPUTE[dtype], device=form.device)
            if self._states.numel():
                states[0].copy_(self._states[self._side])
            self._given = self._given_memory(wide, form.device)
            self._stack = Stack(layer, (dtype, wide), self._given, states)
            x = None if layer.input_size is None else (self.batch, layer.input_size)
            self._x = None if x is None else states.new_zeros(x, dtype=dtype)
            self._alone = _kind(self._x) if layer._takes.alone else None
        self._form, self._dtype, self._states, self._side = form, dtype, states, 0
        y = self._stack.levels[-1].y
        self._y: Any = y[0] if len(y) == 1 else tuple(y)
        recorded = self.graph and not self._stack.backend.host_reads
        self._recorded: list[Callable[[], None]] | None = [] if recorded else None

    def _dtypes(self, form: Form) -> tuple[torch.dtype, torch.dtype]:
        """That of the outputs, and that of the kernel's inputs and outputs, as of a layer."""
        if self.layer.input_size is None:
            tensors = [torch.empty(0, dtype=dtype) for dtype in form.dtypes]
            dtype = promoted(list(self.layer._takes.ranks), tensors)
            return dtype, dtype
        dtype, *others = form.dtypes
        return dtype, dtype if all(d == dtype for d in others) else COMPUTE[dtype]

    def _given_memory(self, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
        """For each input that isn't computed from x: [B], or [B, N], and the sizes of a vector."""
        spec, found = self.layer._spec, {}
        shared = {i.name: i.shared for i in spec.inputs if not i.projected}
        for v in grouped(shared, spec.vectors, "input"):
            channels = () if shared[v.members[0]] else (self.layer.hidden_size,)
            found[v.name] = torch.zeros(
                (self.batch, *channels, *v.shape), dtype=dtype, device=device
            )
        return found

    def _give(self, values: dict[str, Tensor]) -> None:
        """Copy the inputs that aren't computed from x to where the kernels read them."""
        for name, value in values.items():
            own = self._given[name]
            try:
                whole = value.detach().expand(own.shape)
            except RuntimeError:
                fix = f"{name} of {list(own.shape)}"
                raise refuse(name, show(value), f"{list(own.shape)}", fix) from None
            own.copy_(whole)

    def _run(self, side: int, x: Tensor | None) -> None:
        for level in self._stack.levels:
            level.run(side, x)
            x = level.y[0]

    def _replay(self, x: Tensor | None) -> None:
        """By the graphs, one for each of the two places of the states; captured at first use."""
        assert self._recorded is not None
        if self._x is not None:
            self._x.copy_(x)  # type: ignore[arg-type]
        if not self._recorded:
            held, device = self._states.clone(), self._form.device
            runs = [partial(self._run, side, self._x) for side in (0, 1)]
            self._recorded += [self._stack.backend.record(run, device) for run in runs]
            self._states.copy_(held)  # a run ahead of the capture changed them
        self._recorded[self._side]()


_kind = attrgetter("shape", "dtype", "device", "layout")


def _form(values: Sequence[Tensor]) -> Form:
    dtypes = tuple([value.dtype for value in values])
    return Form(values[0].device, dtypes, torch.get_num_threads())


def _restored(layer: Any, batch: int, graph: bool, state: Any) -> Decoder:
    found = Decoder(layer, batch, graph)
    found.state = state
    return found


def _outside(decoder: Decoder, args: Sequence[Any], named: dict[str, Any]) -> Any:
    """Within torch.compile: a break of its graph."""
    return torch.compiler.disable(decoder.step)(*args, **named)
