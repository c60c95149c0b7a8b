"""Who is connected to the broker, and as which workload.

Rules:
- an id belongs to the uid, and to the systemd service where there is one, that subscribed it,
  for as long as it is connected, a session of it is held, or its binding is kept (over the kexec,
  or the agent's restart): nobody claims another's memory;
- one process an id and one id a connection; who has hung up is no obstacle;
- a CLAIM that comes before its session was retrieved waits; one without a kept binding is told
  NO_SUCH_CLAIM at once, which is how a workload learns that it starts afresh.

run() owns the listener and every connection. Not here: what is asked of workloads (broker.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Collection

from node_agent.errors import BrokerError, Retry
from node_agent.runtime.broker_listener import listen
from node_agent.runtime.broker_peer import Peer
from node_agent.runtime.broker_record import WorkloadRecord
from node_agent.workloads import protocol
from node_agent.workloads.protocol import Claim, Command, Subscribe

ACCEPT_PAUSE_S = 0.1


class Roster:
    """Connections and records.

    claim_s: how long a CLAIM may wait for its session.
    """

    def __init__(
        self,
        socket_path: str,
        *,
        claim_s: float,
        max_clients: int,
        socket_mode: int,
        socket_gid: int = -1,
        allowed_uids: Collection[int] | None,
    ) -> None:
        self.records: dict[str, WorkloadRecord] = {}
        self.listening = asyncio.Event()
        self._socket_path = socket_path
        self._claim_s = claim_s
        self._max_clients = max_clients
        self._socket_mode = socket_mode
        self._socket_gid = socket_gid
        self._allowed_uids = allowed_uids
        self._adopted: list[Peer] = []
        self._listener: socket.socket | None = None
        self._peers: set[Peer] = set()

    def adopt_listener(self, fd: int) -> None:
        """Before run(): a listening socket of the blackout path."""
        self._listener = socket.socket(fileno=fd)
        self._listener.setblocking(False)

    def adopt(self, fd: int, pending: bytes) -> Peer:
        """Before run(): a connection of the blackout path, with what was read from it."""
        peer = Peer(socket.socket(fileno=fd), pending=pending)
        self._adopted.append(peer)
        return peer

    async def run(self) -> None:
        """Serve until cancelled. Raises BrokerError (SOCKET_IN_USE), SettingsError."""
        listener = self._listener or listen(self._socket_path, self._socket_mode, self._socket_gid)
        self._listener = listener
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as group:
                for peer in self._adopted:
                    self._peers.add(peer)
                    group.create_task(self._serve(peer))
                self._adopted.clear()
                self.listening.set()
                while True:
                    try:
                        connection, _ = await loop.sock_accept(listener)
                    except OSError:
                        # Out of descriptors, most likely: whoever waits stays in the backlog.
                        await asyncio.sleep(ACCEPT_PAUSE_S)
                        continue
                    if len(self._peers) >= self._max_clients:
                        connection.close()
                        continue
                    peer = Peer(connection)
                    self._peers.add(peer)
                    group.create_task(self._serve(peer))
        finally:
            self.listening.clear()
            self._listener = None
            listener.close()

    async def _serve(self, peer: Peer) -> None:
        try:
            await peer.run(self._heard)
        finally:
            self._peers.discard(peer)
            workload = self.records.get(peer.workload)
            if workload is not None and workload.peer is peer:
                workload.peer = None
                workload.notify()
                self.forget(workload)

    async def _heard(self, peer: Peer, command: Command) -> None:
        if self._allowed_uids is not None and peer.uid not in self._allowed_uids:
            raise BrokerError(
                f"uid {peer.uid} may not use this broker", reason="UID_NOT_ALLOWED", retry=Retry.NEVER
            )
        match command:
            case Subscribe():
                await self._subscribe(peer, command)
            case Claim():
                await self._claim(peer, command)
            case _:  # Peer gives only these two here.
                raise AssertionError(command)

    async def _subscribe(self, peer: Peer, command: Subscribe) -> None:
        self._admit(peer, command.id)
        workload = self.records.get(command.id)
        if workload is None:
            workload = self.records[command.id] = WorkloadRecord(command.id, peer.uid, peer.unit)
        peer.suspends = workload.suspends = protocol.SUSPEND_EXTENSION in command.extensions
        if peer.suspends:
            await peer.send(protocol.Subscribed(command.id))
        self.attach(workload, peer)
        if command.suspended and peer.suspends:
            if (workload.kept or workload.session is not None) and not workload.given_up:
                workload.suspended = True
            else:
                # No attempt is under way any more, so nobody else will ever wake it.
                await peer.tell(protocol.Resume(), protocol.Resumed)
        workload.notify()

    async def _claim(self, peer: Peer, command: Claim) -> None:
        self._admit(peer, command.id)
        workload = self.records.get(command.id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._claim_s):
                while workload is not None and workload.kept and workload.session is None:
                    await workload.changed.wait()
                    workload = self.records.get(command.id)
        if workload is None or workload.session is None or not workload.retrieved:
            await peer.send(
                protocol.Error("NO_SUCH_CLAIM", f"no session of {command.id} crossed into this boot")
            )
            return
        self._admit(peer, command.id)
        peer.suspends = workload.suspends = protocol.SUSPEND_EXTENSION in command.extensions
        await peer.send(protocol.Claimed(command.id), workload.session.fileno())
        self.attach(workload, peer)
        if (workload.pause is not None or workload.given_up) and peer.suspends:
            # It ran already and was restarted, or comes when nobody waits any more: this pause is
            # nobody's.
            await peer.tell(protocol.Resume(), protocol.Resumed)
        workload.notify()

    def _admit(self, peer: Peer, id: str) -> None:
        """May this peer speak for `id`? Raises BrokerError."""
        if peer.workload not in ("", id):
            raise BrokerError(
                f"this connection speaks for {peer.workload}", reason="ONE_ID_A_CONNECTION", retry=Retry.NEVER
            )
        workload = self.records.get(id)
        if workload is None:
            return
        if workload.uid != peer.uid or (workload.unit and workload.unit != peer.unit):
            raise BrokerError(
                f"{id} belongs to another user or service",
                reason="NOT_YOURS",
                retry=Retry.NEVER,
                remedy="Use an id of your own, or run as the user and service that subscribed it.",
            )
        other = workload.peer
        if other is not None and other is not peer and not other.hung_up():
            raise BrokerError(
                f"{id} is connected already, as process {other.pid}",
                reason="ID_IN_USE",
                remedy="Give every workload an id of its own.",
            )

    def attach(self, workload: WorkloadRecord, peer: Peer) -> None:
        former, workload.peer = workload.peer, peer
        peer.workload = workload.id
        if former is not None and former is not peer:
            former.close()
        if former is not peer:
            workload.ready = False

    def forget(self, workload: WorkloadRecord) -> None:
        """Drop an id that nothing binds any more."""
        bound = workload.session is not None or workload.session_name or workload.kept
        if workload.peer is None and not bound:
            self.records.pop(workload.id, None)
