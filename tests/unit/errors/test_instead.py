"""What a message proposes, in the author's own expressions: word for word, and then applied."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rnncc.errors import CellError
from rnncc.export.torch_loop import plain_step
from tests.support.cells import traced

IMPORTS = "import functools\nimport math\nimport numpy as np\nimport torch\n"
X = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)

# body, the part that the fix replaces, the fix, and what the cell is to compute
WHERE = {
    "if else": (
        "return h * a if h > 0 else x + h",
        "h * a if h > 0 else x + h",
        "where(h > 0, h * a, x + h)",
        lambda h, x, a: h * a if h > 0 else x + h,
    ),
    "if else of a value": (
        "return x if h else a * h",
        "x if h else a * h",
        "where(h != 0, x, a * h)",
        lambda h, x, a: x if h else a * h,
    ),
    "if else within if else": (
        "return a * (h if h > 1 else x if x > 0 else -h)",
        "h if h > 1 else x if x > 0 else -h",
        "where(h > 1, h, where(x > 0, x, -h))",
        lambda h, x, a: a * (h if h > 1 else x if x > 0 else -h),
    ),
    "a chained comparison": (
        "return where(-1 < h <= a, h, x)",
        "-1 < h <= a",
        "(-1 < h) & (h <= a)",
        lambda h, x, a: h if -1 < h <= a else x,
    ),
    "and, or, not": (
        "return where(h > 0 and x > 0 or not a > h, h, x * a)",
        "h > 0 and x > 0 or not a > h",
        "(h > 0) & (x > 0) | ~(a > h)",
        lambda h, x, a: h if (h > 0 and x > 0) or not a > h else x * a,
    ),
    "not": (
        "return where(not h > 0, a * h, x)",
        "not h > 0",
        "~(h > 0)",
        lambda h, x, a: a * h if not h > 0 else x,
    ),
    "a chain in an if else": (
        "return a * (h if 0 < h < 1 and x > 0 else x)",
        "h if 0 < h < 1 and x > 0 else x",
        "where((0 < h) & (h < 1) & (x > 0), h, x)",
        lambda h, x, a: a * (h if 0 < h < 1 and x > 0 else x),
    ),
    "a value or another": (
        "return a * (h or x)",
        "h or x",
        "where(h != 0, h, x)",
        lambda h, x, a: a * (h or x),
    ),
    "one of several numbers": (
        "return where(h in (0, 1), a, x + h)",
        "h in (0, 1)",
        "(h == 0) | (h == 1)",
        lambda h, x, a: a if h in (0, 1) else x + h,
    ),
    "a condition with a name": (
        "up = h > x\nreturn a * h if up else x",
        "a * h if up else x",
        "where(up, a * h, x)",
        lambda h, x, a: a * h if h > x else x,
    ),
    "max": (
        "return a * max(h, x)",
        "max(h, x)",
        "maximum(h, x)",
        lambda h, x, a: a * max(h, x),
    ),
    "min of three": (
        "return min(h, x, a * h)",
        "min(h, x, a * h)",
        "minimum(minimum(h, x), a * h)",
        lambda h, x, a: min(h, x, a * h),
    ),
    "max of a list": (
        "us = [h, x, a * x]\nreturn max(us)",
        "max(us)",
        "functools.reduce(maximum, us)",
        lambda h, x, a: max(h, x, a * x),
    ),
    "an if with assignments": (
        "if h > 0:\n    y = a * h\nelse:\n    y = x\nreturn y",
        "if h > 0:\n    y = a * h\nelse:\n    y = x",
        "y = where(h > 0, a * h, x)",
        lambda h, x, a: a * h if h > 0 else x,
    ),
    "an if without else": (
        "y = a * x\nif h > 0 and x < 1:\n    y += h\nreturn y + h",
        "if h > 0 and x < 1:\n    y += h",
        "y = where((h > 0) & (x < 1), y + h, y)",
        lambda h, x, a: a * x + h + (h if h > 0 and x < 1 else 0),
    ),
    "elif": (
        "if h > 1:\n    y = a\nelif h > 0:\n    y = x\nelse:\n    y = h\nreturn y + h",
        "if h > 1:\n    y = a\nelif h > 0:\n    y = x\nelse:\n    y = h",
        "y = where(h > 1, a, where(h > 0, x, h))",
        lambda h, x, a: (a if h > 1 else x if h > 0 else h) + h,
    ),
    "an if that assigns several": (
        "u = x\nif h > 0:\n    u = a * h\n    v = u + 1\nelse:\n    v = x\nreturn u * v",
        "if h > 0:\n    u = a * h\n    v = u + 1\nelse:\n    v = x",
        "u, v = where(h > 0, a * h, u), where(h > 0, a * h + 1, x)",
        lambda h, x, a: a * h * (a * h + 1) if h > 0 else x * x,
    ),
    "an if that returns": (
        "if h > 0:\n    return a * h\ny = x + h\nreturn y * a",
        "if h > 0:\n    return a * h\ny = x + h\nreturn y * a",
        "return where(h > 0, a * h, (x + h) * a)",
        lambda h, x, a: a * h if h > 0 else (x + h) * a,
    ),
    "an if that returns dicts": (
        "if h > 0:\n    return {'h': a * h}\nelse:\n    return {'h': x}",
        "if h > 0:\n    return {'h': a * h}\nelse:\n    return {'h': x}",
        "return {'h': where(h > 0, a * h, x)}",
        lambda h, x, a: a * h if h > 0 else x,
    ),
    "assert": (
        "assert h > 0\nreturn a * h + x",
        "assert h > 0\n",
        "",
        lambda h, x, a: a * h + x,
    ),
    "while": (
        "y = x\nwhile y > 1:\n    y = y * 0.5\nreturn y + a * h",
        "while y > 1:\n    y = y * 0.5",
        "for _ in range(10): y = where(y > 1, y * 0.5, y)",
        lambda h, x, a: (x if x <= 1 else x / 2) + a * h,
    ),
    # --- functions of other libraries ---
    "math": (
        "return math.tanh(h * a) + x",
        "math.tanh(h * a)",
        "tanh(h * a)",
        lambda h, x, a: torch.tanh(h * a) + x,
    ),
    "NumPy": (
        "return np.maximum(h, x) * a",
        "np.maximum(h, x)",
        "maximum(h, x)",
        lambda h, x, a: max(h, x) * a,
    ),
    "PyTorch": (
        "return torch.clamp(h + x, min=-1, max=1) * a",
        "torch.clamp(h + x, min=-1, max=1)",
        "clip(h + x, -1, 1)",
        lambda h, x, a: torch.clamp(h + x, -1, 1) * a,
    ),
    "PyTorch's functional": (
        "return torch.nn.functional.softplus(h) * a + x",
        "torch.nn.functional.softplus(h)",
        "softplus(h)",
        lambda h, x, a: torch.nn.functional.softplus(h) * a + x,
    ),
    "a method": (
        "return (h + x).clamp(max=1) * a",
        "(h + x).clamp(max=1)",
        "clip(h + x, None, 1)",
        lambda h, x, a: torch.clamp(h + x, max=1) * a,
    ),
    "a square": (
        "return torch.square(h + x) * a",
        "torch.square(h + x)",
        "(h + x) ** 2",
        lambda h, x, a: (h + x) ** 2 * a,
    ),
    "math.pow": (
        "return math.pow(h, 2) * a + x",
        "math.pow(h, 2)",
        "h ** 2",
        lambda h, x, a: h**2 * a + x,
    ),
    "float": ("return float(h) * a + x", "float(h)", "h", lambda h, x, a: h * a + x),
}
OTHER = {
    "assert": "leave the assert out: a symbol has no value to check",
    "float": "h, without float",
    "while": f"{WHERE['while'][2]}  (10 is the most turns that it takes)",
    **{
        case: f"{WHERE[case][2]}, with rnncc's own {name} (from rnncc import {name})"
        for case, name in (
            *(("math", "tanh"), ("NumPy", "maximum"), ("PyTorch", "clip")),
            *(("PyTorch's functional", "softplus"), ("a method", "clip")),
        )
    },
}


def fix_of(folder: Path, body: str, signature: str = "h: State, x: Input, a: Param") -> str:
    with pytest.raises(CellError) as caught:
        traced(folder, body, signature, IMPORTS)
    return caught.value.problems[0].fix


@pytest.mark.parametrize("case", WHERE)
def test_the_fix_has_the_authors_own_expressions_and_works(case: str, tmp_path: Path) -> None:
    body, part, fix, wanted = WHERE[case]
    assert fix_of(tmp_path, body) == OTHER.get(case, fix)
    assert part in body
    ir = traced(tmp_path, body.replace(part, fix), before=IMPORTS)
    step = plain_step(ir)
    for h, x in torch.cartesian_prod(X, X):
        a = torch.tensor(0.75, dtype=torch.float64)
        (found,), _ = step(h, x, a)
        expected = torch.as_tensor(wanted(h, x, a), dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
