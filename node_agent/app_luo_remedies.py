"""What mends a refusal when a person drives LUO by hand: the remedy follows from LUO's state, which the errno
alone does not tell. Pure.

Other tables go by LUO's states, too, and say something else: preflight_model what has to be out of the way of
an attempt that begins, which must not go on with what a person has prepared; luoctl_view what a person may do
next, where nothing was refused. kernel/failure.py goes by the errno, whatever the state.

Source: RFC v2 kernel/liveupdate/luo_core.c: luo_freeze() that fails goes back to normal without kho_abort();
with the notifier KHO then stays finalized for the whole boot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from node_agent.errors import AgentError, CommandRefused, KernelError, Retry
from node_agent.kernel import failure as calls
from node_agent.kernel.tokens import FROZEN, NORMAL, PREPARED, READY, UPDATED
from node_agent.ports import BootFacts

_TO_PREPARE: Mapping[str, str] = {
    NORMAL: "LUO is normal: say `luoctl prepare` first",
    PREPARED: "LUO is prepared already: go on with `luoctl kexec DIGEST`, or undo it with `luoctl cancel`",
    FROZEN: "LUO is frozen already: go on with `luoctl kexec DIGEST`, or undo it with `luoctl cancel`",
    UPDATED: "LUO is updated: restore what came in, say `luoctl finish`, then `luoctl prepare`",
}
"""What leads on to a kexec, by state."""

_NOTHING: Mapping[str, Mapping[str, str]] = {
    calls.CANCEL: {
        NORMAL: "LUO is normal: there is nothing to cancel",
        UPDATED: "LUO is updated: there is nothing to cancel; `luoctl finish` ends the update",
    },
    calls.LUO_FINISH: {
        NORMAL: "LUO is normal: there is nothing to finish",
        PREPARED: "LUO is prepared: there is nothing to finish; `luoctl cancel` undoes the prepare",
        FROZEN: "LUO is frozen: there is nothing to finish; `luoctl cancel` undoes the prepare",
    },
    calls.FREEZE: _TO_PREPARE,
}
"""By event and state, where LUO has no such event."""

_NOT_NORMAL: Mapping[str, str] = {
    **{state: _TO_PREPARE[state] for state in (PREPARED, FROZEN)},
    UPDATED: "LUO is updated: restore what came in, then say `luoctl finish`",
}

_NOT_UPDATED: Mapping[str, str] = {
    state: f"LUO is {state}: what it holds comes back after the kexec (`luoctl kexec DIGEST`), and not before"
    for state in READY
}


def stranded(facts: BootFacts) -> bool:
    """Nothing can be handed over any more in this boot."""
    return facts.luo_state == NORMAL and facts.kho_finalized


def remedied(error: KernelError, facts: BootFacts, *, kinds: Sequence[str], token: int | None) -> KernelError:
    """The same error, for a person.

    Args:
        facts: after the call.
        kinds: of files that the running kernel takes; empty: not known.
        token: of the file that was to be preserved, if it is known.
    """
    remedy = _remedy(error, facts, kinds, token)
    if not remedy:
        return error
    fields = {name: value for name, value in error.fields.items() if name not in ("errno", "call")}
    return KernelError(
        error.errno,
        error.call,
        error.message,
        reason=error.reason,
        retry=error.retry,
        remedy=remedy,
        **fields,
    )


def _remedy(error: KernelError, facts: BootFacts, kinds: Sequence[str], token: int | None) -> str:
    of: Mapping[str, Callable[[], str]] = {
        "LUO_STATE": lambda: _NOTHING.get(error.call, {}).get(facts.luo_state, ""),
        "LUO_NOT_NORMAL": lambda: _NOT_NORMAL.get(facts.luo_state, ""),
        "LUO_NOT_UPDATED": lambda: _NOT_UPDATED.get(facts.luo_state, ""),
        "NOT_PREPARED": lambda: _TO_PREPARE.get(facts.luo_state, ""),
        "FILE_UNPRESERVABLE": lambda: (
            f"by its artifact this kernel takes {', '.join(sorted(kinds))}"
            if kinds
            else "this kernel's file handlers take a memfd; what else, its build says"
        ),
        "FILE_ALREADY_PRESERVED": lambda: (
            f"it has token {token}; to give that up: luoctl unpreserve {token}" if token is not None else ""
        ),
    }
    if stranded(facts) and error.reason in ("LUO_STATE", "NOT_PREPARED", "FREEZE_REFUSED"):
        return calls.COLD
    return of[error.reason]() if error.reason in of else ""


def check_jump(facts: BootFacts, subscribers: Sequence[str], *, skip_preflight: bool) -> None:
    """A kexec by hand keeps what LUO is prepared for, and nothing else.

    Raises:
        CommandRefused: NOT_PREPARED, WORKLOADS_WOULD_LOSE_MEMORY.
    """
    if stranded(facts):
        raise _not_prepared(facts, calls.COLD)
    if subscribers and not skip_preflight:
        names = ", ".join(sorted(subscribers))
        first = {UPDATED: "`luoctl finish`, then ", NORMAL: ""}.get(facts.luo_state, "`luoctl cancel`, then ")
        raise CommandRefused(
            f"this kexec would destroy the memory of {names}: by hand nobody asks workloads to preserve",
            reason="WORKLOADS_WOULD_LOSE_MEMORY",
            retry=Retry.FIX_STATE,
            remedy=f"Say {first}`luoctl prepare DIGEST`, then `luoctl kexec`: that preserves them. Or end "
            "them; or lose their memory with --skip-preflight.",
            workloads=names,
        )
    if facts.luo_state not in READY:
        raise _not_prepared(facts, _TO_PREPARE.get(facts.luo_state, calls.COLD))


def check_word(facts: BootFacts) -> None:
    """`luoctl kexec` without DIGEST is an attempt's, and none is under way.

    Raises:
        CommandRefused: NO_ATTEMPT: LUO was prepared by hand.
    """
    if facts.luo_state in READY:
        raise CommandRefused(
            f"no attempt is under way, and LUO is {facts.luo_state} by hand",
            reason="NO_ATTEMPT",
            retry=Retry.FIX_STATE,
            remedy="Name the kernel to start: `luoctl kexec DIGEST` (`luoctl status` has what is staged).",
        )


def _not_prepared(facts: BootFacts, remedy: str) -> AgentError:
    return CommandRefused(
        f"LUO is {facts.luo_state}, not prepared: a kexec would lose what is preserved",
        reason="NOT_PREPARED",
        retry=Retry.FIX_STATE,
        remedy=remedy,
    )
