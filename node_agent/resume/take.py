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
- a real node's agent calls parameters.write(path, Parameters(…)) at each start.
"""

from __future__ import annotations

import posix

from node_agent.resume import blackout, fdpass, handover_wire, parking
from node_agent.resume.parameters import command_line, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from node_agent.resume.handover import Handover

TAKE_S = 30
"""More than blackout.DEADLINE_S: an early init waits for claims that long before it lets go."""


def take(root: str = "", environ: Mapping[bytes, bytes] = posix.environ) -> Handover | None:
    """The Handover of this start; None if nobody has said where the journal is.

    Args:
        root: of an emulated node; "" is this machine.
        environ: of this process.
    """
    parameters = find(environ, "" if root else command_line())
    if parameters is None:
        return None
    taken = _from_keeper(parameters.keeper)
    if taken is not None:
        taken.parking = parking.Parking(parameters.keeper, environ, posix.getpid())
        return taken
    return blackout.resume(
        root=root,
        journal_path=parameters.journal,
        socket_path=parameters.socket,
        socket_mode=parameters.mode,
        socket_gid=parameters.gid,
        keeper_path=parameters.keeper,
        environ=environ,
    )


def _from_keeper(path: str) -> Handover | None:
    sock = parking.connect(path)
    if sock is None:
        return None
    try:
        fdpass.bound_waits(sock, TAKE_S)
        return handover_wire.take(sock)
    except OSError:
        # It ended, or does not answer: the journal's lock decides what may be done without it.
        return None
    finally:
        sock.close()
