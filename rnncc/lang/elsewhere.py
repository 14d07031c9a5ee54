"""Elsewhere: a call of Python, math, NumPy or PyTorch in an author's source -> rnncc's own."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

UNKNOWN = "define the name, or import the function from rnncc"
TURNS = "a fixed number of turns: range(10), or range(n) with n=10 among the arguments"

ALIASES = {
    **{"fabs": "abs", "absolute": "abs", "clamp": "clip", "max": "maximum", "min": "minimum"},
    **{"fmax": "maximum", "fmin": "minimum", "swish": "silu", "amax": "maximum", "amin": "minimum"},
    **{"arctan": "atan", "arctan2": "atan2", "arcsinh": "asinh", "arccosh": "acosh"},
    **{"arctanh": "atanh", "expit": "sigmoid", "special_expit": "sigmoid"},
    **{"detach": "stop_gradient", "int": "trunc", "fix": "trunc"},
    **dict.fromkeys(("array", "asarray", "stack"), "vector"),
}
TEXTS: dict[str, Callable[..., str]] = {
    "pow": "({0}) ** ({1})".format,
    "power": "({0}) ** ({1})".format,
    "float_power": "({0}) ** ({1})".format,
    "square": "({0}) ** 2".format,
    "reciprocal": "1 / ({0})".format,
    "hypot": "sqrt(({0}) ** 2 + ({1}) ** 2)".format,
    "add": "({0}) + ({1})".format,
    "sub": "({0}) - ({1})".format,
    "mul": "({0}) * ({1})".format,
    "div": "({0}) / ({1})".format,
    "neg": "-({0})".format,
    "heaviside": "where(({0}) > 0, 1.0, where(({0}) == 0, {1}, 0.0))".format,
    **{"zeros_like": "0.0".format, "ones_like": "1.0".format, "full_like": "{1}".format},
    **{"clone": "{0}".format, "isnan": "({0}) != ({0})".format},
    **{"logical_and": "({0}) & ({1})".format, "logical_or": "({0}) | ({1})".format},
    **{"logical_xor": "({0}) ^ ({1})".format, "logical_not": "~({0})".format},
    **{"gt": "({0}) > ({1})".format, "ge": "({0}) >= ({1})".format},
    **{"lt": "({0}) < ({1})".format, "le": "({0}) <= ({1})".format},
}
OF_VECTORS: dict[str, Callable[..., str]] = {
    "sum": "sum({0})".format,
    "mean": "sum({0}) / len({0})".format,
    "max": "functools.reduce(maximum, {0})".format,
    "min": "functools.reduce(minimum, {0})".format,
}
OF_LISTS = ("softmax", "logsumexp", "vector")  # rnncc's functions of one sequence
OF_NOISE = ("rand_like", "randn_like", "dropout", "bernoulli")
NOISE = "an input that is given at each step, noise: Input(projected=False)"
NO_FUNCTIONS = ("cell", "compile", "constant", "normal", "spaced", "uniform")


def called(node: ast.Call, scope: Mapping[str, Any]) -> str:
    """What to write instead of a call; empty if that isn't known.

    Args:
        scope: what names stand for there.
    """
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    args = [ast.unparse(arg) for arg in node.args]
    given = {k.arg: ast.unparse(k.value) for k in node.keywords}
    args += [given[key] for key in ("input", "other", "exponent") if key in given]
    is_list = any(isinstance(arg, (ast.List, ast.Tuple)) for arg in node.args)
    if name == "range":
        return TURNS
    if name in OF_NOISE:
        return NOISE
    if name in OF_VECTORS and args and _is_vector(node.args, scope):
        return _plain(OF_VECTORS[name](*args))
    if is_list:
        return _of_list(name, args)
    if name in ("float", "float32", "float64", "asarray", "array") and args:
        return f"{args[0]}, without {name}"
    if name in TEXTS and args:
        return _plain(TEXTS[name](*args, *("1",) * 2))
    if ALIASES.get(name, name) == "clip" and args:
        low, high = given.get("min", "None"), given.get("max", "None")
        args = [*args, low, high][:3] if len(args) == 1 else [*args, high][:3]
    return _own(name, args) if ALIASES.get(name) != "vector" else ""


def named(name: str) -> str:
    """rnncc's function of that name; empty if there is none."""
    own = _function(name)
    return f"rnncc's own {own} (from rnncc import {own})" if own else ""


def unknown(error: NameError) -> str:
    """What to do about a name that isn't there, or has no value yet."""
    (name,) = re.findall(r"'(\w+)'", str(error))[:1] or [""]
    is_own = bool(_function(name)) and name not in ALIASES
    if isinstance(error, UnboundLocalError):
        other = f"another name for what is assigned to {name}, which hides rnncc's own"
        return other if is_own else f"give {name} a value above this line"
    return f"from rnncc import {name}" if is_own else UNKNOWN


def misfit(error: TypeError) -> str:
    """The arguments of rnncc's function, where it was given too few or too many; else empty."""
    import rnncc

    (name,) = re.findall(r"^(\w+)\(\) (?:takes|missing)", str(error)) or [""]
    if name in OF_LISTS:
        return f"{name}([a, b]), of one list"
    own = _function(name)
    if not own or own != name:
        return ""
    taken = inspect.signature(getattr(rnncc, own)).parameters.values()
    return f"{name}({', '.join(p.name for p in taken if p.default is p.empty)})"


def _of_list(name: str, args: list[str]) -> str:
    """A function that is given a list of symbols."""
    own = ALIASES.get(name, name)
    if name == "sum":
        return f"sum({args[0]})"
    if name == "prod":
        return f"math.prod({args[0]})"
    return _own(name, args) if own in (*OF_LISTS, "dot") else ""


def _is_vector(args: list[ast.expr], scope: Mapping[str, Any]) -> bool:
    from rnncc.lang.symbols import Elementwise

    return any(isinstance(a, ast.Name) and isinstance(scope.get(a.id), Elementwise) for a in args)


def _own(name: str, args: list[str]) -> str:
    """rnncc's function, with as many of the arguments as it takes."""
    import rnncc

    own = _function(name)
    if not own or not args:
        return ""
    taken = inspect.signature(getattr(rnncc, own)).parameters
    return f"{own}({', '.join(args[: len(taken)])}), with {named(own)}"


def _function(name: str) -> str:
    import rnncc

    own = ALIASES.get(name, name)
    known = own in rnncc.__all__ and own not in NO_FUNCTIONS
    return own if known and inspect.isfunction(getattr(rnncc, own)) else ""


def _plain(text: str) -> str:
    """Without parentheses that aren't needed."""
    return ast.unparse(ast.parse(text, mode="eval"))
