"""The node's filesystems on the way into a kexec: written back, frozen, and thawed if it is refused.

Order of a jump
1. settle(), while workloads still run: sync(2), and the guard (quiesce_guard.py) is started.
2. The workloads stand still, the JumpIntent is durable, sync(2) again for what those two have written.
3. jump(), in one thread from here on: the note (quiesce_marker.py) · FIFREEZE, the filesystem mounted
   last first · last(), which writes the marks and judges the lease · reboot(2).
4. Refused, or too late: FITHAW, in the other order, and the note is taken away. Then the caller goes on.

Rules
- Between the first FIFREEZE and reboot nothing waits for anybody: no log line, no journal record, no event
  loop. The loop may well hang meanwhile, in the write of a log line to a frozen disk; the thread that
  thaws does not need it.
- Too late is judged twice: by the caller's loop, which gives up after left_s unless reboot has been
  called, and by last(). Once reboot is called, only its answer counts.
- A giving-up thaws at once what is frozen already, since a later freeze may hang on exactly that.
- Died in the middle: the guard thaws, as soon as the last thread of this process is gone; and so does the
  next agent, by the note, before it opens the journal.
- What a thaw or a freeze cannot do stops no jump: the next mount replays a journal, as after a power cut.
"""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Protocol

from node_agent.errors import StepFailed
from node_agent.kernel.failure import failure
from node_agent.kernel.real.threads import alone
from node_agent.ports import Kernel
from node_agent.runtime.freeze import Disk, open_disks
from node_agent.runtime.quiesce_marker import Marker

GUARD_READY_S = 10.0
"""A small Python starts in a tenth of that on the slowest machine known; without it the note must do."""


class GuardLike(Protocol):
    """Who thaws if this process dies."""

    def tell(self, index: int, *, frozen: bool) -> None: ...
    def alive(self) -> bool: ...
    def end(self) -> None: ...


class Guard:
    """The guard's process. Blocks while it starts. Raises OSError."""

    def __init__(self, disks: Sequence[Disk]) -> None:
        script = Path(__file__).with_name("quiesce_guard.py")
        fds = [disk.fileno() for disk in disks]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(script), *map(str, fds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=fds,
            cwd="/",
            start_new_session=True,
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], GUARD_READY_S)
        if not ready or not self._process.stdout.read(1):
            self._process.kill()
            self.end()
            raise TimeoutError

    def tell(self, index: int, *, frozen: bool) -> None:
        """The filesystem of that index is about to be frozen, or is not frozen by us."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it is gone: the note must do
            self._process.stdin.write(b"%c%d\n" % (b"+" if frozen else b"-", index))

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def end(self) -> None:
        """It has nothing to do any more. Idempotent; blocks for as long as it takes to end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()
        # One that a disk holds up ends when the disk answers: that is not waited for.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GUARD_READY_S)


class _GivenUp(Exception):
    """The caller did not wait for so long."""


class _Flight:
    """What the two sides of one jump share: frozen so far, and who was first, giving up or reboot."""

    def __init__(self, disks: Sequence[Disk], guard: GuardLike | None) -> None:
        self._disks = disks
        self._guard = guard
        self._lock = threading.Lock()
        self._thawing = threading.Lock()
        self._frozen: list[int] = []
        self._given_up = False
        self._committed = False

    def freeze(self, index: int) -> None:
        self._check()
        self._tell(index, frozen=True)
        ours = self._disks[index].freeze()
        if not ours:
            self._tell(index, frozen=False)
            return
        with self._lock:
            self._frozen.append(index)

    def commit(self, last: Callable[[], None]) -> None:
        """From here on only reboot's answer counts. Giving up waits for last(), which is short: it must
        not write marks to a session that is being closed."""
        with self._lock:
            if self._given_up:
                raise _GivenUp
            last()
            self._committed = True

    def give_up(self) -> bool:
        """False: too late for that, reboot is called."""
        with self._lock:
            self._given_up = not self._committed
            return self._given_up

    def thaw(self) -> None:
        """What is frozen, last first. Either side, any number of times; returns when it is done,
        whoever did it: the disks are closed after it."""
        with self._thawing:
            while True:
                with self._lock:
                    if not self._frozen:
                        return
                    index = self._frozen.pop()
                self._disks[index].thaw()
                self._tell(index, frozen=False)

    def _check(self) -> None:
        with self._lock:
            if self._given_up:
                raise _GivenUp

    def _tell(self, index: int, *, frozen: bool) -> None:
        if self._guard is not None:
            self._guard.tell(index, frozen=frozen)


class Quiesce:
    """ports.Disks of a real node.

    Args:
        marker: where the note lies.
        reboot: blocks, and returns only by raising OSError (kernel/real/kexec.py).
        open_all: the filesystems, in the order in which to freeze them; none at all is "only sync".
        guarded: starts the guard over them.
        sync: sync(2).
        complain: told what could not be got ready, while workloads still run.
    """

    def __init__(
        self,
        marker: Marker,
        reboot: Callable[[], None],
        *,
        open_all: Callable[[], Sequence[Disk]] = open_disks,
        guarded: Callable[[Sequence[Disk]], GuardLike] = Guard,
        sync: Callable[[], None] = os.sync,
        complain: Callable[[str, str], None] = lambda _what, _why: None,
    ) -> None:
        self._marker = marker
        self._reboot = reboot
        self._open_all = open_all
        self._guarded = guarded
        self._sync = sync
        self._complain = complain
        self._disks: Sequence[Disk] = ()
        self._guard: GuardLike | None = None
        self._flying = False

    async def settle(self) -> None:
        """See ports.Disks. Where nothing was mounted since, the second call is the sync alone.

        Raises:
            StepFailed (DISK_STALLED): a freeze of an earlier attempt has not come back yet.
        """
        if self._flying:
            raise StepFailed(
                "a filesystem has not answered since the last jump was given up",
                reason="DISK_STALLED",
                remedy="Look for the disk that hangs (a process in state D), then restart the agent.",
            )
        for what, why in (await alone("liveroll-sync", self._settle)).items():
            self._complain(what, why)

    def _settle(self) -> dict[str, str]:
        """What could not be got ready, and why."""
        self._sync()
        disks: Sequence[Disk] = ()
        try:
            disks = self._open_all()
            if self._ready_for(disks):
                _close_all(disks)
                return {}
            self._put_away()
            self._disks = disks
            self._guard = self._guarded(disks) if disks else None
        except OSError as error:
            what = "no guard over frozen filesystems" if disks else "no filesystem can be frozen"
            return {what: os.strerror(error.errno) if error.errno else type(error).__name__}
        return {}

    def _ready_for(self, disks: Sequence[Disk]) -> bool:
        same = [disk.mount for disk in disks] == [disk.mount for disk in self._disks]
        return same and self._guard is not None and self._guard.alive()

    async def jump(self, _kernel: Kernel, last: Callable[[], None], left_s: float) -> NoReturn:
        """See ports.Disks."""
        flight = _Flight(self._disks, self._guard)
        self._flying = True
        going = asyncio.ensure_future(alone("liveroll-reboot", lambda: self._fly(flight, last)))
        limit_s: float | None = max(left_s, 0.0)
        stopped: asyncio.CancelledError | None = None
        while not going.done():
            try:
                await asyncio.wait((going,), timeout=limit_s)
            except asyncio.CancelledError as cancel:
                stopped = cancel
            if not going.done() and limit_s is not None:
                limit_s = None
                if flight.give_up():
                    # The thread itself may take as long as its disk does.
                    going.add_done_callback(_seen)
                    asyncio.ensure_future(alone("liveroll-thaw", flight.thaw)).add_done_callback(_seen)
                    raise stopped or TimeoutError
        if stopped is not None:
            raise stopped from going.exception()
        going.result()
        raise AssertionError("reboot returned without an error")

    def _fly(self, flight: _Flight, last: Callable[[], None]) -> None:
        """The thread. Raises what last() raised, KernelError, or _GivenUp; all is thawed then."""
        try:
            if self._disks:
                with suppress(OSError):  # the guard is there too
                    self._marker.write([disk.mount for disk in self._disks])
            for index in range(len(self._disks)):
                flight.freeze(index)
            flight.commit(last)
            try:
                self._reboot()
            except OSError as cause:
                raise failure(cause) from cause
        finally:
            flight.thaw()
            self._put_away()
            self._flying = False

    async def let_go(self) -> None:
        """See ports.Disks."""
        if not self._flying and self._disks:
            await alone("liveroll-guard", self._put_away)

    def _put_away(self) -> None:
        self._marker.remove()
        disks, self._disks = self._disks, ()
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.end()
        _close_all(disks)


def _close_all(disks: Sequence[Disk]) -> None:
    for disk in disks:
        disk.close()


def _seen(done: asyncio.Future[None]) -> None:
    """Nobody waits for it any more; what it raised is no news."""
    if not done.cancelled():
        done.exception()
