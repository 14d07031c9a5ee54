"""Like: a cell -> the file of a new one that starts from it, under another name."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from rnncc import paths
from rnncc.dsl import Cell
from rnncc.errors import ArgumentError, shorten
from rnncc.find import cells_of

WIDTH = 100  # of a line of imports
QUOTED = re.compile(r"""([rRuU]*)(\"""|'''|"|')(.*)\2""", re.DOTALL)


def text_like(cell: Cell, name: str) -> str:
    """The cell's file with the cell renamed; its docstring says what it started from.

    Other cells of the file are left out, with the imports and helpers that only they use.

    Raises:
        ArgumentError: the file uses the name otherwise, or doesn't define the cell at its top.
    """
    file = Path(cell.file)
    source = _Source(file.read_text(encoding="utf-8"))
    chosen = _definition(source.tree, cell)
    others = {n for n in cells_of(file.resolve()) if n != cell.name}
    if name != cell.name and any(name in _bound(node) for node in source.tree.body):
        raise ArgumentError(
            f"NAME: got {name!r}, a name that {shorten(cell.file)} uses for something else.\n"
            f"Fix: rnncc new {name}_cell --like ..."
        )
    _leave_out(source, chosen, others)
    _rename(source, chosen, cell.name, name)
    _tell(source, chosen, name, _origin(cell))
    return re.sub(r"\n{4,}", "\n\n\n", source.edited()).rstrip() + "\n"


def _definition(tree: ast.Module, cell: Cell) -> ast.FunctionDef:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == cell.name:
            lines = [node.lineno, *(part.lineno for part in node.decorator_list)]
            if min(lines) == cell.code.co_firstlineno:
                return node
    raise ArgumentError(
        f"--like: '{cell.name}' is made inside something else of {shorten(cell.file)}, which can't "
        "be copied by itself.\n"
        "Fix: copy the file and rename the cell there"
    )


def _origin(cell: Cell) -> str:
    """The cell for people: a shipped one by name, another one by its file."""
    file = Path(cell.file)
    if file.parent.resolve() == paths.cells().resolve():
        return f"{cell.name}, which ships with rnncc"
    return file.name if file.stem == cell.name else f"{file.name}:{cell.name}"


class _Source:
    """A text and changes to it, which are made all at once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self.changes: list[tuple[int, int, str]] = []
        self._starts = [0]
        for line in text.split("\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)

    def place(self, line: int, column: int) -> int:
        """Of a line from 1 and a column in bytes, as the tree counts."""
        start, end = self._starts[line - 1], self._starts[line]
        return start + len(self.text[start:end].encode()[:column].decode())

    def span(self, node: ast.stmt | ast.expr) -> tuple[int, int]:
        """Where it begins, its decorators included, and ends."""
        first = min([node, *getattr(node, "decorator_list", [])], key=lambda part: part.lineno)
        begin = self.place(first.lineno, 0 if first is not node else node.col_offset)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return begin, self.place(node.end_lineno, node.end_col_offset)

    def replace(self, begin: int, end: int, text: str) -> None:
        self.changes.append((begin, end, text))

    def delete(self, node: ast.stmt) -> None:
        """With the comments right above it and the rest of its last line."""
        begin, end = self.span(node)
        while (above := self.text.rfind("\n", 0, max(0, begin - 1)) + 1) < begin:
            if not self.text.startswith("#", above) or above == 0:
                break
            begin = above
        self.replace(begin, (self.text + "\n").index("\n", end) + 1, "")

    def edited(self) -> str:
        text = self.text
        for begin, end, new in sorted(self.changes, reverse=True):
            text = text[:begin] + new + text[end:]
        return text


# --- what goes along -------------------------------------------------------------------------


def _leave_out(source: _Source, chosen: ast.FunctionDef, others: set[str]) -> None:
    """The other cells, what needs them, and what nothing else needs."""
    body: list[ast.stmt] = [node for node in source.tree.body if node is not chosen]
    gone: list[ast.stmt] = [
        node for node in body if isinstance(node, ast.FunctionDef) and node.name in others
    ]
    if not gone:
        return
    gone += [node for node in body if "__all__" in _bound(node)]
    while more := [node for node in body if node not in gone and _used(node) & _names(gone)]:
        gone += more
    while more := [node for node in body if node not in gone and _idle(node, source, gone)]:
        gone += more
    for node in gone:
        source.delete(node)
    for node in body:
        if isinstance(node, ast.ImportFrom) and node not in gone:
            _shorten_import(source, node, gone)


def _names(nodes: list[ast.stmt]) -> set[str]:
    return {name for node in nodes for name in _bound(node) if name != "__all__"}


def _idle(node: ast.stmt, source: _Source, gone: list[ast.stmt]) -> bool:
    """Whether all that it defines was for what is gone."""
    return bool(_bound(node)) and _bound(node) <= _unneeded(source, gone)


def _unneeded(source: _Source, gone: list[ast.stmt]) -> set[str]:
    """Names that only what is gone uses."""
    left = [node for node in source.tree.body if node not in gone]
    used = {name for node in gone for name in _used(node)}
    return used - {name for node in left for name in _used(node)}


def _shorten_import(source: _Source, node: ast.ImportFrom, gone: list[ast.stmt]) -> None:
    unneeded = _unneeded(source, gone)
    kept = [alias for alias in node.names if (alias.asname or alias.name) not in unneeded]
    if len(kept) < len(node.names):
        text = ast.unparse(ast.ImportFrom(node.module, kept, node.level))
        if len(text) > WIDTH:
            head, _, names = text.partition("import ")
            wrapped = textwrap.fill(
                f"{names},", WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4
            )
            text = f"{head}import (\n{wrapped}\n)"
        source.replace(*source.span(node), text)


def _bound(node: ast.stmt) -> set[str]:
    """Names that a statement of the module defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return {
        part.id
        for part in ast.walk(node)
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
    }


def _used(node: ast.stmt) -> set[str]:
    return {
        part.id
        for part in ast.walk(node)
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)
    }


# --- the new name ----------------------------------------------------------------------------


def _rename(source: _Source, chosen: ast.FunctionDef, old: str, new: str) -> None:
    """The definition and what refers to it; inside the cell the name is a value's."""
    start = source.place(chosen.lineno, chosen.col_offset)
    begin = source.text.index(old, start + len("def"))
    source.replace(begin, begin + len(old), new)
    gone = [(begin, end) for begin, end, text in source.changes if not text]
    for part in _outside(source.tree, chosen):
        place = source.span(part)
        if part.id == old and not any(begin <= place[0] < end for begin, end in gone):
            source.replace(*place, new)


def _outside(tree: ast.Module, chosen: ast.FunctionDef) -> Iterator[ast.Name]:
    for node in tree.body:
        if node is not chosen:
            yield from (part for part in ast.walk(node) if isinstance(part, ast.Name))


# --- where it comes from ---------------------------------------------------------------------


def _tell(source: _Source, chosen: ast.FunctionDef, name: str, origin: str) -> None:
    """Put the new cell's own line, and its origin, above the docstring that it had."""
    head = f"{name}: say here in one line what the cell does."
    told = f"It started from {origin}"
    found = _docstring(chosen) or _docstring(source.tree)
    if found is None:
        text = f'"""{head}\n\n{told}.\n"""\n\n'
        source.replace(*2 * (source.place(source.tree.body[0].lineno, 0),), text)
        return
    begin, end = source.span(found)
    matched = QUOTED.fullmatch(source.text[begin:end])
    assert matched is not None
    prefix, _, old = matched.groups()
    indent = " " * found.col_offset
    text = f'{prefix}"""{head}\n\n{indent}{told}:\n{indent}{old.strip()}\n{indent}"""'
    source.replace(begin, end, text)


def _docstring(node: ast.FunctionDef | ast.Module) -> ast.Constant | None:
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is None or not isinstance(first, ast.Expr):
        return None
    assert isinstance(first.value, ast.Constant)
    return first.value
