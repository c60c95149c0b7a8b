"""Label selectors: which nodes a rollout, a wave or a listing is about.

    selector    = requirement *( "," requirement )      comma: all must hold
    requirement = key "=" value | key "!=" value
                | key "in" "(" values ")" | key "notin" "(" values ")"
                | key                                    the node has the label
                | "!" key                                the node does not have it

Rules
1. `!=` and `notin` also match nodes without the label.
2. An empty selector matches every node.
3. A key or value that no node has is a mistake, not an empty answer: `unknown` says so. For
   `!=`, `notin` and `!` it is one only if a label much like it exists, because to leave out
   what is not there is legitimate.
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from orchestrator.errors import InvalidSpec, Violation


class Operator(enum.StrEnum):
    """How a requirement looks at a label."""

    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    ABSENT = "!"


NEGATIVE = frozenset({Operator.NOT_IN, Operator.ABSENT})


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels fulfils it."""
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values
            case Operator.NOT_IN:
                return labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.ABSENT:
                return self.key not in labels
            case _ as never:
                assert_never(never)


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels is selected."""
        return all(r.matches(labels) for r in self.requirements)


_TOKEN = re.compile(r"\s*(?:(?P<word>[A-Za-z0-9_][A-Za-z0-9_./-]*)|(?P<sign>!=|==|[=!,()])|(?P<bad>\S))")


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    column: int
    """1 is the first character."""
    word: bool


def parse(text: str, path: str = "selector") -> Selector:
    """Read a selector. path: where it stands, for the violation.

    Raises:
        InvalidSpec: with one violation that names the column.
    """
    return _Parser(text, path).selector()


class _Parser:
    def __init__(self, text: str, path: str) -> None:
        self._path = path
        self._end = len(text) + 1
        self._next = 0
        self._tokens: list[_Token] = []
        for found in _TOKEN.finditer(text):
            token = found["word"] or found["sign"] or found["bad"]
            column = found.end() - len(token) + 1
            if found["bad"]:
                self._fail(column, f"unexpected {token!r}")
            self._tokens.append(_Token(token, column, found["word"] is not None))

    def selector(self) -> Selector:
        if not self._tokens:
            return Selector()
        requirements = [self._requirement()]
        while self._peek() == ",":
            self._next += 1
            requirements.append(self._requirement())
        if self._next < len(self._tokens):
            token = self._tokens[self._next]
            self._fail(token.column, f"expected a comma before {token.text!r}")
        return Selector(tuple(requirements))

    def _requirement(self) -> Requirement:
        if self._peek() == "!":
            self._next += 1
            return Requirement(self._word("a label's name"), Operator.ABSENT)
        key = self._word("a label's name")
        match self._peek():
            case "=" | "==":
                self._next += 1
                return Requirement(key, Operator.IN, frozenset({self._word("a value")}))
            case "!=":
                self._next += 1
                return Requirement(key, Operator.NOT_IN, frozenset({self._word("a value")}))
            case "in" | "notin" as operator:
                self._next += 1
                return Requirement(key, Operator(operator), self._values())
            case _:
                return Requirement(key, Operator.EXISTS)

    def _values(self) -> frozenset[str]:
        self._sign("(")
        values = {self._word("a value")}
        while self._peek() == ",":
            self._next += 1
            values.add(self._word("a value"))
        self._sign(")")
        return frozenset(values)

    def _peek(self) -> str:
        return self._tokens[self._next].text if self._next < len(self._tokens) else ""

    def _word(self, what: str) -> str:
        if self._next >= len(self._tokens):
            self._fail(self._end, f"expected {what} at the end")
        token = self._tokens[self._next]
        if not token.word:
            self._fail(token.column, f"expected {what}, found {token.text!r}")
        self._next += 1
        return token.text

    def _sign(self, sign: str) -> None:
        if self._peek() != sign:
            column = self._tokens[self._next].column if self._next < len(self._tokens) else self._end
            self._fail(column, f"expected {sign!r}")
        self._next += 1

    def _fail(self, column: int, problem: str) -> None:
        raise InvalidSpec(
            [
                Violation(
                    self._path,
                    f"column {column}: {problem}",
                    "Write for instance pool=prod,zone in (a,b),tier!=db,gpu or !gpu.",
                )
            ]
        )


def unknown(selector: Selector, labels: Iterable[Mapping[str, str]], path: str) -> tuple[Violation, ...]:
    """Keys and values that no node has (rule 3)."""
    if not selector.requirements:
        return ()
    values: dict[str, set[str]] = {}
    for of_node in labels:
        for key, value in of_node.items():
            values.setdefault(key, set()).add(value)
    violations = []
    for requirement in selector.requirements:
        negative = requirement.operator in NEGATIVE
        key = requirement.key
        if key not in values:
            like = near(key, values)
            if like or not negative:
                remedy = _did_you_mean(like, sorted(values), "Labels that nodes have")
                violations.append(Violation(path, f"no node has a label {key}", remedy))
            continue
        for value in sorted(requirement.values - values[key]):
            like = near(value, values[key])
            if like or not negative:
                remedy = _did_you_mean(like, sorted(values[key]), f"Values of {key}")
                violations.append(Violation(path, f"no node has {key}={value}", remedy))
    return tuple(violations)


def near(word: str, candidates: Iterable[str], count: int = 3) -> tuple[str, ...]:
    """Candidates that a typing error would explain, best first."""
    return tuple(difflib.get_close_matches(word, sorted(candidates), n=count, cutoff=0.7))


_LISTED = 10


def _did_you_mean(like: Sequence[str], known: Sequence[str], what: str) -> str:
    if like:
        return f"Did you mean {' or '.join(like)}?"
    if not known:
        return f"{what}: none yet."
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"{what}: {', '.join(known[:_LISTED])}{more}."
