"""What the broker knows of one workload, and how long it waits for one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from node_agent.ports import Session, WorkloadPause
from node_agent.runtime.broker_peer import Peer


@dataclass(frozen=True, slots=True)
class BrokerTimeouts:
    """Seconds for each wait. preserve covers copying a guest's tables, the others are short."""

    preserve_s: float = 60.0
    suspend_s: float = 10.0
    claim_s: float = 30.0
    resume_s: float = 30.0
    release_s: float = 5.0


@dataclass(slots=True)
class WorkloadRecord:
    """What the broker knows of one id.

    ready: the connected process itself preserved, so a newer one of the same id is not ready.
    kept: a binding from before the kexec, or before the agent's restart.
    given_up: resume() has waited for it in vain, so whoever comes now is woken at once.
    """

    id: str
    uid: int
    unit: str
    suspends: bool = False
    peer: Peer | None = None
    session: Session | None = None
    session_name: str = ""
    ready: bool = False
    suspended: bool = False
    retrieved: bool = False
    kept: bool = False
    given_up: bool = False
    pause: WorkloadPause | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def notify(self) -> None:
        """Wake whoever waits for this workload to claim, to come back or to be retrieved."""
        self.changed.set()
        self.changed = asyncio.Event()
