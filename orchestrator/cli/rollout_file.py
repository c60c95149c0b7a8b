"""Reading a rollout file: every violation at once, each with its line.

Three looks, so that one round mends a file: its shape (rollout_schema), then what is left of it
without the misshapen parts by the rules that need no fleet (core/validate), the same that the
orchestrator applies. What only the orchestrator can find is mapped back by `located`.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liveroll.v1 import rollout_pb2
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.cli.failure import Exit, Failed, Violation
from orchestrator.cli.rollout_schema import RolloutFile
from orchestrator.cli.rollout_text import MAX_BYTES, Document
from orchestrator.wire.spec_in import examine

NOTHING = "nothing was created"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file that is valid as far as it can be told without the fleet."""

    spec: rollout_pb2.RolloutSpec
    document: Document

    def located(self, failed: Failed) -> Failed:
        """The orchestrator's violations with the file's lines."""
        return dataclasses.replace(
            failed,
            nothing=NOTHING,
            violations=_sorted(
                dataclasses.replace(v, file=self.document.file, line=self.document.line_of(v.path))
                for v in failed.violations
            ),
        )


def load(path: Path) -> Loaded:
    """Raises Failed (INVALID) with every violation."""
    return loads(_text(path), str(path))


def loads(text: str, file: str) -> Loaded:
    """As load, of text. file: what to call it."""
    document = Document(text, file)
    violations = list(document.violations)
    if not violations and not isinstance(document.data, dict):
        violations.append(
            Violation("", "it is not a mapping", "Begin with name: and target:.", document.file, 1)
        )
    if violations and (not document.data or not isinstance(document.data, dict)):
        raise _failed(violations)
    shape, model = _shape(document)
    violations += shape
    spec = model.proto() if model is not None else None
    if spec is not None:
        bad = {v.path for v in violations}
        violations += [v for v in _meaning(spec, document) if not _about(v.path, bad)]
    if violations or spec is None:
        raise _failed(violations)
    return Loaded(spec, document)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Failed(Exit.INVALID, f"{path} is larger than {MAX_BYTES >> 20} MiB", nothing=NOTHING)
        return path.read_text("utf-8")
    except OSError as error:
        raise Failed(
            Exit.INVALID,
            f"cannot read {path}: {error.strerror}",
            remedy="Give a rollout file; `liveroll example` prints one.",
            nothing=NOTHING,
        ) from error
    except UnicodeDecodeError as error:
        raise Failed(
            Exit.INVALID, f"{path} is not text in UTF-8", remedy="Save it as UTF-8.", nothing=NOTHING
        ) from error


def _failed(violations: Iterable[Violation]) -> Failed:
    return Failed(
        Exit.INVALID,
        "the rollout file is invalid",
        "INVALID_SPEC",
        violations=_sorted(violations),
        nothing=NOTHING,
    )


def _sorted(violations: Iterable[Violation]) -> Sequence[Violation]:
    return sorted(violations, key=lambda v: (v.line, v.path))


def _shape(document: Document) -> tuple[list[Violation], RolloutFile | None]:
    """Violations of the shape, and the model of what remains without them (None: nothing useful)."""
    data = copy.deepcopy(document.data)
    violations: list[Violation] = []
    for _ in range(8):  # each round takes what is misshapen out; a parent may miss it then
        try:
            return violations, RolloutFile.model_validate(data)
        except ValidationError as error:
            for one in error.errors(include_url=False):
                where = _clean(one["loc"])
                violation = _violation(one, where, document)
                if not _about(violation.path, {v.path for v in violations}):
                    violations.append(violation)
                _take_out(data, where, missing=one["type"] == "missing")
    return violations, None


def _clean(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """pydantic's place without what it adds for keys of mappings."""
    return tuple(part for part in loc if part != "[key]")


def _path(where: Iterable[int | str]) -> str:
    path = ""
    for part in where:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


_PROBLEMS = {
    "missing": ("it is missing", "Add it."),
    "int_parsing": ("{input} is not a whole number", "Write for instance 3."),
    "int_from_float": ("{input} is not a whole number", "Write for instance 3."),
    "float_parsing": ("{input} is not a number", "Write for instance 0.99."),
    "bool_parsing": ("{input} is neither true nor false", "Write true or false."),
    "string_type": ("it is not a single value", "Write one value after the colon."),
    "list_type": ("it is not a list", "Write its items below it, each after a dash."),
    "dict_type": ("it is not a mapping", "Write its fields below it, indented."),
    "model_type": ("it is not a mapping", "Write its fields below it, indented."),
    "model_attributes_type": ("it is not a mapping", "Write its fields below it, indented."),
    "greater_than_equal": ("{input} is less than {ge}", "Write {ge} or more."),
    "less_than_equal": ("{input} is more than {le}", "Write {le} or less."),
    "literal_error": ("it is unknown", "Use {expected}."),
}


def _violation(error: ErrorDetails, where: tuple[int | str, ...], document: Document) -> Violation:
    path = _path(where)
    context: dict[str, Any] = {**error.get("ctx", {}), "input": repr(error["input"])[:60]}
    line = document.line_of(path)
    if error["type"] == "friendly":
        problem, remedy = context.get("problem", error["msg"]), context["remedy"]
    elif error["type"] == "extra_forbidden":
        problem, remedy = "there is no such field", _known(where)
    else:
        problem, remedy = _PROBLEMS.get(error["type"], (error["msg"], ""))
        problem, remedy = problem.format(**context), remedy.format(**context)
    return Violation(path, problem, remedy, document.file, line)


def _known(where: tuple[int | str, ...]) -> str:
    """What may stand where an unknown field stands, the likeliest first."""
    fields = sorted(_fields_at(where[:-1]))
    close = difflib.get_close_matches(str(where[-1]), fields, 1)
    if close:
        return f"Did you mean {close[0]}?"
    return f"Known here: {', '.join(fields)}."


def _fields_at(where: tuple[int | str, ...]) -> Iterable[str]:
    model: type[BaseModel] = RolloutFile
    for part in where:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return model.model_fields


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None


def _take_out(data: Any, where: tuple[int | str, ...], *, missing: bool) -> None:
    """Take what is misshapen out, or put a stand-in where something is missing, so that the rest
    can be judged. Nothing is said about stand-ins (_about)."""
    holder = data
    for part in where[:-1]:
        try:
            holder = holder[part]
        except (KeyError, IndexError, TypeError):
            return
    last = where[-1]
    parent = next((str(part) for part in reversed(where[:-1]) if isinstance(part, str)), "")
    if isinstance(holder, list) and isinstance(last, int):
        holder[last] = _ITEMS.get(parent, "unnamed")  # others keep their places
    elif isinstance(holder, dict):
        holder.pop(last, None)
        if missing or (parent, last) in _NEUTRAL:
            holder[last] = _LEAVES.get((parent, str(last))) or _LEAVES.get(("", str(last)), "unnamed")


_ITEMS: dict[str, Any] = {
    "waves": {"name": "unnamed"},
    "gates": {"health": {"min_healthy_percent": "50%"}},
    "windows": {"start": "00:00", "end": "00:00"},
    "embargoes": {"start": "2000-01-01T00:00:00Z", "end": "2000-01-02T00:00:00Z"},
    "days": "mon",
}
_NEUTRAL = frozenset(
    {("budgets", "max_unavailable"), ("budgets", "max_in_blackout"), ("domain", "max_unavailable")}
)
"""Compared with others: the default in their place would look like a contradiction."""
_LEAVES: dict[tuple[str, str], Any] = {
    ("", "target"): {"artifact": "unnamed"},
    ("budgets", "max_unavailable"): "100%",
    ("budgets", "max_in_blackout"): "100%",
    ("domain", "max_unavailable"): "1",
    ("", "quantile"): "0.5",
    ("", "max"): "1s",
    ("", "min_healthy_percent"): "50%",
    ("", "attempts"): "1",
    ("windows", "start"): "00:00",
    ("windows", "end"): "00:00",
    ("embargoes", "start"): "2000-01-01T00:00:00Z",
    ("embargoes", "end"): "2000-01-02T00:00:00Z",
}


def _meaning(spec: rollout_pb2.RolloutSpec, document: Document) -> list[Violation]:
    return [
        Violation(v.path, v.problem, v.remedy, document.file, document.line_of(v.path)) for v in examine(spec)
    ]


def _about(path: str, bad: set[str]) -> bool:
    """Whether the path lies at, above or below one that is known to be bad."""
    return any(
        path == b or path.startswith((f"{b}.", f"{b}[")) or b.startswith((f"{path}.", f"{path}["))
        for b in bad
    )
