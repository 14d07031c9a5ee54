"""Torch module: CellIR -> the text of a plain PyTorch module: its step, its loop, its parameters.

It has the parameters of the layer, by the same names, and takes derivatives of any order.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence

from rnncc.codegen.module import class_name
from rnncc.export import torch_loop
from rnncc.export.torch_loop import plain_source
from rnncc.ir.init import Init
from rnncc.ir.program import CellIR
from rnncc.ir.spec import InputSpec, KernelSpec, ParamSpec
from rnncc.ir.vector import Role, Vector, grouped, places
from rnncc.nn.direction import directions
from rnncc.nn.layer import CellLayer
from rnncc.nn.projection import given, projected
from rnncc.nn.vectors import learned_of

LOOP = '''\
def loop(inputs, params, states):
    """All steps, in the order of step's arguments.

    Args:
        inputs: [..., T, N] each, shared ones [..., T, 1].
        states: [..., N] each, before the first step.
    Returns:
        the outputs [..., T, N] and the last states [..., N].
    """
    shape, rows = states[0].shape, []
    for now in zip(*(x.unbind(-2) for x in inputs)):
        states, outputs = step(*states, *now, *params)
        rows.append([y.expand(shape) for y in outputs])
    return [torch.stack(ys, -2) for ys in zip(*rows)], [h.expand(shape) for h in states]'''


def module_source(cell: CellIR, spec: KernelSpec) -> str:
    """The module's text; it needs PyTorch only."""
    step = plain_source(cell, "step", by_itself=True)
    helpers = list(_definitions(step))
    imports = ["from __future__ import annotations", ""]
    if any("math." in text for text in helpers):
        imports += ["import math"]
    imports += ["from typing import Any", ""] if any("Any" in text for text in helpers) else []
    imports += ["import torch", f"from torch import {'Tensor, ' if helpers else ''}nn"]
    parts = [f"{_docstring(spec)}\n\n" + "\n".join(imports), *helpers, step, LOOP, _class(spec)]
    return "\n\n\n".join(parts)


def _docstring(spec: KernelSpec) -> str:
    names = grouped([i.name for i in given(spec)], spec.vectors, "input")
    call = ", ".join(["x", *(f"{v.name}={v.name}" for v in names)])
    size = 512 // spec.group * spec.group
    return f'''\
"""The recurrence '{spec.name}' as a loop of plain PyTorch: slow, with derivatives of any order.

    plain = {class_name(spec.name)}(input_size=256, hidden_size={size})
    plain.load_state_dict(dict(layer.named_parameters()))  # of the layer that rnncc made
    y, state = plain({call})
"""'''


def _definitions(text: str) -> Iterator[str]:
    """What the text reads of the oracle's own functions, and what these read, in its order."""
    source = inspect.getsource(torch_loop)
    defined = {name: node for node in ast.parse(source).body for name in _defines(node)}
    wanted: set[str] = set()
    texts = [text]
    while texts:
        read = set(re.findall(r"(?<![\w.])_\w+", texts.pop())) & defined.keys() - wanted
        wanted |= read
        texts += [str(ast.get_source_segment(source, defined[name])) for name in read]
    for name, node in defined.items():
        if name in wanted:
            yield str(ast.get_source_segment(source, node))


def _defines(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _class(spec: KernelSpec) -> str:
    (direction,) = directions(spec, CellLayer, ("",))
    attributes = direction.params
    pairs = [(f"self.{attributes[v.name]}", v, p) for v, p in learned_of(spec)]
    texts = {m: t for name, v, _ in pairs for m, t in _elements(name, v).items()}
    params = [texts[p.name] for p in spec.params]
    lines = [
        f"class {class_name(spec.name)}(nn.Module):",
        "    def __init__(self, input_size, hidden_size, bias=True):",
        "        super().__init__()",
        "        self.hidden_size = n = hidden_size",
        f"        self.projection = nn.Linear(input_size, {_rows(projected(spec))}, bias=bias)",
        *(f"        {name} = nn.Parameter(torch.empty({_shape(p, v)}))" for name, v, p in pairs),
        "        self.reset_parameters()",
        "",
        "    @torch.no_grad()",
        "    def reset_parameters(self):",
        "        n = self.hidden_size",
        "        self.projection.reset_parameters()",
        *_biases(projected(spec)),
        *(f"        {_filled(name, p.init, len(v.shape))}" for name, v, p in pairs),
        "",
        *_forward(spec, params, texts),
    ]
    return "\n".join(lines)


def _rows(inputs: Sequence[InputSpec]) -> str:
    """How many rows of the projection they take."""
    own, shared = sum(not i.shared for i in inputs), sum(i.shared for i in inputs)
    terms = [f"{own} * n" if own > 1 else "n"] if own or not shared else []
    return " + ".join([*terms, *([str(shared)] if shared else [])])


def _elements(text: str, vector: Vector) -> dict[str, str]:
    """The text of each scalar of a tensor, by name."""
    if not vector.shape:
        return {vector.members[0]: text}
    found = zip(vector.members, places(vector.shape), strict=True)
    return {name: f"{text}[..., {', '.join(map(str, place))}]" for name, place in found}


def _joined(name: str, role: Role, scalars: Sequence[str], spec: KernelSpec) -> str:
    """The results from the list of their scalars: one, or a tuple of several."""
    found, first = [], 0
    for vector in grouped(scalars, spec.vectors, role):
        last = first + len(vector.members)
        stacked = f"torch.stack({name}[{first}:{last}], -1)"
        if len(vector.shape) > 1:
            stacked += f".unflatten(-1, {vector.shape})"
        found.append(stacked if vector.shape else f"{name}[{first}]")
        first = last
    if len(found) == 1:
        return found[0]
    return f"tuple({name})" if len(found) == len(scalars) else f"({', '.join(found)})"


def _shape(param: ParamSpec, vector: Vector) -> str:
    if param.block is not None:
        return f"n // {param.block}, {param.block}, {param.block}"
    return ", ".join(["1" if param.shared else "n", *map(str, vector.shape)])


def _biases(inputs: Sequence[InputSpec]) -> list[str]:
    lines = []
    for k, i in enumerate(inputs):
        if i.bias is not None:
            first = _rows(inputs[:k]) if k else "0"
            rows = f"self.projection.bias[{first} : {_rows(inputs[: k + 1])}]"
            lines.append(f"            {_filled(rows, i.bias)}  # {i.name}")
    return ["        if self.projection.bias is not None:", *lines] if lines else []


def _filled(target: str, init: Init, rank: int = 0) -> str:
    """The statement that draws a tensor's values; rank: dimensions behind the channels."""
    if not init.then and init.kind != "spaced":
        return _drawn(target, init)
    text = _drawn(f"{target}.double()", init)
    if init.kind == "spaced" and rank:
        text += f".view(n{', 1' * rank})"
    for name, number in init.then:
        if number is None:
            text = f"torch.{name}({text})"
        else:
            text = f"({text}) {OPERATORS[name]} {number!r}"
    return f"{target}.copy_({text})"


OPERATORS = {"add": "+", "mul": "*", "pow": "**"}


def _drawn(target: str, init: Init) -> str:
    if init.kind == "spaced":
        return f"torch.linspace({init.a!r}, {init.b!r}, n, dtype=torch.float64)"
    if init.kind == "constant":
        return f"{target}.fill_({init.a!r})"
    return f"{target}.{init.kind}_({init.a!r}, {init.b!r})"


def _forward(spec: KernelSpec, params: Sequence[str], texts: Mapping[str, str]) -> list[str]:
    taken = projected(spec)
    sizes = ", ".join("1" if i.shared else "n" for i in taken) or "n"
    initial = [
        f"{texts[s.init.name]}.expand(shape)"
        if isinstance(s.init, ParamSpec)
        else f"rows[0].new_full(shape, {s.init!r})"
        for s in spec.states
    ]
    names = [s.name for s in spec.states]
    outputs = _joined("outputs", "output", spec.outputs, spec)
    states = _joined("states", "state", names, spec)
    whole = grouped(names, spec.vectors, "state")
    before = [
        text
        for k, v in enumerate(whole)
        for text in _elements(f"state[{k}]" if len(whole) > 1 else "state", v).values()
    ]
    continued = "state" if len(before) == len(whole) > 1 else f"[{', '.join(before)}]"
    inputs = {i.name: f"rows[{k}]" for k, i in enumerate(taken)}
    shared = {i.name: i.shared for i in given(spec)}
    for v in grouped(shared, spec.vectors, "input"):
        for name, text in _elements(f'given["{v.name}"]', v).items():
            inputs[name] = text + (".unsqueeze(-1)" if shared[name] else "")
    return [
        f"    def forward(self, x, state=None{', **given' if given(spec) else ''}):",
        '        """x [..., T, input_size] -> outputs [..., T, N] and last states [..., N]."""',
        "        n = self.hidden_size",
        f"        rows = self.projection(x).split([{sizes}], -1)",
        f"        inputs = [{', '.join(inputs[i.name] for i in spec.inputs)}]",
        f"        params = [{', '.join(params)}]",
        "        if state is None:",
        "            shape = (*x.shape[:-2], n)",
        f"            states = [{', '.join(initial)}]",
        "        else:",
        f"            states = {continued}",
        "        outputs, states = loop(inputs, params, states)",
        f"        return {outputs}, {states}",
    ]
