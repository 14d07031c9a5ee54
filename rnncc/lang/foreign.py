"""Foreign: a call of math, NumPy or PyTorch, as an author wrote it -> the same in rnncc's words."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

UNKNOWN = "define the name, or import the function from rnncc"
TURNS = "a fixed number of turns: range(10), or range(n) with n=10 among the arguments"
OF_ONE = (  # softmax of a symbol
    "softmax([a, b]) and logsumexp([a, b]) are of several values of a channel: a list of them, or "
    "State(size=n), Input(size=n); over channels, take it of the layer's output"
)
NOISE = "an input that is given at each step, noise: Input(projected=False)"

# where rnncc has another name
ALIASES = {
    **{"fabs": "abs", "absolute": "abs", "clamp": "clip", "max": "maximum", "min": "minimum"},
    **{"fmax": "maximum", "fmin": "minimum", "swish": "silu", "amax": "maximum", "amin": "minimum"},
    **{"arctan": "atan", "arctan2": "atan2", "arcsinh": "asinh", "arccosh": "acosh"},
    **{"arctanh": "atanh", "arcsin": "asin", "arccos": "acos", "rint": "round", "fix": "trunc"},
    **{"expit": "sigmoid", "special_expit": "sigmoid", "detach": "stop_gradient", "int": "trunc"},
    **{"hard_sigmoid": "hardsigmoid", "hard_tanh": "hardtanh"},
    **dict.fromkeys(("array", "asarray", "stack"), "vector"),
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
    "add": "({0}) + ({1})",
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
    "heaviside": "where(({0}) > 0, 1.0, where(({0}) == 0, {1}, 0.0))",
    **{"zeros_like": "0.0", "ones_like": "1.0", "full_like": "{1}", "clone": "{0}"},
    **{"gt": "({0}) > ({1})", "ge": "({0}) >= ({1})"},
    **{"lt": "({0}) < ({1})", "le": "({0}) <= ({1})"},
    "clamp_min": "clip({0}, {1}, None)",
    "clamp_max": "clip({0}, None, {1})",
    "relu6": "hardtanh({0}, 0, 6)",
    "hardswish": "({0}) * hardsigmoid({0})",
    "tanhshrink": "({0}) - tanh({0})",
    "prelu": "where(({0}) > 0, {0}, ({1}) * ({0}))",
    "log_softmax": "[each - logsumexp({0}) for each in {0}]",
    "logical_and": "({0}) & ({1})",
    "logical_or": "({0}) | ({1})",
    "logical_xor": "({0}) ^ ({1})",
    "logical_not": "~({0})",
}
OF_SEVERAL = {  # values in a vector
    "sum": "sum({0})",
    "mean": "sum({0}) / len({0})",
    **dict.fromkeys(("max", "amax"), "maximum(*{0})"),
    **dict.fromkeys(("min", "amin"), "minimum(*{0})"),
}
OF_NOISE = ("rand_like", "randn_like", "dropout", "bernoulli")


def called(node: ast.Call, scope: Mapping[str, Any]) -> str:
    """What to write instead of a call; empty if rnncc has nothing like it.

    Args:
        scope: what names stand for there.
    """
    name, args, named = _parts(node)
    if name == "range":
        return TURNS
    if name in OF_NOISE:
        return NOISE
    if name in OF_SEVERAL and args and _is_vector(node.args, scope):
        return OF_SEVERAL[name].format(*args)
    if any(isinstance(arg, (ast.List, ast.Tuple)) for arg in node.args):
        return _of_list(name, args, named)
    if name in ("float", "float32", "float64", "array", "asarray") and args:
        condition = isinstance(node.args[0], ast.Compare)
        return f"where({args[0]}, 1.0, 0.0)" if condition else f"{args[0]}, without {name}"
    if name in ("softmax", "logsumexp", "log_softmax") and not _has_vector(node, scope):
        return OF_ONE
    if name in TEXTS:
        return _text(name, args, named)
    if name == "log" and len(args) > 1:  # to a base
        return _call(name, args, named)
    return _own(name, args, named) if ALIASES.get(name) != "vector" else ""


def corrected(node: ast.Call, scope: Mapping[str, Any]) -> str:
    """A call of a function of rnncc with arguments that it doesn't take, as it takes them."""
    import rnncc

    name, args, named = _parts(node)
    if isinstance(node.args[0] if node.args else None, (ast.List, ast.Tuple)):
        args = [ast.unparse(each) for each in node.args[0].elts]  # type: ignore[attr-defined]
    if name in ("maximum", "minimum") and len(args) > 1 and not named:
        return f"{name}({', '.join(args)})"
    if name in OF_LISTS and len(args) > 1 and not _is_vector(node.args[:1], scope):
        return f"{name}([{', '.join(args)}])"
    if name == "forward_as" and len(args) < 2 and "gradient_of" not in named:
        value = "".join(args) or named.get("value", "a")
        return f"{name}({value}, gradient_of=b), for b whose gradient it has"
    text = _call(name, args, named)
    if text and text != ast.unparse(node):
        return text
    known = inspect.signature(getattr(rnncc, name))
    plain = [p.replace(annotation=p.empty) for p in known.parameters.values()]
    return f"{name}{known.replace(parameters=plain, return_annotation=known.empty)}"


def named(name: str) -> str:
    """rnncc's function of that name; empty if there is none."""
    own = ALIASES.get(name, name)
    return f"rnncc's own {own} (from rnncc import {own})" if is_function(own) else ""


def unknown(error: NameError) -> str:
    """What to do about a name that isn't there, or has no value yet; empty if unknown."""
    (name,) = re.findall(r"'(\w+)'", str(error))[:1] or [""]
    is_own = is_function(name)
    if isinstance(error, UnboundLocalError):
        other = f"another name for what is assigned to {name}, which hides rnncc's own"
        return other if is_own else f"give {name} a value above this line"
    return f"from rnncc import {name}" if is_own else ""


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


def _is_vector(args: Sequence[ast.expr], scope: Mapping[str, Any]) -> bool:
    return any(isinstance(arg, ast.Name) and _has_vector(arg, scope) for arg in args)


def _has_vector(node: ast.AST, scope: Mapping[str, Any]) -> bool:
    from rnncc.lang.symbols import Elementwise

    names = [each.id for each in ast.walk(node) if isinstance(each, ast.Name)]
    return any(isinstance(scope.get(name), Elementwise) for name in names)


def _of_list(name: str, args: Sequence[str], named: Mapping[str, str]) -> str:
    """A function that is given a list of symbols."""
    if name in ("sum", "prod"):
        return f"{'math.' if name == 'prod' else ''}{name}({args[0]})"
    if name == "log_softmax":
        return _text(name, args, named)
    return _own(name, args, named) if ALIASES.get(name, name) in (*OF_LISTS, "dot") else ""


def _own(name: str, args: Sequence[str], given: Mapping[str, str]) -> str:
    own = ALIASES.get(name, name)
    text = _call(own, args, given) if is_function(own) else ""
    return text and f"{text}, with {named(own)}"


def _of_class(name: str) -> str:
    import rnncc

    plain = {known.replace("_", ""): known for known in (*rnncc.__all__, *TEXTS)}
    return plain.get(name.lower(), name)


def _text(name: str, args: Sequence[str], named: Mapping[str, str]) -> str:
    if "eps" in named or (name == "logit" and len(args) > 1):
        return ""
    if "alpha" in named and len(args) > 1:  # of torch.add and torch.sub
        args = [args[0], f"({named['alpha']}) * ({args[1]})"]
    mode = named.get("rounding_mode", "None").strip("'\"")
    text = {"floor": "({0}) // ({1})", "trunc": "trunc(({0}) / ({1}))"}.get(mode, TEXTS[name])
    if len(args) < 1 + max(map(int, re.findall(r"\{(\d)\}", text)), default=-1):
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
    if own == "log" and len(args) == 2:
        return f"log({args[0]}) / log({args[1]})"
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
