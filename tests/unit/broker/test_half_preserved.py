"""The agent dies while it hands sessions out: what a workload holds of them is not forgotten."""

from __future__ import annotations

import asyncio
import os

import pytest

from node_agent.core.attempt import Attempt
from node_agent.core.codec import decode, encode
from node_agent.core.phases import Phase
from node_agent.core.saga import transition
from node_agent.core.steps import Effect
from node_agent.errors import BrokerError
from node_agent.ports import Session
from node_agent.runtime.broker import Broker
from node_agent.runtime.runner_effects import Effects, Pace, Ports
from node_agent.workloads.hooks import NoHooks
from tests.unit.agent_core.make import attempt

from .support import GIVES_UP, QUICK, Machine, running, subscribed, until
from .test_broker import preserved


async def test_a_session_handed_out_before_the_crash_is_found_held(machine: Machine, path: str) -> None:
    async with running(Broker(path, timeouts=QUICK)) as broker:
        # A plain luo-agent client: it keeps its copy when the broker goes away.
        client = await subscribed(path, "vm-1", suspends=False)
        await until(broker, "vm-1")
        ports = Ports(machine.kernel, None, None, broker, NoHooks(), None, bindings=broker.bindings)  # type: ignore[arg-type]
        draining = attempt(Phase.DRAINING)
        event = await Effects(ports, Pace(), "boot-0").perform(Effect.DRAIN, draining)
        assert event is not None
        journalled = encode(transition(draining, event).attempt)
        preserving = asyncio.create_task(broker.preserve(machine.kernel, draining.ref.id))
        assert (await client.hear() or {})["event"] == "START_PRESERVATION"
        preserving.cancel()
        await asyncio.wait([preserving])
        session = broker._workloads["vm-1"].session
        assert session is not None
    # The process is dead: its own copy closed, the journal knows PRESERVING and nothing newer.
    await session.close()
    known = decode(Attempt, journalled)
    assert known.phase is Phase.PRESERVING
    broker = Broker(path, timeouts=GIVES_UP)
    broker.restore(known.bindings, kernel=machine.kernel, sessions=known.sessions)
    async with running(broker):
        with pytest.raises(BrokerError) as caught:
            await broker.release()
        assert caught.value.reason == "SESSION_STILL_HELD"
        os.close(client.take_fd())
        await broker.release()
        assert machine.model.sessions() == ()
    client.close()


@pytest.mark.parametrize("parked", [True, False])
async def test_what_an_agent_that_died_after_the_kexec_had_is_finished(
    machine: Machine, path: str, parked: bool
) -> None:
    """It runs long since, so that nothing is retrieved or claimed again: it must be finished all the same."""
    async with running(Broker(path, timeouts=QUICK)) as broker:
        client = await subscribed(path, "vm-1")
        sessions = await preserved(broker, machine, client)
        bindings = broker.bindings()
    kernel = await machine.kexec()
    held = await kernel.retrieve_session(sessions["vm-1"])
    client.close()
    if parked:
        # As HandoverKernel finds it: what is parked is not asked of the kernel.
        kernel.retrieve_session = lambda _name: returned(held)  # type: ignore[method-assign,assignment,return-value]
    broker = Broker(path, timeouts=QUICK)
    broker.restore(bindings, kernel=kernel, sessions=sessions)
    async with running(broker):
        await broker.finish()
        assert (machine.model.sessions() == ()) is parked
    if not parked:
        # Its workload alone has a copy, as here this test: to be quarantined for that helps nobody.
        await held.finish()
        await held.close()
        assert machine.model.sessions() == ()


async def returned(held: Session) -> Session:
    return held
