"""Fixtures of the kernels' contract: every test runs on every backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.contract.kernel_backends import BACKENDS, Backend

StartNode = Callable[..., Awaitable[Backend]]


@pytest.fixture(params=sorted(BACKENDS))
async def start_node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StartNode]:
    """Starts a node: start_node(faults="", memory_bytes=0, scratch_bytes=0)."""
    started: list[Backend] = []

    async def start(faults: str = "", **machine: int) -> Backend:
        backend = BACKENDS[request.param](tmp_path, faults, **machine)
        started.append(backend)
        await backend.start()
        return backend

    yield start
    for backend in started:
        await backend.stop()


@pytest.fixture
async def node(start_node: StartNode) -> Backend:
    """A healthy node."""
    return await start_node()
