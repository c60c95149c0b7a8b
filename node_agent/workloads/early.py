"""A workload's way back after a kexec, before it has imported anything: CLAIM, memory, RESUME, first tick.

From interpreter builtins only, as the agent's blackout path: what the library needs of Python takes a
tenth of a second on a fast machine and whole seconds on a slow one, and all of it would be blackout.
The library then adopts the connection (Client.adopt) and does what is left.

Anything but CLAIMED as the first answer is left to the library, unread.
"""

from __future__ import annotations

import _socket
import posix
import sys
import time

from node_agent.kernel.emulated import syncclient
from node_agent.resume.words import scan
from node_agent.workloads import memory_head

RETRY_S = 0.002
RETRY_MOST_S = 0.05
LINE_BYTES = 4096


class Back:
    """How far it came. The fds are the caller's; -1 for what there is not.

    resumed_at: CLOCK_BOOTTIME at RESUME, ns, when the first tick was made; 0 if it did not come
    to that. pending: bytes heard and not understood.
    """

    __slots__ = ("memory_fd", "pending", "resumed_at", "session_fd", "sock_fd")

    def __init__(self) -> None:
        self.sock_fd = self.session_fd = self.memory_fd = -1
        self.pending = b""
        self.resumed_at = 0


def come_back(path: str, workload: str, token: int, wait_s: float) -> Back | None:
    """Ask for the session of `workload`; None if no broker answered within wait_s.

    token: of its memory in the session. Raises OSError as the kernel does.
    """
    give_up = time.monotonic() + wait_s
    while (sock := _connect(path, give_up)) is not None:
        back = Back()
        try:
            if _claim(sock, back, workload, token, give_up):
                back.sock_fd = sock.detach()
                return back
        finally:
            sock.close()
        time.sleep(RETRY_S)  # a broker that accepts and hangs up must not make us spin
    return None


def _connect(path: str, give_up: float) -> _socket.socket | None:
    wait_s = RETRY_S
    while True:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
        else:
            return sock
        if time.monotonic() + wait_s >= give_up:
            return None
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, RETRY_MOST_S)


def _claim(sock: _socket.socket, back: Back, workload: str, token: int, give_up: float) -> bool:
    """False: the connection ended before there was an answer."""
    # An id has no character that JSON escapes; the broker refuses any other.
    sock.send(b'{"cmd":"CLAIM","id":"' + workload.encode() + b'","extensions":["suspend"]}\n')
    while True:
        sock.settimeout(max(0.001, give_up - time.monotonic()))
        try:
            more = _receive(sock, back)
        except TimeoutError:
            return True  # the library waits on, and says who did not answer
        except OSError:
            more = False
        if not more:
            if back.memory_fd >= 0:
                return True  # the memory is ours; the library connects again
            _close(back)
            return False
        while b"\n" in back.pending:
            line, _, rest = back.pending.partition(b"\n")
            event = scan(line).get("event")
            if back.memory_fd < 0 and event == "CLAIMED" and back.session_fd >= 0:
                back.memory_fd = syncclient.retrieve_fd(back.session_fd, token)
            elif back.memory_fd >= 0 and event == "RESUME":
                if memory_head.tick(back.memory_fd):
                    back.resumed_at = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
                    back.pending = rest
                    _say_running(sock)
                return True
            else:
                return True
            back.pending = rest


def _say_running(sock: _socket.socket) -> None:
    """To a broker that knows RESUME, so to one of ours."""
    try:  # noqa: SIM105 - contextlib is an import
        sock.send(b'{"cmd":"RUNNING"}\n')
    except OSError:
        pass  # the library sees that the connection is lost


def _receive(sock: _socket.socket, back: Back) -> bool:
    """False at the end."""
    data, ancillary, _, _ = sock.recvmsg(LINE_BYTES, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS) and len(payload) >= 4:
            back.session_fd = int.from_bytes(payload[:4], sys.byteorder)
    back.pending += data
    return bool(data)


def _close(back: Back) -> None:
    for fd in (back.session_fd, back.memory_fd):
        if fd >= 0:
            posix.close(fd)
    back.session_fd = back.memory_fd = -1
    back.pending = b""
