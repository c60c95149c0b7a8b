"""What the blackout path leaves to the full agent.

Plain classes with slots: dataclasses would cost the blackout path two dozen imports.
Whoever takes a Handover owns every fd in it.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from node_agent.resume.keeper import Forked
    from node_agent.resume.parking import Parking


class Mark:
    """One instant, in nanoseconds. The TSC comes later: see system.md's marks.

    The full agent takes a pair (TSC, CLOCK_BOOTTIME) when it has time and goes back from it.
    """

    __slots__ = ("boottime_ns", "realtime_ns")

    def __init__(self, realtime_ns: int, boottime_ns: int) -> None:
        self.realtime_ns = realtime_ns
        self.boottime_ns = boottime_ns

    @classmethod
    def now(cls) -> Mark:
        return cls(time.clock_gettime_ns(time.CLOCK_REALTIME), time.clock_gettime_ns(time.CLOCK_BOOTTIME))


class ClientLeft:
    """A connection. pending: bytes read and not understood yet; resumed: its RESUMED line, raw."""

    __slots__ = ("fd", "pending", "resumed", "suspends", "workload")

    def __init__(self, fd: int, workload: str, suspends: bool, pending: bytes, resumed: bytes) -> None:
        self.fd = fd
        self.workload = workload
        self.suspends = suspends
        self.pending = pending
        self.resumed = resumed


class Handover:
    """Fds, marks, and what the boot verdict needs.

    journal_fd: the journal, open and flock'ed, for FileJournal.open(fd=…), because a second open
        could not lock it; -1 if there is none, or another process holds it.
    listener_fd: the broker's socket; -1 if it was not bound.
    attempt, jump: of the JumpIntent followed; empty if there was none to follow.
    bindings: id → {uid, unit, …} from the JumpIntent.
    names: id → session name, from the JumpIntent; not handed to another process, nor are tokens.
    tokens: session name → its token → the kernel's, from the JumpIntent; empty where the kernel knows
        sessions.
    sessions: id → (session name, session fd), those that were retrieved.
    agent_session_fd, token: the agent's own session and the text of its token memfd.
    token_fd: that memfd; -1 if there was none.
    clients: connections of the broker's socket.
    parking: where the sessions are parked, for broker_handover.HandoverKernel; None without one.
    parked: session name → fd, of sessions that an earlier process of this boot has parked, where
        this process holds the journal.
    forked: children of this process, for keeper.reap().
    marks: kernel_start, userspace_start, retrieved, resume: whichever was reached.
    errors: what failed, by session name (or step) → errno name or sentence.
    """

    __slots__ = (
        "agent_session",
        "agent_session_fd",
        "attempt",
        "bindings",
        "clients",
        "errors",
        "forked",
        "journal_fd",
        "jump",
        "listener_fd",
        "marks",
        "names",
        "parked",
        "parking",
        "sessions",
        "token",
        "token_fd",
        "tokens",
    )

    def __init__(self) -> None:
        self.journal_fd = -1
        self.listener_fd = -1
        self.attempt = ""
        self.jump: Mapping[str, object] = {}
        self.bindings: Mapping[str, Mapping[str, object]] = {}
        self.names: Mapping[str, str] = {}
        self.tokens: Mapping[str, Mapping[int, int]] = {}
        self.sessions: dict[str, tuple[str, int]] = {}
        self.agent_session = ""
        self.agent_session_fd = -1
        self.token = b""
        self.token_fd = -1
        self.parking: Parking | None = None
        self.parked: dict[str, int] = {}
        self.forked: list[Forked] = []
        self.clients: list[ClientLeft] = []
        self.marks: dict[str, Mark] = {}
        self.errors: dict[str, str] = {}
