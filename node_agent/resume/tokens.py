"""Sessions made of tokens, served by a process of their own from the kexec until FINISH.

RFC v2 has no sessions: a file that came through the kexec is given out by the kernel's token, once, and
what nobody holds any more is gone. So a process that does nothing else is what a kernel with sessions is: a
session fd is one end of a socket pair, as an emulated kernel's is, and all that know sessions (workloads,
claims, parking, HandoverKernel) find what they know. It outlives the agent, as the keeper does.

Rules
1. Nothing is restored before somebody asks for it: until then it is the kernel's, whoever dies.
2. What was restored is kept here until FINISH, and given out as often as it is asked for.
3. A session ends with FINISH, or with the last copy of its fd. What it had and nobody asked for stays the
   kernel's, until the kernel's own FINISH.
4. The process ends with its last session, or with its kernel.
5. A caller gets an answer or the end of its reply socket. Nobody is waited for: not who reads no answers, and
   not the kernel, which may hang in one file while the others are asked for.
6. The kernel is not asked for a file that there may be no descriptor for when it answers: it would be lost.
   Who is refused (EMFILE, EBUSY) may ask again.
7. Where there is no room to keep all that may be asked for, each session gets its share of it (EMFILE beyond)
   and a quarter is for requests under way. The room is RLIMIT_NOFILE's soft limit: raised by the program form
   only, since raising it is no interpreter builtin; the forked one has its agent's (the unit's LimitNOFILE).

The messages are wire's (kernel/emulated/wire.py); what they are refused with is the kernel's, too.
Not here: sessions before the kexec, which are the agent's own (kernel/tokens.py).
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import posix
import select
import sys

from node_agent.kernel import abi, rfc2_abi
from node_agent.kernel.emulated import syncclient, synctokens
from node_agent.resume import fdpass, keeper
from node_agent.resume.words import scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMM = b"liveroll-tokens"
RESTORE = rfc2_abi.CALL_NAMES[rfc2_abi.FD_RESTORE]
UPDATED = rfc2_abi.STATE_NAMES[rfc2_abi.UPDATED]
WAITING_MAX = 16
"""Requests of one session that wait for the kernel, each with a descriptor; beyond them EBUSY."""

FIONREAD = 0x541B
"""Bytes that are waiting to be read. Source: include/uapi/asm-generic/ioctls.h; termios is an import."""


class _Session:
    __slots__ = ("finished", "name", "restored", "sock", "tokens", "waiting")

    def __init__(self, name: str, sock: _socket.socket, tokens: Mapping[int, int]) -> None:
        self.name = name
        self.sock = sock
        self.tokens = dict(tokens)
        """Its own token → the kernel's."""
        self.restored: dict[int, int] = {}
        """Its own token → the copy that is kept."""
        self.waiting: dict[int, list[tuple[int, bytes]]] = {}
        """Its own token → (reply socket, argument) of who asked while the kernel was asked."""
        self.finished = False


class TokenServer:
    """The sessions of one boot, over a device that is open.

    Args:
        device: an fd on the emulated kernel's device, this object's from now on.
    """

    def __init__(self, device: int) -> None:
        self._device = device
        self._poll = select.poll()
        # No event is asked for: that the kernel is gone is told all the same.
        self._poll.register(device, 0)
        self._sessions: dict[int, _Session] = {}
        self._asked: dict[int, tuple[_socket.socket, _Session, int, int]] = {}
        """Reply sockets of FD_RESTORE under way, with whose it is, its own token, and a spare fd: it keeps a
        place free for the answer's."""

    def serve(self, name: str, sock: _socket.socket, tokens: Mapping[int, int]) -> None:
        """A session from now on: this is the server's end of its fd."""
        self._sessions[sock.fileno()] = _Session(name, sock, tokens)
        self._poll.register(sock.fileno(), select.POLLIN | select.POLLRDHUP)

    def run(self) -> None:
        """Until no session is left, or the kernel has ended."""
        gone = False
        while not gone and not all(session.finished for session in self._sessions.values()):
            for fd, what in self._poll.poll():
                gone |= fd == self._device
                if fd in self._asked:
                    self._take(fd)
                elif fd in self._sessions:
                    self._hear(fd, what)
        self._close()

    def _close(self) -> None:
        while self._sessions:
            self._end(next(iter(self._sessions)))
        while self._asked:
            sock, _, _, spare = self._asked.popitem()[1]
            sock.close()
            posix.close(spare)
        posix.close(self._device)

    def _hear(self, fd: int, what: int) -> None:
        """One message. An empty one is an end only where the last copy is closed: whoever has a copy
        can send one, or shut the whole session's way to here."""
        session = self._sessions[fd]
        try:
            data, sent = fdpass.receive(session.sock)
        except OSError:
            return  # more than any ioctl: whoever sent it gets no answer
        reply = sent.pop(0) if sent else -1
        fdpass.close_all(sent)
        if not data:
            if reply >= 0:
                posix.close(reply)
            if what & select.POLLHUP:
                self._end(fd)
            elif what & select.POLLRDHUP and not _unread(fd):
                # Nothing can come any more, and it would be readable for ever. Its end is told all the same.
                self._poll.modify(fd, 0)
            return
        try:
            self._obey(session, data, reply)
        except OSError as error:
            _answer(reply, -(error.errno or errno.EIO))

    def _obey(self, session: _Session, data: bytes, reply: int) -> None:
        """Raises OSError: the request's answer, a kernel's for an incoming session."""
        number, argument = abi.decode(data, *abi.SESSION_IOCTLS, refused=(abi.SESSION_PRESERVE_FD,))
        if number == abi.SESSION_RETRIEVE_FD:
            self._retrieve(session, argument, reply)
            return
        if number == abi.SESSION_FINISH:
            _drop(session)
        else:
            argument = bytes(abi.pack_name(session.name.encode()))
        _answer(reply, 0, argument)

    def _retrieve(self, session: _Session, argument: bytes, reply: int) -> None:
        token = abi.unpack_fd(argument)[1]
        if session.finished or token not in session.tokens:
            raise OSError(errno.ENOENT, RESTORE)
        kept = session.restored.get(token, -1)
        if kept >= 0:
            _answer(reply, 0, argument, kept)
            return
        if sum(map(len, session.waiting.values())) >= WAITING_MAX:
            raise OSError(errno.EBUSY, RESTORE)
        if token not in session.waiting:
            if len(session.restored) + len(session.waiting) >= self._share():
                raise OSError(errno.EMFILE, RESTORE)
            self._ask(session, token)
        session.waiting.setdefault(token, []).append((reply, argument))

    def _share(self) -> int:
        """The files that any one session may keep: none that wants fewer is kept from them by the others."""
        room = posix.sysconf("SC_OPEN_MAX") * 3 // 4 - len(self._sessions)
        wants = sorted(len(session.tokens) for session in self._sessions.values() if not session.finished)
        share = 0
        while wants and wants[0] <= room // len(wants):
            share = wants.pop(0)
            room -= share
        return room // len(wants) if wants else share

    def _ask(self, session: _Session, token: int) -> None:
        """Begin FD_RESTORE. Raises OSError: EMFILE, and the kernel was not asked."""
        spare = posix.dup(self._device)
        try:
            question = bytearray(rfc2_abi.FD_STRUCT.pack(-1, 0, session.tokens[token]))
            sock = syncclient.ask(self._device, rfc2_abi.FD_RESTORE, question, None, RESTORE)
        except OSError:
            posix.close(spare)
            raise
        self._asked[sock.fileno()] = sock, session, token, spare
        self._poll.register(sock.fileno(), select.POLLIN)

    def _take(self, fd: int) -> None:
        """The kernel has answered."""
        sock, session, token, spare = self._asked.pop(fd)
        self._poll.unregister(fd)
        answer = bytearray(rfc2_abi.FD_STRUCT.pack(-1, 0, 0))
        result, kept = -errno.EIO, -1
        posix.close(spare)
        try:
            syncclient.take(sock, answer, RESTORE, synctokens.FD_AT)
            kept = rfc2_abi.FD_STRUCT.unpack(answer)[0]
            result = 0 if kept >= 0 else -errno.EIO
        except OSError as error:
            result = -(error.errno or errno.EIO)
        sock.close()
        if kept >= 0 and session.finished:
            posix.close(kept)
            return
        if kept >= 0:
            session.restored[token] = kept
        for reply, argument in session.waiting.pop(token, ()):
            _answer(reply, result, argument if kept >= 0 else b"", kept)

    def _end(self, fd: int) -> None:
        """The last copy of the session's fd is closed."""
        session = self._sessions.pop(fd)
        _drop(session)
        self._poll.unregister(fd)
        session.sock.close()


def _unread(fd: int) -> int:
    """Bytes. Raises OSError."""
    return int.from_bytes(fcntl.ioctl(fd, FIONREAD, bytes(4)), sys.byteorder)


def _drop(session: _Session) -> None:
    """It gives nothing out any more, and keeps nothing."""
    session.finished = True
    while session.restored:
        posix.close(session.restored.popitem()[1])
    while session.waiting:
        for reply, _ in session.waiting.popitem()[1]:
            _answer(reply, -errno.ENOENT)


def _answer(reply: int, result: int, argument: bytes = b"", fd: int = -1) -> None:
    """End a request. Who is gone, sent no socket or does not read is no business of the others."""
    if reply < 0:
        return
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder, signed=True))
    try:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fileno=reply)
    except OSError:
        posix.close(reply)
        return
    try:
        sock.sendmsg(
            [result.to_bytes(4, sys.byteorder, signed=True), argument],
            [rights] if fd >= 0 else [],
            _socket.MSG_NOSIGNAL | _socket.MSG_DONTWAIT,
        )
    except OSError:
        pass
    finally:
        sock.close()


def start(
    root: str, sessions: Mapping[str, Mapping[int, int]], forked: list[keeper.Forked] | None = None
) -> dict[str, int]:
    """Fork a server of these; session fds by name, the caller's. Only for a process of one thread.

    Args:
        root: of an emulated node.
        sessions: name → its own token → the kernel's.
        forked: see keeper.fork_away().

    Raises OSError: what the device says; ENOENT where no file came in with the last kexec.
    """
    device = syncclient.open_device(root)
    pairs: dict[str, tuple[_socket.socket, _socket.socket]] = {}
    try:
        if synctokens.get_state(device) != UPDATED:
            raise OSError(errno.ENOENT, RESTORE)
        for name in sessions:
            pairs[name] = _socket.socketpair(_socket.AF_UNIX, fdpass.KIND, 0)
        fork(device, {name: ours for name, (ours, _) in pairs.items()}, sessions, forked)
        return {name: theirs.detach() for name, (_, theirs) in pairs.items()}
    finally:
        for pair in pairs.values():
            for sock in pair:
                sock.close()
        posix.close(device)


def main(words: Sequence[str]) -> None:
    """The server as a program, for an agent whose threads forbid it to fork one: the node's root, and as
    standard input JSON of name → [the server's end, {its own token: the kernel's}]. Exit status: the errno
    that it fails with."""
    text = b""
    while part := posix.read(0, syncclient.MESSAGE_BYTES):
        text += part
    said = scan(text)
    ours = {
        name: _socket.socket(_socket.AF_UNIX, fdpass.KIND, 0, fileno=fd) for name, (fd, _) in said.items()
    }
    sessions = {name: {int(mine): token for mine, token in told.items()} for name, (_, told) in said.items()}
    # Not on the blackout path: see rule 7.
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        fork(syncclient.open_device(words[0]), ours, sessions)
    except OSError as error:
        raise SystemExit(error.errno) from None


def fork(
    device: int,
    ours: Mapping[str, _socket.socket],
    sessions: Mapping[str, Mapping[int, int]],
    forked: list[keeper.Forked] | None = None,
) -> None:
    """The server, of these ends of its sessions' fds. All fds stay the caller's too. Raises OSError."""

    def serve() -> None:
        server = TokenServer(device)
        for name, sock in ours.items():
            server.serve(name, sock, sessions[name])
        server.run()

    keeper.fork_away(serve, [device, *(sock.fileno() for sock in ours.values())], COMM, forked)
