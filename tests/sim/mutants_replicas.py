"""Mistakes that only several replicas, or a database that goes back in time, bring to light."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from orchestrator.core import adoption, transitions
from orchestrator.core.draft import Draft
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import AttemptRow, Change, MemberRow
from orchestrator.core.transitions import Observation
from orchestrator.errors import LiverollError
from orchestrator.ports import Committed
from orchestrator.runtime import commits
from orchestrator.runtime.commits import Commits
from orchestrator.runtime.follower import Follower
from orchestrator.runtime.links import LinkHandle
from orchestrator.store.memory import MemoryStore, _Entry
from tests.sim import provocations as worlds
from tests.sim.mutant import mutant


@mutant("runtime", "I1", worlds.busy_replicas)
def nothing_takes_room_away() -> Iterator[None]:
    """a commit that leaves less room voids the starts that were planned before it"""

    def mistaken(fleet: Any, change: Change, now: Any) -> Change:
        return change

    with patch.object(commits, "measured", mistaken):
        yield


@mutant("store", "I13", worlds.sleeping_planners)
def fenced_planner_commits() -> Iterator[None]:
    """a commit under an epoch that is no longer the store's fails"""
    real = MemoryStore._apply

    def mistaken(self: MemoryStore, entry: _Entry, now: Any) -> Committed | LiverollError:
        return real(self, replace_epoch(self, entry), now)

    def replace_epoch(self: MemoryStore, entry: _Entry) -> _Entry:
        return entry if entry.epoch is None else _Entry(self.disk.epoch, entry.change)

    with patch.object(MemoryStore, "_apply", mistaken):
        yield


@mutant("runtime", "FRESH", worlds.cut_off_replicas)
def cut_off_replica_goes_on() -> Iterator[None]:
    """who could not renew its own lease for its length ends its links: the others think it dead"""
    real = Follower._stand_down

    def mistaken(self: Follower, error: LiverollError) -> None:
        if error.reason != "CUT_OFF":
            real(self, error)

    fresh = patch.object(Follower, "is_fresh", lambda self: self._serves)
    with fresh, patch.object(Follower, "_stand_down", mistaken):
        yield


@mutant("planner", "STALE", worlds.roaming_nodes)
def report_of_an_old_link_is_taken() -> Iterator[None]:
    """what comes under another link epoch than the node's newest is refused"""
    real = transitions.report

    def mistaken(
        fleet: Any, node_id: str, message: Any, link_epoch: int, now: Any, came: Any = None
    ) -> Observation:
        known = fleet.nodes.get(node_id)
        epoch = known.link_epoch if known is not None else link_epoch
        return real(fleet, node_id, message, epoch, now, came)

    with patch.object(transitions, "report", mistaken), patch.object(LinkHandle, "check", lambda self: None):
        yield


@mutant("runtime", "CHECKER", worlds.busy_replicas)
def gap_goes_unnoticed() -> Iterator[None]:
    """after a commit of others the fleet is complete only once it has read theirs"""
    real = Commits._apply

    def mistaken(self: Commits, fleet: Any, committed: Committed, *rest: Any) -> None:
        self.batch = max(self.batch, committed.batch - 1)
        real(self, fleet, committed, *rest)

    with patch.object(Commits, "_apply", mistaken):
        yield


@mutant("planner", "I9", worlds.restored_store)
def nobody_notices_that_the_store_went_back() -> Iterator[None]:
    """a Hello that knows more than the store stops the fleet until a person has looked"""
    with patch.object(transitions, "regression", lambda fleet, known, message: None):
        yield


@mutant("planner", "I9", worlds.restored_on_the_way_back)
def an_undone_attempt_takes_its_node_elsewhere() -> Iterator[None]:
    """an attempt that was undone, of a lost future or of another rollout, has taken its node nowhere"""

    def mistaken(self: Fleet, member: MemberRow) -> AttemptRow | None:
        return self.newest_attempt(member.node_id)

    with patch.object(Fleet, "last_attempt", mistaken):
        yield


@mutant("planner", "I9", worlds.restored_on_the_way_back)
def a_way_back_ends_before_a_person_has_looked() -> Iterator[None]:
    """a rollout does not end while it is to take in an attempt of a lost future"""
    take_in = adoption.take_in

    def mistaken(draft: Draft) -> None:
        take_in(draft)
        draft.awaited.clear()

    with patch.object(adoption, "take_in", mistaken):
        yield
