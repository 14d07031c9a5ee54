"""Devices: GPUs by their datasheets, and the cost of each function of rnncc/cuda/math.h."""

from __future__ import annotations

from dataclasses import dataclass

from rnncc.errors import ArgumentError

ISSUED = 128  # instructions that a multiprocessor starts per clock, counted for each lane of a warp
SPECIAL = 16  # of them by the units for exponentials and reciprocals, on every architecture here


@dataclass(frozen=True)
class Device:
    """A GPU as its datasheet describes it.

    Attributes:
        clock: boost, in Hz; bandwidth: of its memory, in bytes per second.
        float32, float64: operations of a multiprocessor per clock.
    """

    name: str
    arch: str
    multiprocessors: int
    clock: float
    bandwidth: float
    float32: int
    float64: int


# Source: NVIDIA's datasheets and architecture papers; operations per clock from the table
# "Throughput of Native Arithmetic Instructions" of the CUDA programming guide.
DEVICES = {
    "H100": Device("H100 SXM 80 GB", "sm_90", 132, 1.98e9, 3.35e12, 128, 64),
    "H200": Device("H200 SXM 141 GB", "sm_90", 132, 1.98e9, 4.8e12, 128, 64),
    "A100": Device("A100 SXM 80 GB", "sm_80", 108, 1.41e9, 2.039e12, 64, 32),
    "RTX4090": Device("GeForce RTX 4090", "sm_89", 128, 2.52e9, 1.008e12, 128, 2),
    "L4": Device("L4", "sm_89", 58, 2.04e9, 0.3e12, 128, 2),
}


def find_device(name: str) -> Device:
    """One of `DEVICES`, however its name is written.

    Raises:
        ArgumentError: unknown device.
    """
    wanted = name.upper().replace(" ", "").replace("-", "").removeprefix("NVIDIA")
    if wanted in DEVICES:
        return DEVICES[wanted]
    raise ArgumentError(
        f"device: got {name!r}, expected one of {', '.join(DEVICES)}.\nFix: --device H100"
    )


# --- functions -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """The cost of one call of a function.

    Attributes:
        instructions: all of them, including the `floating` and `special` ones.
        cycles: from its argument to its value.
    """

    instructions: float
    floating: float
    special: float
    cycles: float


# Counted in the code of NVRTC 13.0 for rnncc/cuda/math.h on sm_90, without rare paths. Cycles:
# its longest chain, with an assumed 20 for a special function, 8 for a double and 4 for the others;
# where a warp may take both sides of a branch, both chains, and of a remainder those of a quotient
# of a few bits. None of them was timed.
FLOAT32 = {
    "exp": Call(11, 7, 1, 48),
    "log": Call(27, 19, 0, 79),
    "log1p": Call(32, 18, 0, 79),
    "expm1": Call(25, 22, 1, 74),
    "exprel": Call(48, 32, 2, 118),
    "exprel_slope": Call(43, 28, 2, 68),
    "sqrt": Call(14, 4, 1, 44),
    "rsqrt": Call(28, 7, 2, 84),
    "sigmoid": Call(5, 3, 2, 52),
    "tanh": Call(16, 11, 2, 69),
    "softplus": Call(47, 29, 1, 135),
    "logsigmoid": Call(49, 31, 1, 143),
    "sin": Call(50, 21, 0, 133),
    "cos": Call(50, 21, 0, 133),
    "sinh": Call(25, 17, 2, 100),
    "cosh": Call(16, 10, 2, 91),
    "erf": Call(31, 21, 1, 65),
    "atan": Call(19, 15, 1, 76),
    "asin": Call(25, 20, 1, 88),
    "acos": Call(27, 22, 1, 96),
    "atan2": Call(48, 31, 1, 104),
    "atan2_slope": Call(51, 26, 3, 92),
    "asinh": Call(45, 27, 2, 144),
    "acosh": Call(46, 29, 1, 128),
    "atanh": Call(42, 25, 1, 116),
    "log2": Call(29, 21, 0, 80),
    "exp2": Call(1, 0, 1, 20),
    "elu": Call(31, 23, 1, 64),
    "mish": Call(63, 41, 3, 192),
    "softsign": Call(13, 7, 1, 44),
    "remainder": Call(60, 26, 1, 120),
    "floor_divide": Call(95, 41, 3, 190),
    "pow": Call(96, 64, 1, 200),
    "div": Call(14, 6, 1, 44),
}
FLOAT64 = {
    "exp": Call(60, 22, 0, 133),
    "log": Call(83, 33, 1, 215),
    "log1p": Call(136, 61, 2, 419),
    "expm1": Call(72, 30, 0, 165),
    "exprel": Call(123, 57, 2, 250),
    "exprel_slope": Call(149, 59, 1, 184),
    "sqrt": Call(22, 8, 1, 90),
    "rsqrt": Call(38, 14, 2, 180),
    "sigmoid": Call(77, 30, 1, 260),
    "tanh": Call(107, 41, 2, 344),
    "softplus": Call(202, 88, 2, 560),
    "logsigmoid": Call(204, 90, 2, 568),
    "sin": Call(50, 19, 0, 116),
    "cos": Call(51, 19, 0, 116),
    "sinh": Call(120, 48, 1, 338),
    "cosh": Call(60, 23, 1, 195),
    "erf": Call(129, 49, 1, 367),
    "atan": Call(81, 32, 1, 240),
    "asin": Call(117, 47, 1, 260),
    "acos": Call(130, 46, 1, 280),
    "atan2": Call(115, 58, 1, 296),
    "atan2_slope": Call(83, 43, 3, 192),
    "asinh": Call(163, 78, 4, 560),
    "acosh": Call(160, 78, 3, 516),
    "atanh": Call(165, 75, 3, 516),
    "log2": Call(89, 35, 1, 224),
    "exp2": Call(61, 24, 0, 140),
    "elu": Call(74, 31, 0, 164),
    "mish": Call(309, 130, 4, 900),
    "softsign": Call(18, 12, 1, 92),
    "remainder": Call(100, 15, 0, 250),
    "floor_divide": Call(140, 36, 2, 430),
    "pow": Call(300, 130, 2, 700),
    "div": Call(20, 11, 1, 84),
}
SIMPLE = 2  # instructions of a choice: relu, where, a comparison, ...


def call(name: str, double: bool) -> Call:
    """The cost of a function in float32, or in float64."""
    table = FLOAT64 if double else FLOAT32
    return table.get(name, Call(SIMPLE, SIMPLE, 0, SIMPLE * operation(double)))


def operation(double: bool) -> float:
    """Cycles until the next instruction can use a result; assumed of all devices.

    Source: Abdelkhalik et al. 2022, arXiv:2208.11174, for float32 on an A100.
    """
    return 8 if double else 4
