"""Where retrieved sessions wait out the agent's own death, from the kexec until FINISH.

A session whose last descriptor closes is finished by the kernel, and what was not yet retrieved
from it is lost (luo-uapi). So right after the retrieval, before anything is handed out, a copy of
every session fd is parked:
- with the keeper (keeper.py), if one is alive;
- else in systemd's fd store, if $NOTIFY_SOCKET and $FDSTORE say that there is one. At the unit's
  next start they come back as LISTEN_FDS;
- else with a keeper that is started for it.

Before the kexec nothing is parked: there the agent's death must unwind.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import posix
import select

from node_agent.resume import fdpass
from node_agent.resume.identity import credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FDNAME_PREFIX = "luo-"
"""Of ours among the names in the fd store; anything else there is not touched."""

LISTEN_FDS_START = 3
"""Source: sd_listen_fds(3)."""

ANSWER_S = 5
"""The keeper answers within a millisecond; one that does not is not there."""

BARRIER_MS = 100
"""systemd has to read the messages while their sender lives, or it cannot tell whose they are. This
is on the blackout path: a busy systemd must not hold it up for longer."""

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class Parking:
    """The parked sessions, by session name.

    keeper: path of the keeper's socket; "" for a process that must not have one.
    environ: of this process, as posix.environ has it.
    pid: this process's, which LISTEN_PID must be.

    Raises nothing: an environment that makes no sense is one without an fd store.
    """

    def __init__(self, keeper: str, environ: Mapping[bytes, bytes], pid: int) -> None:
        self._keeper = keeper
        self._notify = ""
        if environ.get(b"FDSTORE", b"0").isdigit() and int(environ.get(b"FDSTORE", b"0")) > 0:
            self._notify = environ.get(b"NOTIFY_SOCKET", b"").decode("utf-8", "surrogateescape")
        self._stored = _listen_fds(environ, pid) if self._notify else {}

    def sessions(self) -> dict[str, int]:
        """A copy of every parked session's fd; the copies are the caller's. Raises OSError."""
        found: dict[str, int] = {}
        sock = self._ask(b"LIST")
        if sock is not None:
            try:
                while True:
                    data, fds = fdpass.receive(sock)
                    names = data.decode().split("\0")
                    if not data or len(names) != len(fds):
                        fdpass.close_all(fds)
                        break
                    found.update(zip(names, fds, strict=True))
            finally:
                sock.close()
        for name, fd in self._stored.items():
            if name not in found:
                found[name] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
        return found

    def copy(self, name: str) -> int:
        """A copy of one session's fd, the caller's; -1 if it is not parked. Raises OSError."""
        found = self.sessions()
        fd = found.pop(name, -1)
        fdpass.close_all(list(found.values()))
        return fd

    def park(self, sessions: Mapping[str, int], start: Callable[[str, Mapping[str, int]], None]) -> None:
        """Keep a copy of each of these; the fds stay the caller's.

        start: start a keeper at this path with these sessions.

        Raises OSError if they are not parked.
        """
        if not sessions:
            return
        sock = self._connect()
        if sock is not None:
            try:
                self._hand_over(sock, sessions)
            finally:
                sock.close()
        elif self._notify:
            self._store(sessions)
        elif self._keeper:
            start(self._keeper, sessions)

    def drop(self, name: str) -> None:
        """Close the parked copy, if there is one: after FINISH, so that the name is free. Raises OSError."""
        fd = self._stored.pop(name, -1)
        if fd >= 0:
            posix.close(fd)
        if self._notify:
            self._tell(b"FDSTOREREMOVE=1\nFDNAME=" + encode_name(name).encode())
        sock = self._ask(b"DROP\0" + name.encode())
        if sock is not None:
            try:
                fdpass.receive(sock)
            finally:
                sock.close()

    # -- the keeper --------------------------------------------------------------------------

    def _connect(self) -> _socket.socket | None:
        return connect(self._keeper) if self._keeper else None

    def _ask(self, question: bytes) -> _socket.socket | None:
        sock = self._connect()
        if sock is not None:
            try:
                fdpass.send(sock, question)
            except OSError:
                # It ended meanwhile, with nothing left to keep.
                sock.close()
                return None
        return sock

    def _hand_over(self, sock: _socket.socket, sessions: Mapping[str, int]) -> None:
        for name, fd in sessions.items():
            fdpass.send(sock, b"PARK\0" + name.encode(), [fd])
            if fdpass.receive(sock)[0] != b"OK":
                raise OSError(errno.EPIPE, "the keeper")

    # -- systemd's fd store ------------------------------------------------------------------

    def _store(self, sessions: Mapping[str, int]) -> None:
        for name, fd in sessions.items():
            # FDPOLL=0: a session, or its emulation, is no connection that may be dropped on a hang-up.
            said = b"FDSTORE=1\nFDPOLL=0\nFDNAME=" + encode_name(name).encode()
            self._tell(said, fd)
            self._stored[name] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
        ours, theirs = posix.pipe2(posix.O_CLOEXEC)
        try:
            self._tell(b"BARRIER=1", theirs)
        finally:
            posix.close(theirs)
        try:
            poll = select.poll()
            poll.register(ours, 0)
            poll.poll(BARRIER_MS)
        finally:
            posix.close(ours)

    def _tell(self, words: bytes, fd: int = -1) -> None:
        """One notification. Source: sd_notify(3); "@" begins an abstract socket's name."""
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC, 0)
        try:
            sock.connect("\0" + self._notify[1:] if self._notify.startswith("@") else self._notify)
            fdpass.send(sock, words, [fd] if fd >= 0 else [])
        finally:
            sock.close()


def connect(keeper: str) -> _socket.socket | None:
    """A connection to the keeper; None if there is no keeper of our own user, or root's, alive."""
    sock = _socket.socket(_socket.AF_UNIX, fdpass.KIND, 0)
    try:
        fdpass.bound_waits(sock, ANSWER_S)
        sock.connect(keeper)
        if credentials(sock)[1] in (0, posix.geteuid()):
            return sock
    except OSError:
        pass
    sock.close()
    return None


def encode_name(session: str) -> str:
    """A valid FDNAME. Source: sd_pid_notify_with_fds(3): ASCII, no control character and no colon,
    at most 255; a session's name has at most 63 bytes, each of which becomes three at most."""
    return FDNAME_PREFIX + "".join(chr(b) if b in _PLAIN else f"%{b:02X}" for b in session.encode())


def decode_name(fdname: str) -> str:
    """The session's name; empty if this fd is not ours."""
    if not fdname.startswith(FDNAME_PREFIX):
        return ""
    head, *parts = fdname[len(FDNAME_PREFIX) :].split("%")
    try:
        raw = head.encode("ascii") + b"".join(
            bytes((int(part[:2], 16),)) + part[2:].encode("ascii") for part in parts
        )
        return raw.decode()
    except ValueError:
        return ""


def _listen_fds(environ: Mapping[bytes, bytes], pid: int) -> dict[str, int]:
    """Ours of what the service manager gave back. Source: sd_listen_fds_with_names(3)."""
    if environ.get(b"LISTEN_PID") != str(pid).encode():
        return {}
    names = environ.get(b"LISTEN_FDNAMES", b"").decode("ascii", "replace").split(":")
    found: dict[str, int] = {}
    for at, fdname in enumerate(names[: int(environ.get(b"LISTEN_FDS", b"0") or b"0")]):
        session = decode_name(fdname)
        if session:
            fd = LISTEN_FDS_START + at
            posix.set_inheritable(fd, False)
            found[session] = fd
    return found
