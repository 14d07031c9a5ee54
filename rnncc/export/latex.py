"""LaTeX: CellIR -> its equations, a line for each let, in the author's order and names."""

from __future__ import annotations

import math
import re
from typing import ClassVar

import sympy
from sympy import Expr, Integer

from rnncc.codegen.printer import ADD, ATOM, MUL, UNARY, Printer
from rnncc.ir.functions import Comparison, call
from rnncc.ir.program import CellIR
from rnncc.lang.names import reserved

GREEK = frozenset(
    """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau
    upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega
    """.split()
)
WORDS = {"dt": r"\Delta t", "inf": r"\infty"}  # that have a sign of their own
CIRCLE = {math.pi: r"\pi", 2 * math.pi: r"2 \pi"}
TALL = (r"\frac", r"\begin", r"\sqrt", r"\left")  # too tall for plain parentheses
UNSET = re.compile(r"[\\{}$&#^_~%]")  # characters that LaTeX doesn't set unchanged
OWN_NEXT = re.compile(r"_?(new|next|t|1|p|prime)|_")  # endings of the name of a state's next value


def latex(cell: CellIR, environment: str = "align") -> str:
    r"""The recurrence for a paper; h_t is the value after a step, h_{t-1} the one before it.

    The author's comments are set beside their lines, except those with characters that LaTeX reads
    as commands.

    Args:
        environment: align where it stands alone, aligned inside other mathematics.
    """
    names = Names(cell)
    printer = LatexPrinter(names)
    lines = [
        rf"{names.after(let.name)} &= {printer.text(let.expr)}{_note(let.note)}"
        for let in cell.lets
    ]
    lines += [
        f"{names.after(name)} &= {printer.text(expr)}"
        for name, expr in cell.next.items()
        if not names.is_own(name, expr) and names.plain[name] not in names.past
    ]
    lines += [
        f"{names.after(name)} &= {printer.text(expr)}"
        for name, expr in cell.outputs.items()
        if name not in cell.next and not names.is_written(name)
    ]
    body = " \\\\\n".join(f"  {line}" for line in lines)
    return f"\\begin{{{environment}}}\n{body}\n\\end{{{environment}}}"


def _note(text: str) -> str:
    """A comment as text, if LaTeX sets it unchanged."""
    return "" if not text or UNSET.search(text) else rf" && \text{{{text}}}"


# --- names -----------------------------------------------------------------------------------


class Names:
    """How each name of a cell is written, and which of them have a time."""

    def __init__(self, cell: CellIR) -> None:
        self.gates = _gates(cell)
        self.states = {state.symbol for state in cell.states}
        self.moving = {a.symbol for a in (*cell.states, *cell.inputs)}
        for let in cell.lets:
            if self.moving & {s.name for s in let.expr.free_symbols}:
                self.moving.add(let.name)
        self.moving |= set(cell.outputs)
        self.order = [*(let.name for let in cell.lets), *(a.symbol for a in cell.arguments)]
        # the let c_new is the next c, and is written so
        lets = {let.name for let in cell.lets}
        self.plain = {a.name: a.symbol for a in cell.arguments}
        # h_2ago is h of two steps before
        self.past = {
            str(self.plain[name]): (self.plain[v.members[place - place % (v.delay + 1)]], ago)
            for v in cell.vectors
            if v.delay
            for place, name in enumerate(v.members)
            if (ago := place % (v.delay + 1)) and name in self.plain
        }
        self.own = {
            str(expr): state
            for state, expr in cell.next.items()
            if str(expr) in lets and _is_own(self.plain[state], str(expr))
        }

    def is_own(self, state: str, expr: Expr) -> bool:
        """Whether the next value of the state was named after it."""
        return self.own.get(str(expr)) == state

    def is_written(self, output: str) -> bool:
        """Whether a let or an argument has the name, or it is none in LaTeX."""
        return output in self.order or bool(reserved(output))

    def after(self, name: str) -> str:
        """A let, an output, or a state after the step."""
        name = self.own.get(name, name)
        name = self.plain.get(name, name)
        return written(name, name in self.gates, "t" if name in self.moving else "")

    def before(self, name: str) -> str:
        """The same inside an expression, where a state is the one before the step."""
        name, ago = self.past.get(name, (name, 0))
        return written(name, time=f"t-{ago + 1}") if name in self.states else self.after(name)

    def rank(self, symbol: Expr) -> tuple[bool, int]:
        """A place in a product: constants in time, then lets, then arguments."""
        return symbol.name in self.moving, self.order.index(symbol.name)


def _is_own(state: str, name: str) -> bool:
    return name.startswith(state) and OWN_NEXT.fullmatch(name[len(state) :]) is not None


def _gates(cell: CellIR) -> set[str]:
    """Arguments of two letters that are one letter and a subscript: xz and az, but not dt.

    Beside pf and po, pi is the p of a gate i and no Greek letter.
    """
    short = {a.symbol for a in cell.arguments if a.kind != "state" and len(a.symbol) == 2}
    short = {name for name in short - set(WORDS) if name.isalpha()}
    firsts = {name[0] for name in short - GREEK}
    return {name for name in short if name not in GREEK or name[0] in firsts}


def written(name: str, gate: bool = False, time: str = "") -> str:
    r"""A name in LaTeX: lambda_re is \lambda_{\mathrm{re}}, gNa is g_{\mathrm{Na}}.

    Args:
        gate: its second letter is a subscript.
        time: follows the subscripts.
    """
    first, *rest = [part for part in name.split("_") if part]
    letters = first.rstrip("0123456789")
    digits, inside = first[len(letters) :], ""
    if gate or re.fullmatch(r"[A-Za-z][A-Z][A-Za-z]*", letters):
        letters, inside = letters[0], letters[1:]
    subscripts = [_subscript(part) for part in (inside, digits, *rest) if part]
    subscripts += filter(None, [time])
    return _word(letters) + _small("_", ",".join(subscripts))


def _small(sign: str, text: str) -> str:
    """A subscript or superscript."""
    if len(text) < 2:
        return sign + text if text else ""
    return f"{sign}{{{text}}}"


def _word(text: str) -> str:
    if text in GREEK:
        return f"\\{text}"
    if text in WORDS:
        return WORDS[text]
    return text if len(text) == 1 else rf"\mathrm{{{text}}}"


def _subscript(text: str) -> str:
    """alpha1 has a subscript itself; log1 is log and 1."""
    letters = text.rstrip("0123456789")
    if letters == text or not letters:
        return _word(text) if letters else text
    digits = text[len(letters) :]
    nested = len(letters) == 1 or letters in GREEK
    return _word(letters) + _small("_", digits) if nested else f"{_word(letters)},{digits}"


# --- expressions -----------------------------------------------------------------------------


class LatexPrinter(Printer):
    """Expressions as mathematics."""

    FUNCTIONS: ClassVar = {
        **{name: f"\\{name}" for name in "exp log tanh sin cos sinh cosh".split()},
        **{"log2": r"\log_2", "atan": r"\arctan", "asin": r"\arcsin", "acos": r"\arccos"},
        **{"sigmoid": r"\sigma", "maximum": r"\max", "minimum": r"\min"},
        **{"at_least": r"\max", "at_most": r"\min"},
    }
    OPERATORS: ClassVar = {
        **{"gt": ">", "ge": r"\ge", "lt": "<", "le": r"\le", "eq": "=", "ne": r"\ne"},
        **{"both": r"\land", "either": r"\lor"},
    }

    def __init__(self, names: Names) -> None:
        self.names = names

    def visit(self, expr: Expr) -> tuple[str, int]:
        if expr.is_Symbol:
            return self.names.before(expr.name), ATOM
        return super().visit(_plainer(expr) if expr.is_Mul or expr.is_Pow else expr)

    def bracket(self, expr: Expr, outer: int) -> str:
        text, binding = self.visit(expr)
        return _round(text) if binding < outer else text

    def add(self, expr: Expr) -> str:
        """Short terms first: x + a h, and 1 - z."""
        terms = sorted(expr.as_ordered_terms(), key=self.length)
        positive = next((t for t in terms if not t.could_extract_minus_sign()), terms[0])
        terms.remove(positive)
        text = self.bracket(positive, MUL)
        for term in terms:
            minus = term.could_extract_minus_sign()
            text += f" - {self.bracket(-term, MUL)}" if minus else f" + {self.bracket(term, MUL)}"
        return text

    def length(self, term: Expr) -> tuple[int, bool]:
        """Operations; among names, states come first."""
        named = term.is_Symbol and term.name in self.names.states
        return int(sympy.count_ops(term)), not named

    def mul(self, expr: Expr) -> str:
        if expr.could_extract_minus_sign():
            return f"-{self.bracket(-expr, MUL)}"
        above, below = sympy.fraction(expr, exact=True)
        if below != 1:
            return rf"\frac{{{self.text(above)}}}{{{self.text(below)}}}"
        return r"\,".join(self.bracket(factor, MUL) for factor in self.factors(above))

    def factors(self, expr: Expr) -> list[Expr]:
        """Numbers, constants in time, sums, the rest: x (a + b) looks like a call."""

        def place(factor: Expr) -> tuple[int, tuple[bool, int], int]:
            base = factor.args[0] if factor.is_Pow else factor
            rank = self.names.rank(base) if base.is_Symbol else (True, 0)
            if factor.is_Number:
                return 0, rank, 0
            if base.is_Symbol:
                return (3 if rank[0] else 1), rank, 0
            return (2 if base.is_Add else 4), rank, int(sympy.count_ops(factor))

        return sorted(expr.as_ordered_factors(), key=place)

    def power(self, expr: Expr) -> tuple[str, int]:
        base, exponent = expr.args
        if exponent == -1:
            return rf"\frac{{1}}{{{self.text(base)}}}", MUL
        if exponent.could_extract_minus_sign():
            return rf"\frac{{1}}{{{self.text(base**-exponent)}}}", MUL
        return self.raised(base, exponent)

    def raised(self, base: Expr, exponent: Expr) -> tuple[str, int]:
        return self.bracket(base, ATOM) + _small("^", self.text(exponent)), UNARY

    def number(self, value: Expr) -> str:
        if value.is_Rational and not value.is_Integer:
            sign = "-" if value < 0 else ""
            return rf"{sign}\frac{{{abs(value.p)}}}{{{value.q}}}"
        if abs(float(value)) in CIRCLE:
            return ("-" if value < 0 else "") + CIRCLE[abs(float(value))]
        text, _, exponent = f"{float(value):.6g}".partition("e")
        if not exponent:
            return text
        power = f"10^{{{int(exponent)}}}"
        return f"{text[:-1]}{power}" if text in ("1", "-1") else rf"{text} \cdot {power}"

    def condition(self, expr: Expr) -> str:
        if len(expr.args) == 1:
            return rf"\lnot {_round(self.text(expr.args[0]))}"
        operator = self.OPERATORS[type(expr).__name__]
        left, right = (
            _round(self.text(arg)) if isinstance(arg, Comparison) else self.text(arg)
            for arg in expr.args
        )
        return f"{left} {operator} {right}"

    def opaque(self, expr: Expr) -> tuple[str, int]:
        name = type(expr).__name__
        special = getattr(self, f"_{name.lower()}", None)
        if special is not None:
            text, binding = special(*expr.args)
            return str(text), int(binding)
        if name.startswith("spike_"):
            return self.call(r"\Theta", expr.args[0]), ATOM
        return self.call(self.FUNCTIONS.get(name, _upright(name)), *expr.args), ATOM

    def call(self, function: str, *arguments: Expr) -> str:
        return function + _round(", ".join(map(self.text, arguments)))

    # --- functions with a notation of their own; found by name --------------------------------

    def _log1p(self, x: Expr) -> tuple[str, int]:
        return self.call(r"\log", 1 + x), ATOM

    def _expm1(self, x: Expr) -> tuple[str, int]:
        return f"{self.call(self.FUNCTIONS['exp'], x)} - 1", ADD

    def _exprel(self, x: Expr) -> tuple[str, int]:
        return self.visit(_over(*_exprel(x)))

    def _exprel_slope(self, x: Expr) -> tuple[str, int]:
        return self.call(f"{_upright('exprel')}'", x), ATOM

    def _logsigmoid(self, x: Expr) -> tuple[str, int]:
        return f"\\log{_round(self.call(self.FUNCTIONS['sigmoid'], x))}", ATOM

    def _sqrt(self, x: Expr) -> tuple[str, int]:
        return rf"\sqrt{{{self.text(x)}}}", ATOM

    def _rsqrt(self, x: Expr) -> tuple[str, int]:
        return rf"\frac{{1}}{{{self._sqrt(x)[0]}}}", MUL

    def _abs(self, x: Expr) -> tuple[str, int]:
        return rf"\left|{self.text(x)}\right|", ATOM

    def _floor(self, x: Expr) -> tuple[str, int]:
        return rf"\left\lfloor {self.text(x)} \right\rfloor", ATOM

    def _round(self, x: Expr) -> tuple[str, int]:
        return rf"\left\lfloor {self.text(x)} \right\rceil", ATOM

    def _exp2(self, x: Expr) -> tuple[str, int]:
        return self.raised(Integer(2), x)

    def _stop_gradient(self, x: Expr) -> tuple[str, int]:
        return self.visit(x)

    def _pivot(self, x: Expr) -> tuple[str, int]:
        return self.visit(x)

    def _remainder(self, a: Expr, b: Expr) -> tuple[str, int]:
        return rf"{self.bracket(a, MUL)} \bmod {self.bracket(b, UNARY)}", ADD

    def _floor_divide(self, a: Expr, b: Expr) -> tuple[str, int]:
        return self._floor(_over(a, b))

    def _finite_part(self, x: Expr) -> tuple[str, int]:
        return self.visit(x)

    def _forward_as(self, value: Expr, _: Expr) -> tuple[str, int]:
        return self.visit(value)

    def _relu(self, x: Expr) -> tuple[str, int]:
        return self.call(self.FUNCTIONS["maximum"], Integer(0), x), ATOM

    def _div(self, a: Expr, b: Expr) -> tuple[str, int]:
        return rf"\frac{{{self.text(a)}}}{{{self.text(b)}}}", MUL

    def _pow(self, base: Expr, exponent: Expr) -> tuple[str, int]:
        return self.raised(base, exponent)

    def _where(self, condition: Expr, yes: Expr, no: Expr) -> tuple[str, int]:
        cases = [rf"{self.text(yes)} & \text{{if }} {self.text(condition)}"]
        while type(no).__name__ == "where":
            condition, yes, no = no.args
            cases.append(rf"{self.text(yes)} & \text{{else if }} {self.text(condition)}")
        cases.append(rf"{self.text(no)} & \text{{otherwise}}")
        rows = r" \\ ".join(cases)
        return rf"\begin{{cases}} {rows} \end{{cases}}", ADD

    def _matvec(self, matrix: Expr, vector: Expr) -> tuple[str, int]:
        return rf"{self.text(matrix)}\,{self.bracket(vector, ATOM)}", MUL


def _plainer(product: Expr) -> Expr:
    """1 - exp(x) for -expm1(x), and quotients for rsqrt(x) and 1 / exprel(x)."""
    for factor in [product] if product.is_Pow else product.args:
        base, power = factor.as_base_exp()
        name = type(base).__name__
        if name == "rsqrt" and power == 1:
            product = product.xreplace({factor: _over(Integer(1), call("sqrt", *base.args))})
        if name == "exprel" and power == -1:
            above, below = _exprel(*base.args)
            product = product.xreplace({factor: _over(below, above)})
        if name == "expm1" and power == 1 and product.could_extract_minus_sign():
            product = (-product).xreplace({factor: 1 - call("exp", *base.args)})
    return product


def _exprel(x: Expr) -> tuple[Expr, Expr]:
    """Numerator and denominator of (exp(x) - 1) / x, without a minus sign below."""
    if x.could_extract_minus_sign():
        return 1 - call("exp", x), -x
    return call("exp", x) - 1, x


def _over(above: Expr, below: Expr) -> Expr:
    """A quotient that SymPy leaves unchanged, also 1/sqrt(x) and 0.1 x / 2."""
    return sympy.Mul(above, sympy.Pow(below, -1, evaluate=False), evaluate=False)


def _upright(text: str) -> str:
    return rf"\mathrm{{{text}}}".replace("_", r"\_")


def _round(text: str) -> str:
    tall = any(sign in text for sign in TALL)
    return rf"\left({text}\right)" if tall else f"({text})"
