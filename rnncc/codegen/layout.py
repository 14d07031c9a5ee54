"""Layout: C++ statements and lists -> lines as clang-format folds them (.clang-format at the root).

Users have no clang-format, so emitted code is folded here; unusual expressions may be folded
differently than there, though never wider.
"""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache

from rnncc.codegen import escape

WIDTH = 100
OPEN, CLOSE = "([{", ")]}"
# From loosest to tightest; an operator ends its line.
OPERATORS = (("||",), ("&&",), ("==", "!="), ("<", ">", "<=", ">="), ("+", "-"), ("*", "/"))


def fill(items: Iterable[str], indent: int, end: str = "") -> str:
    """Items with commas between them, as many in a line as fit; the first line is indented too."""
    listed = list(items)
    pieces = [f"{item}," for item in listed[:-1]] + [f"{listed[-1]}{end}"]
    pad = " " * indent
    return "\n".join(pad + line for line in _pack(pieces, WIDTH - indent))


def declare(type_: str, names: list[str], indent: int) -> str:
    """Several variables: `real a, b, c;`."""
    first = f"{' ' * indent}{type_} "
    lines = fill(names, indent + 4, ";").split("\n")
    if len(first) + len(lines[0].strip()) <= WIDTH and len(lines) == 1:
        return first + lines[0].strip()
    pieces = [f"{name}," for name in names[:-1]] + [f"{names[-1]};"]
    packed = _pack(
        [first.strip() + " " + pieces[0], *pieces[1:]], WIDTH - indent, WIDTH - indent - 4
    )
    return "\n".join(
        " " * (indent if i == 0 else indent + 4) + line for i, line in enumerate(packed)
    )


def statement(head: str, expr: str, indent: int, note: str = "") -> str:
    """`head = expr;`, and the note after it or, where that is too wide, above it."""
    pad = " " * indent
    line = f"{pad}{head} = {expr};"
    if len(line) > WIDTH:
        line = _folded(f"{head} =", expr, indent)
    if not note:
        return line
    note = escape.comment(note)
    if "\n" not in line and len(line) + len(note) + 5 <= WIDTH:
        return f"{line}  // {note}"
    return f"{comment(note, indent)}\n{line}"


def block(lines: Iterable[str]) -> str:
    """Statements one below another, the notes of neighbours aligned as far as the width allows."""
    aligned: list[str] = []
    notes: list[tuple[str, str]] = []
    for line in "\n".join(lines).split("\n"):
        code, mark, note = line.partition("  // ")
        together = [*notes, (code, note)]
        if not (mark and code.strip() and _fit(together)):
            aligned += _aligned(notes)
            together = [(code, note)]
        notes = together if mark and code.strip() else []
        if not notes:
            aligned.append(line)
    return "\n".join([*aligned, *_aligned(notes)])


def _fit(notes: list[tuple[str, str]]) -> bool:
    column = max(len(code) for code, _ in notes)
    return all(column + len("  // ") + len(note) <= WIDTH for _, note in notes)


def _aligned(notes: list[tuple[str, str]]) -> list[str]:
    column = max((len(code) for code, _ in notes), default=0)
    return [f"{code:<{column}}  // {note}" for code, note in notes]


def function(head: str, body: str) -> str:
    """A function of one statement, in one line if it fits."""
    line = f"{head} {{ {body} }}"
    return line if len(line) <= WIDTH else f"{head} {{\n  {body}\n}}"


def table(head: str, items: list[str], indent: int) -> str:
    """`head = {items};`, long ones in columns."""
    first = f"{' ' * indent}{head} = {{"
    line = f"{first}{', '.join(items)}}};"
    if len(line) <= WIDTH:
        return line
    behind, below = (_columns(items, column) for column in (len(first), indent + 4))
    if len(behind) - len(below) < 3:  # lines that are worth one more break
        return f"\n{' ' * len(first)}".join([first + behind[0], *behind[1:]]) + "};"
    return f"\n{' ' * (indent + 4)}".join([first, *below]) + "};"


def _columns(items: list[str], column: int) -> list[str]:
    """Items in aligned columns: the fewest columns that make for the fewest lines."""
    pieces = [f"{item}," for item in items[:-1]] + [items[-1]]
    best: list[str] = []
    for count in range(len(pieces), 0, -1):
        rows = [pieces[i : i + count] for i in range(0, len(pieces), count)]
        widths = [max(map(len, place)) for place in itertools.zip_longest(*rows, fillvalue="")]
        fits = column + sum(widths) + count - 1 <= WIDTH - 1
        if best and fits and len(rows) > len(best):
            break
        if fits or count == 1:
            best = [
                " ".join(f"{piece:<{w}}" for piece, w in zip(row, widths, strict=False)).rstrip()
                for row in rows
            ]
    return best


def comment(text: str, indent: int = 0) -> str:
    """A comment on lines of its own."""
    first = f"{' ' * indent}// "
    lines = textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=first, break_long_words=False
    )
    return "\n".join(map(escape.comment, lines))


def _folded(head: str, expr: str, indent: int) -> str:
    """Behind `head`; below it where it fits in one line there, saves lines or would be too wide."""
    pad, column = " " * indent, indent + len(head) + 1
    behind, below = _fold(expr, column, 1), _fold(expr, indent + 4, 1)
    if len(below) == 1 or _saves(below, behind) or _width(behind, column) > WIDTH:
        return f"{pad}{head}\n" + "\n".join([" " * (indent + 4) + below[0], *below[1:]]) + ";"
    return f"{pad}{head} " + "\n".join(behind) + ";"


def _saves(below: list[str], behind: list[str]) -> bool:
    """Fewer lines, that of the head counted; or as many, for a choice in parentheses."""
    in_parentheses = behind[0][0] == "(" and behind[-1][-1] == ")"
    opens = in_parentheses and behind[1:] and behind[1].lstrip().startswith("? ")
    return len(below) + 1 < len(behind) + bool(opens)


def _width(lines: list[str], column: int) -> int:
    return max(column + len(lines[0]), *(len(line) for line in lines))


def _fold(text: str, column: int, tail: int, hang: int = 0) -> list[str]:
    """Lines of an expression from a column on, `tail` more characters after it.

    Args:
        hang: how much further in the lines after the first stand.
    """
    if column + len(text) + tail <= WIDTH:
        return [text]
    choice = _choice(text)
    if choice:
        return _fold_choice(*choice, column, tail)
    for operators in OPERATORS:
        pieces = list(_split(text, operators))
        if len(pieces) > 1:
            return _fold_pieces(pieces, column, tail, hang)
    opened = next((i for i, c in enumerate(text) if c in OPEN), -1)
    if opened < 0 or text[-1] not in CLOSE:
        return [text]
    inner = list(_split(text[opened + 1 : -1], (",",), spaced=False))
    lines = _fold_pieces(inner, column + opened + 1, tail + 1, 0)
    return (
        [text[: opened + 1] + lines[0], *lines[1:-1], lines[-1] + text[-1]]
        if len(lines) > 1
        else [text[: opened + 1] + lines[0] + text[-1]]
    )


def _fold_choice(condition: str, yes: str, no: str, column: int, tail: int) -> list[str]:
    """`condition ? yes` and, below it, `: no`; each on a line of its own if that saves folds."""

    def branches(mark: int) -> tuple[list[str], list[str]]:
        return _fold(yes, mark + 2, 0, 4), _fold(no, mark + 2, tail, 4)

    mark, lines = column + len(condition) + 1, [f"{condition} "]
    then, other = branches(mark)
    own = branches(column + 4)
    if len(own[0]) + len(own[1]) < len(then) + len(other) or mark + 2 + len(then[0]) > WIDTH:
        mark, lines = column + 4, [*_fold(condition, column, 0), " " * (column + 4)]
        then, other = own
    lines[-1] += f"? {then[0]}"
    return [*lines, *then[1:], " " * mark + f": {other[0]}", *other[1:]]


def _fold_pieces(pieces: list[str], column: int, tail: int, hang: int) -> list[str]:
    """As many pieces in a line as fit; one that is too wide for a line has lines of its own."""
    lines: list[str] = []
    line, start = "", column
    for i, piece in enumerate(pieces):
        after = tail if i == len(pieces) - 1 else 0
        if line and start + len(line) + 1 + len(piece) + after <= WIDTH:
            line += f" {piece}"
            continue
        if line:
            lines.append(" " * (start if lines else 0) + line)
            start = column + hang
        first, *more = _fold(piece, start, after, 4 if len(pieces) > 1 else hang)
        if more:
            lines += [" " * (start if lines else 0) + first, *more]
            start, first = column + hang, ""
        line = first
    return [*lines, " " * (start if lines else 0) + line] if line else lines


def _choice(text: str) -> tuple[str, str, str] | None:
    """The three parts of `condition ? yes : no` outside all parentheses."""
    mark, colon = _find(text, " ? "), _find(text, " : ")
    if mark < 0 or colon < 0:
        return None
    return text[:mark], text[mark + 3 : colon], text[colon + 3 :]


def _find(text: str, wanted: str) -> int:
    return next(_outside(text, (wanted,)), (-1, ""))[0]


def _split(text: str, operators: tuple[str, ...], spaced: bool = True) -> Iterator[str]:
    """The operands outside all parentheses, each but the last with the operator after it."""
    marks = [f" {o} " if spaced else f"{o} " for o in operators]
    start = 0
    for i, mark in _outside(text, tuple(marks)):
        yield text[start : i + len(mark) - 1]
        start = i + len(mark)
    yield text[start:]


def _outside(text: str, marks: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """The marks outside all parentheses and brackets, and their places."""
    if not any(mark in text for mark in marks):
        return
    depth = 0
    for found in _pattern(marks).finditer(text):
        piece = found[0]
        if piece in OPEN:
            depth += 1
        elif piece in CLOSE:
            depth -= 1
        elif depth == 0:
            yield found.start(), piece


@cache
def _pattern(marks: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, (*OPEN, *CLOSE, *marks))))


def _pack(pieces: list[str], width: int, further: int | None = None) -> list[str]:
    """Pieces in lines of at most `width` characters; of `further` many after the first."""
    lines: list[str] = []
    line = ""
    for piece in pieces:
        room = width if not lines or further is None else further
        if line and len(line) + 1 + len(piece) > room:
            lines.append(line)
            line = piece
        else:
            line = f"{line} {piece}" if line else piece
    return [*lines, line]
