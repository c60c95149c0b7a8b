from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node_agent.kernel.emulated.image import EmulatedImage
from node_agent.runtime.broker import Broker

from .support import QUICK, Machine, running, what_is_open


@pytest.fixture
async def no_leaks() -> AsyncIterator[None]:
    # An earlier test's leftovers may be closed meanwhile; what is new is this one's.
    before = what_is_open()
    yield
    gc.collect()
    assert not what_is_open() - before


@pytest.fixture
def image() -> EmulatedImage:
    """What the machine's kernels are."""
    return EmulatedImage("7.2.13")


@pytest.fixture
async def machine(no_leaks: None, image: EmulatedImage) -> AsyncIterator[Machine]:
    machine = Machine(image)
    yield machine
    machine.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "b.sock")


@pytest.fixture
async def broker(machine: Machine, path: str) -> AsyncIterator[Broker]:
    async with running(Broker(path, timeouts=QUICK)) as broker:
        yield broker
