"""Fixtures of the kernels' contract: every test runs on every backend.

LIVEROLL_LAB=1 (`make test-lab`) adds real kernels, in guests of the lab; without it there are
the emulated ones only.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.contract.kernel_backends import BACKENDS, Backend
from tests.contract.rfc2_process import Node, running

LAB = os.environ.get("LIVEROLL_LAB", "") == "1"
StartNode = Callable[..., Awaitable[Backend]]
StartRfc2 = Callable[..., Awaitable[Node]]

collect_ignore = [] if LAB else ["test_kernel_real.py"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "emulated(why): a rule of the emulation alone")


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Real kernels for a module's tests; booted when the first one asks."""
    from deploy.lab.paths import load
    from tests.contract.guest_backend import Guests

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    guests = Guests(load(), tmp_path_factory.mktemp("guests"), shared)
    yield guests
    guests.end()


@pytest.fixture(params=[*sorted(BACKENDS), *([pytest.param("real", marks=pytest.mark.lab)] if LAB else [])])
async def start_node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StartNode]:
    """Starts a node: start_node(faults="", memory_bytes=0, scratch_bytes=0)."""
    async with starting(BACKENDS.get(request.param) or _real(request), tmp_path) as start:
        yield start


@asynccontextmanager
async def starting(backend_type: Callable[..., Backend], directory: Path) -> AsyncIterator[StartNode]:
    """Starts nodes of a backend, and stops all of them at the end."""
    started: list[Backend] = []

    async def start(faults: str = "", **machine: int) -> Backend:
        backend = backend_type(directory, faults, **machine)
        started.append(backend)
        await backend.start()
        return backend

    yield start
    for backend in started:
        await backend.stop()


def _real(request: pytest.FixtureRequest) -> type[Backend]:
    emulated = request.node.get_closest_marker("emulated")
    if emulated is not None:
        pytest.skip(emulated.args[0])
    from tests.contract.guest_backend import Guest

    return type("Guest", (Guest,), {"guests": request.getfixturevalue("guests")})


@pytest.fixture
async def node(start_node: StartNode) -> Backend:
    """A healthy node."""
    return await start_node()


@pytest.fixture
async def start_rfc2(tmp_path: Path) -> AsyncIterator[StartRfc2]:
    """Starts a kernel process of RFC v2's model, with these options."""
    async with AsyncExitStack() as stack:

        async def start(*options: str) -> Node:
            return await stack.enter_async_context(running(tmp_path / "node", *options))

        yield start
