"""What an early init keeps for the agent that comes seconds later: the whole Handover, while it
goes on answering CLAIMs. Given away once, to whoever confirms that all of it arrived.
"""

from __future__ import annotations

import posix
import select
import time

from node_agent.resume import fdpass, handover_wire, keeper
from node_agent.resume.blackout import read_token
from node_agent.resume.claims import Claims

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

    from node_agent.resume.handover import Handover


class Offer:
    """Owns all of the handover but its sessions, which are the keeper's.

    deadline_s: for that long an agent that asks is kept waiting, if not all workloads are back: the
        claims are answered faster here than while it imports. After it, it has to cope.
    """

    def __init__(self, handover: Handover, deadline_s: float) -> None:
        self.poll = select.poll()
        self._handover = handover
        self._claims = Claims(handover, self.poll)
        self._give_up = time.monotonic() + deadline_s

    def left_ms(self) -> float | None:
        """How long it is kept back yet; None: it is ready."""
        left_s = self._give_up - time.monotonic()
        return left_s * 1000 if self._claims.waiting and left_s > 0 else None

    def owns(self, fd: int) -> bool:
        """Is this one of the broker's descriptors?"""
        return self._claims.owns(fd)

    def turn(self, fd: int) -> None:
        """It is readable."""
        self._claims.turn(fd)

    def give(self, sock: _socket.socket) -> bool:
        """Send it; whether it was taken. Nothing of it is here then. Raises OSError."""
        handover = self._handover
        handover.clients = self._claims.left()
        self._claims.note_missing()
        if handover.token_fd < 0:
            read_token(handover)
        handover_wire.send(sock, handover)
        if fdpass.receive(sock)[0] != handover_wire.TAKEN:
            return False
        fdpass.send(sock, handover_wire.YOURS)
        keeper.name_and_shield()
        self._claims.close()
        for fd in (handover.journal_fd, handover.token_fd):
            if fd >= 0:
                posix.close(fd)
        return True
