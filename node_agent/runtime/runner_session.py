"""The agent's own LUO session `lr.<attempt>.agent`: its token and the marks area.

Token 0: a memfd with JSON (schema, attempt, from, to, workloads), sealed against any change.
Token 1: a memfd of marks.AREA_BYTES, sealed against growing and shrinking before it is
preserved; writes inside it still work and are carried over.

Source: Linux 7.2 lab runs: content, size and seals of a preserved memfd cross the kexec; holders
of retrieved fds keep them when the session is finished.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from node_agent.core.attempt import Attempt
from node_agent.core.marks import AREA_BYTES, MarksInvalid, pack, unpack
from node_agent.core.model import Mark
from node_agent.core.recovery import SessionFinding
from node_agent.errors import KernelError
from node_agent.ports import Clock, Kernel, Session
from node_agent.workloads.device import when_free

SCHEMA = 1
TOKEN = 0
MARKS = 1
TOKEN_BYTES_MAX = 1 << 20
"""A few thousand workloads; more is not ours."""

_SEAL_SIZE = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
_SEAL_ALL = _SEAL_SIZE | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of an attempt's agent session after a boot."""

    finding: SessionFinding
    why: str = ""
    marks: tuple[Mark, ...] = ()
    tsc_hz: float = 0.0


class AgentSession:
    """The session of at most one attempt. Owns its fds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._session: Session | None = None
        self._token_fd = -1
        self._marks_fd = -1

    async def create(self, kernel: Kernel, attempt: Attempt, workloads: Mapping[str, str]) -> None:
        """Make the session and preserve token and marks in it. KernelError, OSError."""
        await self.close()
        self._session = await when_free(
            self._clock.sleep, lambda: kernel.create_session(attempt.ref.agent_session)
        )
        token = {
            "schema": SCHEMA,
            "attempt": attempt.ref.id,
            "generation": attempt.ref.generation,
            "incarnation": attempt.ref.incarnation,
            "from": attempt.from_release,
            "to": attempt.to_release,
            "workloads": dict(workloads),
        }
        self._token_fd = _memfd("liveroll-token", json.dumps(token).encode(), _SEAL_ALL)
        self._marks_fd = _memfd("liveroll-marks", bytes(AREA_BYTES), _SEAL_SIZE)
        await self._session.preserve_fd(self._token_fd, TOKEN)
        await self._session.preserve_fd(self._marks_fd, MARKS)

    def write_marks(self, marks: Sequence[Mark], tsc_hz: float) -> None:
        """Write the marks so far into the area; nothing if there is no session."""
        if self._marks_fd >= 0:
            os.pwrite(self._marks_fd, pack(marks, tsc_hz), 0)

    async def find(self, kernel: Kernel, attempt: Attempt, held: Session | None) -> Found:
        """Retrieve the session after a boot and judge its token.

        Args:
            held: the session, if the resume path has retrieved it already.

        Raises:
            KernelError: the device refuses for a reason that says nothing about the session.
        """
        try:
            if held is None:
                held = await when_free(
                    self._clock.sleep, lambda: kernel.retrieve_session(attempt.ref.agent_session)
                )
            self._session = held
        except KernelError as error:
            if error.reason in _NO_SUCH_SESSION:
                return Found(SessionFinding.ABSENT, error.message)
            raise
        other = SessionFinding.STRANGE if attempt.tokens else SessionFinding.INVALID
        try:
            self._token_fd = await self._session.retrieve_fd(TOKEN)
            token = json.loads(os.pread(self._token_fd, TOKEN_BYTES_MAX, 0))
            named = token["schema"], token["attempt"]
        except KernelError as error:
            if error.reason == "ALREADY_RESTORED":
                # An earlier process of this boot has read it and died before it could say so: no proof that
                # it is this attempt's, and none against it.
                return Found(SessionFinding.ABSENT, error.message)
            none = error.errno == errno.ENOENT
            return Found(other if none else SessionFinding.INVALID, _unreadable(error))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            # What is under somebody else's token may be no memory at all, or hold anything.
            return Found(other, _unreadable(error))
        if named != (SCHEMA, attempt.ref.id):
            return Found(other, f"the session's token names {named[1]}")
        marks, tsc_hz = await self._read_marks()
        return Found(SessionFinding.VALID, "", marks, tsc_hz)

    async def _read_marks(self) -> tuple[tuple[Mark, ...], float]:
        assert self._session is not None
        # Marks are evidence of time, not of the update: without them the sample is missing.
        with contextlib.suppress(KernelError, MarksInvalid, OSError):
            self._marks_fd = await self._session.retrieve_fd(MARKS)
            return unpack(os.pread(self._marks_fd, AREA_BYTES, 0))
        return (), 0.0

    async def finish(self, kernel: Kernel, attempt: Attempt) -> None:
        """Finish it, also one that an earlier process of this boot left behind. Idempotent."""
        if self._session is None:
            try:
                self._session = await when_free(
                    self._clock.sleep, lambda: kernel.retrieve_session(attempt.ref.agent_session)
                )
            except KernelError as error:
                if error.reason in _NO_SUCH_SESSION:
                    return
                raise
        await self._session.finish()
        await self.close()

    async def close(self) -> None:
        """Close it: before the kexec that unpreserves what is in it. Idempotent."""
        self.drop_fds()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def drop_fds(self) -> None:
        """Close the memfds only."""
        for fd in (self._token_fd, self._marks_fd):
            if fd >= 0:
                os.close(fd)
        self._token_fd = self._marks_fd = -1


_NO_SUCH_SESSION = frozenset({"SESSION_NOT_FOUND", "LUO_OFF", "POISONED"})
"""Reasons after which no session can be there."""


def _unreadable(error: Exception) -> str:
    return f"the session's token is unreadable ({type(error).__name__})"


def _memfd(name: str, content: bytes, seals: int) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, len(content))
        os.pwrite(fd, content, 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd
