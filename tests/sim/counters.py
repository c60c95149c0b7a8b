"""What a search must reach for its silence to mean anything: every place, declared before it is counted.

The story counts names as they happen; here is the list of all names that ought to. What a run has not
reached, it says.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator

from node_agent.core.phases import SETTLED, Phase
from node_agent.core.recovery import RECOVERY, Verdict
from node_agent.core.saga import TABLE, Signal
from node_agent.kernel.emulated.rfc2.states import TRANSITIONS, LuoEvent, LuoState
from node_agent.runtime.runner_boot import MAY_HAVE_CROSSED
from tests.sim.ambush import BLOWS, COMMANDS, NODE_BLOWS, PHASES
from tests.sim.participants import CALLBACKS

_EVENTS: dict[Signal, tuple[str, ...]] = {
    Signal.NOTHING_CROSSED: ("StepFailed", "TimedOut"),
    Signal.RESUMED_SALVAGE: ("Resumed",),
    Signal.FINISHED_HEALTHY: ("Finished",),
    Signal.FINISHED_UNHEALTHY: ("Finished",),
    Signal.FINISHED_SPOILT: ("Finished",),
    Signal.RELAPSED_ROLLBACK: ("Relapsed",),
    Signal.UNWOUND_SPOILT: ("Unwound",),
}
"""What the journal calls a signal that is an event refined."""


def saga_rows() -> Iterator[str]:
    """Every row of the saga's table."""
    for phase, rows in TABLE.items():
        for signal, row in rows.items():
            for event in _EVENTS.get(signal, (signal.value,)):
                yield f"{phase} × {event} → {row.next}"


def boot_rows() -> Iterator[str]:
    """Every row of recovery's that classify() can give, and that is journalled: a restart within a boot
    that changes nothing is not."""
    for phase, rows in RECOVERY.items():
        for verdict, row in rows.items():
            ours = phase is Phase.JUMPING
            possible = {
                Verdict.SAME_BOOT: row.next is not phase,
                Verdict.COLD_BOOT: phase is not Phase.IDLE,
                Verdict.FOREIGN_KEXEC: phase in MAY_HAVE_CROSSED,
            }.get(verdict, ours)
            if possible:
                yield f"{phase} × {verdict} → {row.next}"


ROWS = tuple(dict.fromkeys((*saga_rows(), *boot_rows())))

FAULTS = (
    "LUO is frozen after reboot, luo-driven",
    "LUO is frozen after reboot, notifier",
    "LUO is normal after reboot, luo-driven",
    "LUO is normal after reboot, notifier",
    "LUO tidied by hand",
    "LUO used by hand: cancel",
    "LUO used by hand: finish",
    "LUO used by hand: prepare",
    "PREPARE refused: NOT_ENOUGH_MEMORY",
    "a commit waited while its planner was stopped beyond its lease",
    "agent crashed",
    "agent ended by itself",
    "agent stopped",
    "backup restored",
    "backup restored on the way back",
    "booted cold by hand",
    "clone",
    "clone with the same journal",
    "command duplicated",
    "commit in doubt",
    "dialled a replica that is stopped",
    "disk full",
    "disk tight",
    "fail-over to a stale copy",
    "foreign kexec",
    "freeze refused",
    "fsync failed",
    "hint lost",
    "hook failed",
    "incarnation begun",
    "journal bit flipped",
    "journal set aside",
    "lease lost with a PROCEED in flight",
    "luoctl prepare refused: ATTEMPT_UNDER_WAY",
    "link cut",
    "link moved between replicas in PRESERVED",
    "memory spoilt",
    "message of an older stream came later",
    "node relabelled",
    "node's clock set",
    "orchestrator crashed",
    "orchestrator crashed with an attempt open",
    "orchestrator stopped",
    "orchestrator's clock set",
    "partition",
    "partition of a replica from nodes",
    "partition of a replica from the store",
    "partition of a zone",
    "planner stopped beyond its lease",
    "planner stopped beyond its lease with a commit under way",
    "power lost",
    "record torn",
    "replica stopped",
    "sessions did not cross",
    "sick on the new kernel",
    "slow commit",
    "slow fsync",
    "slow hook",
    "spell of ill health",
    "stalled without a fair operator, and told who must do what",
    "staging failed",
    "stage refused: TARGET_MODEL_DIFFERS",
    "stale command delivered",
    "store EPOCH_FENCED",
    "store STORE_REPLACED",
    "store conflict",
    "store refused",
    "store unavailable",
    "store's clock set",
    "the store went back in time",
    "watch begun again",
    "watch resumed at another replica",
    "workload: hang_resume",
    "workload: hang_suspend",
    "workload: keep_session",
    "workload: refuse_ready",
)

IN_ATTEMPT = tuple(phase for phase in Phase if phase not in SETTLED)

ILLEGAL = (
    *(
        f"LUO refuses {event} in [{state}]"
        for state, event in itertools.product(LuoState, LuoEvent)
        if (state, event) not in TRANSITIONS
    ),
    *(f"LUO refuses FD_PRESERVE in [{state}]" for state in LuoState if state is not LuoState.NORMAL),
    *(f"LUO refuses FD_UNPRESERVE in [{state}]" for state in LuoState if state is not LuoState.NORMAL),
    *(f"LUO refuses FD_RESTORE in [{state}]" for state in LuoState if state is not LuoState.UPDATED),
    *(
        f"LUO refuses {what} through debugfs, luo-driven, in [{state}]"
        for what, state in itertools.product(("a finalize", "an abort"), LuoState)
    ),
    "LUO refuses a finalize through debugfs, notifier, in [prepared]",
    "LUO refuses a finalize through debugfs, notifier, in [frozen]",
    "LUO refuses a finalize through debugfs, notifier, in [updated]",
    "LUO refuses an abort through debugfs, notifier, in [normal]",
    "LUO refuses an abort through debugfs, notifier, in [updated]",
)
"""Every event, registration and finalize that the model has not in a state (chaos_hands.py)."""

DRIVEN = ("prepare", "freeze", "cancel", "finish", "finalize", "abort", "preserve", "unpreserve")

VERBS = ("state", "list", "preserve", "prepare", "freeze", "cancel", "finish", "kexec")

HANDS = (
    *ILLEGAL,
    *(f"LUO driven by hand: {deed}" for deed in DRIVEN),
    *(f"LUO driven by hand in {phase}" for phase in IN_ATTEMPT),
    *(f"callback refused: {call} of {who}" for who, call in CALLBACKS),
    *(f"luoctl {verb}" for verb in VERBS),
    "fleet of both models",
    "fleet of rfc-v2",
    "fleet of sessions",
    "boot of RFC v2, luo-driven",
    "boot of RFC v2, notifier",
    "kexec from luo-driven to notifier",
    "kexec from notifier to luo-driven",
    "cold boot",
)
"""What is done to LUO and KHO past the agent, and by whom they are refused."""

STORE_CALLS = ("acquire", "beat", "changes", "commit", "events", "first_seq", "load", "recall")
SENDS = ("ack", "command", "welcome")
PORT_CALLS = (
    "CANCEL",
    "FD_PRESERVE",
    "FD_RESTORE",
    "FD_UNPRESERVE",
    "FINISH",
    "PREPARE",
    "create_session",
    "drain",
    "finish",
    "finish session",
    "journal",
    "load",
    "loaded",
    "preserve",
    "preserve_fd",
    "release",
    "resume",
    "retrieve",
    "retrieve_fd",
    "retrieve_session",
    "set_default",
    "stage",
    "suspend",
    "undrain",
    "unload",
)

BLOCKERS = (
    "ATTEMPT_SILENT",
    "AWAITING_APPROVAL",
    "AWAITING_STAMP",
    "BAKING_STUCK",
    "BUDGET_BLACKOUT",
    "BUDGET_UNAVAILABLE",
    "BUDGET_UNCOMMITTED",
    "CANARY_FAILED",
    "CANARY_GATED",
    "CANARY_UNDER_WAY",
    "DOMAIN_CAP",
    "EMBARGO",
    "FLEET_BUDGET_BLACKOUT",
    "FLEET_BUDGET_UNAVAILABLE",
    "FLEET_STOPPED",
    "GATE_FAIL",
    "GATE_INCONCLUSIVE",
    "HALTED",
    "IN_BLACKOUT",
    "IN_PROGRESS",
    "LINK_UNKNOWN",
    "NEEDS_OPERATOR",
    "NODES_BAKING",
    "NODE_IN_MAINTENANCE",
    "NODE_NOT_READY",
    "NODE_UNCOMMITTED",
    "NODE_UNHEALTHY",
    "NODE_UNREACHABLE",
    "NO_ROLLBACK_ARTIFACT",
    "OTHER_ROLLOUT",
    "PAIR_WAITS",
    "PAUSED",
    "RETRY_WAITS",
    "STAGE_FAILED",
    "STAGING",
    "STAGING_WAITS",
    "SUPERSEDED",
    "WAVE_BAKING",
    "WINDOW",
)

REFUSALS = (
    "approve NOTHING_TO_APPROVE",
    "cancel ILLEGAL_TRANSITION",
    "commit NOT_UNCOMMITTED",
    "create INVALID_SPEC",
    "exclude CANNOT_EXCLUDE",
    "maintenance ATTEMPT_OPEN",
    "pause ILLEGAL_TRANSITION",
    "resume ILLEGAL_TRANSITION",
    "retry NOT_FAILED",
    "rollback NOTHING_TO_ROLL_BACK",
    "rollback ROLLBACK_NONE",
    "write off NODE_NOT_LOST",
)

LINK_ENDS = (
    "CUT_OFF",
    "LINK_REPLACED",
    "LINK_SILENT",
    "NODE_ID_CONFLICT",
    "NOT_SERVING",
    "RELOADING",
    "SHUTTING_DOWN",
    "STORE_REGRESSED",
)

ENDS = ("SUCCEEDED", "FAILED", "CANCELLED", "ROLLED_BACK")

_CHANCE = tuple(
    f"{blow} at {moment}"
    for blow, moment in itertools.product(sorted({*NODE_BLOWS, *BLOWS}), (*PHASES, *COMMANDS))
)
"""Every blow at every moment at which it can be struck."""

DECLARED: tuple[str, ...] = (
    *FAULTS,
    *HANDS,
    *(f"saga {row}" for row in ROWS),
    *(f"agent crashed at {row}" for row in ROWS),
    *(f"agent crashed at {call}" for call in PORT_CALLS),
    *(f"agent crashed at {call} done" for call in PORT_CALLS),
    *(f"orchestrator crashed before {call}" for call in STORE_CALLS),
    *(f"orchestrator crashed after {call}" for call in STORE_CALLS if call != "first_seq"),
    *(f"orchestrator crashed before it sends {what}" for what in SENDS),
    *(f"orchestrator crashed after it sends {what}" for what in SENDS),
    *(f"blocker {reason}" for reason in BLOCKERS),
    *(f"refused {refusal}" for refusal in REFUSALS),
    *(f"link ended: {reason}" for reason in LINK_ENDS),
    *(f"rollout {end}" for end in ENDS),
    *_CHANCE,
)


OFTEN_SHARE = 0.05
OFTEN = (*HANDS, "PREPARE refused: NOT_ENOUGH_MEMORY", "foreign kexec")
"""Of them, what is drawn so that at least this share of the seeds reaches each."""


def unreached(seen: Container[str]) -> list[str]:
    """Of the declared places."""
    return [name for name in DECLARED if name not in seen]
