"""The userspace of one emulated node: its services' processes and all their descendants.

Rules: each service is a session of its own; an orphan becomes this process's child (it is the
subreaper), so that kill_all() finds every process however it was started. A service that ends
is started again after a bounded backoff; the first service ending with 0 ends the node.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from node_agent.kernel.emulated.clock import BaseClock

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
"""Source: include/uapi/linux/prctl.h."""

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0
"""Longer would look like a dead node in a demonstration, shorter would burn a core in a crash loop."""

STEADY_S = 10.0
"""A service that ran so long starts its backoff afresh."""

_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class _Service:
    argv: Sequence[str]
    pid: int = 0
    started_s: float = 0.0
    backoff_s: float = BACKOFF_FIRST_S
    due_s: float | None = None
    """When to start it again."""


class Userspace:
    """The processes of one node.

    Args:
        commands: argv of each service, the node's own first.
        environment: of each service.
        base: times the backoff.
    """

    def __init__(
        self, commands: Sequence[Sequence[str]], environment: Mapping[str, str], base: BaseClock
    ) -> None:
        self._services = [_Service(argv) for argv in commands]
        self._environment = dict(environment)
        self._base = base
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def start(self) -> None:
        """Start every service, backoffs afresh."""
        for service in self._services:
            service.backoff_s = BACKOFF_FIRST_S
            self._spawn(service)

    def wait_s(self) -> float | None:
        """Until the next service is due; None if all run."""
        due = [s.due_s for s in self._services if s.due_s is not None]
        return max(0.0, min(due) - self._base.now()) if due else None

    def tend(self) -> bool:
        """Reap what has ended and start what is due; False once the first service ended with 0."""
        if self._reap():
            return False
        now = self._base.now()
        for service in self._services:
            if service.due_s is not None and service.due_s <= now:
                self._spawn(service)
        return True

    def terminate(self) -> None:
        """Ask every service to end; see ended()."""
        for service in self._services:
            service.due_s = None
            if service.pid and not _signal(-service.pid, signal.SIGTERM):
                _signal(service.pid, signal.SIGTERM)  # not yet the leader of its group

    def ended(self) -> bool:
        """Reap; have all services ended?"""
        self._reap()
        return not any(service.pid for service in self._services)

    def kill_all(self) -> None:
        """SIGKILL until nothing is left. Orphans are adopted as their parents die, so killing
        children until there are none reaches all."""
        for service in self._services:
            service.due_s = None
            if service.pid:
                _signal(-service.pid, signal.SIGKILL)
                service.pid = 0
        while True:
            for pid in _children():
                _signal(pid, signal.SIGKILL)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return

    def _reap(self) -> bool:
        """Note every end so far; has the first service ended with 0?"""
        done = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return done
            if pid == 0:
                return done
            done |= self._ended(pid) and os.waitstatus_to_exitcode(status) == 0

    def _ended(self, pid: int) -> bool:
        """Note a service's end; was it the first service's?"""
        for service in self._services:
            if service.pid == pid:
                now = self._base.now()
                if now - service.started_s >= STEADY_S:
                    service.backoff_s = BACKOFF_FIRST_S
                service.pid, service.due_s = 0, now + service.backoff_s
                service.backoff_s = min(BACKOFF_MAX_S, service.backoff_s * 2)
                return service is self._services[0]
        return False

    def _spawn(self, service: _Service) -> None:
        service.due_s = None
        service.started_s = self._base.now()
        # Blocked over the fork, so that the child cannot lose one to this process's handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        service.pid = os.fork()
        if service.pid == 0:
            self._become(service.argv)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)

    def _become(self, argv: Sequence[str]) -> None:
        """In the child. Dies with the kernel process, as a userspace does with its kernel."""
        status = 127
        try:
            os.setsid()
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            for number in (*_HANDLED, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            os.execvpe(argv[0], list(argv), self._environment)  # noqa: S606 - the operator's command
        except OSError as cause:
            os.write(2, f"cannot start {argv[0]}: {cause.strerror}\n".encode())
        finally:
            os._exit(status)


def _children() -> list[int]:
    """Direct children of this single-threaded process.

    Source: /proc/PID/task/TID/children in proc(5).
    """
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as listing:
        return [int(pid) for pid in listing.read().split()]


def _signal(pid: int, number: signal.Signals) -> bool:
    """False if there is no such process or group."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
