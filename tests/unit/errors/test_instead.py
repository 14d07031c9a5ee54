"""What a message proposes, in the author's own expressions: word for word, and then applied."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from rnncc.errors import CellError
from rnncc.export.torch_loop import plain_step
from rnncc.lang import instead, tracer
from rnncc.lang.trace import trace
from tests.support.cells import cell_from, traced

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
        "minimum(h, x, a * h)",
        lambda h, x, a: min(h, x, a * h),
    ),
    "max of a list": (
        "us = [h, x, a * x]\nreturn max(us)",
        "max(us)",
        "maximum(*us)",
        lambda h, x, a: max(h, x, a * x),
    ),
    "any of a list": (
        "return where(any([h > 0, x > 1]), a * h, x)",
        "any([h > 0, x > 1])",
        "(h > 0) | (x > 1)",
        lambda h, x, a: a * h if h > 0 or x > 1 else x,
    ),
    "all of a list": (
        "return where(all((h > 0, x < 1)), a * h, x)",
        "all((h > 0, x < 1))",
        "(h > 0) & (x < 1)",
        lambda h, x, a: a * h if h > 0 and x < 1 else x,
    ),
    "& without parentheses": (
        "return where(h > 0 & x < 1, a * h, x)",
        "h > 0 & x < 1",
        "(h > 0) & (x < 1)",
        lambda h, x, a: a * h if h > 0 and x < 1 else x,
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
    "a method of the first value, not of the condition": (
        "return h.where(x > 0, a * x)",
        "h.where(x > 0, a * x)",
        "where(x > 0, h, a * x)",
        lambda h, x, a: torch.where(x > 0, h, a * x),
    ),
    "the largest of a list, by rnncc's own": (
        "return maximum([h, x]) * a",
        "maximum([h, x])",
        "maximum(h, x)",
        lambda h, x, a: max(h, x) * a,
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
    # --- names and arguments that PyTorch has ---
    "a remainder of C": (
        "return torch.fmod(h + x, a)",
        "torch.fmod(h + x, a)",
        "h + x - a * trunc((h + x) / a)",
        lambda h, x, a: torch.fmod(h + x, a),
    ),
    "a remainder": (
        "return torch.remainder(h + x, a)",
        "torch.remainder(h + x, a)",
        "(h + x) % a",
        lambda h, x, a: torch.remainder(h + x, a),
    ),
    "a rounded quotient": (
        "return torch.div(h + x, a, rounding_mode='floor')",
        "torch.div(h + x, a, rounding_mode='floor')",
        "(h + x) // a",
        lambda h, x, a: torch.div(h + x, a, rounding_mode="floor"),
    ),
    "one written in Python": (
        "return torch.nn.functional.leaky_relu(h + x, negative_slope=0.2) * a",
        "torch.nn.functional.leaky_relu(h + x, negative_slope=0.2)",
        "leaky_relu(h + x, slope=0.2)",
        lambda h, x, a: torch.nn.functional.leaky_relu(h + x, 0.2) * a,
    ),
    "a module": (
        "return torch.nn.Hardtanh(-1.5, 1)(h + x) * a",
        "torch.nn.Hardtanh(-1.5, 1)(h + x)",
        "hardtanh(h + x, -1.5, 1)",
        lambda h, x, a: torch.nn.functional.hardtanh(h + x, -1.5, 1) * a,
    ),
    "bounds by PyTorch's names": (
        "return hardtanh(h + x, min_val=-1.5, max_val=1) * a",
        "hardtanh(h + x, min_val=-1.5, max_val=1)",
        "hardtanh(h + x, lo=-1.5, hi=1)",
        lambda h, x, a: torch.nn.functional.hardtanh(h + x, -1.5, 1) * a,
    ),
    "one bound by PyTorch's name": (
        "return clip(h + x, max=1) * a",
        "clip(h + x, max=1)",
        "clip(h + x, None, 1)",
        lambda h, x, a: torch.clamp(h + x, max=1) * a,
    ),
    "a name that isn't defined": (
        "return clamp_min(h + x, 0.5) * a",
        "clamp_min(h + x, 0.5)",
        "clip(h + x, 0.5, None)",
        lambda h, x, a: torch.clamp(h + x, min=0.5) * a,
    ),
    "decimals": (
        "return torch.round(h * a + x, decimals=1)",
        "torch.round(h * a + x, decimals=1)",
        "round(h * a + x, digits=1)",
        lambda h, x, a: torch.round(h * a + x, decimals=1),
    ),
    "conditions": (
        "return where(torch.logical_xor(h > 0, x > a), h, x)",
        "torch.logical_xor(h > 0, x > a)",
        "(h > 0) ^ (x > a)",
        lambda h, x, a: h if (h > 0) != (x > a) else x,
    ),
    "a condition as a number": (
        "return float(h > 0) * a + x",
        "float(h > 0)",
        "where(h > 0, 1.0, 0.0)",
        lambda h, x, a: float(h > 0) * a + x,
    ),
    "detach": (
        "return h.detach() * a + x",
        "h.detach()",
        "stop_gradient(h)",
        lambda h, x, a: h * a + x,
    ),
    "a gradient without its name": (
        "return forward_as(round(h), a * h) + x",
        "forward_as(round(h), a * h)",
        "forward_as(round(h), gradient_of=a * h)",
        lambda h, x, a: torch.round(h) + x,
    ),
    "softmax of arguments": (
        "return softmax(h, x)[0] * a",
        "softmax(h, x)",
        "softmax([h, x])",
        lambda h, x, a: torch.stack([h, x]).softmax(0)[0] * a,
    ),
    "log_softmax": (
        "return torch.nn.functional.log_softmax([h, x], dim=0)[0] * a",
        "torch.nn.functional.log_softmax([h, x], dim=0)",
        "[each - logsumexp([h, x]) for each in [h, x]]",
        lambda h, x, a: torch.stack([h, x]).log_softmax(0)[0] * a,
    ),
    "a sum with a factor": (
        "return torch.sub(h, x + a, alpha=2)",
        "torch.sub(h, x + a, alpha=2)",
        "h - 2 * (x + a)",
        lambda h, x, a: torch.sub(h, x + a, alpha=2),
    ),
    "a logarithm to a base": (
        "return math.log(h * h + 1, 3) * a + x",
        "math.log(h * h + 1, 3)",
        "log(h * h + 1) / log(3)",
        lambda h, x, a: math.log(h * h + 1, 3) * a + x,
    ),
    "a tangent": (
        "return torch.tan(h) * a + x",
        "torch.tan(h)",
        "sin(h) / cos(h)",
        lambda h, x, a: torch.tan(h) * a + x,
    ),
    "a mixture": (
        "return torch.lerp(h, x, a)",
        "torch.lerp(h, x, a)",
        "h + a * (x - h)",
        lambda h, x, a: torch.lerp(h, x, a),
    ),
    "a bent line": (
        "return torch.nn.functional.hardswish(h + x) * a",
        "torch.nn.functional.hardswish(h + x)",
        "(h + x) * hardsigmoid(h + x)",
        lambda h, x, a: torch.nn.functional.hardswish(h + x) * a,
    ),
    "an approximate gelu": (
        "return torch.nn.functional.gelu(h + x, approximate='tanh') * a",
        "torch.nn.functional.gelu(h + x, approximate='tanh')",
        "gelu(h + x, approximate='tanh')",
        lambda h, x, a: torch.nn.functional.gelu(h + x, approximate="tanh") * a,
    ),
    "a steeper softplus": (
        "return torch.nn.functional.softplus(h, beta=2) * a + x",
        "torch.nn.functional.softplus(h, beta=2)",
        "softplus(h, beta=2)",
        lambda h, x, a: torch.nn.functional.softplus(h, beta=2) * a + x,
    ),
    "int": (
        "return int(h) * a + x",
        "int(h)",
        "trunc(h)",
        lambda h, x, a: torch.trunc(h) * a + x,
    ),
    "PyTorch's own Python": (
        "return torch.nn.functional.relu(h) * a + x",
        "torch.nn.functional.relu(h)",
        "relu(h)",
        lambda h, x, a: torch.relu(h) * a + x,
    ),
    "NumPy's own Python": (
        "return np.clip(h + x, -1, 1) * a",
        "np.clip(h + x, -1, 1)",
        "clip(h + x, -1, 1)",
        lambda h, x, a: torch.clamp(h + x, -1, 1) * a,
    ),
    "an array of them": (
        "w = np.array([a * h, x])\nreturn w[0] * w[1]",
        "np.array([a * h, x])",
        "vector([a * h, x])",
        lambda h, x, a: a * h * x,
    ),
    "their sum": (
        "return np.sum([a * h, x])",
        "np.sum([a * h, x])",
        "sum([a * h, x])",
        lambda h, x, a: a * h + x,
    ),
    "zeros like it": (
        "y = torch.zeros_like(h)\nfor w in (a, x):\n    y = y * h + w\nreturn y",
        "torch.zeros_like(h)",
        "0.0",
        lambda h, x, a: a * h + x,
    ),
    "NaN": (
        "return where(torch.isnan(h * a), x, h)",
        "torch.isnan(h * a)",
        "h * a != h * a",
        lambda h, x, a: h,
    ),
    "a step": (
        "return torch.heaviside(h, 0.5) * a + x",
        "torch.heaviside(h, 0.5)",
        "where(h > 0, 1.0, where(h == 0, 0.5, 0.0))",
        lambda h, x, a: (0.5 if h == 0 else float(h > 0)) * a + x,
    ),
    "a product of a list": (
        "return np.prod([a, h, 2.0]) + x",
        "np.prod([a, h, 2.0])",
        "math.prod([a, h, 2.0])",
        lambda h, x, a: a * h * 2 + x,
    ),
    "arguments that rnncc has not": (
        "return torch.nn.functional.silu(h, True) * a + x",
        "torch.nn.functional.silu(h, True)",
        "silu(h)",
        lambda h, x, a: torch.nn.functional.silu(h) * a + x,
    ),
    "a function for and": (
        "return where(torch.logical_and(h > 0, x < 1), a * h, x)",
        "torch.logical_and(h > 0, x < 1)",
        "(h > 0) & (x < 1)",
        lambda h, x, a: a * h if h > 0 and x < 1 else x,
    ),
}
OTHER = {
    "assert": "leave the assert out: a symbol has no value to check",
    "float": "h, without float",
    "while": f"{WHERE['while'][2]}  (10 is the most turns that it takes)",
    **{
        case: f"{WHERE[case][2]}, with rnncc's own {name} (from rnncc import {name})"
        for case, name in (
            *(("math", "tanh"), ("NumPy", "maximum"), ("PyTorch", "clip")),
            *(("PyTorch's functional", "softplus"), ("a method", "clip"), ("int", "trunc")),
            ("a method of the first value, not of the condition", "where"),
            *(("one written in Python", "leaky_relu"), ("a module", "hardtanh")),
            *(("decimals", "round"), ("detach", "stop_gradient")),
            *(("an approximate gelu", "gelu"), ("a steeper softplus", "softplus")),
            *(("PyTorch's own Python", "relu"), ("NumPy's own Python", "clip")),
            *(("an array of them", "vector"), ("arguments that rnncc has not", "silu")),
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


@pytest.mark.parametrize("case", WHERE)
def test_so_it_has_where_python_knows_no_columns(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Python 3.11 an instruction has a line only."""
    monkeypatch.setattr(instead.Place, "_span", lambda self: None)
    assert fix_of(tmp_path, WHERE[case][0]) == OTHER.get(case, WHERE[case][2])


# --- other messages --------------------------------------------------------------------------


def test_a_complex_number_becomes_two_states(tmp_path: Path) -> None:
    roles = "x: Input, r: Param, th: Param"
    fix = fix_of(tmp_path, "return h * r * exp(1j * th) + x", f"h: State, {roles}")
    assert fix.startswith("two real States, the real and the imaginary part; ")
    line = fix[fix.index("h_re, h_im =") : fix.index(", as in")]
    states = f"h_re: State, h_im: State, {roles}"
    step = plain_step(traced(tmp_path, f"{line}\nreturn h_re + x, h_im", states))
    h, x = torch.tensor(0.3 - 0.8j, dtype=torch.complex128), torch.tensor(0.5)
    r, th = torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    (re, im), _ = step(h.real, h.imag, x, r, th)
    torch.testing.assert_close(torch.complex(re, im), h * r * torch.exp(1j * th) + x)


@pytest.mark.parametrize(
    ("body", "part", "fix"),
    [
        (
            "return tanh(c + x), (0.5 * h, c)",
            "return tanh(c + x), (0.5 * h, c)",
            'return {"c": 0.5 * h, "h": c, "y": tanh(c + x)}',
        ),
        (
            "c_new = tanh(c + x)\nh_new = 0.5 * h\nreturn h_new, (h_new, c_new)",
            "return h_new, (h_new, c_new)",
            'return {"c": c_new, "h": h_new, "y": h_new}',
        ),
    ],
)
def test_what_cells_of_pytorch_return_becomes_a_dict(
    body: str, part: str, fix: str, tmp_path: Path
) -> None:
    states = "c: State, h: State, x: Input"
    assert fix_of(tmp_path, body, states) == fix
    ir = traced(tmp_path, body.replace(part, fix), states)
    assert [*ir.next, *ir.outputs] == ["c", "h", "y"]


def test_a_generator_returns(tmp_path: Path) -> None:
    body = "u = a * h\nyield tanh(u + x)"
    assert fix_of(tmp_path, body) == "return tanh(u + x)"
    assert traced(tmp_path, body.replace("yield", "return")).next


def test_a_method_becomes_static(tmp_path: Path) -> None:
    head = "from rnncc import *\nclass K:\n"
    text = head + "    {}@cell\n    {}\n        return tanh(h + x)\nf = K.step\n"
    with pytest.raises(CellError) as caught:
        trace(cell_from(tmp_path, text.format("", "def step(self, h: State, x: Input):")))
    fix = caught.value.problems[0].fix
    assert fix.startswith(
        "@staticmethod above @cell, or a function outside the class, without self"
    )
    head = fix[fix.index("def ") :]
    assert trace(cell_from(tmp_path, text.format("@staticmethod\n    ", head))).next


@pytest.mark.parametrize(
    "body",
    ["return sorted([h, x])[0] * a", "return torch.nn.functional.relu6([h, x]) * a"],
)
def test_nothing_is_proposed_for_what_rnncc_has_not(body: str, tmp_path: Path) -> None:
    assert fix_of(tmp_path, body).startswith(("where(condition, a, b)", "use rnncc's functions"))


def test_a_function_that_takes_a_list_has_the_authors_list(tmp_path: Path) -> None:
    body = "w = {}\nreturn w[0] * h + w[1] * x * a"
    fix = fix_of(tmp_path, body.format("torch.nn.functional.softmax([h, x], dim=0)"))
    assert fix == "softmax([h, x]), with rnncc's own softmax (from rnncc import softmax)"
    assert traced(tmp_path, body.format("softmax([h, x])")).next


@pytest.mark.parametrize("call", ["torch.softmax(a * h, 0)", "torch.logsumexp(h, dim=-1)"])
def test_of_one_value_it_is_told_what_it_is_of(call: str, tmp_path: Path) -> None:
    fix = fix_of(tmp_path, f"return {call} + x")
    assert fix.startswith("softmax([a, b]) and logsumexp([a, b]) are of several values of a ")
    body = "p, q = softmax([a, h])\nreturn p * h + q + logsumexp([a, x])"
    assert traced(tmp_path, body).next
    sized = "h: State(size=4), x: Input, a: Param"
    assert fix_of(tmp_path, "return torch.softmax(a * h, 0) + x", sized).startswith(
        "softmax(a * h)"
    )
    assert traced(tmp_path, "return softmax(a * h) + x", sized).next


def test_a_cell_above_no_grad_is_refused_in_the_authors_file(tmp_path: Path) -> None:
    text = (
        "import torch\nfrom rnncc import *\n@cell\n{}def f(h: State, x: Input):\n    return h + x\n"
    )
    with pytest.raises(CellError) as caught:
        trace(cell_from(tmp_path, text.format("@torch.no_grad()\n")))
    (problem,) = caught.value.problems
    assert problem.seen == "a part of the body is under torch.no_grad"
    assert Path(problem.file).parent == tmp_path
    assert problem.line == 6
    assert trace(cell_from(tmp_path, text.format(""))).next


def test_an_if_that_no_expression_replaces_gets_the_general_fix(tmp_path: Path) -> None:
    body = "if h > 0:\n    y = x\n    print(1)\nreturn a * x"
    assert fix_of(tmp_path, body).startswith("where(condition, a, b)")


def test_a_helper_may_decide_as_well(tmp_path: Path) -> None:
    source = "def larger(u, v):\n    return u if u > v else v\n"
    with pytest.raises(CellError) as caught:
        traced(tmp_path, "return larger(h, x) * a", before=source)
    assert caught.value.problems[0].fix == "where(u > v, u, v)"


# --- Python's own habits ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "part", "fix"),
    [
        ("return {tanh(a * h + x)}", "return {tanh(a * h + x)}", "return tanh(a * h + x)"),
        (
            "y = x\nfor _ in range(h):\n    y = a * y + h\nreturn y",
            "range(h)",
            "a fixed number of turns: range(10), or range(n) with n=10 among the arguments",
        ),
        (
            "with torch.no_grad():\n    y = a * h\nreturn y + x",
            "with torch.no_grad():\n    y = a * h",
            "y = stop_gradient(a * h)",
        ),
        ("y = u + x\nu = a * h\nreturn y + u", "y = u + x", "give u a value above this line"),
        (
            "tanh = tanh(a * h)\nreturn tanh + x",
            "tanh = ",
            "another name for what is assigned to tanh, which hides rnncc's own",
        ),
        ("return softmax(a * h, x)[0]", "softmax(a * h, x)", "softmax([a * h, x])"),
        (
            "return a * h + x + torch.randn_like(h)",
            " + torch.randn_like(h)",
            "an input that is given at each step, noise: Input(projected=False)",
        ),
        (
            "act = torch.nn.Tanh()\nreturn act(a * h + x)",
            "act = torch.nn.Tanh()",
            "rnncc's own tanh (from rnncc import tanh)",
        ),
        ("h[0] = a * h + x\nreturn h", "h[0]", "assign to the name, without an index"),
        (
            "return a * h[0] + x",
            "h[0]",
            "leave the index out, or State(size=n), Input(size=n), Param(size=n) "
            "for n values of a channel",
        ),
    ],
)
def test_what_works_elsewhere_in_python_is_told_apart(
    body: str, part: str, fix: str, tmp_path: Path
) -> None:
    assert fix_of(tmp_path, body) == fix
    applied = {
        "range(h)": "range(10)",
        "y = u + x": "u = a * h\ny = u + x",
        "h[0]": "h",
        "tanh = ": "t = ",
        "clip(a * h, 0)": "clip(a * h, 0, 1)",
        "softmax(a * h, x)": "softmax([a * h, x])",
        " + torch.randn_like(h)": "",
        "act = torch.nn.Tanh()": "act = tanh",
    }.get(part, fix)
    applied = body.replace(part, applied).replace("return tanh + x", "return t + x")
    assert traced(tmp_path, applied, before=IMPORTS).next


@pytest.mark.parametrize(
    ("body", "part", "fix"),
    [
        ("return [h[0] + a * h.mean(), x]", "h.mean()", "sum(h) / len(h)"),
        ("return [h[0] + a * h.sum(), x]", "h.sum()", "sum(h)"),
        ("return [h[1] + a * torch.mean(h), x]", "torch.mean(h)", "sum(h) / len(h)"),
        ("return [h[0] + a, torch.max(h) + x]", "torch.max(h)", "maximum(*h)"),
        ("v = h * x\nreturn v * a * np.sum(v)", "np.sum(v)", "sum(v)"),
        ("v = h * x\nreturn v * a * np.mean(v)", "np.mean(v)", "sum(v) / len(v)"),
        ("v = h * x\nreturn v * a * torch.amax(v)", "torch.amax(v)", "maximum(*v)"),
        ("return a * x * softmax(h, 0)", "softmax(h, 0)", "softmax(h)"),
        ("return a * x * h * logsumexp(h, 0)", "logsumexp(h, 0)", "logsumexp(h)"),
        ("v = h * x * a\nreturn torch.log_softmax(v, 0)", "torch.log_softmax(v, 0)",
         "[each - logsumexp(v) for each in v]"),
        ("return a * h if h > x else x + 0 * h", "a * h if h > x else x + 0 * h",
         "where(h > x, a * h, x + 0 * h)"),
    ],
)  # fmt: skip
def test_a_vector_has_the_sums_and_the_choices_of_its_own(
    body: str, part: str, fix: str, tmp_path: Path
) -> None:
    signature = "h: State(size=2), x: Input, a: Param"
    assert fix_of(tmp_path, body, signature) == fix
    assert traced(tmp_path, body.replace(part, fix), signature, IMPORTS).next


def test_softmax_of_a_vector_takes_no_dimension(tmp_path: Path) -> None:
    body, signature = "return torch.softmax(h, 0)", "h: State(size=2, init=1), x: Input"
    fix = fix_of(tmp_path, body + " * x", signature)
    assert fix == "softmax(h), with rnncc's own softmax (from rnncc import softmax)"
    assert traced(tmp_path, "return [p * x for p in softmax(h)]", signature).next


def test_divmod_is_that_of_python(tmp_path: Path) -> None:
    ir = traced(tmp_path, "q, r = divmod(h, a)\nu, v = divmod(2.0, x)\nreturn q + r + u - v")
    step = plain_step(ir)
    for h, x in ((1.7, -0.3), (-2.2, 0.9)):
        (found,), _ = step(*(torch.tensor(v, dtype=torch.float64) for v in (h, x, 0.6)))
        (q, r), (u, v) = divmod(h, 0.6), divmod(2.0, x)
        torch.testing.assert_close(float(found), q + r + u - v)


def test_the_largest_by_a_key_gets_the_general_fix(tmp_path: Path) -> None:
    assert fix_of(tmp_path, "return max(h, x, key=abs) * a").startswith("where(condition, a, b)")


def test_a_loop_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracer, "MOST_LETS", 50)
    body = "{}:\n    h = a * h + x\nreturn h"
    with pytest.raises(CellError, match="the body has more than 50 values with a name") as caught:
        traced(tmp_path, body.format("while True"))
    fix = caught.value.problems[0].fix
    assert fix == "a loop of few turns, for k in range(10), or steps of time instead of turns"
    assert traced(tmp_path, body.format("for k in range(10)")).next


def test_a_name_of_rnncc_that_was_not_imported_is_imported(tmp_path: Path) -> None:
    source = "from rnncc import Input, State, cell\n@cell\ndef f(h: State, x: Input):\n    "
    with pytest.raises(CellError) as caught:
        trace(cell_from(tmp_path, f"{source}return tanh(h + x)\n"))
    fix = caught.value.problems[0].fix
    assert fix == "from rnncc import tanh"
    assert trace(cell_from(tmp_path, f"{fix}\n{source}return tanh(h + x)\n")).next


@pytest.mark.parametrize(
    ("body", "fix"),
    [
        ("with torch.no_grad(): y = a * h\nreturn y + x", "y = stop_gradient(a * h)"),
        ("return half(a * h) + x", "z = stop_gradient(0.5 * y)"),
        ("return third(a * h) + x", "stop_gradient(e), for an expression e"),
    ],
)
def test_no_gradient_is_left_to_pytorch_anywhere(body: str, fix: str, tmp_path: Path) -> None:
    helpers = (
        "def half(y):\n    with torch.no_grad():\n        z = 0.5 * y\n    return z\n"
        "@torch.no_grad()\ndef third(y):\n    return y / 3\n"
    )
    with pytest.raises(CellError, match=r"a part of the body is under torch.no_grad") as caught:
        traced(tmp_path, body, before=IMPORTS + helpers)
    assert caught.value.problems[0].fix == fix


def test_a_word_that_gelu_does_not_know_is_not_proposed(tmp_path: Path) -> None:
    fix = fix_of(tmp_path, "return gelu(a * h + x, approximate='fast')")
    assert fix == "gelu(x, approximate='none')"
    assert traced(tmp_path, f"return a * h + {fix}").next


def test_a_cell_is_traced_where_no_gradients_are_recorded(tmp_path: Path) -> None:
    with torch.no_grad():
        assert traced(tmp_path, "return a * h + x").next


def test_forward_as_alone_is_shown_the_gradient_that_it_lacks(tmp_path: Path) -> None:
    fix = fix_of(tmp_path, "return forward_as(round(h)) * a + x")
    assert fix == "forward_as(round(h), gradient_of=b), for b whose gradient it has"
    call = fix.partition(", for ")[0]
    assert traced(tmp_path, f"b = a * h\nreturn {call} + x").next
