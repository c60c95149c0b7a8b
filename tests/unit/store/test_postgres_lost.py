"""Connections and servers that go away: nothing is written twice, nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from orchestrator.core.model import Change, NewEvent, NodeRow
from orchestrator.errors import StoreUnavailable
from orchestrator.ports import Committed
from orchestrator.store import postgres as postgres_module
from orchestrator.store.postgres import Postgres
from orchestrator.store.postgres_url import address
from orchestrator.store.sql import SqlStore
from tests.postgres import Postgres as Server
from tests.postgres import database
from tests.postgres_proxy import Proxy

SHORT = timedelta(milliseconds=500)
LONG = timedelta(seconds=20)
PATIENCE_S = 30.0
COMMIT = b"COMMIT;"


@asynccontextmanager
async def opened(url: str, frozen: timedelta = SHORT) -> AsyncIterator[SqlStore]:
    store = SqlStore(Postgres(address(url), frozen=frozen))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def proxy(postgres_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(postgres_url) as proxy:
        yield proxy


@pytest.fixture
def own_server() -> Iterator[Server]:
    with Server() as server:
        yield server


async def write(store: SqlStore, name: str) -> Committed:
    return await store.commit(None, Change((NodeRow(name),), events=(NewEvent("made", name),)))


async def messages(store: SqlStore) -> list[str]:
    return [event.new.message for event in await store.events(0, limit=1000)]


class TestCommitInDoubt:
    """The connection breaks at COMMIT, while another process writes as well."""

    async def test_it_happened_and_others_have_written_since(self, proxy: Proxy, postgres_url: str) -> None:
        async with opened(proxy.url) as a, opened(postgres_url) as b:
            await write(a, "first")
            cut = proxy.cut("after", COMMIT)
            lost = asyncio.ensure_future(write(a, "lost"))
            await cut.wait()
            done = [await write(b, f"b{number}") for number in range(3)]
            committed = await lost
            assert [each.batch for each in done] == [committed.batch + 1 + n for n in range(3)]
            assert await messages(b) == ["first", "lost", "b0", "b1", "b2"]

    async def test_it_did_not_happen_and_anothers_batch_has_its_number(
        self, proxy: Proxy, postgres_url: str
    ) -> None:
        async with opened(proxy.url) as a, opened(postgres_url) as b:
            first = await write(a, "first")
            proxy.accepts.clear()
            cut = proxy.cut("before", COMMIT)
            lost = asyncio.ensure_future(write(a, "lost"))
            await cut.wait()
            done = await write(b, "b")
            assert done.batch == first.batch + 1  # the number that the lost one had
            proxy.accepts.set()
            assert (await lost).batch == done.batch + 1  # it is not taken for that one, but made again
            assert await messages(a) == ["first", "b", "lost"]

    async def test_nobody_can_say(self, proxy: Proxy, postgres_url: str) -> None:
        async with opened(proxy.url) as a, opened(postgres_url) as b:
            await write(a, "first")
            proxy.refuses = True
            proxy.cut("before", COMMIT)
            lost = asyncio.ensure_future(write(a, "lost"))
            with pytest.raises(StoreUnavailable) as caught:
                await lost
            assert caught.value.reason == "COMMIT_IN_DOUBT"
            await write(b, "b")
            proxy.refuses = False
            assert await messages(a) == ["first", "b"]

    async def test_it_is_tried_again_if_it_did_not_happen(self, proxy: Proxy, postgres_url: str) -> None:
        async with opened(proxy.url) as a, opened(postgres_url) as b:
            await write(a, "first")
            cut = proxy.cut("before", COMMIT)
            lost, other = await asyncio.gather(write(a, "lost"), write(b, "b"))
            assert cut.is_set()
            assert sorted([lost.batch, other.batch]) == [2, 3]
            assert sorted(await messages(b)) == ["b", "first", "lost"]

    async def test_one_that_arrives_late_is_waited_for(self, proxy: Proxy, postgres_url: str) -> None:
        """To look without the fence would be to say no too early."""
        async with opened(proxy.url, LONG) as a, opened(postgres_url, LONG) as b:
            await write(a, "first")
            cut = proxy.cut("hold", COMMIT)
            lost = asyncio.ensure_future(write(a, "lost"))
            await cut.wait()
            other = asyncio.ensure_future(write(b, "b"))
            await until_two_wait(b)
            proxy.release()
            assert {(await lost).batch, (await other).batch} == {2, 3}
            assert (await messages(b))[:2] == ["first", "lost"]


async def until_two_wait(store: SqlStore) -> None:
    """For the fence: the writer of the other store, and who looks the lost one up."""
    from sqlalchemy import text

    query = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
    )
    assert store._read_engine is not None
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with store._read_engine.connect() as connection:
                if (await connection.execute(query)).scalar_one() >= 2:
                    return


class TestCut:
    @pytest.mark.parametrize("what", ["before", "after"])
    @pytest.mark.parametrize(
        "statement", [b"FROM nodes", b"INSERT INTO nodes", b"INSERT INTO events", b"UPDATE meta"]
    )
    async def test_a_write_that_is_cut_is_made_once(self, proxy: Proxy, what: str, statement: bytes) -> None:
        async with opened(proxy.url) as store:
            cut = proxy.cut(what, statement)  # type: ignore[arg-type]
            committed = await write(store, "n")
            assert cut.is_set()
            assert (committed.batch, await messages(store)) == (1, ["n"])

    async def test_reads_and_leases_are_tried_once_more(self, proxy: Proxy) -> None:
        async with opened(proxy.url) as store:
            await write(store, "n")
            lease = await store.acquire("a", timedelta(seconds=10))
            await store.load()
            proxy.drop()
            assert len((await store.load()).rows) == 1
            proxy.drop()
            assert len((await store.changes(0)).rows) == 1
            proxy.drop()
            assert (await store.beat("a", timedelta(seconds=10))).planner == "a"
            proxy.drop()
            assert (await store.acquire("a", timedelta(seconds=10))).epoch == lease.epoch

    async def test_what_cannot_be_reached_is_said_and_comes_back(self, proxy: Proxy) -> None:
        async with opened(proxy.url) as store:
            proxy.refuses = True
            proxy.drop()
            for call in (write(store, "n"), store.load(), store.beat("a", timedelta(seconds=1))):
                with pytest.raises(StoreUnavailable) as caught:
                    await call
                assert caught.value.reason == "DATABASE_UNREACHABLE"
            proxy.refuses = False
            await write(store, "n")

    async def test_who_does_not_answer_is_given_up(
        self, proxy: Proxy, postgres_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A network that swallows everything: no call may wait for ever, nor may the writer."""
        for bound in ("STATEMENT", "READ", "CONNECT", "LISTEN_CHECK"):
            monkeypatch.setattr(postgres_module, bound, timedelta(seconds=1))
        async with opened(proxy.url) as store, opened(postgres_url) as other:
            await write(store, "first")
            await store.load()
            proxy.passes.clear()
            async with asyncio.timeout(PATIENCE_S):
                for call in (write(store, "never"), store.load(), write(store, "never")):
                    with pytest.raises(StoreUnavailable) as caught:
                        await call
                    assert caught.value.reason in ("DATABASE_SLOW", "DATABASE_UNREACHABLE")
            proxy.passes.set()
            await write(store, "on")
            await write(other, "too")
            assert await messages(store) == ["first", "on", "too"]
            proxy.passes.clear()
            async with asyncio.timeout(PATIENCE_S):
                await store.close()

    @pytest.mark.parametrize("refused", [False, True], ids=["at once", "when it is there again"])
    async def test_hints_go_on_after_a_cut(self, proxy: Proxy, postgres_url: str, refused: bool) -> None:
        async with opened(proxy.url) as a, opened(postgres_url) as b:
            hints = a.hints()
            for number in range(2):
                proxy.refuses = refused
                proxy.drop()
                if refused:
                    async with asyncio.timeout(PATIENCE_S):
                        await proxy.refused.wait()
                    proxy.refused.clear()
                    proxy.refuses = False
                waiting = asyncio.ensure_future(anext(hints))
                async with asyncio.timeout(PATIENCE_S):
                    while not waiting.done():
                        await write(b, f"{number}-{(await b.load()).batch}")
                        await asyncio.wait([waiting], timeout=0.1)


class TestServer:
    """PostgreSQL itself is stopped, killed and started again under two stores."""

    @pytest.mark.parametrize("how", ["restart", "kill"])
    async def test_nothing_acknowledged_is_lost(self, own_server: Server, how: str) -> None:
        with database(own_server) as name:
            url = own_server.url(name)
            async with opened(url) as a, opened(url) as b:
                told: list[str] = []
                stop = asyncio.Event()

                async def keep_on(store: SqlStore, who: str) -> None:
                    number = 0
                    while not stop.is_set():
                        number += 1
                        try:
                            await write(store, f"{who}{number}")
                        except StoreUnavailable:
                            await asyncio.sleep(0)  # nobody knows of this one; the next has another name
                        else:
                            told.append(f"{who}{number}")

                async def until_told_more(than: int) -> None:
                    async with asyncio.timeout(PATIENCE_S):
                        while len(told) < than + 20:
                            await asyncio.sleep(0)

                running = [asyncio.ensure_future(keep_on(store, who)) for store, who in ((a, "a"), (b, "b"))]
                for _ in range(3):
                    await until_told_more(len(told))
                    if how == "kill":
                        await asyncio.to_thread(own_server.kill)
                        own_server.start()
                    else:
                        own_server.restart()
                await until_told_more(len(told))
                stop.set()
                await asyncio.gather(*running)
                snapshot = await a.load()
                written = await messages(b)
                assert len(written) == len(set(written)) == snapshot.head_seq
                assert set(told) <= set(written)
                assert {row.key[0] for row in snapshot.rows} == set(written)
                assert (await a.changes(0)).rows == (await b.changes(0)).rows
