"""Prints docs/state-machines.md from the tables: `python -m node_agent.core.diagram`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from node_agent.core.admission import ADMITS
from node_agent.core.phases import SETTLED, Phase, Verdict
from node_agent.core.recovery import RECOVERY, Row
from node_agent.core.saga import TABLE
from node_agent.core.steps import STEPS, UNDO, Effect

INTRODUCTION = """\
# The node's state machine

Generated from `node_agent/core/saga.py`, `recovery.py`, `steps.py` and `admission.py` by
`python -m node_agent.core.diagram > docs/state-machines.md`; a test compares. The rules and the
reasons stand at the head of those files.
"""


def document() -> str:
    """The whole page."""
    parts = (
        INTRODUCTION,
        "## An attempt\n",
        mermaid(),
        "## State × event\n\nWhat is not listed is illegal and raises with the story.\n",
        transitions(),
        "## State × boot verdict\n\nTotal: a verdict is legal in every state.\n",
        recovery(),
        "## Effects\n",
        effects(),
        "## What a settled state admits\n\nAn operator's word admits any attempt.\n",
        admission(),
    )
    return "\n".join(parts)


def mermaid() -> str:
    """A Mermaid state diagram of the events, without boot verdicts other than the good one."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> LOADING: PREPARE"]
    for phase, rows in TABLE.items():
        by_next: dict[Phase, list[str]] = {}
        for signal, row in rows.items():
            by_next.setdefault(row.next, []).append(signal.value)
        lines += [f"    {phase} --> {after}: {', '.join(names)}" for after, names in by_next.items()]
    jump = RECOVERY[Phase.JUMPING]
    lines += [f"    JUMPING --> {jump[verdict].next}: {verdict}" for verdict in Verdict]
    lines += [f"    {phase} --> [*]" for phase in Phase if phase in SETTLED and phase is not Phase.IDLE]
    return "\n".join([*lines, "```", ""])


def transitions() -> str:
    """State × event → next state and effect."""
    rows = (
        (phase.value, signal.value, row.next.value, _effect(row))
        for phase, known in TABLE.items()
        for signal, row in known.items()
    )
    return _table(("state", "event", "next", "effect"), rows)


def recovery() -> str:
    """State × verdict → next state and effect."""
    rows = (
        (phase.value, *(_cell(known[verdict]) for verdict in Verdict)) for phase, known in RECOVERY.items()
    )
    return _table(("state", *(verdict.value for verdict in Verdict)), rows)


def effects() -> str:
    """Effect, bound, whether it may be cut short, and the undo of the state that begins it."""
    begun_by = {row.effect: row.next for rows in TABLE.values() for row in rows.values() if row.effect}
    begun_by[Effect.LOAD] = Phase.LOADING
    rows = (
        (
            effect.value,
            f"`{step.timeout}`" if step.timeout else "its own",
            "yes" if step.cancellable else "no",
            UNDO[begun_by[effect]].value if begun_by.get(effect) in UNDO else "",
        )
        for effect, step in STEPS.items()
    )
    return _table(("effect", "bound", "may be cut short", "undone by"), rows)


def admission() -> str:
    """Settled state → kinds of attempt."""
    rows = ((phase.value, ", ".join(sorted(kinds)) or "none") for phase, kinds in ADMITS.items())
    return _table(("state", "admits"), rows)


def _effect(row: Row) -> str:
    return row.effect.value if row.effect is not None else ""


def _cell(row: Row) -> str:
    effect = f" ({row.effect})" if row.effect is not None else ""
    return f"{row.next}{effect}{', salvage' if row.salvage else ''}"


def _table(head: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":  # pragma: no cover
    sys.stdout.write(document())
