"""A connection that the broker itself closes is gone at once: no task, no place, no owner is left."""

from __future__ import annotations

import asyncio
import socket

import pytest

from node_agent.errors import BrokerError
from node_agent.runtime import broker_peer
from node_agent.runtime.broker import Broker
from node_agent.runtime.broker_peer import Peer
from node_agent.workloads import protocol
from node_agent.workloads.protocol import Command

from .support import QUICK, Machine, PlainClient, running, subscribed, until


async def _nobody(_peer: Peer, _command: Command) -> None:
    return


async def test_closing_ends_the_reader() -> None:
    ours, theirs = socket.socketpair()
    peer = Peer(ours)
    reading = asyncio.create_task(peer.run(_nobody))
    for _ in range(5):
        await asyncio.sleep(0)
    peer.close()
    async with asyncio.timeout(1):
        await reading
    theirs.close()


async def test_a_workload_that_never_reads_is_cut_off_and_forgotten(
    broker: Broker, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it is asked, and fails, in every later attempt, though it is not there any more."""
    monkeypatch.setattr(broker_peer, "SEND_TIMEOUT_S", 0.01)
    client = await subscribed(path, "a")
    await until(broker, "a")
    peer = broker._workloads["a"].peer
    assert peer is not None
    with pytest.raises(BrokerError) as caught:
        while True:
            await peer.tell(protocol.Resume(), protocol.Resumed)
    assert caught.value.reason == "WORKLOAD_GONE"
    async with asyncio.timeout(2):
        await until(broker)
    client.close()


async def test_reconnecting_again_and_again_uses_up_no_places(machine: Machine, path: str) -> None:
    """Each new connection is heard before the end of the last one is noticed."""
    async with running(Broker(path, timeouts=QUICK, max_clients=4)) as broker:
        client = await subscribed(path, "a")
        for _ in range(8):
            workload = broker._workloads["a"]
            assert workload.peer is not None
            # What attach() does to one that hung up and whose reader does not know it yet.
            workload.peer.close()
            client.close()
            again = await PlainClient(path).connect()
            again.say(cmd="SUBSCRIBE", id="a", extensions=["suspend"])
            async with asyncio.timeout(2):
                assert await again.hear() == {"event": "SUBSCRIBED", "id": "a"}
            client = again
        client.close()
