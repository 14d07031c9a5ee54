"""Several: what a random cell does with vectors and delays: the text, the shape and the value.

A vector is a tuple of tensors [..., N], a matrix one of tuples; other operations go element by
element.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tests.support.fuzz.tree import Node

Shape = tuple[int, ...]
ONE = {"item", "sum", "dot", "logsumexp_of", "largest"}  # of a vector, one value
SEVERAL = {*ONE, "ago", "matvec", "list", "softmax_of", "turned"}


def text(node: Node, parts: Sequence[str]) -> str:
    """As a cell has it."""
    first = parts[0]
    if node.op == "ago":
        return f"{first}.ago({node.value})"
    if node.op == "item":
        return f"{first}[{', '.join(map(str, node.value))}]"
    if node.op == "matvec":
        rows = [list(row) for row in node.value or ()]
        return f"({parts[0]} @ {parts[1]})" if len(parts) > 1 else f"({rows} @ {first})"
    if node.op == "list":
        return f"vector([{', '.join(parts)}])"
    if node.op == "largest":
        return f"maximum(*{first})"
    if node.op == "turned":
        return f"{first}[::-1]"
    return f"{node.op.removesuffix('_of')}({', '.join(parts)})"


def shape(node: Node, shapes: Mapping[str, Shape]) -> Shape:
    """Of the value: () or that of a vector.

    Args:
        shapes: of the names that aren't one value.
    """
    if node.op == "name":
        return shapes.get(node.value, ())
    if node.op == "list":
        return (len(node.args),)
    found = [shape(arg, shapes) for arg in node.args]
    if node.op == "item":
        return found[0][len(node.value) :]
    if node.op in ONE:
        return ()
    if node.op == "matvec":
        return (len(node.value),) if node.value else found[0][:1]
    if node.op == "mix":
        return found[1]
    return next((s for s in found if s), ())


def value(node: Node, args: Sequence[Any], apply: Callable[..., Any]) -> Any:
    """Args: apply: op and tensors -> the value of an operation on one element each."""
    first = args[0]
    if node.op == "item":
        for k in node.value:
            first = first[k]
        return first
    if node.op == "list":
        return tuple(args)
    if node.op == "turned":
        return first[::-1]
    if node.op == "sum":
        return functools.reduce(functools.partial(apply, "add"), first)
    if node.op == "dot":
        return _dot(args[0], args[1], apply)
    if node.op == "largest":
        return functools.reduce(functools.partial(apply, "maximum"), first)
    if node.op == "matvec":
        matrix = node.value and [
            [torch.tensor(float(v), dtype=first[0].dtype) for v in row] for row in node.value
        ]
        return tuple(_dot(row, args[-1], apply) for row in matrix or first)
    rows = torch.stack(torch.broadcast_tensors(*first))
    return tuple(rows.softmax(0)) if node.op == "softmax_of" else rows.logsumexp(0)


def _dot(a: Sequence[Tensor], b: Sequence[Tensor], apply: Callable[..., Any]) -> Any:
    products = [apply("mul", x, y) for x, y in zip(a, b, strict=True)]
    return functools.reduce(functools.partial(apply, "add"), products)


# --- tensors with the sizes last, as users have them <-> vectors ------------------------------


def split(tensor: Tensor, size: Shape) -> Any:
    """[..., N, *size] as a vector of [..., N]."""
    if not size:
        return tensor
    return tuple(split(part, size[1:]) for part in tensor.unbind(-len(size)))


def joined(vector: Any, like: Tensor) -> Tensor:
    """A vector as one tensor, each element of the shape of `like`."""
    if isinstance(vector, Tensor):
        return vector.expand_as(like)
    return torch.stack([joined(v, like) for v in vector], like.dim())


def elementwise(function: Callable[..., Any], args: Sequence[Any]) -> Any:
    """function(*args) for each element of the vectors among them."""
    lengths = [len(arg) for arg in args if isinstance(arg, tuple)]
    if not lengths:
        return function(*args)
    return tuple(
        elementwise(function, [arg[k] if isinstance(arg, tuple) else arg for arg in args])
        for k in range(lengths[0])
    )
