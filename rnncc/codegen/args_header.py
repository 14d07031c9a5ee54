"""Args header: the list of ir/abi.py -> the text of the driver's common/args.h."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from enum import IntEnum

from rnncc.ir.abi import ABI, ARGS, ENUMS, NO_STEP, STATUS, VIEW, WORD, Per, Struct

PATH = "rnncc/common/args.h"  # below templates/include
WIDTH = 100


def args_header() -> str:
    """The whole text; `make golden` writes it, a unit test compares it."""
    lines = [
        "// Generated from rnncc/ir/abi.py by make golden; don't edit.",
        f"// Version {ABI}, as cell.json holds it.",
        "#pragma once",
        "",
        '#include "cell.h"',
        "",
        "namespace rnncc {",
        "",
        "// Of Status::sequential_from: no step was left to one pass over time.",
        f"constexpr double kNoStep = {NO_STEP};",
        "",
    ]
    for enum in ENUMS:
        lines += [*_enum(enum), ""]
    lines += [*_struct(VIEW), "", *_struct(STATUS), ""]
    lines += [
        "// As GOMP_parallel.",
        "typedef void (*Parallel)(void (*)(void*), void*, unsigned, unsigned);",
        "",
        *_struct(ARGS),
        "",
        *_assertions(),
        "",
        "}  // namespace rnncc",
    ]
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"{indent}// ", subsequent_indent=f"{indent}// "
    )


def _enum(enum: type[IntEnum]) -> list[str]:
    members = ", ".join(f"{_constant(member.name)} = {member.value}" for member in enum)
    doc = (enum.__doc__ or "").strip()
    return [*_comment(doc), f"enum class {enum.__name__} : int64_t {{ {members} }};"]


def _constant(name: str) -> str:
    """WARM_UP -> kWarmUp."""
    return "k" + name.title().replace("_", "")


def _struct(struct: Struct) -> list[str]:
    lines = [*_comment(struct.meaning), f"struct {struct.name} {{"]
    for section, fields in struct.sections.items():
        if section:
            lines += [""] if len(lines) > 2 else []
            lines += _comment(f"--- {section}", "  ")
        for field in fields:
            size = "" if field.per is None else f"[{field.per.value} + 1]"
            lines += [*_comment(field.meaning, "  "), f"  {field.type} {field.name}{size};"]
    return [*lines, "};"]


def _assertions() -> Iterator[str]:
    """That the compiler lays the structs out as the packer does."""
    for struct in (VIEW, STATUS):
        yield f"static_assert(sizeof({struct.name}) == {WORD} * {len(struct.fields)});"
    nothing = dict.fromkeys(Per, 0)
    fixed = ARGS.layout(nothing).words
    terms = [str(fixed)]
    for per in Per:
        terms.append(f"k{per.name.title()}Words")
        each = ARGS.layout({**nothing, per: 1}).words - fixed
        yield f"constexpr int {terms[-1]} = {each} * {per.value};"
    yield f"static_assert(sizeof({ARGS.name}) == {WORD} * ({' + '.join(terms)}));"
