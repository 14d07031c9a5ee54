"""Finding: one thing that the doctor looked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Attributes:
        topic: its name.
        state: "ok", "optional" (not here, and not needed here), "fault" (the CPU works, but
            there is a GPU, or what it takes to use one, that doesn't, or the cache isn't the one
            that was asked for) or "missing" (no kernel can be built or run without it).
        seen: the finding, in words.
        fix: the remedy; empty if none is needed.
        facts: the same for machines.
    """

    topic: str
    state: str
    seen: str
    fix: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
