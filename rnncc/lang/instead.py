"""Instead: the place in an author's source where Python decides or calls -> the same in rnncc."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from linecache import getlines
from types import CodeType, FrameType, ModuleType
from typing import Any, NoReturn

from rnncc.lang.choices import ALL, LARGER, UnableError, choice, names, turns, values
from rnncc.lang.foreign import called, corrected, is_function
from rnncc.lang.tracer import fail

PAST = "State(delay=4), whose past is h.ago(k)"
OTHER_FIXES = {
    "complex": "two real States, the real and the imaginary part; "
    "h = h_re + 1j * h_im times r * exp(1j * th) is "
    "h_re, h_im = r * (cos(th) * h_re - sin(th) * h_im), r * (sin(th) * h_re + cos(th) * h_im), "
    "as in rnncc's cell lru",
    **dict.fromkeys(("tuple", "list"), "vector(...) of it, for arithmetic element by element"),
}

LIBRARIES = ("rnncc.", "torch.", "numpy.", "sympy.")
TESTING = (ast.If, ast.While, ast.Assert)

Span = tuple[tuple[int, int], tuple[int, int]]  # line and column of its first and last place


@dataclass(frozen=True)
class Place:
    """An instruction that runs: its code, its offset, its line, and what names stand for there."""

    code: CodeType
    offset: int
    line: int
    scope: Mapping[str, Any]

    @classmethod
    def of(cls, frame: FrameType | None) -> Place | None:
        """The innermost that is neither rnncc's own nor of a library, from a frame outward."""
        while frame is not None and f"{frame.f_globals.get('__name__')}.".startswith(LIBRARIES):
            frame = frame.f_back
        if frame is None:
            return None
        return cls.at(frame, frame.f_lasti, frame.f_lineno)

    @classmethod
    def at(cls, frame: FrameType, offset: int, line: int) -> Place:
        """One of a frame, which may have left it since."""
        return cls(frame.f_code, offset, line, {**frame.f_globals, **frame.f_locals})

    def path(self, wanted: Callable[[ast.AST], bool]) -> list[ast.AST]:
        """The nodes of the source around the instruction, the outermost first.

        Args:
            wanted: before Python 3.11, which knows no columns, the first such node of the line.
        """
        tree = _parsed(self.code)
        if tree is None:
            return []
        span = self._span()
        if span is not None:
            first, last = span
            return list(_around(tree, lambda n: _begin(n) <= first and last <= _end(n)))
        path = list(_around(tree, lambda node: self._is_of_line(node)))
        return path + _first(path[-1], wanted)

    def _span(self) -> Span | None:
        if not hasattr(self.code, "co_positions"):
            return None
        found: Any = next(itertools.islice(self.code.co_positions(), self.offset // 2, None))
        first, last, begin, end = found
        return None if None in found else ((first, begin), (last, end))

    def _is_of_line(self, node: ast.AST) -> bool:
        """A statement of the line."""
        return isinstance(node, ast.stmt) and _begin(node)[0] <= self.line <= _end(node)[0]


def decision(place: Place | None, is_condition: bool) -> str:
    """What to write where Python decides on a symbol; empty if the source doesn't show it.

    Args:
        is_condition: it decides on a condition, not on a value.
    """
    path = place.path(_decides) if place else []
    if place is None or not path:
        return ""
    try:
        return _decided(path, names(place.scope, path[-1], is_condition))
    except UnableError:
        return ""


def call(place: Place | None) -> str:
    """What to write where a function of another library is given a symbol; empty if unknown."""
    if place is None:
        return ""
    path = place.path(_is_call)
    for node in reversed(path):
        if isinstance(node, ast.Call):
            return "" if _is_own(node.func, place.scope) else called(node, place.scope)
        if isinstance(node, ast.stmt):
            break
    return ""


def method(place: Place | None, texts: Mapping[str, str] | None = None) -> str:
    """What to write where a method of a symbol is called; empty if unknown.

    Args:
        texts: of methods that rnncc has in other words, with {0} for the symbol.
    """
    path = place.path(lambda node: isinstance(node, ast.Attribute)) if place else []
    node = next((n for n in reversed(path) if isinstance(n, ast.Attribute)), None)
    if node is None or place is None:
        return ""
    outer = path[path.index(node) - 1]
    if not isinstance(outer, ast.Call) or outer.func is not node or _is_of_module(node, place):
        return ""
    if texts and node.attr in texts:
        return texts[node.attr].format(ast.unparse(node.value))
    every = [node.value, *outer.args]
    if node.attr == "where":  # a method of the first value, not of the condition
        every[:2] = every[1::-1]
    return called(ast.Call(ast.Name(node.attr), every, outer.keywords), place.scope)


def mistaken(place: Place) -> str:
    """The same where a function has raised an exception of its own, of another module or rnncc."""
    node = written(place, ast.Call)
    if not isinstance(node, ast.Call):
        return ""
    if _is_own(node.func, place.scope):
        return corrected(node, place.scope)
    return called(node, place.scope) if _is_of_module(node.func, place) else ""


def missing(place: Place, name: str | None) -> str:
    """What to write where a function is called whose name is not defined; empty if unknown."""
    for node in reversed(place.path(lambda node: isinstance(node, ast.Call))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            return called(node, place.scope)
    return ""


def _is_own(func: ast.expr, scope: Mapping[str, Any]) -> bool:
    """Whether a call is of rnncc's own function, by its plain name."""
    import rnncc

    if not isinstance(func, ast.Name) or not is_function(func.id):
        return False
    return scope.get(func.id) is getattr(rnncc, func.id)


def _is_of_module(node: ast.expr, place: Place | None) -> bool:
    """A name behind that of a module, as np.clip."""
    root = node
    while isinstance(root, ast.Attribute):
        root = root.value
    owner = place.scope.get(root.id) if place and isinstance(root, ast.Name) else None
    return root is not node and isinstance(owner, ModuleType)


def apart(place: Place | None) -> str:
    """The `h > 0 & x > 0` that Python reads as `h > (0 & x) > 0`, in parentheses; else empty."""
    node = written(place, ast.Compare)
    if not isinstance(node, ast.Compare):
        return ""
    text = ast.unparse(node.left)
    for sign, right in zip(node.ops, node.comparators, strict=True):
        compared = ast.unparse(ast.Compare(ast.Name(""), [sign], [ast.Name("")])).strip()
        if isinstance(right, ast.BinOp) and isinstance(right.op, (ast.BitAnd, ast.BitOr)):
            joined = "&" if isinstance(right.op, ast.BitAnd) else "|"
            left, rest = ast.unparse(right.left), ast.unparse(right.right)
            text += f" {compared} {left}) {joined} ({rest}"
        else:
            text += f" {compared} {ast.unparse(right)}"
    return f"({text})" if ") " in text else ""


def refuse_no_grad(place: Place | None) -> NoReturn:
    """Report a value that is computed under `torch.no_grad`."""
    fail(
        "a part of the body is under torch.no_grad",
        "Gradients are derived from the expressions, not recorded by PyTorch.",
        without_gradient(place) or "stop_gradient(e), for an expression e",
    )


def without_gradient(place: Place | None) -> str:
    """The assignments under `with torch.no_grad()`, by stop_gradient; empty if there are others."""
    node = written(place, ast.With)
    lines = node.body if isinstance(node, ast.With) else []
    if not lines or not all(isinstance(n, ast.Assign) and len(n.targets) == 1 for n in lines):
        return ""
    return "\n".join(
        f"{ast.unparse(n.targets[0])} = stop_gradient({ast.unparse(n.value)})"
        for n in lines
        if isinstance(n, ast.Assign)
    )


def in_order(place: Place | None) -> str:
    """The return of a set, without its braces; empty if the source doesn't show it."""
    node = written(place, ast.Return)
    value = node.value if isinstance(node, ast.Return) else None
    return f"return {', '.join(map(ast.unparse, value.elts))}" if isinstance(value, ast.Set) else ""


def flat(place: Place | None, states: Sequence[str]) -> str:
    """The `return y, (h, c)` of PyTorch's cells as a dict; empty if it is no such return."""
    node = written(place, ast.Return)
    value = node.value if isinstance(node, ast.Return) else None
    if not isinstance(value, ast.Tuple) or len(value.elts) != 2:
        return ""
    y, nested = value.elts
    if not isinstance(nested, (ast.Tuple, ast.List)) or len(nested.elts) != len(states):
        return ""
    texts = list(map(ast.unparse, nested.elts))
    named = {s: [t for t in texts if re.fullmatch(rf"{s}(_\w+|\d*)", t)] for s in states}
    if all(len(found) == 1 for found in named.values()):
        texts = [found[0] for found in named.values()]
    output = "y" if "y" not in states else "output"
    pairs = [*zip(states, texts, strict=True), (output, ast.unparse(y))]
    return "return {" + ", ".join(f'"{name}": {text}' for name, text in pairs) + "}"


def yielded(code: CodeType) -> tuple[int, str]:
    """Line and value of a function's first yield; "..." where the source doesn't show it."""
    tree = _parsed(code)
    lines = {line for _, _, line in code.co_lines()}
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Yield) and node.lineno in lines and node.value:
            return node.lineno, ast.unparse(node.value)
    return code.co_firstlineno, "..."


def written(place: Place | None, kind: type[ast.AST]) -> ast.AST | None:
    """The innermost node of a kind around a place."""
    path = place.path(lambda node: isinstance(node, kind)) if place else []
    return next((node for node in reversed(path) if isinstance(node, kind)), None)


def _parsed(code: CodeType) -> ast.Module | None:
    try:
        return ast.parse("".join(getlines(code.co_filename)))
    except (SyntaxError, ValueError):
        return None


def _around(tree: ast.AST, spans: Callable[[Any], bool]) -> Iterator[ast.AST]:
    """Each node that spans the place, from the tree inward."""
    node: ast.AST | None = tree
    while node is not None:
        yield node
        node = next(filter(spans, _children(node)), None)


def _children(node: ast.AST) -> list[ast.AST]:
    """With those of nodes that have no place in the source, such as a comprehension's."""
    found: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        found += [child] if hasattr(child, "lineno") else _children(child)
    return found


def _begin(node: Any) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _end(node: Any) -> tuple[int, int]:
    return node.end_lineno, node.end_col_offset


def _first(node: ast.AST, wanted: Callable[[ast.AST], bool]) -> list[ast.AST]:
    """The way from a node to the first below it that is wanted, or to what that decides on."""
    if isinstance(node, TESTING):
        return [node.test]
    for child in _children(node):
        if wanted(child):
            return [child, child.test] if isinstance(child, ast.IfExp) else [child]
        if found := _first(child, wanted):
            return [child, *found]
    return []


def _decides(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return len(node.ops) > 1 or isinstance(node.ops[0], (ast.In, ast.NotIn))
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    decides = is_call and node.func.id in (*LARGER, *ALL)  # type: ignore[attr-defined]
    return isinstance(node, (ast.IfExp, ast.BoolOp)) or _is_not(node) or decides


def _is_call(node: ast.AST) -> bool:
    """Of a function of another module, of a module such as nn.ReLU(), or of one that counts."""
    return isinstance(node, ast.Call) and (
        isinstance(node.func, (ast.Attribute, ast.Call))
        or ast.unparse(node.func) in ("float", "int", "range")
    )


def _decided(path: Sequence[ast.AST], known: Any) -> str:
    k = len(path) - 1
    node: Any = path[k]
    while isinstance(path[k - 1], ast.BoolOp) or _is_not(path[k - 1]):
        k -= 1
    node, parent = path[k], path[k - 1]
    if getattr(parent, "test", None) is not node:
        text = ast.unparse(values(node, known))
        return text if text != ast.unparse(node) else ""
    if isinstance(parent, ast.IfExp):
        return ast.unparse(values(parent, known))
    if isinstance(parent, ast.Assert):
        return "leave the assert out: a symbol has no value to check"
    if isinstance(parent, ast.While):
        return turns(parent, known)
    return choice(parent, _after(path[k - 2], parent), known)


def _is_not(node: ast.AST) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def _after(parent: Any, node: ast.AST) -> list[ast.stmt]:
    """The statements behind a statement, in its block."""
    for name in ("body", "orelse", "finalbody"):
        block = getattr(parent, name, None)
        if isinstance(block, list) and node in block:
            return block[block.index(node) + 1 :]
    return []
