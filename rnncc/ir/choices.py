"""Choices: the solver options of a call, checked, and written as text for the operators.

A new option is one field of `Choices` and a line in its docstring; calls, layers and the text
follow. Its effect is one more edit: in `plan` or, for kernels to read, in ir/abi.py.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from typing import Any, TypeVar

from rnncc.errors import ArgumentError
from rnncc.ir.abi import Solver

SOLVERS = ("auto", *(solver.name.lower() for solver in Solver))
MOST = 2**31  # of any number of steps or iterations
ON_FAILURE = ("raise", "warn", "sequential")


@dataclass(frozen=True)
class _Rule:
    """The values that an option takes.

    Attributes:
        kind: turns its text into its value.
        fits: whether a value is one; `expected` and `fix` say so in words.
        solvers: those that use it; with any other it is an error.
    """

    kind: Callable[[str], Any]
    fits: Callable[[Any], bool]
    expected: str
    fix: str
    solvers: tuple[str, ...] = SOLVERS


def _option(default: Any, rule: _Rule) -> Any:
    return field(default=default, metadata={"rule": rule})


def _one_of(values: tuple[str, ...], fix: str, solvers: tuple[str, ...] = SOLVERS) -> _Rule:
    return _Rule(str, lambda value: value in values, f"one of {', '.join(values)}", fix, solvers)


def _count(fix: str, *solvers: str) -> _Rule:
    def fits(value: Any) -> bool:
        return type(value) is int and 1 <= value <= MOST

    return _Rule(int, fits, f"an int from 1 to {MOST}", fix, solvers or SOLVERS)


def _share(fix: str, *solvers: str) -> _Rule:
    def fits(value: Any) -> bool:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and 0 <= value <= 1

    return _Rule(float, fits, "a number from 0 to 1", fix, solvers)


def _switch(fix: str) -> _Rule:
    return _Rule(bool, lambda value: isinstance(value, bool), "True or False", fix)


@dataclass(frozen=True)
class Choices:
    """The options of a call; None leaves the choice to the planner.

    Attributes:
        solver: "auto", "sequential" (one fused pass over time), "segmented" (segments of time side
            by side, Newton on their initial states; the sequential answer) or "newton" (every step
            at once, as in DEER and ParaRNN, for comparison).
        segment: steps of a segment, for "segmented".
        iterations: Newton iterations at most. For "segmented" it is when one pass over time takes
            over, for "newton" when it has failed (3 by default).
        tol: how well neighbours must agree, relative to the state's own size, of "newton" to
            max(1, |state|) and to the state's largest size in the sequence.
        on_failure: what "newton" does when it has not converged: "raise" a ConvergenceError,
            "warn", or rerun the call by "sequential".
        checkpoint: steps between the states that are saved for the backward, which recomputes the
            others.
        reverse: from the last step to the first.
    """

    solver: str = _option("auto", _one_of(SOLVERS, "solver='auto'"))
    segment: int | None = _option(None, _count("segment=16", "segmented"))
    iterations: int | None = _option(None, _count("iterations=16", "segmented", "newton"))
    tol: float | None = _option(None, _share("tol=1e-6", "segmented", "newton"))
    on_failure: str | None = _option(
        None, _one_of(ON_FAILURE, "on_failure='raise'", solvers=("newton",))
    )
    checkpoint: int | None = _option(None, _count("checkpoint=16"))
    reverse: bool = _option(False, _switch("reverse=True"))

    @classmethod
    def of(cls, given: Mapping[str, Any], options: Sequence[str]) -> Choices:
        """Those of a call.

        Args:
            options: all that the caller takes, these and its own.
        Raises:
            ArgumentError: an unknown option, or a value that it can't have.
        """
        if not given:
            return AUTO
        for name in sorted(name for name in given if name not in RULES):
            close = difflib.get_close_matches(name, options, 1, cutoff=0.7)
            raise ArgumentError(
                f"{name}: no option has this name, expected one of {', '.join(options)}.\n"
                f"Fix: {f'{close[0]}=...' if close else 'leave it out'}"
            )
        return cls(**given)

    def __post_init__(self) -> None:
        given = [(name, rule, getattr(self, name)) for name, rule in RULES.items()]
        for name, rule, value in given:
            unset = value is None and name not in ALWAYS_SET
            if not unset and self.solver in SOLVERS and self.solver not in rule.solvers:
                raise ArgumentError(
                    f"{name}: got {value!r}, but the solver '{self.solver}' does not "
                    f"use it.\nFix: leave it out, or solver='{rule.solvers[0]}'"
                )
            if not unset and not rule.fits(value):
                raise ArgumentError(
                    f"{name}: got {value!r}, expected {rule.expected}.\nFix: {rule.fix}"
                )

    @cached_property
    def text(self) -> str:
        """For an operator's argument; under torch.compile `write_choices` gives it."""
        return write_choices(self)

    @staticmethod
    def read(text: str) -> Choices:
        """From the text of `write_choices`."""
        return read_choices(text)


RULES: dict[str, _Rule] = {f.name: f.metadata["rule"] for f in fields(Choices)}
ALWAYS_SET = {f.name for f in fields(Choices) if f.default is not None}
# The kind of each option. torch.compile traces the writing, so it is plain.
KINDS = {name: rule.kind for name, rule in RULES.items()}
AUTO = Choices()


def write_choices(choices: Choices) -> str:
    """For an operator's argument."""
    given = [(name, getattr(choices, name)) for name in KINDS]
    chosen = [(name, value) for name, value in given if value is not None and value is not False]
    # `kind(value)`: under torch.compile a number may be symbolic, and this asks for its value
    return " ".join([f"{name}={KINDS[name](value)}" for name, value in chosen])


@cache
def read_choices(text: str) -> Choices:
    """From the text of `write_choices`.

    Raises:
        ArgumentError: it is another text.
    """
    parts = [part.partition("=") for part in text.split()]
    try:
        found = {name: KINDS[name](value) for name, _, value in parts}
    except (KeyError, ValueError):
        raise ArgumentError(
            f"choices: got {text!r}, expected options as 'solver=newton tol=1e-06'.\n"
            "Fix: '' for none"
        ) from None
    return Choices(**found)


def options_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names that a function takes only by keyword, in order."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


F = TypeVar("F", bound=Callable[..., Any])


def takes_choices(function: F) -> F:
    """Shows the options in the signature of a function that takes them as `**choices`."""
    only = inspect.Parameter.KEYWORD_ONLY
    return show_instead_of_rest(
        function,
        [
            inspect.Parameter(f.name, only, default=f.default, annotation=f.type)
            for f in fields(Choices)
        ],
    )


def show_instead_of_rest(function: F, parameters: Iterable[inspect.Parameter]) -> F:
    """Put parameters into the signature of a function in the place of its `**rest`."""
    signature = inspect.signature(function)
    *own, rest = signature.parameters.values()
    assert rest.kind is rest.VAR_KEYWORD
    known = {parameter.name for parameter in own}
    others = [parameter for parameter in parameters if parameter.name not in known]
    changed = signature.replace(parameters=[*own, *others])
    function.__signature__ = changed  # type: ignore[attr-defined]
    return function
