"""From the new kernel's first line of userspace to workloads that run again.

Order, and nothing between: lock the journal, read its JumpIntent, retrieve the agent's session
and every workload's session, then bind the broker's socket and answer each CLAIM with its
session and RESUME, until all have resumed or the deadline passes. What was not understood is
left, byte for byte, to the full agent.

Rules:
- nothing is retrieved without a JumpIntent of another boot: a restart of the agent in the same
  boot, and a journal that is damaged, locked or silent, give an empty Handover;
- where the kernel has tokens and no sessions (RFC v2), a process of its own makes sessions of them
  (tokens.py), and all else is the same;
- with tokens, nothing is given out before the agent's own memfd has named the attempt: they count up from
  nought in every boot, so those of a JumpIntent that a later boot finds may be of somebody else's files;
- one session that did not cross stops none of the others; each failure is in Handover.errors;
- a CLAIM is answered only to the uid, and service, that the JumpIntent binds the id to. Others
  are left to the broker, which refuses them with a reason.

If this process is killed here: before a session is retrieved nothing is lost, the next start
retrieves it. Once retrieved, a session whose last copy closes is FINISHed by the kernel
(luo-uapi), so all of them are parked (parking.py) before any is handed out, and the next start
takes them from there. What is left is the time between the first retrieval and the parking, some
milliseconds; a session lost in it is gone, and the full agent finds ENOENT. With tokens nothing is lost
in it: the kernel is asked for a file when the workload asks, and until then gives it to the next start.

Blocking, single-threaded, interpreter builtins only.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import posix
import time

from node_agent.kernel.emulated import syncclient
from node_agent.resume import keeper
from node_agent.resume.claims import serve
from node_agent.resume.handover import Handover, Mark
from node_agent.resume.identity import read_text
from node_agent.resume.journal_tail import MAGIC, JumpIntent, holds_jump, read_last_jump
from node_agent.resume.parking import Parking
from node_agent.resume.words import scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    T = TypeVar("T")

DEADLINE_S = 10.0
"""Beyond it the orchestrator should rather hear who is missing than wait for them in silence."""

LOCK_S = 0.5
"""What an agent forked just before its death (keeper, tokens) has its lock, too, until it first runs; on a
busy machine the next agent may be faster. Whoever holds it for longer is another agent."""

BUSY_S = 2.0
"""systemd opens /dev/liveupdate at boot too: EBUSY for that long is normal."""

TOKEN = 0
"""The agent's own session holds a memfd with JSON under it, `attempt` among its words."""

TOKEN_BYTES = 4096
TAIL_BYTES = 65536
"""Of the journal's end: enough for a JumpIntent and the one or two records that follow until it is settled.
Each tells the whole attempt: with many workloads or tokens it is not, and all of the journal is read."""

BACKLOG = 128
BOOT_ID = "/proc/sys/kernel/random/boot_id"


def resume(
    *,
    root: str,
    journal_path: str,
    socket_path: str,
    deadline_s: float = DEADLINE_S,
    socket_mode: int = 0o660,
    socket_gid: int = -1,
    keeper_path: str = "",
    environ: Mapping[bytes, bytes] = posix.environ,
) -> Handover:
    """Bring the workloads back if this boot is the other side of a jump. Never raises for what
    the node's state may be: see Handover.errors.

    Args:
        root: of an emulated node; "" is this machine.
        journal_path: the journal's file, which is what is locked.
        socket_path, socket_mode, socket_gid: the broker's; -1 leaves the group alone.
        deadline_s: seconds to wait for claims, from the retrieval on.
        keeper_path: the keeper's socket; "" starts none.
        environ: of this process, for the fd store.
    """
    handover = begin(root=root, journal_path=journal_path)
    # Also without the journal: whoever gets its lock later goes on with what is parked then. No copy
    # of that is taken before, since it would outlive its FINISH.
    parking = handover.parking = Parking(keeper_path, environ, posix.getpid())
    if handover.journal_fd < 0:
        return handover
    try:
        handover.parked = parking.sessions()
    except OSError as error:
        handover.errors["parking"] = _name(error)
    if not handover.attempt:
        return handover
    again = bool(handover.parked)
    fresh = retrieve(handover, root)
    try:
        parking.park(fresh, lambda path, sessions: keeper.start(path, sessions, handover.forked))
    except OSError as error:
        handover.errors["parking"] = _name(error)
    # After the parking: the kernel gives the memfd out once, the token server as often as it is asked.
    confirm(handover)
    if handover.sessions and listen(handover, socket_path, socket_mode, socket_gid):
        serve(handover, deadline_s, again=again)
    if handover.token_fd < 0:
        read_token(handover)
    keeper.reap(handover.forked)
    return handover


def begin(*, root: str, journal_path: str, first: bool = False) -> Handover:
    """Lock the journal and look for a jump that ended in this boot: Handover.attempt names it.

    first: this is the boot's first process, so that no JumpIntent can be of this boot.
    """
    handover = Handover()
    handover.marks["kernel_start"] = Mark(0, 0)
    handover.marks["userspace_start"] = Mark.now()
    intent = _intent(handover, journal_path)
    if intent is not None and (first or _crossed(handover, root, intent)):
        handover.attempt = intent.attempt
        handover.jump = intent.body
        handover.bindings = intent.bindings
        handover.names = intent.sessions
        handover.tokens = intent.tokens
        handover.agent_session = intent.agent_session
    return handover


def retrieve(handover: Handover, root: str) -> dict[str, int]:
    """Every session of the jump, those that are parked from there. What came from the kernel, by
    name: to be parked."""
    fresh: dict[str, int] = {}
    made = _make(handover, root)

    def one(name: str) -> int:
        fd = handover.parked.pop(name, -1)
        if fd < 0:
            fd = made.pop(name, -1) if handover.tokens else _retrieve(handover, root, name)
            if fd >= 0:
                fresh[name] = fd
            else:
                handover.errors.setdefault(name, "ENOENT")
        return fd

    handover.agent_session_fd = one(handover.agent_session)
    for id, name in handover.names.items():
        fd = one(name)
        if fd >= 0:
            handover.sessions[id] = (name, fd)
    handover.marks["retrieved"] = Mark.now()
    return fresh


def _make(handover: Handover, root: str) -> dict[str, int]:
    """Of tokens, the sessions that no earlier process of this boot has made; the errors noted."""
    # Nobody would close one that is none of the jump's.
    wanted = {handover.agent_session, *handover.names.values()} - handover.parked.keys()
    missing = {name: told for name, told in handover.tokens.items() if name in wanted}
    if not missing:
        return {}
    # An import that only such a kernel's node has to wait for.
    from node_agent.resume.tokens import start

    try:
        return _when_free(handover, lambda: start(root, missing, handover.forked))
    except OSError as error:
        handover.errors |= dict.fromkeys(missing, _name(error))
        return {}


def _intent(handover: Handover, journal_path: str) -> JumpIntent | None:
    try:
        handover.journal_fd = _lock(journal_path)
        return read_last_jump(_read(handover.journal_fd))
    except FileNotFoundError:
        return None
    except OSError as error:
        handover.errors["journal"] = _name(error)
        return None


def _crossed(handover: Handover, root: str, intent: JumpIntent) -> bool:
    try:
        boot_id = syncclient.facts(root)["boot_id"] if root else read_text(BOOT_ID).strip()
    except OSError as error:
        handover.errors["boot_id"] = _name(error)
        return False
    return boot_id != intent.boot_id


def _lock(path: str) -> int:
    """The journal, open and locked. Raises OSError: EAGAIN if another process holds it.

    While its file system is still read-only it is opened for reading: see take.py.
    """
    try:
        fd = posix.open(path, posix.O_RDWR | posix.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        _flock(fd)
        if posix.stat(path).st_ino != posix.fstat(fd).st_ino:
            # Compacted between open and lock, so by a process that lives and holds the new file.
            raise OSError(errno.EAGAIN, "flock")
    except OSError:
        posix.close(fd)
        raise
    return fd


def _flock(fd: int) -> None:
    give_up = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EAGAIN or time.monotonic() >= give_up:
                raise
            time.sleep(0.001)
        else:
            return


def _retrieve(handover: Handover, root: str, name: str) -> int:
    """A session fd, or -1 with the error noted."""
    try:
        return _when_free(handover, lambda: syncclient.retrieve_session(root, name))
    except OSError as error:
        handover.errors[name] = _name(error)
        return -1


def _when_free(handover: Handover, call: Callable[[], T]) -> T:
    """call(), and again while somebody else has the device open. Raises OSError."""
    give_up = time.monotonic() + BUSY_S
    while True:
        try:
            return call()
        except OSError as error:
            # Who has kept it for that long keeps it: the other sessions' turn is not waited for too.
            kept = "EBUSY" in handover.errors.values()
            if error.errno != errno.EBUSY or kept or time.monotonic() >= give_up:
                raise
            # The device has no event for its release.
            time.sleep(0.001)


def confirm(handover: Handover) -> None:
    """With tokens: are they of the jump that they are said to be of? Else no workload gets any: their
    sessions are the full agent's, which classifies the boot."""
    if not handover.tokens:
        return
    read_token(handover)
    if scan(handover.token).get("attempt") != handover.attempt:
        handover.parked |= dict(handover.sessions.values())
        handover.sessions = {}


def read_token(handover: Handover) -> None:
    """With sessions after the hand-over: only the verdict waits for it."""
    if handover.agent_session_fd < 0:
        return
    try:
        handover.token_fd = syncclient.retrieve_fd(handover.agent_session_fd, TOKEN)
        handover.token = posix.pread(handover.token_fd, TOKEN_BYTES, 0).rstrip(b"\0")
    except OSError as error:
        handover.errors["token"] = _name(error)
        return
    if scan(handover.token).get("attempt") != handover.attempt:
        handover.errors["token"] = "it names another attempt"  # noqa: S105 - no secret


def listen(handover: Handover, path: str, mode: int, gid: int) -> bool:
    """Take the broker's socket over; the journal's lock says that no other agent is alive."""
    sock = _socket.socket(
        _socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK, 0
    )
    try:
        keeper.make_place(path)
        try:  # noqa: SIM105 - contextlib is an import
            posix.unlink(path)
        except FileNotFoundError:
            pass
        sock.bind(path)
        if gid >= 0:
            posix.chown(path, -1, gid)
        posix.chmod(path, mode)
        sock.listen(BACKLOG)
    except OSError as error:
        handover.errors["socket"] = _name(error)
        sock.close()
        return False
    handover.listener_fd = sock.detach()
    return True


def _read(fd: int) -> bytes:
    """As much of the journal as is needed: its tail, if a whole JumpIntent is in there."""
    size = posix.fstat(fd).st_size
    if size > TAIL_BYTES:
        tail = posix.pread(fd, len(MAGIC), 0) + posix.pread(fd, TAIL_BYTES, size - TAIL_BYTES)
        if holds_jump(tail):
            return tail
    return posix.pread(fd, size, 0)


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "EIO")
