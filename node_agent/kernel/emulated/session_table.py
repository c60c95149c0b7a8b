"""The sessions of one boot of a kernel with sessions: those going out, and those that came in.

Rules
1. An outgoing session takes files and lasts as long as somebody holds it.
2. A kexec carries outgoing sessions only; whatever came in and was not finished is gone.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence

from node_agent.kernel.abi import SESSION_NAME_BYTES
from node_agent.kernel.emulated.files import Inode
from node_agent.kernel.emulated.image import MEMFD_HANDLER
from node_agent.kernel.emulated.session import LuoSession
from node_agent.kernel.failure import CREATE, RETRIEVE
from node_agent.kernel.faults import FaultKind, FaultPlan


class SessionTable:
    """All of one boot, by name. Every call raises OSError as the ioctl of its name would."""

    def __init__(self) -> None:
        self.outgoing: dict[bytes, LuoSession] = {}
        self.incoming: dict[bytes, LuoSession] = {}
        self._busy: set[Inode] = set()

    def create(self, name: bytes, limit: int) -> LuoSession:
        """EINVAL (empty, or no room for the NUL), EEXIST, ENOMEM (limit; 0 is none). Held once."""
        if not 0 < len(name) < SESSION_NAME_BYTES:
            raise OSError(errno.EINVAL, CREATE)
        if name in self.outgoing:
            raise OSError(errno.EEXIST, CREATE)
        if limit and len(self.outgoing) >= limit:
            raise OSError(errno.ENOMEM, CREATE)
        session = self.outgoing[name] = LuoSession(name, self._busy)
        session.holders = 1
        return session

    def retrieve(self, name: bytes) -> LuoSession:
        """ENOENT, EINVAL (retrieved and still open, or no valid name). Held once."""
        if not 0 < len(name) < SESSION_NAME_BYTES:
            raise OSError(errno.EINVAL, RETRIEVE)
        session = self.incoming.get(name)
        if session is None:
            raise OSError(errno.ENOENT, RETRIEVE)
        if session.retrieved:
            raise OSError(errno.EINVAL, RETRIEVE)
        session.retrieved = True
        session.holders = 1
        return session

    def close(self, session: LuoSession) -> None:
        """One descriptor of this session is closed."""
        session.holders -= 1
        if session.holders or session.finish_refused:
            return
        session.drop_files()
        table = self.incoming if session.incoming else self.outgoing
        if table.get(session.name) is session:
            del table[session.name]

    def freeze(self) -> None:
        """Within reboot. EPERM, EBUSY."""
        for session in self.outgoing.values():
            session.freeze()

    def leave(self) -> list[LuoSession]:
        """What would cross; the rest is given back."""
        crossing = list(self.outgoing.values())
        drop(self.incoming.values())
        self.outgoing, self.incoming = {}, {}
        return crossing

    def arrive(self, crossing: list[LuoSession], faults: FaultPlan, n: int, handlers: Sequence[str]) -> bool:
        """Take what crossed with the n-th kexec, but what a fault loses. False: this kernel cannot read it.

        Args:
            handlers: of this kernel.
        """
        lost = faults.at(FaultKind.SESSION_LOST, n)
        gone = [s for s in crossing if lost and lost.value in ("", s.name.decode(errors="replace"))]
        drop(gone)
        arrived = [s for s in crossing if s not in gone]
        unknown = any(s.files for s in arrived) and MEMFD_HANDLER not in handlers
        if unknown or faults.at(FaultKind.POISON, n):
            return False
        failed = faults.at(FaultKind.RETRIEVE_ERROR, n)
        for session in arrived:
            self.incoming[session.name] = session.cross(self._busy)
            for kept in self.incoming[session.name].files.values():
                kept.retrieve_errno = failed.errno if failed else 0
        return True

    @property
    def size_bytes(self) -> int:
        """All that is preserved."""
        return sum(kept.size_bytes for session in self for kept in session.files.values())

    def __iter__(self) -> Iterator[LuoSession]:
        yield from self.outgoing.values()
        yield from self.incoming.values()


def drop(sessions: Iterable[LuoSession]) -> int:
    """Give back every file; how many bytes they were."""
    return sum(session.drop_files() for session in sessions)
