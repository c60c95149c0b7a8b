"""Errors of the broker's: what a workload, or its session, is not that it should be.

One that cannot be preserved at all is broker_leaving's.
"""

from __future__ import annotations

from node_agent.errors import BrokerError, Retry
from node_agent.runtime.broker_record import WorkloadRecord


def absent(workload: WorkloadRecord, socket_path: str) -> BrokerError:
    """It is not connected; after the kexec, it has not come for its session in time."""
    waited = "did not claim its session" if workload.retrieved else "is not connected"
    return BrokerError(
        f"workload {workload.id} {waited}",
        reason="CLAIM_TIMEOUT" if workload.retrieved else "WORKLOAD_GONE",
        remedy=f"Start {workload.id} and let it connect to {socket_path}.",
        workload=workload.id,
    )


def already_preserved(workload: WorkloadRecord) -> BrokerError:
    """It is in a session of an attempt before."""
    return BrokerError(
        f"{workload.id} is in session {workload.session_name} already",
        reason="ALREADY_PRESERVED",
        retry=Retry.FIX_STATE,
        remedy="Finish or release the last attempt first.",
        workload=workload.id,
    )


def died(workload: str, session: str) -> BrokerError:
    """Its connection ended after READY."""
    return BrokerError(
        f"workload {workload} closed its connection after it said READY",
        reason="WORKLOAD_DIED",
        remedy=f"Find out why {workload} ended; it must stay connected until the kexec. Then try again.",
        workload=workload,
        session=session,
    )


def restarted(workload: str, session: str) -> BrokerError:
    """Another process of that id than the one that said READY."""
    return BrokerError(
        f"workload {workload} was restarted after it said READY",
        reason="WORKLOAD_RESTARTED",
        remedy=f"Try again: the next attempt preserves what {workload} has now.",
        workload=workload,
        session=session,
    )


def came_late(workload: str) -> BrokerError:
    """It connected after the others were preserved."""
    return BrokerError(
        f"{workload} came after the others were preserved",
        reason="NOT_PRESERVED",
        remedy=f"Try again: the next attempt preserves {workload} too.",
        workload=workload,
    )


def no_binding(workload: str) -> BrokerError:
    """A session crossed, and nobody knows whose it is."""
    return BrokerError(
        f"the journal names no owner of {workload}",
        reason="NO_BINDING",
        retry=Retry.FIX_STATE,
        workload=workload,
    )


def still_held(workload: WorkloadRecord, session: str) -> BrokerError:
    """Somebody has a copy of the session, and does not let go of it."""
    holder = f" (process {workload.peer.pid})" if workload.peer is not None else ""
    return BrokerError(
        f"a process still holds session {session} of {workload.id}{holder}",
        reason="SESSION_STILL_HELD",
        retry=Retry.FIX_STATE,
        remedy=f"Restart {workload.id}: its memory is given free when the last copy closes.",
        workload=workload.id,
        session=session,
    )
