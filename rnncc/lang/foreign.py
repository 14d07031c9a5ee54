"""Foreign: a call of math, NumPy or PyTorch, as an author wrote it -> the same in rnncc's words."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping, Sequence

# where rnncc has another name
ALIASES = {
    **{"fabs": "abs", "absolute": "abs", "clamp": "clip", "max": "maximum", "min": "minimum"},
    **{"fmax": "maximum", "fmin": "minimum", "swish": "silu", "amax": "maximum", "amin": "minimum"},
    **{"arctan": "atan", "arctan2": "atan2", "arcsinh": "asinh", "arccosh": "acosh"},
    **{"arctanh": "atanh", "arcsin": "asin", "arccos": "acos", "rint": "round", "fix": "trunc"},
    **{"expit": "sigmoid", "special_expit": "sigmoid", "detach": "stop_gradient", "int": "trunc"},
    **{"hard_sigmoid": "hardsigmoid", "hard_tanh": "hardtanh", "stack": "vector"},
}
KEYWORDS = {
    **{"min": "lo", "max": "hi", "min_val": "lo", "max_val": "hi", "a_min": "lo", "a_max": "hi"},
    **{"negative_slope": "slope", "decimals": "digits", "ndigits": "digits"},
}
WITHOUT = ("dim", "axis", "keepdim", "dtype", "out", "inplace", "training", "threshold")
OF_LISTS = ("softmax", "logsumexp", "vector")
NO_FUNCTIONS = ("cell", "compile", "constant", "normal", "spaced", "uniform")
TEXTS = {
    **dict.fromkeys(("pow", "power", "float_power"), "({0}) ** ({1})"),
    **dict.fromkeys(("add",), "({0}) + ({1})"),
    **dict.fromkeys(("sub", "subtract"), "({0}) - ({1})"),
    **dict.fromkeys(("mul", "multiply"), "({0}) * ({1})"),
    **dict.fromkeys(("div", "divide", "true_divide"), "({0}) / ({1})"),
    **dict.fromkeys(("remainder", "mod"), "({0}) % ({1})"),
    **dict.fromkeys(("neg", "negative"), "-({0})"),
    "fmod": "({0}) - ({1}) * trunc(({0}) / ({1}))",
    "floor_divide": "({0}) // ({1})",
    "square": "({0}) ** 2",
    "reciprocal": "1 / ({0})",
    "hypot": "sqrt(({0}) ** 2 + ({1}) ** 2)",
    "cbrt": "sign({0}) * abs({0}) ** (1 / 3)",
    "tan": "sin({0}) / cos({0})",
    "erfc": "1 - erf({0})",
    "logit": "log(({0}) / (1 - ({0})))",
    "logaddexp": "logsumexp([{0}, {1}])",
    "frac": "({0}) - trunc({0})",
    "lerp": "({0}) + ({2}) * (({1}) - ({0}))",
    "isnan": "({0}) != ({0})",
    "copysign": "where(({1}) < 0, -abs({0}), abs({0}))",
    "heaviside": "where(({0}) > 0, 1.0, 0.0)",
    "clamp_min": "clip({0}, {1}, None)",
    "clamp_max": "clip({0}, None, {1})",
    "relu6": "hardtanh({0}, 0, 6)",
    "hardswish": "({0}) * hardsigmoid({0})",
    "tanhshrink": "({0}) - tanh({0})",
    "prelu": "where(({0}) > 0, {0}, ({1}) * ({0}))",
    "log_softmax": "[v - logsumexp({0}) for v in {0}]",
    "logical_and": "({0}) & ({1})",
    "logical_or": "({0}) | ({1})",
    "logical_xor": "({0}) ^ ({1})",
    "logical_not": "~({0})",
}


def called(node: ast.Call) -> str:
    """What to write instead of a call; empty if rnncc has nothing like it."""
    name, args, named = _parts(node)
    if name in ("float", "float32", "float64") and args:
        condition = isinstance(node.args[0], ast.Compare)
        return f"where({args[0]}, 1.0, 0.0)" if condition else f"{args[0]}, without {name}"
    own = ALIASES.get(name, name)
    lists = any(isinstance(arg, (ast.List, ast.Tuple)) for arg in node.args)
    if lists and own not in OF_LISTS and name != "log_softmax":
        return ""
    if name in TEXTS:
        return _text(name, args, named)
    if not is_function(own):
        return ""
    text = _call(own, args, named)
    return text and f"{text}, with rnncc's own {own} (from rnncc import {own})"


def corrected(node: ast.Call) -> str:
    """A call of a function of rnncc with arguments that it doesn't take, as it takes them."""
    import rnncc

    name, args, named = _parts(node)
    if isinstance(node.args[0] if node.args else None, (ast.List, ast.Tuple)):
        args = [ast.unparse(each) for each in node.args[0].elts]  # type: ignore[attr-defined]
    if name in ("maximum", "minimum") and len(args) > 1 and not named:
        return f"{name}({', '.join(args)})"
    if name in OF_LISTS and len(args) > 1:
        return f"{name}([{', '.join(args)}])"
    if text := _call(name, args, named):
        return text
    known = inspect.signature(getattr(rnncc, name))
    plain = [p.replace(annotation=p.empty) for p in known.parameters.values()]
    return f"{name}{known.replace(parameters=plain, return_annotation=known.empty)}"


def is_function(name: str) -> bool:
    """Whether it is a function of the language."""
    import rnncc

    known = name in rnncc.__all__ and name not in NO_FUNCTIONS
    return known and inspect.isfunction(getattr(rnncc, name))


def _parts(node: ast.Call) -> tuple[str, list[str], dict[str, str]]:
    """The name of a function, or of a module such as nn.Hardtanh(-2, 2), and its arguments."""
    made = node.func if isinstance(node.func, ast.Call) else ast.Call(node.func, [], [])
    name = getattr(made.func, "attr", getattr(made.func, "id", ""))
    if made is node.func:
        name = _of_class(name)
    args = [ast.unparse(arg) for arg in (*node.args, *made.args)]
    named = {k.arg: ast.unparse(k.value) for k in (*node.keywords, *made.keywords) if k.arg}
    args += [named.pop(key) for key in ("input", "other", "exponent") if key in named]
    return name, args, named


def _of_class(name: str) -> str:
    import rnncc

    plain = {known.replace("_", ""): known for known in (*rnncc.__all__, *TEXTS)}
    return plain.get(name.lower(), name)


def _text(name: str, args: Sequence[str], named: Mapping[str, str]) -> str:
    mode = named.get("rounding_mode", "None").strip("'\"")
    text = {"floor": "({0}) // ({1})", "trunc": "trunc(({0}) / ({1}))"}.get(mode, TEXTS[name])
    if len(args) < 1 + max(int(n) for n in re.findall(r"\{(\d)\}", text)):
        return ""
    return ast.unparse(ast.parse(text.format(*args), mode="eval"))  # no parentheses in vain


def _call(own: str, args: Sequence[str], named: Mapping[str, str]) -> str:
    """A call of a function of rnncc by the names of its arguments; empty if it takes no such."""
    import rnncc

    signature = inspect.signature(getattr(rnncc, own))
    known = list(signature.parameters)
    given = dict(zip(known, args[:1] if own in OF_LISTS else args, strict=False))
    for key, value in named.items():
        key = KEYWORDS.get(key, key) if key not in known else key
        if key not in known and key not in WITHOUT:
            return ""
        given |= {key: value} if key in known else {}
    if own == "clip":
        return f"clip({given['x']}, {given.get('lo', None)}, {given.get('hi', None)})"
    needed = {n for n, p in signature.parameters.items() if p.default is p.empty}
    if not needed <= given.keys():
        return ""
    plain = [value for value, _ in zip(given.values(), args, strict=False)]
    if own == "forward_as":
        plain = plain[:1]
    more = [f"{key}={value}" for key, value in list(given.items())[len(plain) :]]
    return f"{own}({', '.join([*plain, *more])})"
