"""What `liveroll-agent run` does first, before it imports anything else.

    from node_agent.resume.take import take
    handover = take(root=os.environ.get("LIVEROLL_NODE_ROOT", ""))    # None: nothing to go on with

An early init (early.py) may have done the blackout path already and keeps what it got: then that is
taken over. Else the path is done here, in this process. To be called while it has one thread.

For the application:
- Handover.journal_fd goes to open_journal(fd=…); -1 with errors["journal"] is another agent's lock;
- broker_handover.HandoverKernel(kernel, handover, wrap) must be the node's kernel whenever there is
  a Handover, also one without an attempt: it knows the parked sessions, and parks and drops them;
- broker.adopt(handover) and the marks only where Handover.attempt is not empty;
- a real node's agent calls parameters.write() and bundle.write() at each start.
"""

from __future__ import annotations

import fcntl
import posix

from node_agent.resume import blackout, fdpass, handover_wire, parking
from node_agent.resume.parameters import find, from_environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from node_agent.resume.handover import Handover

TAKE_S = 30
"""More than blackout.DEADLINE_S: an early init waits for claims that long before it lets go."""

TAKE_TRIES = 3
"""An agent that is held up for longer than keeper.SEND_S, by its disk for instance, is hung up on."""


def take(root: str = "", environ: Mapping[bytes, bytes] = posix.environ) -> Handover | None:
    """The Handover of this start; None if nobody has said where the journal is.

    Args:
        root: of an emulated node; "" is this machine.
        environ: of this process.
    """
    parameters = from_environment(environ) if root else find(environ)
    if parameters is None:
        return None
    handover = _from_keeper(parameters.keeper)
    if handover is not None:
        handover.parking = parking.Parking(parameters.keeper, environ, posix.getpid())
    else:
        handover = blackout.resume(
            root=root,
            journal_path=parameters.journal,
            socket_path=parameters.socket,
            socket_mode=parameters.mode,
            socket_gid=parameters.gid,
            keeper_path=parameters.keeper,
            environ=environ,
        )
    if handover.journal_fd >= 0:
        _make_writable(handover, parameters.journal)
    return handover


def _make_writable(handover: Handover, path: str) -> None:
    """A journal that was opened while its file system was read-only is opened again, if it is not
    any more. The lock is the open file's, so for an instant nobody has it."""
    if fcntl.fcntl(handover.journal_fd, fcntl.F_GETFL) & posix.O_ACCMODE != posix.O_RDONLY:
        return
    try:
        fd = posix.open(path, posix.O_RDWR | posix.O_CLOEXEC)
    except OSError:
        return
    posix.close(handover.journal_fd)
    handover.journal_fd = -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        handover.journal_fd = fd
    except OSError:
        posix.close(fd)
        handover.errors["journal"] = "EAGAIN"


def _from_keeper(path: str) -> Handover | None:
    for _ in range(TAKE_TRIES):
        sock = parking.connect(path)
        if sock is None:
            return None
        try:
            fdpass.bound_waits(sock, TAKE_S)
            return handover_wire.take(sock)
        except OSError:
            # It ended, or we were too slow for it. As long as it lives it has the journal's lock too.
            continue
        finally:
            sock.close()
    return None
