"""Which calls of the kernel each step of the saga makes, on both models of LUO (docs/luo-models.md).

A test runs whole updates and unwindings on both models, and holds the table and the page to what they called.
`python -m node_agent.kernel.luo_calls` prints the table.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

CREATE, RETRIEVE = "CREATE_SESSION", "RETRIEVE_SESSION"
CLOSE = "close"
"""Of a session's descriptor."""
LOAD, UNLOAD, REBOOT = "kexec_file_load", "kexec_file_load(UNLOAD)", "reboot(KEXEC)"
BOOT = "the new boot is named"
"""The agent's own session is looked for, before the journal knows that it has crossed."""


@dataclass(frozen=True, slots=True)
class Step:
    """One state of an attempt: calls in the order in which each is first made."""

    state: str
    sessions: tuple[str, ...] = ()
    rfc2: tuple[str, ...] = ()
    note: str = ""
    """About RFC v2."""


STEPS: Sequence[Step] = (
    Step("LOADING", (LOAD,), (LOAD,), "preflight: LUO must be normal, KHO not finalized"),
    Step("DRAINING"),
    Step(
        "PRESERVING",
        (CREATE, "PRESERVE_FD"),
        ("FD_PRESERVE", "PREPARE"),
        "the kernel chooses the tokens; the journal's Preserved keeps them",
    ),
    Step("PRESERVED"),
    Step("SUSPENDING"),
    Step("JUMPING", (REBOOT,), (REBOOT,), "only where LUO is prepared or frozen: else a kexec loses all"),
    Step(BOOT, (RETRIEVE, "RETRIEVE_FD"), ("FD_RESTORE",), "by the journal's tokens"),
    Step("RETRIEVING", (RETRIEVE, "RETRIEVE_FD"), ("FD_RESTORE",), "each once in a boot"),
    Step("RESUMING"),
    Step("VERIFYING"),
    Step("FINISHING", ("SESSION_FINISH", CLOSE), ("FINISH",), "one for all, after the last session"),
    Step("BAKING"),
    Step(
        "UNWINDING",
        (CLOSE, UNLOAD),
        ("CANCEL", "FD_UNPRESERVE", UNLOAD),
        "CANCEL keeps the tokens valid: each is given up by itself",
    ),
)
"""An attempt that goes all the way, and one that does not."""


def table() -> str:
    """In Markdown."""
    rows = [(_state(step), _cell(step.sessions), _cell(step.rfc2), step.note) for step in STEPS]
    head = ("state", "sessions, as merged", "RFC v2", "on RFC v2")
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ("---",) * 4, *rows))


def _state(step: Step) -> str:
    return f"`{step.state}`" if step.state.isupper() else step.state


def _cell(calls: tuple[str, ...]) -> str:
    return ", ".join(calls) or "–"


if __name__ == "__main__":  # pragma: no cover
    sys.stdout.write(table())
