from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node_agent.runtime.broker import Broker

from .support import QUICK, Machine, open_fds, running


@pytest.fixture
async def no_leaks() -> AsyncIterator[None]:
    gc.collect()
    before = open_fds()
    yield
    gc.collect()
    assert open_fds() == before


@pytest.fixture
async def machine(no_leaks: None) -> AsyncIterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "b.sock")


@pytest.fixture
async def broker(machine: Machine, path: str) -> AsyncIterator[Broker]:
    async with running(Broker(path, timeouts=QUICK)) as broker:
        yield broker
