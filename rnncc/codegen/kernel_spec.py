"""Kernel spec: Compiled -> KernelSpec, the cell as the run time knows it, and cell.json."""

from __future__ import annotations

import json
from typing import Any

from rnncc.calculus.cost import effort
from rnncc.codegen.once import once, weight
from rnncc.ir.init import Init
from rnncc.ir.program import Argument, Compiled, whole
from rnncc.ir.spec import Effort, InputSpec, KernelSpec, ParamSpec, StateSpec, StructureSpec
from rnncc.lang.dsl import uniform

# Of a step, in operations: up to so many it is light, and above the other heavy.
LIGHT, HEAVY = 40, 100
MANY_STATES = 16  # of more, a thread holds those of one step
TILE, WIDEST = 256, 4096  # kTile and kWidest of templates/include/rnncc/cpp/lanes.h


def kernel_spec(compiled: Compiled, fast_math: bool = False) -> KernelSpec:
    """The record from which the run time plans and runs the cell."""
    cell, program = compiled.cell, compiled.program
    streams, cost = len(program.inputs) + len(program.outputs), effort(compiled)
    ahead = steps_of_block(cost.step, len(program.states))
    # twice the warps have half the registers each
    light = len(program.states) == 1 and ahead * streams <= 16
    return KernelSpec(
        name=cell.name,
        states=tuple(
            StateSpec(name=a.name, init=_param(a.start) if a.start else init)
            for a, init in zip(cell.states, cell.initial, strict=True)
        ),
        inputs=tuple(_input(a) for a in cell.inputs),
        params=tuple(_param(a) for a in cell.params),
        outputs=tuple(cell.outputs),
        constants=cell.constants,
        structure=StructureSpec(**compiled.structure.summary()),
        arguments=tuple(
            a.name for a in whole((*cell.of_kind("input", "param", "matrix"), *cell.starts))
        ),
        param_slots=len(program.params),
        shared_inputs=sum(a.shared for a in cell.inputs),
        tile=TILE,
        widest=TILE if once(compiled, cost).large else WIDEST,
        effort=cost,
        ahead=ahead,
        lets=len(compiled.rows),
        warps=16 if light else 8,
        fast_math=fast_math,
        vectors=cell.vectors,
    )


def steps_of_block(step: Effort, states: int) -> int:
    """Steps that a thread of a CUDA kernel takes at once, and whose text it repeats.

    More of them share the work on addresses; fewer compile sooner and need fewer registers.
    """
    operations = weight(step)
    if operations <= LIGHT and states <= 2:
        return 8
    if states > MANY_STATES:
        return 1
    return 4 if operations <= HEAVY else 2


def _input(a: Argument) -> InputSpec:
    assert a.typical is not None
    return InputSpec(
        name=a.name, shared=a.shared, projected=a.projected, bias=a.bias, typical=a.typical
    )


def _param(a: Argument) -> ParamSpec:
    return ParamSpec(name=a.name, init=_init(a), shared=a.shared, block=a.block)


def _init(a: Argument) -> Init:
    bound = float(a.block or 1) ** -0.5
    return a.init if isinstance(a.init, Init) else uniform(-bound, bound)


def as_json(spec: KernelSpec) -> str:
    """cell.json: a line for each field, and for each item of a field that lists several."""
    fields = spec.model_dump(mode="json")
    if not spec.vectors:
        del fields["vectors"]
    lines = [f"  {json.dumps(k)}: {_value(v)}" for k, v in fields.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _value(value: Any) -> str:
    """Objects within a list or an object have lines of their own."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        lines = [json.dumps(item) for item in value]
    elif isinstance(value, dict) and any(isinstance(v, dict) for v in value.values()):
        lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()]
    else:
        return json.dumps(value)
    opened, closed = "[]" if isinstance(value, list) else "{}"
    return opened + "\n" + ",\n".join(f"    {line}" for line in lines) + f"\n  {closed}"
