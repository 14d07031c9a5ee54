"""Order: the order of a projection's inputs, as a state_dict holds it, and weights put into it."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rnncc.ir.spec import KernelSpec
from rnncc.nn.projection import projected, rows_of

KEY = "_extra_state"  # nn.Module's own
BETWEEN = ","


def order_of(spec: KernelSpec) -> Tensor:
    """The names in order, as the codes of their characters.

    A tensor, since files and averages of weights take nothing else; not bytes, which overflow.
    """
    text = BETWEEN.join(i.name for i in projected(spec))
    return torch.tensor([ord(character) for character in text], dtype=torch.int64)


def restore_order(
    spec: KernelSpec,
    channels: int,
    projections: Sequence[str],
    state_dict: MutableMapping[str, Any],
    prefix: str,
) -> str:
    """Bring the weights of all projections into the cell's order.

    Without an order in the state_dict the rows are taken as they are.

    Returns:
        the reason why it can't be done; empty where there is none.
    """
    own, saved = [i.name for i in projected(spec)], _names(state_dict.get(prefix + KEY))
    if len(own) < 2 or saved is None or saved == own:
        return ""
    seen = f"{prefix}projection: got the weights of the inputs {', '.join(saved) or 'none'}"
    if sorted(saved) != sorted(own):
        return (
            f"{seen}, expected those of '{spec.name}': {', '.join(own)}.\nFix: if inputs were only "
            f"renamed, load without the key '{prefix + KEY}': rows then go by their place"
        )
    found = [
        key for name in projections for key in state_dict if key.startswith(f"{prefix}{name}.")
    ]
    plain = {f"{prefix}{name}.{part}" for name in projections for part in ("weight", "bias")}
    if not plain.issuperset(found):
        return (
            f"{seen}, expected the order {', '.join(own)}, and only a Linear's rows can change "
            "theirs.\nFix: load into a layer whose projection is a Linear, then replace it"
        )
    sizes = {i.name: rows_of(i, channels) for i in projected(spec)}
    for key in found:
        value = state_dict[key]
        if value.shape[0] == sum(sizes.values()):  # else load_state_dict itself refuses it
            pieces = value.detach().split([sizes[name] for name in saved])
            of_input = dict(zip(saved, pieces, strict=True))
            state_dict[key] = torch.cat([of_input[name] for name in own])
    return ""


def _names(saved: Any) -> list[str] | None:
    """None where there are none to be read."""
    if not isinstance(saved, Tensor) or saved.is_meta:
        return None
    return "".join(chr(round(code)) for code in saved.tolist()).split(BETWEEN)
