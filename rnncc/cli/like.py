"""Like: a cell -> the file of a new one that starts from it, under another name."""

from __future__ import annotations

import ast
import re
import symtable
import textwrap
import tokenize
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from rnncc import paths
from rnncc.errors import ArgumentError, shorten
from rnncc.lang.dsl import Cell
from rnncc.lang.loader import cells_of

WIDTH = 100  # of a line of imports
BY_HAND = "copy the file and rename the cell there"
# PEP 263: in one of the first two lines, after nothing but a comment.
CODING = re.compile(r"\A((?:[ \t\f]*(?:#.*)?\n)??[ \t\f]*#.*?coding[:=][ \t]*)[-\w.]+")


def text_like(cell: Cell, name: str) -> str:
    """The cell's file with the cell renamed; its docstring says what it started from.

    Other cells of the file are left out, with the imports and helpers that only they use. The text
    is to be written as UTF-8, whatever the file's own encoding.

    Raises:
        ArgumentError: the file uses the name otherwise, doesn't define the cell at its top, or
            makes it from another cell; or the copy would be no file that defines the cell.
    """
    file = Path(cell.file)
    with tokenize.open(file) as opened:
        source = _Source(CODING.sub(r"\1utf-8", opened.read()), cell)
    chosen = _definition(source, cell)
    if name != cell.name and any(name in one.bound | one.used for one in source.statements):
        raise ArgumentError(
            f"NAME: got {name!r}, a name that {shorten(cell.file)} uses for something else.\n"
            f"Fix: rnncc new {name}_cell --like ..."
        )
    source = _Source(_renamed(source, chosen, name), cell)
    source = _Source(_left(source, source.function(name), cells_of(file.resolve())), cell)
    text = _told(source, source.function(name), name).rstrip() + "\n"
    _Source(text, cell).function(name)
    return text


@dataclass(frozen=True)
class _Statement:
    """One of the module's own.

    Attributes:
        begin, end: where it stands, its decorators included.
        bound: names of the module that it defines.
        used: names of the module, or built-in ones, that it needs, perhaps when it is called.
    """

    node: ast.stmt
    begin: int
    end: int
    bound: set[str]
    used: set[str]


class _Source:
    """A text that parses, and its statements."""

    def __init__(self, text: str, cell: Cell) -> None:
        self.text, self.cell = text, cell
        self._starts = list(accumulate((len(line) + 1 for line in text.split("\n")), initial=0))
        try:
            self.statements = [self._statement(node) for node in ast.parse(text).body]
        except (SyntaxError, ValueError) as error:
            raise self.refusal() from error

    def refusal(self) -> ArgumentError:
        return ArgumentError(
            f"--like: {shorten(self.cell.file)} is written in a way that rnncc can't copy.\n"
            f"Fix: {BY_HAND}"
        )

    def function(self, name: str) -> _Statement:
        """The last definition of that name, which is the one that counts."""
        for one in reversed(self.statements):
            if isinstance(one.node, ast.FunctionDef) and one.node.name == name:
                return one
        raise self.refusal()

    def span(self, node: ast.stmt | ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        begin = self._place(node.lineno, node.col_offset)
        return begin, self._place(node.end_lineno, node.end_col_offset)

    def replaced(self, changes: Sequence[tuple[tuple[int, int], str]]) -> str:
        """The text with other text at these spans, which don't overlap."""
        text = self.text
        for (begin, end), new in sorted(changes, reverse=True):
            text = text[:begin] + new + text[end:]
        return text

    def _place(self, line: int, column: int) -> int:
        """Of a line from 1 and a column in bytes, as the tree counts."""
        start, end = self._starts[line - 1], self._starts[line]
        return start + len(self.text[start:end].encode()[:column].decode())

    def _statement(self, node: ast.stmt) -> _Statement:
        begin, end = self.span(node)
        for decorator in getattr(node, "decorator_list", []):
            begin = min(begin, self._place(decorator.lineno, 0))
        table = symtable.symtable(self.text[begin:end], self.cell.file, "exec")
        bound = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
        return _Statement(node, begin, end, bound, _used(table) | _roles(node))


def _used(table: symtable.SymbolTable) -> set[str]:
    """Of the module's names, not those of a function's own values."""
    used = {s.get_name() for s in table.get_symbols() if s.is_referenced() and s.is_global()}
    return used.union(*map(_used, table.get_children()))


def _roles(node: ast.stmt) -> set[str]:
    """Names in annotations, quoted ones too; not every Python counts them as used."""
    notes = [part.annotation for part in ast.walk(node) if isinstance(part, ast.arg)]
    text = " ".join(ast.unparse(note) for note in notes if note)
    return set(re.findall(r"(?<!\.)\b\w+\b(?!=)", text))  # not of attributes and keywords


def _definition(source: _Source, cell: Cell) -> _Statement:
    for one in source.statements:
        first = source.text.count("\n", 0, one.begin) + 1 == cell.code.co_firstlineno
        if first and isinstance(one.node, ast.FunctionDef) and one.node.name == cell.name:
            return one
    raise ArgumentError(
        f"--like: '{cell.name}' is made inside something else of {shorten(cell.file)}, which can't "
        f"be copied by itself.\nFix: {BY_HAND}"
    )


# --- the new name ----------------------------------------------------------------------------


def _renamed(source: _Source, chosen: _Statement, new: str) -> str:
    """The definition and what refers to it; inside the cell the name is a value's."""
    old = source.cell.name
    begin = source.span(chosen.node)[0] + len("def ")
    spans = [(begin, begin + len(old))]
    for one in source.statements:
        if one is not chosen and old in one.bound | one.used:
            names = [part for part in ast.walk(one.node) if isinstance(part, ast.Name)]
            spans += [source.span(part) for part in names if part.id == old]
    if any(source.text[begin:end] != old for begin, end in spans):
        raise source.refusal()  # Python also reads the ligature fi as f and i, for example
    return source.replaced([(span, new) for span in spans])


# --- what goes along -------------------------------------------------------------------------


def _left(source: _Source, chosen: _Statement, cells: Collection[str]) -> str:
    """The text but for the other cells, what needs them, and what nothing else needs."""
    gone = _gone(source, chosen, cells)
    unneeded = _unneeded(source, gone)
    text = space = ""
    end = 0
    for line in _lines(source):
        gap, begin = source.text[end : line[0].begin], line[-1].end
        end = (source.text + "\n").index("\n", begin)
        if kept := [_without(source, one, unneeded) for one in line if one not in gone]:
            text += re.sub(r"\n{4,}", "\n\n\n", space + gap)
            text += "; ".join(kept) + source.text[begin:end]
            space = ""
            continue
        if line[0] is not source.statements[0]:  # comments at the top are about the file
            gap = re.sub(r"(^#.*\n)+\Z", "", gap, flags=re.MULTILINE)
        space, end = space + gap, end + 1
    return text + space + source.text[end:]


def _gone(source: _Source, chosen: _Statement, cells: Collection[str]) -> list[_Statement]:
    rest = [one for one in source.statements if one is not chosen]
    gone = [one for one in rest if isinstance(one.node, ast.FunctionDef) and one.node.name in cells]
    gone += [one for one in rest if "__all__" in one.bound | one.used and one not in gone]
    while more := [one for one in rest if one not in gone and one.used & _bound(gone)]:
        gone += more
    if missing := chosen.used & _bound(gone):
        raise ArgumentError(
            f"--like: '{source.cell.name}' needs '{min(missing)}', which is another cell of "
            f"{shorten(source.cell.file)} or made from one, and a copy holds one cell.\n"
            "Fix: move what both compute into a plain function (without @cell) and call that in "
            f"both, or {BY_HAND}"
        )
    defining = [one for one in rest if one.bound and one not in gone]
    while more := [one for one in defining if one.bound <= _unneeded(source, gone)]:
        gone += more
        defining = [one for one in defining if one not in more]
    return gone


def _unneeded(source: _Source, gone: list[_Statement]) -> set[str]:
    """Names that only what is gone uses."""
    used = {name for one in gone for name in one.used}
    return used - {name for one in source.statements if one not in gone for name in one.used}


def _bound(statements: list[_Statement]) -> set[str]:
    return {name for one in statements for name in one.bound} - {"__all__"}


def _lines(source: _Source) -> list[list[_Statement]]:
    """The statements; those with only a semicolon between them are together."""
    lines: list[list[_Statement]] = []
    for one in source.statements:
        between = source.text[lines[-1][-1].end : one.begin] if lines else "\n"
        if "\n" in between.replace("\\\n", ""):
            lines.append([])
        lines[-1].append(one)
    return lines


def _without(source: _Source, one: _Statement, unneeded: set[str]) -> str:
    """Its text; an import is without the names that nothing needs any more."""
    node = one.node
    if not isinstance(node, ast.ImportFrom) or not one.bound & unneeded:
        return source.text[one.begin : one.end]
    kept = [alias for alias in node.names if (alias.asname or alias.name) not in unneeded]
    text = ast.unparse(ast.ImportFrom(node.module, kept, node.level))
    if len(text) > WIDTH:
        head, _, names = text.partition("import ")
        indent = " " * 4
        names = textwrap.fill(f"{names},", WIDTH, initial_indent=indent, subsequent_indent=indent)
        text = f"{head}import (\n{names}\n)"
    return text


# --- where it comes from ---------------------------------------------------------------------


def _told(source: _Source, chosen: _Statement, name: str) -> str:
    """With the new cell's own line, and its origin, above the docstring that it had."""
    assert isinstance(chosen.node, ast.FunctionDef)
    head = f"{name}: say here in one line what the cell does."
    told = f"It started from {_origin(source.cell)}"
    for first in (chosen.node.body[0], source.statements[0].node):
        match first:
            case ast.Expr(value=ast.Constant(value=str(old))):
                indent = "\n" + " " * first.col_offset
                text = _quoted(f"{head}\n{indent}{told}:{indent}{old.strip()}{indent}")
                return source.replaced([(source.span(first), text)])
    begin = source.statements[0].begin
    return source.replaced([((begin, begin), _quoted(f"{head}\n\n{told}.\n") + "\n\n")])


def _quoted(text: str) -> str:
    """A docstring of the text; raw where that keeps its backslashes readable."""
    if "\\" in text and '"""' not in text:
        return f'r"""{text}"""'
    escaped = text.replace("\\", "\\\\").replace('"""', r"\"\"\"")
    return f'"""{escaped}"""'


def _origin(cell: Cell) -> str:
    """The cell for people: a shipped one by name, another one by its file."""
    file = Path(cell.file)
    if file.parent.resolve() == paths.cells().resolve():
        return f"{cell.name}, which ships with rnncc"
    return file.name if file.stem == cell.name else f"{file.name}:{cell.name}"
