"""Numbers: a number from a cell's author, NumPy's own among them -> Python's, exactly."""

from __future__ import annotations

import math
import sys
from typing import Any

# operators by the names that NumPy calls them
UFUNCS = {
    **{"add": "add", "subtract": "sub", "multiply": "mul", "divide": "truediv", "power": "pow"},
    **{"floor_divide": "floordiv", "remainder": "mod", "less": "lt", "less_equal": "le"},
    **{"greater": "gt", "greater_equal": "ge", "equal": "eq", "not_equal": "ne"},
}


def number(operand: Any) -> int | float | None:
    """Python's number for one, for a scalar of NumPy or for an array of no dimension; else None."""
    if isinstance(operand, bool):
        return None
    if isinstance(operand, int):
        return operand
    if isinstance(operand, float):
        return float(operand)
    numpy: Any = sys.modules.get("numpy")
    if numpy is None or not isinstance(operand, (numpy.generic, numpy.ndarray)):
        return None
    item = operand.item() if operand.ndim == 0 and operand.dtype.kind in "iuf" else None
    return item if isinstance(item, (int, float)) else None  # no float64 holds a long double


def truth(operand: Any) -> bool | None:
    """Python's truth value for one, or for one of NumPy; else None."""
    numpy: Any = sys.modules.get("numpy")
    is_numpys = numpy is not None and isinstance(operand, numpy.bool_)
    return bool(operand) if isinstance(operand, bool) or is_numpys else None


def is_finite(value: float) -> bool:
    """Whether it is a finite float64; a whole number may be too large to be one."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def shown(value: Any) -> str:
    """A number for a message, where Python itself refuses to write thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 1024:
        return f"~10**{int(value.bit_length() * 0.30103)}"
    return repr(value)
