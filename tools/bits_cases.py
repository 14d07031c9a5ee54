"""Cases of bits.py: the calls and layers whose results it hashes."""

from __future__ import annotations

from typing import Any, NamedTuple


class Case(NamedTuple):
    """A call; `reset` is a share of the steps.

    Attributes:
        shape: [B, T, groups of channels].
        states: ask for the states after each step.
        flow: the results that gradients enter by.
        form: how the inputs are given, see `formed`; "frozen" has gradients of params only,
            "constant" none.
    """

    shape: tuple[int, int, int]
    options: dict[str, Any] = {}  # noqa: RUF012
    h0: bool = True
    states: bool = False
    flow: str = "yzh"
    form: str = ""


def by(solver: str, **options: Any) -> dict[str, Any]:
    return {"solver": solver, **options}


def newton(iterations: int) -> dict[str, Any]:
    return by("newton", iterations=iterations, on_failure="sequential")


ODD, LONG, WIDE, JOINED = (3, 37, 11), (1, 4096, 4), (2, 40, 270), (1, 90, 11)
ENDS = {"lengths": [37, 0, 12]}
BOUNDS = {"cu_seqlens": [0, 0, 25, 26, 90]}
ANEW = {"reset": 0.1, "reverse": True}
SHORT = by("segmented", segment=16)
CASES = {
    "auto": Case(ODD, h0=False),
    "auto, states": Case(ODD, states=True),
    "auto, gradient of y": Case(ODD, states=True, flow="y"),
    "auto, gradient of h": Case(ODD, flow="h"),
    "auto, gradients of params": Case(ODD, form="frozen"),
    "auto, no gradient": Case(ODD, states=True, form="constant"),
    "auto, strided": Case(ODD, states=True, form="strided"),
    "auto, two leading dimensions": Case(ODD, form="lead"),
    "auto, one step": Case((3, 1, 11), states=True),
    "auto, no step": Case((2, 0, 1), states=True),
    "auto, wide": Case(WIDE, states=True),
    "auto, wide, lengths": Case(WIDE, {"lengths": [17, 40], "reset": 0.1}),
    "auto, long": Case(LONG, h0=False),
    "auto, long, reset, reverse": Case(LONG, ANEW, states=True),
    "auto, long, lengths": Case((2, 4096, 3), {"lengths": [4096, 3000]}),
    "auto, long, joined": Case((1, 6000, 2), {"cu_seqlens": [0, 700, 700, 6000]}),
    "sequential": Case(ODD, by("sequential"), states=True),
    "sequential, long": Case(LONG, by("sequential")),
    "sequential, checkpoint": Case(ODD, by("sequential", checkpoint=5)),
    "segmented": Case((2, 600, 3), by("segmented"), states=True),
    "segmented, long": Case(LONG, by("segmented"), h0=False),
    "segments of 16": Case(ODD, SHORT, states=True),
    "segments of 7": Case(ODD, by("segmented", segment=7), h0=False),
    "segments of 16, sweeps": Case(LONG, SHORT | {"iterations": 2}),
    "segments of 16, checkpoint": Case(ODD, SHORT | {"checkpoint": 5}),
    "segments of 16, lengths, reset, reverse": Case(ODD, SHORT | ENDS | ANEW, states=True),
    "segments of 16, joined, reset": Case(JOINED, SHORT | BOUNDS | {"reset": 0.1}),
    "newton": Case(ODD, newton(40), states=True),
    "newton, 2 iterations": Case(ODD, newton(2)),
    "newton, lengths, reset, reverse": Case(ODD, newton(40) | ENDS | ANEW),
    "lengths": Case(ODD, ENDS, states=True),
    "lengths, reverse": Case(ODD, ENDS | {"reverse": True}, h0=False),
    "lengths, checkpoint, reset, reverse": Case(ODD, ENDS | ANEW | {"checkpoint": 3}, states=True),
    "reset": Case(ODD, {"reset": 0.1}, h0=False),
    "reverse": Case(ODD, {"reverse": True}, states=True),
    "joined": Case(JOINED, BOUNDS, states=True),
    "joined, flat": Case(JOINED, BOUNDS, form="flat"),
    "joined, reset, reverse": Case(JOINED, BOUNDS | ANEW, h0=False),
    "joined, checkpoint": Case(JOINED, BOUNDS | {"checkpoint": 5}),
}
SMALL, GRID = (2, 37, 5), by("segmented", segment=24)
BLOCK = by("segmented", segment=1)  # as many steps as a thread has in registers
EMULATED_CASES = {
    "one pass": Case(SMALL, by("sequential"), states=True),
    "one pass, joined": Case((1, 60, 3), by("sequential", cu_seqlens=[0, 25, 25, 60])),
    "one pass, lengths, reset, reverse": Case(SMALL, ANEW | {"lengths": [0, 30]}, h0=False),
    "block": Case((1, 150, 3), BLOCK, states=True),
    "block, lengths, reset, reverse": Case(SMALL, BLOCK | ANEW | {"lengths": [7, 37]}),
    "grid": Case((1, 150, 3), GRID, states=True),
    "grid, joined, reset": Case((1, 90, 3), GRID | {"cu_seqlens": [0, 31, 90], "reset": 0.1}),
    "grid, chosen": Case((1, 600, 2), by("segmented", iterations=5), h0=False),
    "auto": Case((1, 600, 2)),
    "newton": Case(SMALL, newton(20)),
}
LAYERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # options of the layer and of the call
    "plain": ({}, {}),
    "bidirectional": ({"bidirectional": True}, {"return_states": True, "lengths": [21, 0, 9]}),
    "reverse": ({"reverse": True, "bias": False}, {"return_states": True}),
    "segments": (SHORT | {"checkpoint": 5}, {}),
    "packed": ({}, {"return_states": True, "pack": True}),
    "autocast": ({}, {"autocast": True}),
}
