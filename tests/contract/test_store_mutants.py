"""The store's contract finds what is there to be found: a memory store that breaks one of its rules fails
the test of that rule. Simulation and unit tests stand on this store, so its contract must have teeth.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

import pytest

from orchestrator.core.model import CAPACITY, Change
from orchestrator.errors import LiverollError
from orchestrator.ports import Changes, Committed, Lease
from orchestrator.store.admission import Ledger
from orchestrator.store.memory import MemoryStore, _Entry
from tests.contract import test_store_contract as contract
from tests.contract.store_backends import MemoryBackend, opened

Mistake = Callable[[], Any]
Test = Callable[..., Any]


@contextmanager
def guards_are_ignored() -> Iterator[None]:
    real = Ledger.admit
    with patch.object(Ledger, "admit", lambda self, change: real(self, replace(change, guards=()))):
        yield


@contextmanager
def revisions_are_ignored() -> Iterator[None]:
    with patch.object(Ledger, "_check", lambda self, key, revision: None):
        yield


@contextmanager
def open_attempts_are_ignored() -> Iterator[None]:
    with patch.object(Ledger, "_attempts", lambda self, change: {}):
        yield


@contextmanager
def names_are_ignored() -> Iterator[None]:
    with patch.object(Ledger, "_name", lambda self, row: None):
        yield


@contextmanager
def epochs_are_ignored() -> Iterator[None]:
    real = MemoryStore._apply

    def mistaken(self: MemoryStore, entry: _Entry, now: datetime) -> Committed | LiverollError:
        return real(self, _Entry(None, entry.change), now)

    with patch.object(MemoryStore, "_apply", mistaken):
        yield


@contextmanager
def renewing_raises_the_epoch() -> Iterator[None]:
    real = MemoryStore.acquire

    async def mistaken(self: MemoryStore, holder: str, ttl: timedelta) -> Lease:
        self._held_epoch = 0
        return await real(self, holder, ttl)

    with patch.object(MemoryStore, "acquire", mistaken):
        yield


@contextmanager
def refused_events_take_numbers() -> Iterator[None]:
    real = MemoryStore._apply

    def mistaken(self: MemoryStore, entry: _Entry, now: datetime) -> Committed | LiverollError:
        outcome = real(self, entry, now)
        if not isinstance(outcome, Committed):
            self.disk.head_seq += len(entry.change.events)
        return outcome

    with patch.object(MemoryStore, "_apply", mistaken):
        yield


@contextmanager
def a_refused_change_is_half_written() -> Iterator[None]:
    real = MemoryStore._apply

    def mistaken(self: MemoryStore, entry: _Entry, now: datetime) -> Committed | LiverollError:
        outcome = real(self, entry, now)
        if not isinstance(outcome, Committed) and entry.change.writes:
            real(self, _Entry(None, Change(entry.change.writes[:1])), now)
        return outcome

    with patch.object(MemoryStore, "_apply", mistaken):
        yield


@contextmanager
def changes_forget_the_newest_batch() -> Iterator[None]:
    real = MemoryStore.changes

    async def mistaken(self: MemoryStore, after_batch: int) -> Changes:
        found = await real(self, after_batch)
        return replace(found, rows=found.rows[:-1])

    with patch.object(MemoryStore, "changes", mistaken):
        yield


@contextmanager
def shrinking_raises_nothing() -> Iterator[None]:
    real = Ledger.admit

    def mistaken(self: Ledger, change: Change) -> None:
        before = self.revisions.get(CAPACITY, 0)
        real(self, change)
        self.revisions[CAPACITY] = before

    with patch.object(Ledger, "admit", mistaken):
        yield


def _needs(test: Test, **given: Any) -> dict[str, Any]:
    names = inspect.signature(test).parameters
    return {name: value for name, value in given.items() if name in names}


@pytest.mark.parametrize(
    ("mistake", "test"),
    [
        (guards_are_ignored, contract.TestCommit.test_a_guard_that_moved_conflicts),
        (revisions_are_ignored, contract.TestCommit.test_a_row_that_should_exist_but_does_not_conflicts),
        (a_refused_change_is_half_written, contract.TestCommit.test_a_change_is_written_wholly_or_not_at_all),
        (refused_events_take_numbers, contract.TestCommit.test_a_change_is_written_wholly_or_not_at_all),
        (open_attempts_are_ignored, contract.TestOneOpenAttempt.test_a_second_open_attempt_conflicts),
        (names_are_ignored, contract.TestOneOpenAttempt.test_a_name_is_taken_once),
        (epochs_are_ignored, contract.TestFence.test_another_waits_until_it_expires),
        (renewing_raises_the_epoch, contract.TestFence.test_taking_raises_the_epoch_renewing_does_not),
        (changes_forget_the_newest_batch, contract.TestChanges.test_each_row_once_as_it_is_now),
        (shrinking_raises_nothing, contract.TestCommit.test_what_shrinks_voids_what_guards_the_capacity),
    ],
    ids=lambda value: value.__name__,
)
async def test_a_store_that_breaks_a_rule_fails_its_test(mistake: Mistake, test: Test) -> None:
    for mistaken in (False, True):
        backend = MemoryBackend()
        async with opened(backend) as store:
            epoch = (await store.acquire("a", contract.TTL)).epoch if "epoch" in _needs(test, epoch=0) else 0
            given = _needs(test, store=store, backend=backend, epoch=epoch)
            if not mistaken:
                await test(None, **given)
                continue
            with mistake(), pytest.raises((AssertionError, LiverollError, pytest.fail.Exception)):
                await test(None, **given)
