"""Which boot is this, and what does the attempt do about it.

Rules
1. Nothing is classified by a process that does not hold the journal's lock.
2. No single signal proves a boot; `classify` weighs session and token, the attempt's id on
   the kernel command line, the journal's JumpIntent and the boot_id together.
3. A JumpIntent is never guessed: without one, a session that crossed is somebody else's kexec.
4. A verdict is legal in every state, settled ones included: RECOVERY is total.
5. Memory that crossed is brought back even where the attempt can only end in QUARANTINED
   (`salvage`): retrieve, resume, finish, then stand still.
6. STATE_LOST is looked into before it is believed: an agent that crashed between retrieving its own
   session and journalling the verdict has lost that session, not the workloads'. Where nothing of
   theirs can be retrieved either, the node is COLD_BOOTED (saga: "nothing crossed").
7. A kexec by hand (luoctl) is FOREIGN_KEXEC, too: no attempt led to this boot. `came_by_hand` says whether it
   was one, from what was journalled before it and from what this kernel says of a kexec. Where either is
   silent the boot of a node at rest is COLD_BOOT.

Rows that `classify` cannot produce (a live update of an attempt that is already through its
jump) do what FOREIGN_KEXEC does, because then the journal and the kernel contradict each other.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from node_agent.core.attempt import NodeState
from node_agent.core.phases import SETTLED, Phase, Verdict
from node_agent.core.steps import Effect

COMMAND_LINE_KEY = "liveroll.attempt="
"""Word of the target's command line that names the attempt that loaded it."""


@dataclass(frozen=True, slots=True)
class Row:
    """Where a state goes, and what the runner does on the way in."""

    next: Phase
    effect: Effect | None = None
    salvage: bool = False


class SessionFinding(enum.StrEnum):
    """What became of the agent's own session."""

    ABSENT = "ABSENT"
    VALID = "VALID"
    """Retrieved, and its token names this attempt."""
    INVALID = "INVALID"
    """Retrieved, but its token is unreadable or names another attempt."""
    STRANGE = "STRANGE"
    """The kernel has tokens and no sessions (RFC v2), and what the journal has is not this attempt's in this
    boot: it gives another file, or none."""


@dataclass(frozen=True, slots=True)
class BootView:
    """What the kernel says of this boot."""

    boot_id: str
    release: str
    command_line: str = ""
    poisoned: bool = False
    session: SessionFinding = SessionFinding.ABSENT
    kexec_count: int = 0
    """0: a cold boot, or the kernel does not count."""
    handed_over: bool = False
    """LUO is UPDATED, or there is kexec telemetry: only a kexec leaves either."""


def attempt_on_command_line(command_line: str) -> str:
    """The id of the attempt that loaded this kernel; empty if none says so."""
    for word in reversed(command_line.split()):
        if word.startswith(COMMAND_LINE_KEY):
            return word.removeprefix(COMMAND_LINE_KEY)
    return ""


def name_attempt(command_line: str, attempt_id: str) -> str:
    """The command line with this attempt's word, and no other attempt's."""
    words = [word for word in command_line.split() if not word.startswith(COMMAND_LINE_KEY)]
    return " ".join([*words, COMMAND_LINE_KEY + attempt_id])


def came_by_hand(node: NodeState, boot: BootView) -> bool:
    """Did the kexec by hand that the last boot was about to call start this one?

    A count that is not the next one tells of another kexec since, or of none.
    """
    meant = node.kexec_by_hand
    if meant is None or meant.boot_id != node.boot_id or node.phase not in SETTLED:
        return False
    if boot.kexec_count:
        return boot.kexec_count == meant.kexec_count + 1
    return boot.handed_over


def classify(node: NodeState, boot: BootView) -> Verdict:
    """Name the boot.

    A new installation has no earlier boot to compare with and counts as SAME_BOOT.
    Source: landscape of live update, "which boot is this".
    """
    if node.boot_id in ("", boot.boot_id) and not (boot.poisoned and node.boot_id == ""):
        return Verdict.SAME_BOOT
    if boot.poisoned:
        return Verdict.POISONED
    if came_by_hand(node, boot):
        return Verdict.FOREIGN_KEXEC
    attempt = node.attempt
    # Tokens begin anew in a boot that nothing came into: what the attempt had ended there. Whatever is under
    # its tokens now is somebody else's, and must not be taken for a workload's, not even to salvage it.
    if attempt is None or boot.session is SessionFinding.STRANGE:
        return Verdict.COLD_BOOT
    pending = attempt.phase is Phase.JUMPING and attempt.jumped
    expected = boot.release == attempt.to_release
    if boot.session is not SessionFinding.ABSENT:
        if not pending or boot.session is SessionFinding.INVALID:
            return Verdict.FOREIGN_KEXEC
        return Verdict.LIVE_UPDATED if expected else Verdict.WRONG_KERNEL
    if attempt_on_command_line(boot.command_line) != attempt.ref.id:
        return Verdict.COLD_BOOT
    return Verdict.STATE_LOST if expected else Verdict.WRONG_KERNEL


_LOST = Row(Phase.COLD_BOOTED)
_STAND_STILL = Row(Phase.QUARANTINED)
_UNWIND = Row(Phase.UNWINDING, Effect.UNWIND)
_SALVAGE = Row(Phase.RETRIEVING, Effect.RETRIEVE, salvage=True)

# No session exists yet: whatever boot this is, no memory can have crossed.
_NOTHING_PRESERVED: Mapping[Verdict, Row] = {
    Verdict.SAME_BOOT: _UNWIND,
    Verdict.COLD_BOOT: _LOST,
    Verdict.STATE_LOST: _LOST,
    Verdict.LIVE_UPDATED: _STAND_STILL,
    Verdict.FOREIGN_KEXEC: _STAND_STILL,
    Verdict.WRONG_KERNEL: _STAND_STILL,
    Verdict.POISONED: _STAND_STILL,
}

# Sessions may exist, no JumpIntent does: a kexec was not ours.
_PRESERVED: Mapping[Verdict, Row] = {
    Verdict.SAME_BOOT: _UNWIND,
    Verdict.COLD_BOOT: _LOST,
    Verdict.STATE_LOST: _SALVAGE,
    Verdict.LIVE_UPDATED: _SALVAGE,
    Verdict.FOREIGN_KEXEC: _SALVAGE,
    Verdict.WRONG_KERNEL: _SALVAGE,
    Verdict.POISONED: _STAND_STILL,
}


def _after_jump(again: Row) -> Mapping[Verdict, Row]:
    """States of the new boot: an unfinished session does not survive one more kexec."""
    return {
        Verdict.SAME_BOOT: again,
        Verdict.COLD_BOOT: _LOST,
        Verdict.STATE_LOST: _LOST,
        Verdict.LIVE_UPDATED: _STAND_STILL,
        Verdict.FOREIGN_KEXEC: _STAND_STILL,
        Verdict.WRONG_KERNEL: _STAND_STILL,
        Verdict.POISONED: _STAND_STILL,
    }


def _settled(phase: Phase) -> dict[Verdict, Row]:
    """Nothing is preserved and nothing under way: any boot will do, but a poisoned one."""
    return {verdict: Row(phase) for verdict in Verdict} | {Verdict.POISONED: _STAND_STILL}


RECOVERY: Mapping[Phase, Mapping[Verdict, Row]] = {
    Phase.IDLE: _settled(Phase.IDLE),
    Phase.LOADING: _NOTHING_PRESERVED,
    Phase.DRAINING: _NOTHING_PRESERVED,
    Phase.PRESERVING: _PRESERVED,
    Phase.PRESERVED: _PRESERVED,
    Phase.SUSPENDING: _PRESERVED,
    Phase.JUMPING: {
        Verdict.SAME_BOOT: _UNWIND,
        Verdict.LIVE_UPDATED: Row(Phase.RETRIEVING, Effect.RETRIEVE),
        Verdict.STATE_LOST: _SALVAGE,
        Verdict.COLD_BOOT: _LOST,
        Verdict.WRONG_KERNEL: _SALVAGE,
        Verdict.FOREIGN_KEXEC: _SALVAGE,
        Verdict.POISONED: _STAND_STILL,
    },
    Phase.RETRIEVING: _after_jump(Row(Phase.RETRIEVING, Effect.RETRIEVE)),
    # What was retrieved died with the process that held it: retrieve again, then resume.
    Phase.RESUMING: _after_jump(Row(Phase.RETRIEVING, Effect.RETRIEVE)),
    Phase.VERIFYING: _after_jump(Row(Phase.VERIFYING, Effect.VERIFY)),
    Phase.FINISHING: _after_jump(Row(Phase.FINISHING, Effect.FINISH)),
    # The cold-boot default is still the old kernel: a power loss here undoes the update.
    Phase.BAKING: _after_jump(Row(Phase.BAKING, Effect.WATCH)),
    Phase.COMMITTED: _settled(Phase.COMMITTED),
    # A cut-short unwinding may have left sessions behind.
    Phase.UNWINDING: _PRESERVED,
    Phase.ABORTED: _settled(Phase.ABORTED),
    # The new kernel was never made the default: after a cold boot there is nothing to roll back.
    Phase.AWAITING_ROLLBACK: _settled(Phase.AWAITING_ROLLBACK) | {Verdict.COLD_BOOT: _LOST},
    Phase.QUARANTINED: _settled(Phase.QUARANTINED),
    Phase.COLD_BOOTED: _settled(Phase.COLD_BOOTED),
}
"""State × verdict → row. Total."""
