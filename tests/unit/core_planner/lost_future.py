"""A world whose store goes back in time, and the Hellos of nodes that have gone on.

before = w.copy()                           # the backup
w.run(until="BAKING")                       # the future that is lost
v = gone_back(w, before)                    # fleet stopped, nothing said yet
v.hello_all(w)
v.release()
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from orchestrator.core import transitions
from orchestrator.core.differences import Difference, differences
from orchestrator.core.fleet import Fleet
from orchestrator.core.invariants import Checker
from orchestrator.core.messages import AttemptMemory, AttemptRef, Hello, NodeStatus
from orchestrator.core.model import AttemptRow, Change, FleetRow, NodeRow, Row, row_key
from orchestrator.core.operations import fleet_stop
from orchestrator.core.phases import SETTLED, Phase
from orchestrator.core.transitions_regression import STOPPED
from tests.unit.core_planner.builders import INCARNATION, STEPS, World

ANEW = "inc-2"


def backup(w: World) -> list[Row]:
    """The rows as they are, with what was acknowledged to the nodes until now."""
    return [
        replace(row, incarnation=INCARNATION, acknowledged_seq=acknowledged(w, row.node_id))
        if isinstance(row, NodeRow)
        else row
        for row in w.rows.values()
    ]


def gone_back(
    w: World, rows: Iterable[Row], *, incarnation: str = ANEW, serial: int = 2, stopped: bool = True
) -> Restored:
    """The store is as it was; time and the nodes have gone on."""
    v = Restored(policy=w.policy, now=w.now)
    v.fleet = Fleet(w.policy, incarnation)
    v.fleet.incarnation_serial = serial
    v.fleet.advance(w.now)
    for row in rows:
        v.put(row)
    v.scripts, v.jumps = w.scripts, w.jumps
    v.checker = Checker(list(v.rows.values()), policy=w.policy, incarnation=incarnation)
    if stopped:
        stop = replace(v.fleet.row, stopped=STOPPED, stop_message="restored", stopped_at=w.now)
        v.commit(Change((stop,)))
    return v


class Restored(World):
    """See the module. Every commit is judged by the independent checker."""

    checker: Checker | None = None

    def put(self, row: Row) -> None:
        super().put(row)
        if self.checker is not None:
            self.checker.followed([self.rows[row_key(row)]], self.now)

    def commit(self, change: Change) -> None:
        super().commit(change)
        if self.checker is None:
            return
        broken = self.checker.committed([self.rows[row_key(row)] for row in change.writes], (), self.now)
        assert not broken, broken

    def hello(self, message: Hello) -> transitions.Observation:
        seen = transitions.hello(self.fleet, message, "", self.now)
        self.commit(seen.change)
        for fact in seen.facts:
            self.fleet.apply(fact)
        return seen

    def hello_all(self, w: World) -> None:
        for node_id in sorted(w.fleet.nodes):
            assert self.hello(hello_of(w, node_id)).refusal is None

    def differ(self) -> dict[str, Difference]:
        return {d.node_id: d for d in differences(self.fleet)}

    def outlooks(self) -> dict[str, str]:
        return {node_id: d.outlook.value for node_id, d in self.differ().items()}

    def release(self, why: str = "seen") -> None:
        self.commit(fleet_stop(self.fleet, False, why, "alice", self.now, accept_differences=True))
        assert isinstance(self.fleet.row, FleetRow)
        assert not self.fleet.row.stopped

    def jumped(self, node_id: str) -> int:
        return sum(count for (name, _), count in self.jumps.items() if name == node_id)


def hello_of(w: World, node_id: str, **changes: Any) -> Hello:
    """What the node says of itself, all its reports acknowledged."""
    row = w.fleet.nodes[node_id]
    attempt = known_to_node(w, node_id)
    seq = acknowledged(w, node_id)
    said = Hello(
        node_id=node_id,
        installation_id=row.installation_id,
        boot_id=row.boot_id,
        release=row.release,
        hardware_model=row.hardware_model,
        capabilities=row.capabilities,
        labels=row.labels,
        highest_generation=attempt.generation if attempt is not None else 0,
        highest_incarnation=INCARNATION,
        highest_incarnation_serial=1,
        status=NodeStatus(
            AttemptRef(node_id, attempt.generation, attempt.incarnation) if attempt is not None else None,
            attempt.phase if attempt is not None else Phase.IDLE,
            seq,
        ),
        boot_verdict=attempt.verdict if attempt is not None else None,
        staged_artifacts=row.staged,
        rollback_artifact=row.rollback_artifact,
        command_line=row.command_line,
        acknowledged_seq=seq,
        memory=memory_of(attempt) if attempt is not None else None,
    )
    return replace(said, **changes)


def memory_of(attempt: AttemptRow) -> AttemptMemory:
    artifact = replace(attempt.artifact, url="")
    return AttemptMemory(
        attempt.kind, artifact, attempt.from_release, attempt.expected_boot_id, attempt.verdict
    )


def known_to_node(w: World, node_id: str) -> AttemptRow | None:
    """Its newest attempt whose PREPARE has come."""
    return next((a for a in reversed(w.fleet.attempts_at(node_id)) if a.acknowledged), None)


def acknowledged(w: World, node_id: str) -> int:
    """Reports of the node so far: its journal's records, so to speak."""
    attempt = known_to_node(w, node_id)
    if attempt is None:
        return 0
    order = [*STEPS, Phase.UNWINDING, *sorted(SETTLED - {Phase.BAKING})]
    return attempt.generation * 100 + order.index(attempt.phase)
