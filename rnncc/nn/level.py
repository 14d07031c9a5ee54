"""Level: the projection and the recurrence of one step, for each of the stacked layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from operator import is_not
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from rnncc.ir.abi import STATUS
from rnncc.ir.choices import Choices
from rnncc.ir.vector import grouped
from rnncc.nn.arguments import compute_params
from rnncc.nn.projection import inputs as projection_inputs
from rnncc.nn.refusal import refuse, show
from rnncc.nn.vectors import apart, split
from rnncc.runtime.args import tensors_of
from rnncc.runtime.backend import backend_of
from rnncc.runtime.call import plan_call
from rnncc.runtime.prepared import addresses_of
from rnncc.runtime.preparing import Preparing

if TYPE_CHECKING:
    from rnncc.nn.layer import CellLayer

ONE_PASS = Choices(solver="sequential")


class Form(NamedTuple):
    """Of the values of a call: all calls of one form use the same memory."""

    device: torch.device
    dtypes: tuple[torch.dtype, ...]
    threads: int


class Stack:
    """The levels of a layer, for steps of `batch` sequences.

    Args:
        dtypes: of the outputs, and of the kernels' inputs and outputs.
        given: memory of the inputs that aren't computed from x, by name, in the second dtype.
        states: [2, levels, states, B, N], before the step and after it, in turns.
    """

    def __init__(
        self,
        layer: CellLayer,
        dtypes: tuple[torch.dtype, torch.dtype],
        given: Mapping[str, Tensor],
        states: Tensor,
    ) -> None:
        backend = backend_of(states.device)
        assert isinstance(backend, Preparing)
        self.layer, self.backend, self._device = layer, backend, states.device
        self.levels = [
            Level(layer, k, self.backend, dtypes, given, states[:, k])
            for k in range(layer.num_layers)
        ]
        self.compute = states.dtype
        names = [direction.projection for direction in layer._directions]
        self._projections = [
            (n, v.linear, v.plain) for n, v in zip(names, self.levels, strict=True)
        ]
        self._owned = [layer._parameters]
        self._owned += [v.linear._parameters for v in self.levels if v.plain]
        self._seen = self._places()

    def moved(self) -> bool:
        """Whether a parameter, or a projection, is another one, or elsewhere.

        It is written in one, because every step pays for it.
        """
        modules = self.layer._modules
        for name, linear, plain in self._projections:
            if modules.get(name) is not linear or plain != is_plain(linear):
                return True
        return backend_of(self._device) is not self.backend or self._places() != self._seen

    def _places(self) -> list[Any]:
        """Where all parameters lie, and how: .data may be another view of the same memory."""
        values: list[Any] = [*filter(_is_there, chain.from_iterable(map(dict.values, self._owned)))]
        places, strides = map(Tensor.data_ptr, values), map(Tensor.stride, values)
        return [*places, *strides, *map(Tensor.is_neg, values)]


class Level:
    """What runs one step: a product into kept rows, then the kernel by Args that are ready.

    Args:
        number: of the level, from below.
        dtypes: of the outputs, and of the kernel's inputs and outputs.
        given: memory of the inputs that aren't computed from x, by name, in the second dtype.
        states: [2, states, B, N], before the step and after it, in turns.

    Attributes:
        y: the outputs of a step, [B, N] each, and the sizes of a vector.
    """

    def __init__(
        self,
        layer: CellLayer,
        number: int,
        backend: Preparing,
        dtypes: tuple[torch.dtype, torch.dtype],
        given: Mapping[str, Tensor],
        states: Tensor,
    ) -> None:
        self.layer, self.number = layer, number
        self._attribute = layer._directions[number].projection
        self.linear: Any = getattr(layer, self._attribute)
        self.plain: bool = is_plain(self.linear) and len(self.linear.weight) == layer._layout.width
        self._dtype, self._wide = dtypes
        batch = states.shape[2]
        self._rows = states.new_zeros((batch, layer._layout.width), dtype=self._dtype)
        self._wide_rows = self._rows.to(self._wide)
        if self.plain:
            weight, bias = self.linear.weight, self.linear.bias
            self._weight, self._bias = weight.detach().t(), None if bias is None else bias.detach()
        self._params, self._copies, self._sources = self._kept_params()
        self._prepare(backend, given, states)

    def run(self, side: int, x: Tensor | None) -> None:
        """One step from the states of a side to those of the other."""
        if self._copies:
            self._follow()
        if x is not None:
            if not self.plain:
                self._rows.copy_(self._by_module(x))
            elif self._bias is None:
                torch.mm(x, self._weight, out=self._rows)
            else:
                torch.addmm(self._bias, x, self._weight, out=self._rows)
            if self._wide_rows is not self._rows:
                self._wide_rows.copy_(self._rows)
        if self._status is not None:
            self._status.zero_()
        self._launch(self._words[side])
        for narrow, wide in self._narrowed:
            narrow.copy_(wide)

    def fresh(self, x: Tensor, h0: int, y: Sequence[Tensor], h: int) -> None:
        """One step in no kept memory, where nothing is given beside x.

        Args:
            y: the outputs, to fill.
            h0, h: the addresses of the states [states, B, N] before the step and after it.
        """
        if self._copies:
            self._follow()
        own = self.linear._parameters
        rows = nn.functional.linear(x, own["weight"], own["bias"])
        first, made = rows.data_ptr(), map(Tensor.data_ptr, y)
        inputs = [first + offset for offset in self._offsets]
        self.prepared.run_at([*inputs, *self._fixed, h0, *made, h, *self._after])

    @property
    def reads_rows(self) -> bool:
        """Whether the kernel reads all inputs where the projection writes them."""
        return all(0 <= offset < self._rows.nbytes for offset in self._offsets)

    def _kept_params(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """As the kernel reads them; which of them are copies, to be made anew each step; of what.

        The last is empty where a param is computed anew each time, from others or from parts of a
        parameter that isn't dense.
        """
        layer, spec = self.layer, self.layer.kernel.spec
        bound = layer._learned(self.number)
        names = layer._directions[self.number].params.values()
        registered = [layer._parameters.get(name) for name in names]
        own = all(p is not None and p.is_contiguous() for p in registered)
        kept, copies, sources = [], [], []
        for described, param in zip(
            spec.params, compute_params(spec, bound, self._dtype), strict=True
        ):
            source = bound[described.name].detach()
            same = own and not param.is_neg() and param.data_ptr() == source.data_ptr()
            if same and param.is_contiguous():
                kept.append(param.detach())
            else:
                copy = torch.empty_like(param, memory_format=torch.contiguous_format)
                kept.append(copy.copy_(param.detach()))
                copies.append(copy)
                sources.append(source.reshape(param.shape))
        return kept, copies, sources if own else []

    def _follow(self) -> None:
        """The params of which the kernel reads copies, in half precision all of them."""
        with torch.no_grad():
            sources = self._sources or self._computed()
            torch._foreach_copy_(self._copies, sources)

    def _computed(self) -> list[Tensor]:
        spec, bound = self.layer.kernel.spec, self.layer._learned(self.number)
        return compute_params(spec, bound, self._dtype)

    def _by_module(self, x: Tensor) -> Tensor:
        """The rows by what is in the projection's place."""
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            rows = self.linear(x.unsqueeze(-2))
        shape = (x.shape[0], 1, self._rows.shape[1])
        if not isinstance(rows, Tensor) or rows.shape != shape or rows.dtype != self._dtype:
            kind = str(self._dtype).removeprefix("torch.")
            raise refuse(
                "projection(x)",
                show(rows),
                f"{kind} {list(shape)}, the rows of all inputs that are projected",
                f"a module from {x.shape[-1]} features to {shape[-1]} in its place; another dtype "
                "than that of the layer's params is taken by layer.step",
            )
        return rows.squeeze(1)

    def _prepare(self, backend: Preparing, given: Mapping[str, Tensor], states: Tensor) -> None:
        """The kernel's Args for both sides."""
        layer, spec = self.layer, self.layer.kernel.spec
        inputs, packed = self._inputs(given)
        call = plan_call(
            backend, layer.kernel, ONE_PASS, inputs, packed, self._params, states[0].contiguous()
        )
        made = self._outputs(states)
        y = [row.unsqueeze(1) for row in apart(spec, made)]
        clears = not backend.host_reads
        status = states.new_zeros(len(STATUS.fields), dtype=torch.float64) if clears else None
        prepared = backend.prepare_forward(call, y, [], states[1], None, status)
        space = states.new_empty(prepared.space, dtype=torch.uint8)
        self._words = []
        for side in (0, 1):
            now = replace(call, h0=states[side])
            addresses = addresses_of(tensors_of(now, y, [], states[1 - side], None, status))
            self._words.append(prepared.filled(addresses, space.data_ptr()))
        self.prepared, self._launch = prepared, prepared.launch
        self._status = status if prepared.clears else None
        self._offsets = [x.data_ptr() - self._rows.data_ptr() for x in call.inputs]
        self._fixed = [*map(Tensor.data_ptr, self._params)]
        self._after = [] if status is None else [status.data_ptr()]
        self._held = (call.inputs, made, states, space, status)  # what Args points to

    def _inputs(self, given: Mapping[str, Tensor]) -> tuple[Sequence[Tensor], bool]:
        """The inputs of the kernel, views of the rows and of what is given."""
        layer, rows = self.layer, self._wide_rows.unsqueeze(1)
        ranks, x, linear = layer._takes.ranks, None, None
        if self.linear is not None:
            features = layer._features(self.number)
            assert features is not None
            x, linear = rows.new_zeros(()).expand(len(rows), 1, features), _Rows(rows)
        values = {name: value.unsqueeze(-ranks[name]) for name, value in given.items()}
        values = split(layer._spec, values, layer._plain)
        found = projection_inputs(linear, layer._layout, x, values)
        return found.inputs, found.packed

    def _outputs(self, states: Tensor) -> list[Tensor]:
        """Memory for those that the kernel writes; `y` is what they become."""
        spec, (batch, channels) = self.layer.kernel.spec, states.shape[2:]
        shapes = [
            (batch, channels, *v.shape) for v in grouped(spec.outputs, spec.vectors, "output")
        ]
        made = [states.new_zeros(shape, dtype=self._wide) for shape in shapes]
        self.y = [row.to(self._dtype) for row in made]
        self._narrowed = list(zip(self.y, made, strict=True)) if self._wide != self._dtype else []
        return made


class _Rows(nn.Module):
    """In a projection's place: rows that are there."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        return self.rows


def is_plain(linear: Any) -> bool:
    """A Linear that does nothing but its product, with parameters of its own."""
    return type(linear) is nn.Linear and not (
        any_hook()
        or linear._forward_hooks
        or linear._forward_pre_hooks
        or "forward" in linear.__dict__
        or "weight" not in linear._parameters
        or "bias" not in linear._parameters
    )


def any_hook() -> bool:
    """Whether there is a hook of all modules."""
    return any(_HOOKS)


_KINDS = ("backward_pre_hooks", "backward_hooks", "forward_pre_hooks", "forward_hooks")
# PyTorch adds to these and takes away; its own function of that name came after 2.6.
_HOOKS = [getattr(nn.modules.module, f"_global_{kind}") for kind in _KINDS]
_is_there = partial(is_not, None)
