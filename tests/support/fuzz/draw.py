"""Draw: a seed -> a random cell of the whole language."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

from tests.support.fuzz.cells import Argument, Helper, Let, RandomCell
from tests.support.fuzz.tree import FUNCTIONS, SLOPES, Node, apply, name, names_in
from tests.support.fuzz.tree import nodes as nodes_of

# Arguments of functions with a limited domain, or that grow fast, are made safe on the spot.
SAFE = [
    *("{0} + {1}", "{0} - {1}", "{0} * {1}", "{0} + 0.7", "1.3 * {0}", "1 - {0}", "-{0}"),
    *("{0} / 3", "{0} / (1.5 + sin({1}))", "{0} / (0.5 + {1} * {1})", "0.4 / (1.2 - cos({0}))"),
    *("exp(tanh({0}))", "exp(-abs({0}))", "expm1(sin({0}))", "log(softplus({0}) + 0.1)"),
    *("log1p(softplus({0}))", "sqrt(softplus({0}) + 0.1)", "rsqrt(0.5 + {0} * {0})"),
    *("sigmoid({0})", "tanh({0})", "softplus({0})", "logsigmoid({0})", "silu({0})", "gelu({0})"),
    *("relu({0})", "abs({0})", "sign({0})", "sin({0})", "cos({0})", "erf({0})"),
    *("sinh(tanh({0}))", "cosh(sin({0}))", "maximum({0}, {1})", "minimum({0}, {1})"),
    *("exprel(tanh({0}))", "exprel(-softplus({0}))", "{0} - floor({0})", "floor(2 * {0} + 0.5)"),
    *("clip({0}, -0.8, 0.7)", "clip({0}, -sigmoid({1}), {2} * {2})", "relu({0} - 1e-3)"),
    *("where({0} > {1}, {2}, {0})", "where(both({0} > 0.1, {1} <= 0.3), {2}, {1})"),
    *("where(either(negate({0} < {1}), {2} >= 0), {1}, 0.25)", "where(ne({0}, {1}), {2}, 1.0)"),
    *("where(eq({0}, {1}), 0.5, {2})", "where({0} > 0, sqrt(maximum({0}, 0.01)), {1})"),
    *("tanh({0}) ** 2", "sin({0}) ** 3", "tanh({0}) ** 5", "(softplus({0}) + 0.3) ** -2"),
    *("(softplus({0}) + 0.1) ** 1.5", "(softplus({0}) + 0.1) ** 0.5", "2.0 ** tanh({0})"),
    *("(softplus({0}) + 0.2) ** tanh({1})", "(1 + {0} * {0}) ** -0.5", "cos({0}) ** 9"),
    *("(abs({0}) + 0.2) ** -3", "(1.5 + sin({0})) ** -1", "(1.2 + cos({0})) ** (-2.5)"),
    *("total({0}, {1}, {2})", "squares({0}, sin({1}))"),
    *("spike({0})", "spike({0}, 'atan')", "spike({0}, 'sigmoid')", "spike({0}, 'triangle')"),
]
STEPS = ("spike(", "floor(", "sign(", "where(")
SMOOTH = [form for form in SAFE if not any(step in form for step in STEPS)]
# these may overflow, or leave their domain
BOLD = [
    *("{0} / {1}", "exp({0})", "log({0})", "sqrt({0})", "rsqrt({0})", "log1p({0})", "sinh({0})"),
    *("{0} ** 2", "{0} ** 3", "{0} ** -1", "{0} ** -2", "{0} ** -5", "abs({0}) ** {1}"),
    *("{0} ** 0.5", "{0} ** 1.5", "exprel({0})", "cosh({0})", "expm1({0})", "{0} ** {1}"),
    *(
        "1e4 * {0}",
        "1e-5 * {0}",
        "{0} / 1e-3",
        "log(abs({0}))",
        "sqrt(abs({0}))",
        "exp(-{0} * {0})",
    ),
]
BOUNDED = [
    *("tanh({0})", "0.5 * {s} + 0.8 * sin({0})", "sigmoid({0})", "erf({0}) - 0.1 * {s}"),
    *("sigmoid({0}) * {s} + (1 - sigmoid({0})) * tanh({1})", "clip({0}, -2, 2)"),
    *(
        "0.99 * {s} + 0.01 * tanh({0})",
        "-0.9 * {s} + cos({0})",
        "{s} / (1 + {s} * {s}) + tanh({0})",
    ),
    "sin({0})",
]
INITS = ("", "init=uniform(-1, 1)", "init=normal(0, 0.5)", "init=spaced(0.1, 0.9)",
         "init=constant(0.4)", "init=log(uniform(0.5, 2))")  # fmt: skip
WITH_CONSTANT = (
    *(
        "{s} * {0}",
        "{0} + {s}",
        "{0} - tanh({s})",
        "{0} / (1.5 + sin({s}))",
        "where({0} > {s}, {0}, {s})",
    ),
    *(
        "(abs({0}) + 0.2) ** {s}",
        "maximum({0}, {s})",
        "exp(-abs({s})) * {0}",
        "clip({0}, -1, abs({s}))",
    ),
)
FORGET = ("sigmoid({0})", "0.9 * tanh({0})", "0.999 - 0.01 * sigmoid({0})", "exp(-abs({0}))")
PLAIN = {
    "state": ("h", "c", "v", "w", "m", "n_", "u", "s"),
    "input": ("x", "xz", "xr", "drive"),
    "clock": ("dt", "gap"),  # a layer has an x of its own
    "param": ("a", "b", "tau", "k_"),
    "matrix": ("R", "Q"),
    "constant": ("slope", "gain"),
    "let": ("z", "r", "f", "g", "o", "e"),
    "output": ("y", "energy", "out"),
    "helper": ("soft", "gate"),
}
# names that the emitted texts, their driver or the layer might have too
ODD = (
    *("part", "h_ch0", "R_0_1", "x_0", "i", "j", "k", "t", "T", "B", "N", "K", "D", "args", "at"),
    *("step", "steps", "h_next", "dh", "g_h", "d_h", "out_h", "z_0", "z_1", "lane", "run", "row"),
    *("tile", "store", "carry", "first", "last", "group", "batch", "channel", "index", "y_0", "J"),
    *("self_", "kernel", "weight", "bias", "projection", "value", "dtype", "device", "torch_", "q"),
    *(
        "real_",
        "io",
        "Args",
        "Status",
        "Cell",
        "Step",
        "load",
        "dt",
        "A",
        "M",
        "e_0",
        "g",
        "p",
        "L",
    ),
    *("h1", "h_1", "h_in", "x_in", "grad", "seed", "init", "count", "offset", "stride", "width"),
    *("new", "half", "double", "default", "this", "λ", "Δt", "u__v", "RNNCC_z", "union"),
    *("Real", "Lane", "out", "in_", "next_h", "prev", "h_prev", "saved", "product", "segment_"),
)
CELL_NAMES = ("odd", "odd", "odd", "part", "CellLayer", "Step", "forward", "Kernel", "h", "lstm_2")
COMMENTS = (
    *("", "", "", "a gate", "\\alpha and \\Delta, \\u0041 \\N{BULLET} \\x", '"""', "'''", "*/ /*"),
    *("{{ h }} {% if x %}", "ends with a backslash \\", "%s %d {0} {}", "naïve → ∂h/∂x ≤ ½", "??/"),
    *("'); import os", 'R"(', "// twice # thrice", "#define real int", "\t tab"),
)


@cache
def tree_of(form: str) -> Node:
    """A form as a tree over the names `{0}`, `{1}`, ..., which are `_0`, `_1`, ..."""
    own = {f"_{i}": name(f"_{i}") for i in "012s"}
    function = {f: (lambda *args, f=f: apply(f, *args)) for f in (*FUNCTIONS, "total", "squares")}

    def spike(u: Node, surrogate: str = "fast_sigmoid") -> Node:
        return Node("spike", (u,), (surrogate, SLOPES[surrogate]))

    text = form.replace("{", "_").replace("}", "")
    for sign, op in ((" > ", "gt"), (" <= ", "le"), (" >= ", "ge"), (" < ", "lt")):
        text = _prefixed(text, sign, op)
    found: Node = eval(text, {**own, **function, "spike": spike})
    return found


def _prefixed(text: str, sign: str, op: str) -> str:
    """`_0 > _1` as `gt(_0, _1)`: both sides are single words."""
    while sign in text:
        left, _, right = text.partition(sign)
        cut = max(left.rfind("("), left.rfind(" ")) + 1
        end = min(i for i in (right.find(","), right.find(")"), len(right)) if i >= 0)
        text = f"{left[:cut]}{op}({left[cut:]}, {right[:end]}){right[end:]}"
    return text


@dataclass
class Taste:
    """What the expressions of a cell are made of."""

    forms: Sequence[str]
    depth: int
    names: list[str]
    mixes: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    helpers: tuple[Helper, ...] = ()


def expression(rng: random.Random, taste: Taste, depth: int | None = None) -> Node:
    depth = taste.depth if depth is None else depth
    if depth <= 0 or rng.random() < 0.15:
        return name(rng.choice(taste.names))
    if taste.mixes and rng.random() < 0.15:
        mixed = expression(rng, taste, depth - 1)
        return apply("mix", name(rng.choice(taste.mixes)), mixed)
    if taste.constants and rng.random() < 0.15:
        constant = name(rng.choice(taste.constants))
        return filled(
            rng.choice(WITH_CONSTANT), lambda: expression(rng, taste, depth - 1), constant
        )
    if taste.helpers and rng.random() < 0.12:
        helper = rng.choice(taste.helpers)
        args = [expression(rng, taste, depth - 2) for _ in helper.parameters]
        return Node("call", tuple(args), helper.name)
    return filled(rng.choice(taste.forms), lambda: expression(rng, taste, depth - 1))


def filled(form: str, part: Callable[[], Node], special: Node | None = None) -> Node:
    """A form with a part in each place, the same one wherever it occurs; `{s}` is special."""
    parts: dict[str, Node] = {} if special is None else {"_s": special}

    def replaced(node: Node) -> Node:
        if node.op == "name" and node.value.startswith("_"):
            if node.value not in parts:
                parts[node.value] = part()
            return parts[node.value]
        return replace(node, args=tuple(map(replaced, node.args)))

    return replaced(tree_of(form))


# --- a whole cell ----------------------------------------------------------------------------


class Names:
    """Hands out names, each once."""

    def __init__(self, rng: random.Random, odd: bool) -> None:
        self.rng, self.odd, self.taken = rng, odd, set[str]()

    def __call__(self, kind: str) -> str:
        pool = ODD if self.odd and self.rng.random() < 0.7 else PLAIN[kind]
        free = [n for n in pool if n not in self.taken]
        found = self.rng.choice(free) if self.odd and free else next(iter(free), "")
        number = len(self.taken)
        while not found or found in self.taken:
            found, number = f"{PLAIN[kind][0]}{number}", number + 1
        self.taken.add(found)
        return found


def random_cell(seed: str) -> RandomCell:
    """The cell of a seed."""
    rng = random.Random(f"cell {seed}")
    names = Names(rng, odd=rng.random() < 0.15)
    kind = rng.choices(["plain", "smooth", "bold", "affine"], [55, 20, 10, 15])[0]
    states = rng.choices(range(1, 9), [30, 25, 15, 10, 6, 5, 4, 5])[0]
    arguments = _arguments(rng, names, states)
    depth = rng.randint(1, 4 if states < 4 else 2)
    forms = {"smooth": SMOOTH, "bold": [*SAFE, *BOLD]}.get(kind, SAFE)
    matrices = tuple(a.name for a in arguments if a.kind == "matrix")
    read = [a.name for a in arguments if a.kind not in ("matrix", "constant")]
    constants = tuple(a.name for a in arguments if a.kind == "constant")
    taste = Taste(forms, depth, read, matrices, constants)
    helpers = _helpers(rng, names, taste) if rng.random() < 0.25 else ()
    taste = replace(taste, helpers=helpers)
    lets = tuple(_lets(rng, names, taste))
    step = _affine_step if kind == "affine" else _bounded_step
    next_ = {a.name: step(rng, taste, a.name, arguments) for a in arguments if a.kind == "state"}
    if rng.random() < 0.2:  # one of them is a let that others may read
        last = list(next_)[-1]
        new = names("let")
        lets = (*lets, Let(new, next_[last], rng.choice(COMMENTS)))
        next_[last] = name(new)
        taste.names.append(new)
    outputs = {}
    for _ in range(rng.choices([0, 1, 2, 3], [45, 30, 15, 10])[0]):
        risky = rng.random() < 0.15
        own = replace(taste, forms=BOLD) if risky else taste
        outputs[names("output")] = expression(rng, own, 1 if risky else depth)
    own_rng = random.Random(f"again {seed}")
    lets = tuple(replace(let, again=own_rng.random() < 0.25) for let in lets)
    style = "dict"
    if not outputs:
        style = "one" if states == 1 else rng.choice(["tuple", "tuple", "named", "dict"])
    if style == "dict":
        next_ = dict(rng.sample(list(next_.items()), len(next_)))
    changed = tuple(
        (a.name, round(rng.uniform(0.5, 2), 2))
        for a in arguments
        if a.kind == "constant" and rng.random() < 0.5
    )
    cell = RandomCell(
        rng.choice(CELL_NAMES) if names.odd else "odd",
        arguments, lets, next_, outputs, helpers, style, _doc(rng), changed,
    )  # fmt: skip
    return _all_used(cell)


def _doc(rng: random.Random) -> str:
    if rng.random() < 0.7:
        return ""
    text = rng.choice(COMMENTS).replace('"""', "'''").rstrip("\\")
    return f'r"""A cell. {text} ."""\n'


def _arguments(rng: random.Random, names: Names, states: int) -> tuple[Argument, ...]:
    found = [
        Argument(names("state"), "state", init=rng.choice([0.0, 0.0, 0.3, -1.25]))
        for _ in range(states)
    ]
    for _ in range(rng.choices([0, 1, 2, 3], [5, 50, 30, 15])[0]):
        options = rng.choice(["", "", "bias=constant(-1)", "typical=normal(0, 2)"])
        found.append(Argument(names("input"), "input", options))
    if len(found) == states or rng.random() < 0.3:
        projected = rng.random() < 0.4
        options = "projected=True" if projected else ""
        found.append(Argument(names("clock"), "input", options, shared=True, given=not projected))
    for _ in range(rng.choice([0, 1, 1, 2])):
        found.append(Argument(names("param"), "param", rng.choice(INITS)))
    if rng.random() < 0.25:
        found.append(Argument(names("param"), "param", "init=constant(0.7)", shared=True))
    blocks = [k for k in (1, 2, 2, 3, 4, 8) if k * states <= 8]
    if rng.random() < 0.3:
        block = rng.choice(blocks)
        for _ in range(rng.choice([1, 1, 2])):
            found.append(Argument(names("matrix"), "matrix", block=block))
    if rng.random() < 0.2:
        found.append(Argument(names("constant"), "constant", init=rng.choice([2.0, 0.5, 3, -0.25])))
    return tuple(found)


def _helpers(rng: random.Random, names: Names, taste: Taste) -> tuple[Helper, ...]:
    found = []
    for _ in range(rng.choice([1, 1, 2])):
        parameters = ("p0", "p1")[: rng.choice([1, 2])]
        own = Taste(SAFE, 1, list(parameters))
        times = rng.choice([1, 1, 2, 3])
        body = expression(rng, own)
        if times > 1:
            body = filled(
                "0.5 * {s} + 0.4 * sin({0})", partial(expression, rng, own, 1), name("p0")
            )
        used = tuple(p for p in parameters if p in names_in(body))
        if used:
            found.append(Helper(names("helper"), used, body, times))
    return tuple(found)


def _lets(rng: random.Random, names: Names, taste: Taste) -> list[Let]:
    found = []
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        node = expression(rng, taste)
        if node.op == "name":
            node = apply("tanh", node)
        if rng.random() < 0.15:  # a condition as a let of its own, read twice
            condition = names("let")
            test = apply(rng.choice(["gt", "le", "ne"]), node, name(rng.choice(taste.names)))
            found.append(Let(condition, test, rng.choice(COMMENTS)))
            inner = apply("where", name(condition), node, expression(rng, taste, 1))
            node = apply("where", apply("negate", name(condition)), 0.5 * node, inner)
        new = names("let")
        found.append(Let(new, node, rng.choice(COMMENTS)))
        taste.names.append(new)
    return found


def _bounded_step(rng: random.Random, taste: Taste, state: str, _: tuple[Argument, ...]) -> Node:
    own = replace(taste, names=[*taste.names, state, state])
    new = filled(rng.choice(BOUNDED), lambda: expression(rng, own, taste.depth - 1), name(state))
    if taste.mixes and rng.random() < 0.5:
        return apply("tanh", new + apply("mix", name(rng.choice(taste.mixes)), name(state)))
    return new


def _affine_step(
    rng: random.Random, taste: Taste, state: str, arguments: tuple[Argument, ...]
) -> Node:
    """Affine in all states, with coefficients that inputs and params make; some forget slowly."""
    fixed = [a.name for a in arguments if a.kind in ("input", "param", "constant")]
    states = [a.name for a in arguments if a.kind == "state"]
    own = Taste(SMOOTH, 2, fixed)
    new = filled(rng.choice(FORGET), lambda: expression(rng, own)) * name(state)
    for other in states:
        if other != state and rng.random() < 0.4:
            new = new + rng.choice([0.1, -0.2, 0.05]) * name(other)
    if taste.mixes and rng.random() < 0.6:
        new = 0.3 * apply("mix", name(rng.choice(taste.mixes)), name(state)) + new
    return new + expression(rng, own)


def _all_used(cell: RandomCell) -> RandomCell:
    """With terms for the arguments that nothing reads, and without lets that nothing reads."""
    lets = list(cell.lets)
    while True:
        bodies = (*(let.node for let in lets), *cell.next.values(), *cell.outputs.values())
        read = set().union(*map(names_in, bodies))
        kept = [let for let in lets if let.name in read]
        if len(kept) == len(lets):
            break
        lets = kept
    next_ = dict(cell.next)
    first = next(iter(next_))
    terms = [
        apply("mix", name(a.name), name(first)) if a.kind == "matrix" else name(a.name)
        for a in cell.arguments
        if a.name not in read
    ]
    if terms:
        total = next_[first]
        for term in terms:
            total = total + 0.3 * term
        next_[first] = apply("tanh", total)
    used = replace(cell, lets=tuple(lets), next=next_)
    called = {n.value for body in used.bodies for n in nodes_of(body) if n.op == "call"}
    return replace(used, helpers=tuple(h for h in cell.helpers if h.name in called))
