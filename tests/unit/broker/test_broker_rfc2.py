"""The broker over sessions that are made of tokens, where LUO has one state for the machine."""

from __future__ import annotations

import os

import pytest

from node_agent.errors import BrokerError
from node_agent.kernel.emulated.image import EmulatedImage
from node_agent.runtime.broker import Broker

from .support import GIVES_UP, Machine, subscribed, until
from .test_broker import preserved

pytestmark = pytest.mark.parametrize("coupling", ["notifier", "luo-driven"])


@pytest.fixture
def image(coupling: str) -> EmulatedImage:
    return EmulatedImage.rfc2("6.16.1", coupling=coupling)


async def test_sessions_are_released_while_luo_is_prepared(
    broker: Broker, machine: Machine, path: str
) -> None:
    """Unwinding closes them before it cancels LUO: that their names are free is all that can be asked."""
    client = await subscribed(path, "a", suspends=False)
    await until(broker, "a")
    await preserved(broker, machine, client)
    await machine.kernel.prepare()
    os.close(client.take_fd())
    await broker.release()
    await machine.kernel.cancel()
    assert machine.model.rfc2 is not None
    assert machine.model.rfc2.files.outgoing == {}
    client.close()


async def test_a_copy_that_is_still_held_is_said_while_luo_is_prepared(
    broker: Broker, machine: Machine, path: str
) -> None:
    client = await subscribed(path, "a", suspends=False)
    await until(broker, "a")
    await preserved(broker, machine, client)
    await machine.kernel.prepare()
    broker._timeouts = GIVES_UP
    with pytest.raises(BrokerError) as caught:
        await broker.release()
    assert caught.value.reason == "SESSION_STILL_HELD"
    os.close(client.take_fd())
    await machine.kernel.cancel()
    await broker.release()
    client.close()
