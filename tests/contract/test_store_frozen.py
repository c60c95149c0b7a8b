"""A replica that is stopped in mid-transaction (SIGSTOP) and wakes: a real process, a real server.

While it stands still its socket is alive and it holds the fence; test_store_races.py has the same
with a process that still answers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from orchestrator.core.model import Change, NodeRow
from orchestrator.store.postgres import FROZEN, Postgres
from orchestrator.store.postgres_url import address
from orchestrator.store.sql import SqlStore
from tests.contract.test_store_contract import said

SHORT = timedelta(milliseconds=500)
TTL = timedelta(seconds=30)
NAME = "planner"
"""Of both: a process that was started again takes the lease though its former life's runs."""
STATEMENTS = 6
"""Of a commit of one new row with an event: lock, look, revisions, insert, events, number and notify;
the seventh is COMMIT."""


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[SqlStore]:
    store = SqlStore(Postgres(address(postgres_url), frozen=SHORT))
    await store.open()
    yield store
    await store.close()


async def stopped_at(url: str, epoch: str, number: int) -> subprocess.Popen[str]:
    """A process that stands before that statement."""
    frozen_ms = str(SHORT // timedelta(milliseconds=1))
    words = (url, epoch, str(number), "late", frozen_ms)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.contract.store_freezer", *words], stdout=subprocess.PIPE, text=True
    )
    await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED)
    return process


def woken(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGCONT)
    with process:
        assert process.stdout is not None
        ready, outcome = process.stdout.read().splitlines()
    assert ready == "ready"
    return outcome


@pytest.mark.integration
@pytest.mark.parametrize("number", [2, 4, STATEMENTS + 1])
async def test_the_others_go_on_and_the_late_plan_is_fenced(
    store: SqlStore, postgres_url: str, number: int
) -> None:
    before = SqlStore(Postgres(address(postgres_url), frozen=SHORT))
    await before.open()
    lease = await before.acquire(NAME, TTL)
    await before.close()
    process = await stopped_at(postgres_url, str(lease.epoch), number)
    try:
        began = asyncio.get_running_loop().time()
        other = await store.acquire(NAME, TTL)
        await store.commit(other.epoch, Change((NodeRow("n"),), events=(said("on"),)))
        took_s = asyncio.get_running_loop().time() - began
    finally:
        outcome = woken(process)
    assert outcome == "refused EPOCH_FENCED"
    assert took_s < 5 * SHORT.total_seconds()
    assert [event.new.message for event in await store.events(0, limit=9)] == ["on"]
    assert [row.key for row in (await store.load()).rows] == [("n",)]


@pytest.mark.integration
async def test_what_needs_no_epoch_is_made_when_it_wakes(store: SqlStore, postgres_url: str) -> None:
    process = await stopped_at(postgres_url, "-", STATEMENTS)
    try:
        committed = await store.commit(None, Change((NodeRow("n"),), events=(said("on"),)))
    finally:
        outcome = woken(process)
    assert outcome == f"committed {committed.batch + 1}"


def test_how_long_the_others_wait_is_well_below_a_lease() -> None:
    assert timedelta(seconds=1) <= FROZEN <= timedelta(seconds=5)
