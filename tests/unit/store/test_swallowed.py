"""A network that swallows everything, without a word to either side: whoever is told to stop does."""

from __future__ import annotations

import asyncio

from orchestrator.store.postgres import Postgres
from orchestrator.store.postgres_url import address
from orchestrator.store.sql import SqlStore
from tests.postgres_proxy import Proxy

PATIENCE_S = 55.0
"""Below a minute for each connection, far above what is needed, on a machine that does other things too."""


async def test_a_store_closes_in_time(postgres_url: str) -> None:
    async with Proxy(postgres_url) as proxy:
        store = SqlStore(Postgres(address(proxy.url)))
        await store.open()
        await asyncio.gather(*(store.load() for _ in range(4)))
        proxy.passes.clear()
        async with asyncio.timeout(PATIENCE_S):
            await store.close()


async def test_so_it_does_in_the_middle_of_a_read(postgres_url: str) -> None:
    async with Proxy(postgres_url) as proxy:
        store = SqlStore(Postgres(address(proxy.url)))
        await store.open()
        await asyncio.gather(*(store.load() for _ in range(4)))
        proxy.passes.clear()
        reading = asyncio.create_task(store.changes(0))
        await asyncio.wait((reading,), timeout=0.1)
        reading.cancel()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait((reading,))
            await store.close()
