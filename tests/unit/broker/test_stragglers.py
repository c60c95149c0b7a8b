"""Workloads that fail or come late must cost nobody else the wake-up call."""

from __future__ import annotations

import asyncio
import os

import pytest

from node_agent.errors import BrokerError
from node_agent.runtime.broker import Broker
from node_agent.runtime.broker_record import BrokerTimeouts

from .support import Machine, PlainClient, running, subscribed, until
from .test_broker import RESUMED, preserved, suspended

BRIEF = BrokerTimeouts(preserve_s=5, suspend_s=5, claim_s=0.05, resume_s=0.05, release_s=0.3)


async def crossed(machine: Machine, path: str, *ids: str, timeouts: BrokerTimeouts) -> Broker:
    """A broker after the kexec, with a session for each id."""
    async with running(Broker(path, timeouts=BrokerTimeouts())) as broker:
        clients = [await subscribed(path, id) for id in ids]
        sessions = await preserved(broker, machine, *clients)
        await suspended(broker, *clients)
        bindings = broker.bindings()
        for client in clients:
            client.close()
    kernel = await machine.kexec()
    broker = Broker(path, timeouts=timeouts)
    broker.restore(bindings)
    await broker.retrieve(kernel, sessions)
    return broker


async def claimed(path: str, id: str) -> PlainClient:
    client = await PlainClient(path).connect()
    client.say(cmd="CLAIM", id=id, extensions=["suspend"])
    assert (await client.hear() or {})["event"] == "CLAIMED"
    return client


async def test_one_that_refuses_to_resume_does_not_leave_the_others_standing_still(
    machine: Machine, path: str
) -> None:
    broker = await crossed(machine, path, "bad", "good", timeouts=BrokerTimeouts(claim_s=5, resume_s=5))
    async with running(broker):
        resume = asyncio.create_task(broker.resume())
        bad = await claimed(path, "bad")
        assert await bad.hear() == {"event": "RESUME"}
        bad.say(cmd="ERROR", reason="MEMORY_DIFFERS", message="not what I left")
        for _ in range(50):
            await asyncio.sleep(0)
        good = await claimed(path, "good")
        async with asyncio.timeout(2):
            assert await good.hear() == {"event": "RESUME"}
        good.say(**RESUMED)
        with pytest.raises(BrokerError) as caught:
            await resume
        assert caught.value.fields["workload"] == "bad"
        await broker.finish()
        for client in (bad, good):
            client.close()


async def test_one_that_claims_after_everybody_gave_up_is_woken_all_the_same(
    machine: Machine, path: str
) -> None:
    broker = await crossed(machine, path, "late", timeouts=BRIEF)
    async with running(broker):
        with pytest.raises(BrokerError):
            await broker.resume()
        late = await claimed(path, "late")
        async with asyncio.timeout(2):
            assert await late.hear() == {"event": "RESUME"}
        late.say(**RESUMED)
        await broker.finish()
        late.close()
        await until(broker)


async def test_after_a_cold_boot_nobody_waits_for_a_session_that_will_never_come(
    machine: Machine, path: str
) -> None:
    """The journal still binds it; the runner says release() once the boot is classified."""
    broker = Broker(path, timeouts=BrokerTimeouts(claim_s=60))
    broker.restore({"a": {"uid": os.getuid(), "unit": "", "suspend": True}})
    async with running(broker):
        client = await PlainClient(path).connect()
        client.say(cmd="CLAIM", id="a", extensions=["suspend"])
        await asyncio.sleep(0)
        await broker.release()
        async with asyncio.timeout(2):
            assert (await client.hear() or {})["reason"] == "NO_SUCH_CLAIM"
        client.close()
        await until(broker)
