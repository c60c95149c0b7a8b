"""What is wrong with a specification by itself: every violation at once, and warnings.

Rules
1. A violation is something that cannot work, or that nobody can have meant; a warning is
   something that works otherwise than it looks.
2. Each names its path, the problem and the remedy. Paths are those of the rollout file.
3. What depends on the fleet (unknown labels and nodes, empty selection) is resolve.py's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.core import selectors
from orchestrator.core.phases import Method
from orchestrator.core.spec import Amount, BlackoutGate, Gate, RolloutSpec
from orchestrator.core.validate_limits import durations, retries, schedule
from orchestrator.errors import InvalidSpec, Violation

NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
MAX_NAME = 63
"""A DNS label's length: names end up in URLs, labels and file names."""
_NAME_REMEDY = (
    f"Use lower-case letters, digits, dots and hyphens, at most {MAX_NAME}, for instance kernel-6.19.4."
)
HALT_ON = frozenset({"lost", "state_lost", "cold_booted", "wrong_kernel", "quarantined"})
RESERVED_WAVES = frozenset({"canary", "stragglers"})
MAX_CMDLINE_WORD = 1024
_WORD = re.compile(r'[!-~]+(?:"[ -~]*")?[!-~]*')


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong, and what is odd."""

    violations: tuple[Violation, ...] = ()
    warnings: tuple[str, ...] = ()


def check(spec: RolloutSpec) -> Findings:
    """Look at everything that can be judged without the fleet."""
    violations = [
        *_names(spec),
        *_target(spec),
        *_selection(spec),
        *_waves(spec),
        *_budgets(spec),
        *_gates(spec),
        *durations(spec),
        *retries(spec),
        *schedule(spec),
    ]
    if spec.method is Method.DRAIN_REBOOT:
        violations.append(
            Violation("method", "drain_reboot is not offered by any agent yet", "Use method: live.")
        )
    return Findings(tuple(violations), tuple(_warnings(spec)))


def _names(spec: RolloutSpec) -> Iterator[Violation]:
    if not NAME.fullmatch(spec.name) or len(spec.name) > MAX_NAME:
        yield Violation(
            "name",
            f"{spec.name!r} is not a name" if spec.name else "it is missing",
            _NAME_REMEDY,
        )


def _target(spec: RolloutSpec) -> Iterator[Violation]:
    target = spec.target
    if not target.artifact.strip():
        yield Violation(
            "target.artifact", "it is missing", "Name an artifact; `liveroll artifact build` makes one."
        )
    rules = {"remove": target.command_line_remove, "append": target.command_line_append}
    for name, words in rules.items():
        for i, word in enumerate(words):
            path = f"target.command_line.{name}[{i}]"
            if not _WORD.fullmatch(word) or len(word) > MAX_CMDLINE_WORD:
                yield Violation(path, f"{word!r} is not one word", "Give each word by itself.")
            elif name == "remove" and word.partition("=")[0] in _OWN_KEYS:
                yield Violation(path, f"{word} is needed for a live update", "Leave it out of the list.")
            elif name == "append" and word.partition("=")[0] in _OWN_KEYS:
                yield Violation(path, f"{word} is set by the system", "Leave it out of the list.")
            elif name == "append" and word.endswith("="):
                yield Violation(path, f"{word} has no value", f"Write for instance {word}value.")


_OWN_KEYS = frozenset({"kho", "liveupdate", "liveroll.attempt"})


def _selection(spec: RolloutSpec) -> Iterator[Violation]:
    yield from _syntax(spec.selection.selector, "selection.selector")
    lists = {
        "selection.nodes": spec.selection.nodes,
        "selection.exclude": spec.selection.exclude,
        "canary.nodes": spec.canary.nodes,
    }
    for path, nodes in lists.items():
        for node, times in Counter(nodes).items():
            if times > 1:
                yield Violation(path, f"{node} stands there {times} times", "Name each node once.")
            if not node:
                yield Violation(path, "a name is empty", "Remove it.")
    for node in sorted(set(spec.selection.nodes) & set(spec.selection.exclude)):
        yield Violation("selection.exclude", f"{node} is selected and excluded", "Decide for one of them.")
    for node in sorted(set(spec.canary.nodes) & set(spec.selection.exclude)):
        yield Violation("canary.nodes", f"{node} is excluded", "Name another canary.")
    if spec.canary.max_nodes < 1:
        yield Violation(
            "canary.max_nodes",
            f"{spec.canary.max_nodes} is less than 1",
            "Allow at least one: nothing is updated before a canary has passed.",
        )
    elif len(spec.canary.nodes) > spec.canary.max_nodes:
        yield Violation(
            "canary.nodes",
            f"{len(spec.canary.nodes)} nodes are named, max_nodes is {spec.canary.max_nodes}",
            "Raise canary.max_nodes or name fewer.",
        )


def _syntax(selector: str, path: str) -> tuple[Violation, ...]:
    try:
        selectors.parse(selector, path)
    except InvalidSpec as error:
        return error.violations
    return ()


def _waves(spec: RolloutSpec) -> Iterator[Violation]:
    if not spec.waves:
        yield Violation("waves", "there is none", "Add one, for instance {name: all}.")
    percent = 0.0
    for i, wave in enumerate(spec.waves):
        path = f"waves[{i}]"
        if not NAME.fullmatch(wave.name) or len(wave.name) > MAX_NAME:
            yield Violation(
                f"{path}.name", f"{wave.name!r} is not a name", "Use lower-case letters and digits."
            )
        elif wave.name in RESERVED_WAVES:
            yield Violation(f"{path}.name", f"{wave.name} is the system's own wave", "Choose another name.")
        elif wave.name in [w.name for w in spec.waves[:i]]:
            yield Violation(f"{path}.name", f"{wave.name} is taken", "Give each wave a name of its own.")
        yield from _syntax(wave.selector, f"{path}.selector")
        if wave.size is None:
            if not wave.selector and i + 1 < len(spec.waves):
                yield Violation(
                    f"{path}.size",
                    "it takes all that is left, so the waves after it are empty",
                    "Give it a size or a selector, or make it the last one.",
                )
            continue
        yield from _amount(wave.size, f"{path}.size", least=1)
        percent += wave.size.percent or 0.0
    if percent > 100:
        yield Violation(
            "waves",
            f"their sizes add up to {percent:g} %",
            "Sizes are shares of all members, not of what is left; make them add up to at most 100 %.",
        )


def _amount(amount: Amount, path: str, *, least: int) -> Iterator[Violation]:
    if (amount.count is None) == (amount.percent is None):
        yield Violation(path, "it must be a count or a percentage", "Write for instance 3 or 5%.")
    elif amount.count is not None and amount.count < least:
        yield Violation(path, f"{amount.count} is less than {least}", f"Give at least {least}.")
    elif amount.percent is not None and not 0 < amount.percent <= 100:
        yield Violation(
            path, f"{amount.percent:g} % is not between 0 and 100", "Give more than 0 and at most 100 %."
        )


def _budgets(spec: RolloutSpec) -> Iterator[Violation]:
    budgets = spec.budgets
    yield from _amount(budgets.max_unavailable, "budgets.max_unavailable", least=1)
    yield from _amount(budgets.max_in_blackout, "budgets.max_in_blackout", least=1)
    yield from _amount(budgets.max_uncommitted, "budgets.max_uncommitted", least=1)
    if budgets.domain is not None:
        if not budgets.domain.key:
            yield Violation("budgets.domain.key", "it is missing", "Name a label, for instance zone.")
        yield from _amount(budgets.domain.max_unavailable, "budgets.domain.max_unavailable", least=1)
    yield from _amount(budgets.failures.max, "budgets.failures.max", least=0)
    for word in sorted(budgets.failures.halt_on - HALT_ON):
        like = selectors.near(word, HALT_ON)
        remedy = f"Did you mean {like[0]}?" if like else f"Use some of {', '.join(sorted(HALT_ON))}."
        yield Violation("budgets.failures.halt_on", f"{word!r} is no kind of failure", remedy)
    yield from _amount(spec.rollback.max_unavailable, "rollback.max_unavailable", least=1)
    yield from _amount(spec.rollback.max_in_blackout, "rollback.max_in_blackout", least=1)
    if spec.rollback.none and any(g.on_fail.value == "ROLL_BACK" for g in spec.gates):
        yield Violation(
            "rollback.none",
            "a gate asks for a rollback, which rollback.none rules out",
            "Let that gate halt or hold, or give up rollback.none.",
        )
    unavailable = budgets.max_unavailable
    domain = budgets.domain.max_unavailable if budgets.domain is not None else None
    if domain is not None and _larger(domain, unavailable):
        yield Violation(
            "budgets.domain.max_unavailable",
            f"a domain may lose {_text(domain)}, the whole rollout only {_text(unavailable)}",
            "Make the domain's cap smaller, or drop it.",
        )


def _larger(a: Amount, b: Amount) -> bool:
    """Whether a is larger than b whatever the number of members; only like can be compared."""
    if a.count is not None and b.count is not None:
        return a.count > b.count
    return False


def _text(amount: Amount) -> str:
    return f"{amount.count}" if amount.count is not None else f"{amount.percent:g} %"


def _gates(spec: RolloutSpec) -> Iterator[Violation]:
    for i, gate in enumerate(spec.gates):
        yield from _gate(gate, f"gates[{i}]")
    for kind, times in Counter(type(g).__name__ for g in spec.gates).items():
        if times > 1 and kind == "HealthGate":
            yield Violation("gates", f"there are {times} health gates", "Keep one of them.")


def _gate(gate: Gate, path: str) -> Iterator[Violation]:
    if not isinstance(gate, BlackoutGate):
        if not 0 < gate.min_healthy_percent <= 100:
            yield Violation(
                f"{path}.health.min_healthy_percent",
                f"{gate.min_healthy_percent:g} is not between 0 and 100",
                "Give more than 0 and at most 100.",
            )
        return
    if not 0 < gate.quantile <= 1:
        yield Violation(
            f"{path}.blackout.quantile",
            f"{gate.quantile:g} is not between 0 and 1",
            "Write for instance 0.99 for p99.",
        )
    if gate.max.total_seconds() <= 0:
        yield Violation(f"{path}.blackout.max", "it is not above zero", "Write for instance 500ms.")
    if gate.hard_max is not None and gate.hard_max < gate.max:
        yield Violation(
            f"{path}.blackout.hard_max",
            "it is smaller than max, so max could never matter",
            "Make hard_max at least max, or leave it out.",
        )
    if gate.min_samples < 1:
        yield Violation(
            f"{path}.blackout.min_samples",
            f"{gate.min_samples} is less than 1",
            "Ask for at least one sample: without any nothing is proven.",
        )


def _warnings(spec: RolloutSpec) -> Iterator[str]:
    budgets = spec.budgets
    if _larger(budgets.max_in_blackout, budgets.max_unavailable):
        yield (
            f"budgets: max_in_blackout ({_text(budgets.max_in_blackout)}) never matters, because a node in "
            f"blackout is unavailable and max_unavailable is {_text(budgets.max_unavailable)}"
        )
    if spec.rollback.none:
        yield "rollback.none: no node can be rolled back, whatever the canary shows"
    if not spec.gates:
        yield "gates: there is none, so waves are judged by failures alone"
    if not spec.bake.wave and not spec.bake.node:
        yield "bake: nothing is watched between waves"
    if "lost" not in budgets.failures.halt_on or "state_lost" not in budgets.failures.halt_on:
        yield "budgets.failures.halt_on: losing a node or its memory does not halt the rollout at once"
    least = max((g.min_samples for g in spec.gates if isinstance(g, BlackoutGate)), default=0)
    if least > spec.canary.max_nodes:
        yield (
            f"gates: the canary wave has at most {spec.canary.max_nodes} nodes; unless they have several "
            f"workloads each, it cannot reach min_samples {least} and will be held as INCONCLUSIVE"
        )
