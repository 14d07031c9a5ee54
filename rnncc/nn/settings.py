"""Settings: the sizes of a layer and how it is stacked, checked and shown."""

from __future__ import annotations

import math
import operator
import warnings
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from rnncc.errors import ArgumentError
from rnncc.ir.spec import KernelSpec
from rnncc.ir.vector import grouped
from rnncc.nn.refusal import refuse

if TYPE_CHECKING:
    from rnncc.nn.layer import CellLayer

LINEAR = "linear"  # the projection of a layer that has one
TAKEN = ("state", "self")  # by the call of every layer
SHOWN = {"num_layers": 1, "batch_first": True, "dropout": 0.0, "bidirectional": False}


class Sizes(NamedTuple):
    """Features of x, or None without a projection; channels N of the recurrence."""

    features: int | None
    channels: int


def read_sizes(spec: KernelSpec, input_size: Any, hidden_size: Any, projection: Any) -> Sizes:
    """Without a projection one of them is N.

    Raises:
        ArgumentError: a size is missing, too many, or not a positive int; or the cell can't do
            without a projection.
    """
    if projection is not None and projection != LINEAR:
        plain = isinstance(projection, (str, bool))
        raise refuse(
            "projection",
            repr(projection) if plain else type(projection).__name__,
            f"'{LINEAR}', or None for inputs that are given as they are",
            f"projection={f'{LINEAR!r}' if projection is True else None}"
            if plain
            else "layer.projection = module, once the layer is made",
        )
    if projection is None:
        _check_names(spec)
        if (input_size is None) == (hidden_size is None):
            seen = "no size" if hidden_size is None else f"{input_size!r} and {hidden_size!r}"
            channels = 64 if hidden_size is None else hidden_size
            expected = "one with projection=None: N, the channels of inputs and states"
            raise refuse("hidden_size", seen, expected, f"layer({channels}, projection=None)")
        channels = hidden_size if input_size is None else input_size
        return Sizes(None, _size("hidden_size", channels))
    sizes = {"input_size": input_size, "hidden_size": hidden_size}
    if None in sizes.values():
        missing, other = (
            ("input_size", hidden_size)
            if input_size is None
            else (
                "hidden_size",
                input_size,
            )
        )
        raise ArgumentError(
            f"{missing}: missing, expected features of x and channels N, or projection=None for "
            "inputs that are given as they are.\n"
            f"Fix: layer({other or 64}, {other or 64}), or layer({other or 64}, projection=None)"
        )
    return Sizes(*(_size(name, value) for name, value in sizes.items()))


def _size(name: str, value: Any) -> int:
    try:
        size = operator.index(value)  # NumPy's ints too
    except TypeError:
        size = 0
    if size < 1 or isinstance(value, bool):
        raise ArgumentError(f"{name}: got {value!r}, expected a positive int.\nFix: 64")
    return size


def _check_names(spec: KernelSpec) -> None:
    """Names that the call of such a layer takes for others: it is given the state as well."""
    for i in grouped([i.name for i in spec.inputs], spec.vectors, "input"):
        if i.name in TAKEN:
            raise refuse(
                "projection",
                f"None for '{spec.name}', whose input '{i.name}' has the name of an argument of "
                "every layer",
                "another name of the input",
                f"rename it in the cell, for example '{i.name}_'",
            )


def check_stack(
    spec: KernelSpec, num_layers: Any, dropout: Any, batch_first: Any, projected: bool
) -> None:
    """Check how layers are stacked.

    Raises:
        ArgumentError: a value that can't be, or a cell that can't be stacked.
    """
    if type(num_layers) is not int or num_layers < 1:
        raise refuse("num_layers", repr(num_layers), "an int of at least 1", "num_layers=2")
    number = isinstance(dropout, (int, float)) and not isinstance(dropout, bool)
    if not number or not 0 <= dropout <= 1:
        raise refuse("dropout", repr(dropout), "a probability, from 0 to 1", "dropout=0.1")
    if not isinstance(batch_first, bool):
        fix = f"batch_first={bool(batch_first)}"
        raise refuse("batch_first", repr(batch_first), "True or False", fix)
    if dropout and num_layers == 1:
        warnings.warn(
            f"dropout: got {dropout!r} with num_layers=1, but it acts between stacked layers only, "
            "so it does nothing.\nFix: num_layers=2, or torch.nn.Dropout after the layer",
            stacklevel=4,
        )
    if num_layers > 1 and not projected:
        raise refuse(
            "num_layers",
            f"{num_layers} with projection=None",
            "a projection, which makes the inputs of a layer from the outputs below",
            "leave num_layers out, and call one layer after another",
        )
    outputs = grouped(spec.outputs, spec.vectors, "output")
    if num_layers > 1 and len(outputs) > 1:
        raise refuse(
            "num_layers",
            f"{num_layers} for '{spec.name}', which has the outputs "
            f"{', '.join(v.name for v in outputs)}",
            "a cell with one, which the next layer reads",
            "leave num_layers out, and call one layer after another",
        )
    if num_layers > 1 and outputs[0].shape:
        name, shape = outputs[0].name, list(outputs[0].shape)
        raise refuse(
            "num_layers",
            f"{num_layers} for '{spec.name}', whose output {name} has {shape} values per channel",
            "one value, which the next layer reads",
            f"leave num_layers out, and call a layer of {math.prod(shape)} * hidden_size features "
            f"on y.flatten({-1 - len(shape)})",
        )


def show_settings(layer: CellLayer) -> str:
    """The cell, the sizes, and what else was chosen, for a layer's repr."""
    sizes = [layer.kernel.spec.name, layer.input_size, layer.hidden_size]
    options = [str(size) for size in sizes if size is not None]
    options += ["projection=None"] if layer.input_size is None else []
    for name, usual in SHOWN.items():
        value = getattr(layer, name)
        options += [f"{name}={value!r}"] if value != usual else []
    for field in fields(layer.choices):
        value = getattr(layer.choices, field.name)
        options += [f"{field.name}={value!r}"] if value != field.default else []
    return ", ".join(options)
