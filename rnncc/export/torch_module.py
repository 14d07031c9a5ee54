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
from rnncc.nn.direction import directions
from rnncc.nn.layer import CellLayer
from rnncc.nn.projection import given, projected

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
    call = ", ".join(["x", *(f"{i.name}={i.name}" for i in given(spec))])
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
    params = [f"self.{attributes[p.name]}" for p in spec.params]
    pairs = [(f"self.{attributes[p.name]}", p) for p in spec.learned]
    lines = [
        f"class {class_name(spec.name)}(nn.Module):",
        "    def __init__(self, input_size, hidden_size, bias=True):",
        "        super().__init__()",
        "        self.hidden_size = n = hidden_size",
        f"        self.projection = nn.Linear(input_size, {_rows(projected(spec))}, bias=bias)",
        *(f"        {name} = nn.Parameter(torch.empty({_shape(p)}))" for name, p in pairs),
        "        self.reset_parameters()",
        "",
        "    @torch.no_grad()",
        "    def reset_parameters(self):",
        "        n = self.hidden_size",
        "        self.projection.reset_parameters()",
        *_biases(projected(spec)),
        *(f"        {_filled(name, p.init)}" for name, p in pairs),
        "",
        *_forward(spec, params, attributes),
    ]
    return "\n".join(lines)


def _rows(inputs: Sequence[InputSpec]) -> str:
    """How many rows of the projection they take."""
    own, shared = sum(not i.shared for i in inputs), sum(i.shared for i in inputs)
    terms = [f"{own} * n" if own > 1 else "n"] if own or not shared else []
    return " + ".join([*terms, *([str(shared)] if shared else [])])


def _shape(param: ParamSpec) -> str:
    if param.block is not None:
        return f"n // {param.block}, {param.block}, {param.block}"
    return "1" if param.shared else "n"


def _biases(inputs: Sequence[InputSpec]) -> list[str]:
    lines = []
    for k, i in enumerate(inputs):
        if i.bias is not None:
            first = _rows(inputs[:k]) if k else "0"
            rows = f"self.projection.bias[{first} : {_rows(inputs[: k + 1])}]"
            lines.append(f"            {_filled(rows, i.bias)}  # {i.name}")
    return ["        if self.projection.bias is not None:", *lines] if lines else []


def _filled(target: str, init: Init) -> str:
    """The statement that draws a tensor's values."""
    if not init.then and init.kind != "spaced":
        return _drawn(target, init)
    text = _drawn(f"{target}.double()", init)
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


def _forward(spec: KernelSpec, params: Sequence[str], attributes: Mapping[str, str]) -> list[str]:
    taken = projected(spec)
    sizes = ", ".join("1" if i.shared else "n" for i in taken) or "n"
    initial = [
        f"self.{attributes[s.init.name]}.expand(shape)"
        if isinstance(s.init, ParamSpec)
        else f"rows[0].new_full(shape, {s.init!r})"
        for s in spec.states
    ]
    outputs, states = (
        f"tuple({name})" if len(several) > 1 else f"{name}[0]"
        for name, several in (("outputs", spec.outputs), ("states", spec.states))
    )
    inputs = {i.name: f"rows[{k}]" for k, i in enumerate(taken)}
    for i in given(spec):
        inputs[i.name] = f'given["{i.name}"]' + (".unsqueeze(-1)" if i.shared else "")
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
        f"            states = {'state' if len(spec.states) > 1 else '[state]'}",
        "        outputs, states = loop(inputs, params, states)",
        f"        return {outputs}, {states}",
    ]
