"""The workload broker: keeps the sessions of a node's workloads and speaks with the workloads.

ports.Workloads over luo-agent's protocol (workloads/protocol.py). Rules:
- who may speak for an id is the roster's business (broker_roster.py); bindings() goes into the
  journal before the jump and restore() brings it back after it;
- the broker holds each session's fd from preserve() until finish() or release();
- every wait has a bound and its error names the workload; all workloads are asked at once;
- a workload that knows no SUSPEND (plain luo-agent client) is taken at its word: READY and staying
  connected is all it owes before the kexec, CLAIM all after;
- one that cannot be preserved is drained or refused, by policy (broker_leaving.py);
- resume() serves both ends: after retrieve() it waits for each CLAIM, in the same boot (unwinding)
  it asks those that were suspended. Called again, it returns the same samples.

run() owns every connection; nothing else here makes a task that outlives a call.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING

from node_agent.core.model import Problem
from node_agent.errors import AgentError, BrokerError
from node_agent.ports import Kernel, WorkloadPause, WorkloadPeer
from node_agent.runtime.broker_errors import (
    absent,
    already_preserved,
    came_late,
    died,
    no_binding,
    restarted,
    still_held,
)
from node_agent.runtime.broker_handover import left_by_the_dead, paused
from node_agent.runtime.broker_leaving import UNPRESERVABLE, DrainWorkload, left_behind, not_drained
from node_agent.runtime.broker_peer import Peer
from node_agent.runtime.broker_record import BrokerTimeouts, WorkloadRecord
from node_agent.runtime.broker_roster import Roster
from node_agent.workloads import protocol
from node_agent.workloads.device import Device
from node_agent.workloads.together import all_or_cancel, all_to_the_end

if TYPE_CHECKING:
    from node_agent.resume.handover import Handover


class Broker:
    """ports.Workloads over a Unix socket.

    socket_path: where to listen; a stale socket is replaced, a served one refused.
    socket_mode, socket_gid: of the socket; -1 leaves the group alone.
    allowed_uids: who may connect; None leaves it to the socket's mode.
    drain_workload: moves one that cannot be preserved off this node; None: such a one refuses.
    """

    def __init__(
        self,
        socket_path: str,
        *,
        timeouts: BrokerTimeouts | None = None,
        max_clients: int = 256,
        socket_mode: int = 0o660,
        socket_gid: int = -1,
        allowed_uids: Collection[int] | None = None,
        drain_workload: DrainWorkload | None = None,
    ) -> None:
        self.socket_path = socket_path
        self._timeouts = timeouts or BrokerTimeouts()
        self._roster = Roster(
            socket_path,
            claim_s=self._timeouts.claim_s,
            max_clients=max_clients,
            socket_mode=socket_mode,
            socket_gid=socket_gid,
            allowed_uids=allowed_uids,
        )
        self._workloads = self._roster.records
        self._kernel: Kernel | None = None
        self._device = Device(asyncio.sleep)
        self._drain = drain_workload
        self._left_behind: dict[str, Problem] = {}

    async def run(self) -> None:
        """Serve until cancelled. Raises BrokerError (SOCKET_IN_USE), SettingsError."""
        await self._roster.run()

    @property
    def listening(self) -> asyncio.Event:
        """Set while clients can connect."""
        return self._roster.listening

    # -- what crosses in the journal ---------------------------------------------------------

    def bindings(self) -> Mapping[str, Mapping[str, object]]:
        """id → {uid, unit, suspend}: for the journal, before the jump."""
        return {
            w.id: {"uid": w.uid, "unit": w.unit, "suspend": w.suspends}
            for w in self._workloads.values()
            if w.id not in self._left_behind
        }

    def restore(
        self,
        bindings: Mapping[str, Mapping[str, object]],
        *,
        kernel: Kernel | None = None,
        sessions: Mapping[str, str] | None = None,
    ) -> None:
        """Before run(), when the journal tells of an attempt that is not settled.

        kernel, sessions: in the same boot, what was preserved, so that release() can see
        whether the kernel has let go of it.
        """
        self._kernel = kernel or self._kernel
        for id, words in bindings.items():
            workload = self._workloads.get(id)
            if workload is None:
                workload = WorkloadRecord(id, int(str(words["uid"])), str(words.get("unit", "")))
                self._workloads[id] = workload
            workload.suspends = bool(words.get("suspend", False))
            workload.kept = True
            workload.session_name = (sessions or {}).get(id, "")

    def adopt(self, handover: Handover) -> None:
        """Before run(): go on where the blackout path stopped, with its socket and its clients.

        Its sessions come through retrieve(), from a kernel that knows them (HandoverKernel).
        """
        self.restore(handover.bindings)
        if handover.listener_fd >= 0:
            self._roster.adopt_listener(handover.listener_fd)
        for client in handover.clients:
            peer = self._roster.adopt(client.fd, client.pending)
            if client.workload:
                workload = self._workloads[client.workload]
                peer.suspends = workload.suspends = client.suspends
                self._roster.attach(workload, peer)
                workload.pause = paused(client)
                if workload.pause is None:
                    # RESUME was sent with its session; it had no time to answer yet.
                    peer.owes(protocol.Resumed)

    # -- ports.Workloads ---------------------------------------------------------------------

    async def subscribers(self) -> Sequence[str]:
        return tuple(sorted(w.id for w in self._workloads.values() if w.peer is not None))

    async def peers(self) -> Sequence[WorkloadPeer]:
        return tuple(
            WorkloadPeer(w.id, w.peer.pid if w.peer else 0, w.session_name if w.session else "")
            for w in sorted(self._workloads.values(), key=lambda w: w.id)
        )

    def left_behind(self) -> Mapping[str, Problem]:
        """Workloads that the last preserve() drained instead, and why."""
        return dict(self._left_behind)

    async def preserve(self, kernel: Kernel, attempt: str) -> Mapping[str, str]:
        self._kernel = kernel
        self._left_behind = {}
        asked = await self.subscribers()
        await all_or_cancel(asked, lambda id: self._or_leave(id, self._preserve(kernel, attempt, id)))
        # Some may have died while others were still at it.
        await all_or_cancel(asked, lambda id: self._or_leave(id, self._still_there(id)))
        return {id: self._workloads[id].session_name for id in asked if id not in self._left_behind}

    async def _or_leave(self, id: str, preserving: Coroutine[object, object, None]) -> None:
        """By policy: what broker_leaving.py says."""
        try:
            await preserving
        except BrokerError as why:
            if self._drain is None or why.reason not in UNPRESERVABLE:
                raise
            try:
                await self._drain(id, why.message)
                await self._leave(id)
            except AgentError as error:
                raise not_drained(id, why, error) from error
            self._left_behind[id] = left_behind(why)

    async def _leave(self, id: str) -> None:
        workload = self._workloads.get(id)
        if workload is not None:
            await self._let_go(workload)
            workload.session_name, workload.ready = "", False
            self._roster.forget(workload)

    async def _still_there(self, id: str) -> None:
        if id in self._left_behind:
            return
        workload = self._workloads[id]
        if workload.peer is None or workload.peer.hung_up():
            raise died(id, workload.session_name)
        if not workload.ready:
            raise restarted(id, workload.session_name)

    async def _preserve(self, kernel: Kernel, attempt: str, id: str) -> None:
        workload = self._workloads.get(id)
        if workload is None:
            raise absent(WorkloadRecord(id, -1, ""), self.socket_path)
        peer = self._peer(workload)
        if workload.session is not None:
            raise already_preserved(workload)
        name = protocol.session_name(attempt, id)
        workload.session = await self._device.in_turn(lambda: kernel.create_session(name))
        workload.session_name, workload.retrieved, workload.pause = name, False, None
        await peer.ask(
            protocol.StartPreservation(), protocol.Ready, self._timeouts.preserve_s, workload.session.fileno()
        )
        workload.ready = workload.peer is peer

    async def suspend(self) -> None:
        for workload in self._workloads.values():
            if workload.id in self._left_behind:
                continue
            if workload.session is not None:
                await self._still_there(workload.id)
            elif workload.peer is not None:
                raise came_late(workload.id)
        preserved = [w.id for w in self._workloads.values() if w.session is not None and w.suspends]
        await all_or_cancel(preserved, self._suspend)

    async def _suspend(self, id: str) -> None:
        workload = self._workloads[id]
        # Set before the question: whoever was asked may have stopped, whatever it answered.
        workload.suspended, workload.pause = True, None
        await self._peer(workload).ask(protocol.Suspend(), protocol.Suspended, self._timeouts.suspend_s)

    async def retrieve(self, kernel: Kernel, sessions: Mapping[str, str]) -> None:
        self._kernel = kernel
        try:
            await all_to_the_end(sessions, lambda id: self._retrieve(kernel, id, sessions[id]))
        finally:
            for workload in list(self._workloads.values()):
                if workload.session is None:
                    workload.kept = False
                workload.notify()
                self._roster.forget(workload)

    async def _retrieve(self, kernel: Kernel, id: str, name: str) -> None:
        workload = self._workloads.get(id)
        if workload is None:
            raise no_binding(id)
        if workload.session is None:
            workload.session = await self._device.in_turn(lambda: kernel.retrieve_session(name))
        workload.session_name, workload.retrieved = name, True
        workload.notify()

    async def resume(self) -> Sequence[WorkloadPause]:
        stopped = [
            w.id
            for w in self._workloads.values()
            if w.retrieved or w.suspended or w.pause is not None or (w.kept and w.suspends)
        ]
        # To the end: one that cannot run again must not leave the others standing still.
        pauses = await all_to_the_end(sorted(stopped), self._resume)
        return tuple(pause for pause in pauses.values() if pause is not None)

    async def _resume(self, id: str) -> WorkloadPause | None:
        """Until it runs: a workload that is restarted meanwhile may claim anew."""
        workload = self._workloads[id]
        workload.given_up = False
        try:
            async with asyncio.timeout(self._timeouts.claim_s + self._timeouts.resume_s):
                while workload.pause is None:
                    peer = workload.peer
                    if peer is None:
                        async with asyncio.timeout(self._timeouts.claim_s):
                            await workload.changed.wait()
                    elif workload.retrieved and not peer.suspends:
                        workload.pause = protocol.Resumed().pause(id)
                    elif not (workload.retrieved or workload.suspended):
                        return None
                    else:
                        await self._ask_resume(workload, peer)
        except TimeoutError:
            raise absent(workload, self.socket_path) from None
        finally:
            workload.given_up = workload.pause is None
        return workload.pause

    async def _ask_resume(self, workload: WorkloadRecord, peer: Peer) -> None:
        try:
            answer = await peer.ask(protocol.Resume(), protocol.Resumed, self._timeouts.resume_s)
        except BrokerError as error:
            if error.reason != "WORKLOAD_GONE":
                raise
            if workload.peer is peer:
                workload.peer = None
            return
        workload.suspended = False
        workload.pause = answer.pause(workload.id)

    async def finish(self) -> None:
        self._left_behind = {}
        await all_to_the_end(list(self._workloads), self._finish)

    async def _finish(self, id: str) -> None:
        workload = self._workloads[id]
        if workload.session is None and workload.kept and self._kernel is not None:
            workload.session = await left_by_the_dead(self._device, self._kernel, workload.session_name)
        if workload.session is not None:
            await workload.session.finish()
            session, workload.session = workload.session, None
            await session.close()
        self._settle(workload)

    async def release(self) -> None:
        self._left_behind = {}
        await all_to_the_end(list(self._workloads), self._release)

    async def _release(self, id: str) -> None:
        workload = self._workloads[id]
        await self._let_go(workload)
        self._settle(workload)

    async def _let_go(self, workload: WorkloadRecord) -> None:
        """Ours and, if it listens, its copy of the session close, and the kernel has let go of it."""
        name = workload.session_name
        if workload.peer is not None and (workload.session is not None or workload.kept):
            if workload.suspends:
                # Whether it let go is judged by the kernel below, not by its answer.
                with contextlib.suppress(BrokerError):
                    await workload.peer.ask(protocol.Release(), protocol.Released, self._timeouts.release_s)
            else:
                # luo-agent's protocol has no word for it. A lost connection says it: what was asked for on it
                # is nobody's, as after this agent's own death, and the client subscribes anew.
                workload.peer.close()
        session, workload.session = workload.session, None
        if session is not None:
            await session.close()
        if name and self._kernel is not None:
            await self._await_unpreserved(self._kernel, workload, name)

    async def _await_unpreserved(self, kernel: Kernel, workload: WorkloadRecord, name: str) -> None:
        """The kernel has no event for it: a session is gone when its name is free again."""
        wait_s = 0.002
        try:
            async with asyncio.timeout(self._timeouts.release_s):
                while not await self._device.in_turn(lambda: kernel.is_free(name)):
                    await asyncio.sleep(wait_s)
                    wait_s = min(wait_s * 2, 0.2)
        except TimeoutError:
            raise still_held(workload, name) from None

    # -- small things ------------------------------------------------------------------------

    def _settle(self, workload: WorkloadRecord) -> None:
        """The attempt is over for this workload."""
        workload.session_name = ""
        workload.ready = workload.retrieved = workload.kept = workload.given_up = False
        workload.pause = None
        workload.notify()
        self._roster.forget(workload)

    def _peer(self, workload: WorkloadRecord) -> Peer:
        if workload.peer is None:
            raise absent(workload, self.socket_path)
        return workload.peer
