"""Choices: syntax in which Python decides on a symbol -> the expressions of `where` for it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Known = Callable[[ast.expr], bool]  # whether an expression is a condition, as far as that is known
LARGER = {"max": "maximum", "min": "minimum"}
ALL: dict[str, type[ast.boolop]] = {"any": ast.Or, "all": ast.And}


class UnableError(Exception):
    """No expression takes the place of this syntax."""


def names(scope: Mapping[str, Any], subject: ast.AST, is_condition: bool) -> Known:
    """What is known of expressions: what a name stands for, and what Python decided on."""
    from rnncc.lang.symbols import Elementwise, Value

    def known(node: ast.expr) -> bool:
        if node is subject and not isinstance(node, (ast.BoolOp, ast.Compare)):
            return is_condition
        if isinstance(node, ast.Name):
            return not isinstance(scope.get(node.id), (Elementwise, Value))
        operator = getattr(node, "op", None)
        logical = isinstance(operator, (ast.BitAnd, ast.BitOr, ast.BitXor, ast.Invert))
        return logical or isinstance(node, (ast.Compare, ast.Constant))

    return known


def condition(node: ast.expr, known: Known) -> ast.expr:
    """An expression that Python would take for true or false, as a condition."""
    if isinstance(node, ast.BoolOp):
        operator = ast.BitAnd() if isinstance(node.op, ast.And) else ast.BitOr()
        return _joined(operator, [condition(value, known) for value in node.values])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ast.UnaryOp(ast.Invert(), condition(node.operand, known))
    if isinstance(node, ast.Compare):
        operands = [node.left, *node.comparators]
        pairs = zip(operands, node.ops, operands[1:], strict=False)
        return _joined(ast.BitAnd(), [_compared(*pair, known) for pair in pairs])
    value = values(node, known)
    return value if known(node) else ast.Compare(value, [ast.NotEq()], [ast.Constant(0)])


def _joined(operator: ast.operator, parts: Sequence[ast.expr]) -> ast.expr:
    return functools.reduce(lambda a, b: ast.BinOp(a, operator, b), parts)


def _compared(left: ast.expr, operator: ast.cmpop, right: ast.expr, known: Known) -> ast.expr:
    left = values(left, known)
    if not isinstance(operator, (ast.In, ast.NotIn)):
        return ast.Compare(left, [operator], [values(right, known)])
    if not isinstance(right, (ast.Tuple, ast.List, ast.Set)):
        raise UnableError
    parts = [ast.Compare(left, [ast.Eq()], [values(each, known)]) for each in right.elts]
    found = _joined(ast.BitOr(), parts)
    return found if isinstance(operator, ast.In) else ast.UnaryOp(ast.Invert(), found)


def values(node: ast.expr, known: Known) -> ast.expr:
    """An expression with `where`, `maximum` and `minimum` for what decides."""
    found: ast.expr = _Values(known).visit(node)
    return found


class _Values(ast.NodeTransformer):
    def __init__(self, known: Known) -> None:
        self.known = known

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Of a copy: the tree stays what the author wrote."""
        fields = {
            name: [self.visit(each) for each in field]
            if isinstance(field, list)
            else self.visit(field)
            if isinstance(field, ast.AST)
            else field
            for name, field in ast.iter_fields(node)
        }
        return type(node)(**fields)

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        return _where(
            condition(node.test, self.known), self.visit(node.body), self.visit(node.orelse)
        )

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        """Between values, `a or b` is a where a isn't 0."""
        if any(map(self.is_condition, node.values)):
            return condition(node, self.known)
        *first, last = [self.visit(value) for value in node.values]
        found: ast.expr = last
        for value in reversed(first):
            test = ast.Compare(value, [ast.NotEq()], [ast.Constant(0)])
            is_and = isinstance(node.op, ast.And)
            found = _where(test, found if is_and else value, value if is_and else found)
        return found

    def is_condition(self, node: ast.expr) -> bool:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return True
        return isinstance(node, ast.BoolOp) or self.known(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, ast.Not):
            return condition(node, self.known)
        return self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        return condition(node, self.known)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = getattr(node.func, "id", "")
        listed = node.args[0] if node.args else None
        if name in ALL and isinstance(listed, (ast.Tuple, ast.List)) and listed.elts:
            return condition(ast.BoolOp(ALL[name](), list(listed.elts)), self.known)
        if name not in LARGER or not node.args:
            return self.generic_visit(node)
        if node.keywords:  # the largest by another key
            raise UnableError
        own = ast.Name(LARGER[name])
        args: list[ast.expr] = [self.visit(arg) for arg in node.args]
        if isinstance(args[0], (ast.Tuple, ast.List)):
            args = list(args[0].elts)
        if len(args) == 1:
            each = args[0] if isinstance(args[0], ast.Starred) else ast.Starred(args[0])
            return ast.Call(own, [each], [])
        return ast.Call(own, args, [])


def _where(test: ast.expr, a: ast.expr, b: ast.expr) -> ast.expr:
    """By entry where both are tuples or dicts."""
    if isinstance(a, ast.Tuple) and isinstance(b, ast.Tuple) and len(a.elts) == len(b.elts):
        pairs = zip(a.elts, b.elts, strict=True)
        return ast.Tuple([_where(test, *pair) for pair in pairs], ast.Load())
    if isinstance(a, ast.Dict) and isinstance(b, ast.Dict):
        if list(map(_text, a.keys)) != list(map(_text, b.keys)):
            raise UnableError
        pairs = zip(a.values, b.values, strict=True)
        return ast.Dict(a.keys, [_where(test, *pair) for pair in pairs])
    return a if _text(a) == _text(b) else ast.Call(ast.Name("where"), [test, a, b], [])


def _text(node: ast.AST | None) -> str:
    return ast.unparse(node) if node else ""


# --- statements ------------------------------------------------------------------------------


def choice(node: ast.AST, after: Sequence[ast.stmt], known: Known) -> str:
    """An `if` with assignments or returns, and what stands behind it, as one statement."""
    if not isinstance(node, ast.If):
        raise UnableError
    block = _Block(known)
    returned = block.run([node, *after] if _returns(node) else [node])
    return f"return {_text(returned)}" if returned else block.text()


def turns(node: ast.While, known: Known) -> str:
    """A `while` as a loop of so many turns, of which the last change nothing."""
    block = _Block(known)
    block.run([ast.If(node.test, node.body, [])])
    return f"for _ in range(10): {block.text()}  (10 is the most turns that it takes)"


def _returns(node: ast.AST) -> bool:
    return any(isinstance(each, ast.Return) for each in ast.walk(node))


class _Block:
    """Runs statements on expressions: what each name, and the result, is in the end."""

    def __init__(self, known: Known, found: Mapping[str, ast.expr] | None = None) -> None:
        self.known = known
        self.found = dict(found or {})

    def text(self) -> str:
        if not self.found:
            raise UnableError
        return f"{', '.join(self.found)} = {', '.join(map(_text, self.found.values()))}"

    def run(self, statements: Sequence[ast.stmt]) -> ast.expr | None:
        """The value that is returned, if one is."""
        for k, node in enumerate(statements):
            if isinstance(node, ast.Return) and node.value:
                return self.value(node.value)
            if isinstance(node, ast.If):
                returned = self.choose(node, statements[k + 1 :])
                if returned:
                    return returned
            elif not isinstance(node, ast.Pass):
                self.assign(node)
        return None

    def choose(self, node: ast.If, after: Sequence[ast.stmt]) -> ast.expr | None:
        test = self.put(condition(node.test, self.known))
        a, b = _Block(self.known, self.found), _Block(self.known, self.found)
        results = [a.run(node.body), b.run(node.orelse)]
        if any(results):
            first, second = (
                result or block.run(after) for result, block in zip(results, (a, b), strict=True)
            )
            if first is None or second is None:
                raise UnableError
            return _where(test, first, second)
        for name in dict.fromkeys([*a.found, *b.found]):
            own = ast.Name(name)
            self.found[name] = _where(test, a.found.get(name, own), b.found.get(name, own))
        return None

    def assign(self, node: ast.stmt) -> None:
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            value: ast.expr = ast.BinOp(ast.Name(node.target.id), node.op, node.value)
            self.found[node.target.id] = self.value(value)
        elif isinstance(node, ast.Assign) and len(node.targets) == 1:
            self.bind(node.targets[0], self.value(node.value))
        elif isinstance(node, ast.AnnAssign) and node.value:
            self.bind(node.target, self.value(node.value))
        else:
            raise UnableError

    def bind(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self.found[target.id] = value
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for each, part in zip(target.elts, value.elts, strict=True):
                self.bind(each, part)
        else:
            raise UnableError

    def value(self, node: ast.expr) -> ast.expr:
        return self.put(values(node, self.known))

    def put(self, node: ast.expr) -> ast.expr:
        """With the values that names have got, in their places."""
        found: ast.expr = _Put(self.found).visit(node)
        return found


class _Put(ast.NodeTransformer):
    def __init__(self, found: Mapping[str, ast.expr]) -> None:
        self.found = found

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.found.get(node.id, node)
