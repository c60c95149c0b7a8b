"""A store that goes back in time under those who have it open is noticed, whoever writes first.

A fail-over to a copy that had not got everything, or a backup put back: the rows and revisions
look right, but what was acknowledged is not there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.core.model import Change, FleetRow, NodeRow
from orchestrator.errors import Conflict
from orchestrator.ports import Store
from tests.contract.store_backends import STORES, Backend, chosen, opened
from tests.contract.test_store_contract import put, said

TTL = timedelta(seconds=10)


@pytest.fixture(params=STORES)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    with chosen(request, tmp_path) as backend:
        yield backend


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[Store]:
    async with opened(backend) as store:
        yield store


async def tick(store: Store, count: int, name: str = "n") -> None:
    """That many batches."""
    for number in range(count):
        await store.commit(None, Change((NodeRow(f"{name}{number}"),), events=(said(name),)))


async def is_replaced(store: Store) -> None:
    """Nothing goes, in whatever way it is tried."""
    for call in (
        store.commit(None, Change((NodeRow("never"),))),
        store.changes(0),
        store.commit(None, Change((NodeRow("never"),))),
    ):
        with pytest.raises(Conflict) as caught:
            await call
        assert caught.value.reason == "STORE_REPLACED"


class TestWhoHasSeenMore:
    async def test_stops_reads_again_and_knows_why(self, backend: Backend, store: Store) -> None:
        await tick(store, 3)
        first = await store.load()
        copy = backend.copy()
        await tick(store, 2, "lost")
        backend.fall_back(copy)
        await is_replaced(store)
        again = await store.load()
        assert again.rows == first.rows
        assert again.incarnation != first.incarnation
        assert again.incarnation_serial > first.incarnation_serial
        assert (again.batch, again.head_seq) == (first.batch, first.head_seq)
        assert f"without the batch {first.batch + 2}" in again.regressed
        await tick(store, 1, "new")
        log = await store.events(0, limit=99)
        assert {event.incarnation for event in log} == {again.incarnation}, "cursors are of this life"

    @pytest.mark.parametrize("backend", ["memory", "postgres"], indirect=True)
    async def test_reads_no_events_of_another_life_before_it_has_loaded(
        self, backend: Backend, store: Store
    ) -> None:
        await tick(store, 3)
        copy = backend.copy()
        await tick(store, 2, "lost")
        async with opened(backend) as other:
            await other.load()
            backend.fall_back(copy)
            await store.load()
            with pytest.raises(Conflict) as caught:
                await other.events(0, limit=9)
            assert caught.value.reason == "STORE_REPLACED"
            await other.load()
            assert len(await other.events(0, limit=9)) == 3

    async def test_is_told_why_until_the_fleet_was_written(self, backend: Backend, store: Store) -> None:
        """So that a crash between the new incarnation and the fleet's stop loses nothing."""
        copy = backend.copy()
        await tick(store, 1)
        backend.fall_back(copy)
        why = (await store.load()).regressed
        assert why
        await tick(store, 1, "other")
        assert (await store.load()).regressed == why
        await put(store, (await store.acquire("a", TTL)).epoch, FleetRow(stopped="STORE_REGRESSED"))
        assert (await store.load()).regressed == ""

    async def test_knows_it_where_the_copy_is_of_an_older_life(self, backend: Backend, store: Store) -> None:
        await tick(store, 1)
        first = await store.load()
        copies = [backend.copy(), backend.copy()]
        await tick(store, 1, "lost")
        backend.fall_back(copies[0])
        second = await store.load()
        assert second.incarnation != first.incarnation
        await tick(store, 1, "of the second life")
        backend.fall_back(copies[1])
        third = await store.load()
        assert third.regressed
        assert third.incarnation not in (first.incarnation, second.incarnation)
        assert third.incarnation_serial > second.incarnation_serial

    async def test_takes_an_epoch_that_no_planner_of_the_lost_future_had(
        self, backend: Backend, store: Store
    ) -> None:
        copy = backend.copy()
        for _ in range(3):
            lease = await store.acquire("a", TTL)
            await store.release(lease)
        await tick(store, 1)
        backend.fall_back(copy)
        await store.load()
        assert (await store.acquire("a", TTL)).epoch > lease.epoch

    @pytest.mark.parametrize("backend", ["memory", "postgres"], indirect=True)
    async def test_is_no_planner_where_only_the_taking_of_the_lease_was_lost(
        self, backend: Backend, store: Store
    ) -> None:
        """No batch is missing, so nothing else tells the two that have the same epoch apart."""
        await tick(store, 1)
        async with opened(backend) as other:
            await other.load()
            copy = backend.copy()
            lost = await store.acquire("a", TTL)
            backend.fall_back(copy)
            lease = await other.acquire("b", TTL)
            with pytest.raises(Conflict) as caught:
                await store.commit(lost.epoch, Change((NodeRow("never"),)))
            assert caught.value.reason == "EPOCH_FENCED"
            await store.release(lost)
            assert (await other.beat("b", TTL)).planner == "b", "nor can it give another's lease back"
            await other.commit(lease.epoch, Change((NodeRow("planned"),)))

    @pytest.mark.parametrize("backend", ["memory", "postgres"], indirect=True)
    async def test_also_after_a_newer_process_has_written_as_much(
        self, backend: Backend, store: Store
    ) -> None:
        """The numbers agree again; the history does not."""
        await tick(store, 3)
        copy = backend.copy()
        await tick(store, 2, "lost")
        backend.fall_back(copy)
        async with opened(backend) as newer:
            await tick(newer, 5, "forked")
            await is_replaced(store)
            again = await store.load()
            assert again.regressed
            await is_replaced(newer)  # it stands on a history that is no longer the store's
            assert (await newer.load()).incarnation == again.incarnation
            assert (await newer.load()).regressed == again.regressed
            await tick(newer, 1, "on")
            assert (await store.changes(again.batch)).batch == again.batch + 1

    @pytest.mark.parametrize("backend", ["memory", "postgres"], indirect=True)
    async def test_two_who_notice_begin_one_incarnation(self, backend: Backend, store: Store) -> None:
        async with opened(backend) as other:
            copy = backend.copy()
            await tick(store, 2)
            await other.changes(0)
            backend.fall_back(copy)
            await is_replaced(store)
            await is_replaced(other)
            one, two = await store.load(), await other.load()
            assert (one.incarnation, one.regressed) == (two.incarnation, two.regressed)


class TestWhoHasNot:
    async def test_a_copy_with_all_that_was_seen_is_the_same_store(
        self, backend: Backend, store: Store
    ) -> None:
        """A fail-over that lost nothing is none of anybody's business."""
        await tick(store, 3)
        before = await store.load()
        backend.fall_back(backend.copy())
        assert (await store.changes(0)).batch == before.batch
        await tick(store, 1, "on")
        after = await store.load()
        assert (after.incarnation, after.regressed) == (before.incarnation, "")
