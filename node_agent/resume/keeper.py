"""The keeper: a process that does nothing but hold session fds while the agent comes and goes.

Started right after a kexec's sessions were retrieved, in a session of its own, it listens at a
socket of mode 0600 and answers its own user and root. SOCK_SEQPACKET, one message a question:

    LIST          ← messages of names, separated by NUL, each with a copy of its fd; then an empty one
    PARK\\0NAME   + fd        ← OK
    DROP\\0NAME   ← OK        (also where there is no such session)
    TAKE          ← the whole Handover (handover_wire), once there is one to give; else NONE

It ends by itself once it holds nothing, and by SIGTERM, as any process at the node's shutdown. A
session whose kernel is gone (an emulated node's) is dropped. A keeper of an earlier boot cannot be.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import posix
import select

from node_agent.resume import fdpass
from node_agent.resume.identity import credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import TypeAlias

    from node_agent.resume.offer import Offer

    Forked: TypeAlias = tuple[int, int]
    """A child's pid, and the end of a pipe: it says STAYS where the child does the work itself."""

BACKLOG = 16
SEND_S = 2
"""For a client that does not read; the others wait for so long."""

CLIENTS_MAX = 32
COMM = b"liveroll-keeper"
"""Its name in ps and /proc/PID/comm: its command line is that of the agent it was forked from."""

STAYS = b"!"
OOM_SCORE_ADJ = b"-1000"
"""The last process to kill for memory: it has next to none, and with it goes that of workloads."""


class Keeper:
    """Owns the listener and the sessions' fds.

    offer: what an early init has beside them, until an agent has taken it.
    """

    def __init__(
        self, listener: _socket.socket, sessions: Mapping[str, int], offer: Offer | None = None
    ) -> None:
        self._listener = listener
        self._sessions: dict[str, int] = {}
        self._clients: dict[int, _socket.socket] = {}
        self._takers: list[int] = []
        self._poll = select.poll() if offer is None else offer.poll
        self._offer = offer
        self._poll.register(listener.fileno(), select.POLLIN)
        for name, fd in sessions.items():
            self._keep(name, fd)

    def run(self) -> None:
        """Until nothing is left to keep."""
        while self._sessions:
            offer = self._offer
            for fd, what in self._poll.poll(None if offer is None else offer.left_ms()):
                if offer is not None and offer.owns(fd):
                    offer.turn(fd)
                elif fd == self._listener.fileno():
                    self._accept()
                elif fd in self._clients:
                    self._hear(fd)
                elif what & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                    self._drop([name for name, kept in self._sessions.items() if kept == fd])
            if offer is not None and self._takers and offer.left_ms() is None:
                self._give(offer)
        self._listener.close()
        while self._clients:
            self._hang_up(next(iter(self._clients)))

    def _accept(self) -> None:
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]  # what socket.accept() is made of
        except OSError:
            return
        client = _socket.socket(_socket.AF_UNIX, fdpass.KIND, 0, fileno=fd)
        if len(self._clients) >= CLIENTS_MAX or credentials(client)[1] not in (0, posix.geteuid()):
            client.close()
            return
        posix.set_blocking(fd, True)
        fdpass.bound_waits(client, SEND_S)
        self._clients[fd] = client
        self._poll.register(fd, select.POLLIN)

    def _hear(self, fd: int) -> None:
        """One question of a client; whoever breaks the rules is hung up on."""
        client = self._clients[fd]
        sent: list[int] = []
        try:
            data, sent = fdpass.receive(client)
            word, _, name = data.partition(b"\0")
            if word == b"LIST":
                self._list(client)
            elif word == b"PARK" and name and len(sent) == 1:
                self._keep(name.decode(), sent.pop())
                fdpass.send(client, b"OK")
            elif word == b"DROP":
                self._drop([name.decode()])
                fdpass.send(client, b"OK")
            elif word == b"TAKE" and self._offer is not None:
                self._takers.append(fd)
            elif word == b"TAKE":
                fdpass.send(client, b"NONE")
            else:
                self._hang_up(fd)
        except (OSError, ValueError):
            self._hang_up(fd)
        finally:
            fdpass.close_all(sent)

    def _list(self, client: _socket.socket) -> None:
        names = list(self._sessions)
        for at in range(0, len(names), fdpass.FDS_A_MESSAGE):
            part = names[at : at + fdpass.FDS_A_MESSAGE]
            fdpass.send(client, "\0".join(part).encode(), [self._sessions[name] for name in part])
        fdpass.send(client, b".")

    def _give(self, offer: Offer) -> None:
        """To the first that takes it all; the others are told that there is nothing."""
        takers, self._takers = self._takers, []
        for fd in takers:
            client = self._clients.get(fd)
            if client is None:
                continue
            try:
                if self._offer is None:
                    fdpass.send(client, b"NONE")
                elif offer.give(client):
                    self._offer = None
                else:
                    self._hang_up(fd)
            except OSError:
                self._hang_up(fd)

    def _keep(self, name: str, fd: int) -> None:
        self._drop([name])
        self._sessions[name] = fd
        # No event is asked for: a hang-up is told all the same.
        self._poll.register(fd, 0)

    def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            fd = self._sessions.pop(name, -1)
            if fd >= 0:
                self._poll.unregister(fd)
                posix.close(fd)

    def _hang_up(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._clients.pop(fd).close()
        # The next client may get its number, without having asked.
        self._takers = [taker for taker in self._takers if taker != fd]


def listen(path: str) -> _socket.socket:
    """The keeper's listener, where no keeper is alive. Raises OSError."""
    make_place(path)
    sock = _socket.socket(_socket.AF_UNIX, fdpass.KIND | _socket.SOCK_NONBLOCK, 0)
    before = posix.umask(0o177)
    try:
        try:  # noqa: SIM105 - contextlib is an import
            posix.unlink(path)
        except FileNotFoundError:
            pass
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        posix.umask(before)
    return sock


def make_place(path: str) -> None:
    """The directory of a socket: /run is empty in a fresh kernel. Raises OSError."""
    directory = path.rpartition("/")[0]
    try:
        posix.mkdir(directory, 0o755)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_place(directory)
        posix.mkdir(directory, 0o755)


def start(path: str, sessions: Mapping[str, int], forked: list[Forked] | None = None) -> None:
    """Fork a keeper of these sessions; the fds stay the caller's too. Raises OSError.

    Only for a process of one thread. The socket answers when this returns. forked: see fork_away().
    """
    listener = listen(path)
    try:
        _fork(listener, sessions, forked)
    finally:
        listener.close()


def main(words: Sequence[str]) -> None:
    """The keeper as a program: the listener's fd, then FD=NAME for each session."""
    pairs = [word.partition("=") for word in words[1:]]
    listener = _socket.socket(_socket.AF_UNIX, fdpass.KIND, 0, fileno=int(words[0]))
    _fork(listener, {name: int(fd) for fd, _, name in pairs})


def _fork(listener: _socket.socket, sessions: Mapping[str, int], forked: list[Forked] | None = None) -> None:
    def keep() -> None:
        # Who listens is whom SO_PEERCRED names to the other end.
        listener.listen(BACKLOG)
        Keeper(listener, sessions).run()

    fork_away(keep, [listener.fileno(), *sessions.values()], forked=forked)


def fork_away(
    work: Callable[[], None], keep: Iterable[int], comm: bytes = COMM, forked: list[Forked] | None = None
) -> None:
    """Do it in a process that nobody waits for, which has these fds alone. Raises OSError.

    Twice forked, so that it is init's child: its end must leave the agent nothing to wait for. Where there is
    no room for the second, the first does it and stays the agent's child: what is served there is alive, and
    when it ends an entry in the process table is left, until the agent ends.

    Args:
        forked: gets the child between the two, for reap(); None: it is waited for here. On a
            machine that is busy booting that wait takes longer than the rest of the blackout path.
    """
    told, tell = posix.pipe2(posix.O_CLOEXEC)
    try:
        pid = posix.fork()
    except OSError:
        posix.close(told)
        posix.close(tell)
        raise
    if pid:
        posix.close(tell)
        children = [] if forked is None else forked
        children.append((pid, told))
        if forked is None:
            reap(children)
        return
    try:
        try:
            if posix.fork():
                return
        except OSError:
            posix.write(tell, STAYS)
        settle(keep, comm)
        work()
    finally:
        posix._exit(0)


def reap(forked: list[Forked]) -> None:
    """Wait for children that have forked and end at once."""
    while forked:
        pid, told = forked.pop()
        if posix.read(told, 1) != STAYS:
            posix.waitpid(pid, 0)
        posix.close(told)


def settle(keep: Iterable[int], comm: bytes = COMM) -> None:
    """Make this process one that nobody waits for: no fd but these, nothing on the terminal."""
    name_and_shield(comm)
    posix.setsid()
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    _signal.signal(_signal.SIGHUP, _signal.SIG_IGN)
    for number in (_signal.SIGTERM, _signal.SIGCHLD):
        _signal.signal(number, _signal.SIG_DFL)
    nothing = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
    for fd in (0, 1, 2):
        posix.dup2(nothing, fd)
    last = 2
    for fd in sorted(keep):
        posix.closerange(last + 1, fd)
        last = fd
    posix.closerange(last + 1, 1 << 20)
    posix.chdir("/")


def name_and_shield(comm: bytes = COMM) -> None:
    """What can be done only where /proc is mounted, and by root: elsewhere it is a process like others."""
    for place, words in (("/proc/self/comm", comm), ("/proc/self/oom_score_adj", OOM_SCORE_ADJ)):
        try:
            fd = posix.open(place, posix.O_WRONLY | posix.O_CLOEXEC)
        except OSError:
            continue
        try:
            posix.write(fd, words)
        except OSError:
            pass
        finally:
            posix.close(fd)
