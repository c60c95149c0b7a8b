"""Small fleets for the planner's tests, and a world in which plans are carried out.

    w = World(nodes(6, zone="ab"))
    w.rollout(spec(canary=1, waves=[Amount(count=2), None]))
    w.run()                                     # until nothing moves
    assert w.state() == "SUCCEEDED"

`World` keeps rows like a store does (revisions, guards, one open attempt a node), applies what
is committed, and has agents that answer commands step by step. A test stops an agent with a
script (`w.script("n1", fail_at="PRESERVING")`) or moves rows by hand (`w.set_node`, `w.set_attempt`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.core.actions import Action, Plan
from orchestrator.core.facts import GraceEnds, Heard, LinkDown, Replicas
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import (
    Artifact,
    AttemptRow,
    Change,
    DesiredCancel,
    DesiredCommit,
    DesiredPrepare,
    DesiredProceed,
    DesiredStage,
    MemberRow,
    NewEvent,
    NodeRow,
    Problem,
    RolloutRow,
    Row,
    RowKey,
    Sample,
    Stamp,
    row_key,
)
from orchestrator.core.phases import SETTLED, Kind, Link, Phase, Verdict
from orchestrator.core.planner import plan
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.settlement import spared
from orchestrator.core.spec import (
    Amount,
    Bake,
    Budgets,
    Canary,
    RolloutSpec,
    Target,
    WaveSpec,
)
from orchestrator.core.stamps import renewal
from orchestrator.errors import Retry

START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
"""A Monday."""
OLD, NEW = "6.19.0", "7.1.0"
INCARNATION = "inc-1"


def artifact(release: str = NEW, digest: str = "sha-new") -> Artifact:
    return Artifact(name=f"linux-{release}", digest=digest, release=release, url="http://artifacts/x")


def node(node_id: str, **changes: Any) -> NodeRow:
    """An enrolled, healthy node on the old release with the new artifact staged."""
    row = NodeRow(
        node_id=node_id,
        revision=1,
        installation_id=f"i-{node_id}",
        enrolled_at=START - timedelta(days=1),
        release=OLD,
        boot_id=f"{node_id}-boot-1",
        hardware_model="m1",
        command_line="quiet",
        capabilities=frozenset({"luo"}),
        staged=frozenset({"sha-new"}),
        rollback_artifact=f"sha-{OLD}",
    )
    return replace(row, **changes)


def nodes(count: int, zone: str = "", **changes: Any) -> list[NodeRow]:
    """n0, n1 …; zone "ab" deals the label zone out in turns."""
    made = []
    for i in range(count):
        labels = {"zone": zone[i % len(zone)]} if zone else {}
        made.append(node(f"n{i}", **{"labels": labels, **changes}))
    return made


def spec(
    *,
    name: str = "r1",
    waves: Sequence[Amount | None] = (None,),
    unavailable: int = 100,
    blackout: int = 100,
    bake: timedelta = timedelta(seconds=10),
    budgets: Mapping[str, Any] | None = None,
    **changes: Any,
) -> RolloutSpec:
    """A generous specification; tighten what the test is about."""
    limits = Budgets(
        max_unavailable=Amount(count=unavailable),
        max_in_blackout=Amount(count=blackout),
        **(budgets or {}),
    )
    made = RolloutSpec(
        name=name,
        target=Target(artifact="linux"),
        canary=Canary(max_nodes=4),
        waves=tuple(WaveSpec(f"w{i + 1}", size) for i, size in enumerate(waves)),
        budgets=limits,
        bake=Bake(node=bake, wave=bake),
    )
    return replace(made, **changes)


def settled_attempt(n: NodeRow, phase: Phase, **changes: Any) -> AttemptRow:
    """An attempt of nobody's that has ended in phase."""
    row = AttemptRow(
        node_id=n.node_id,
        generation=1,
        incarnation=INCARNATION,
        rollout_id="elsewhere",
        kind=Kind.FORWARD,
        method=spec().method,
        phase=phase,
        artifact=artifact(),
        from_release=OLD,
        to_release=NEW,
        hardware_model=n.hardware_model,
        expected_boot_id=n.boot_id,
        command_line="",
        opened_at=START,
        phase_at=START,
        revision=1,
        settled_at=START,
    )
    return replace(row, **changes)


class Refused(Exception):
    """The store's Conflict."""


@dataclass
class Script:
    """How a node's agent misbehaves: in which phase, how, and how often."""

    stop_at: str = ""
    """Stays in this phase for ever."""
    fail_at: str = ""
    """In this phase it fails by itself: before the jump it is undone, after it quarantined."""
    times: int = 10**6
    """How often, then it works."""
    retry: Retry = Retry.REPLAN
    end: Phase | None = None
    """Instead of BAKING a forward attempt ends here."""
    deaf: bool = False
    """Follows no command."""
    blackout: timedelta = timedelta(milliseconds=300)
    rejected: str = ""


STEPS = (
    Phase.LOADING,
    Phase.DRAINING,
    Phase.PRESERVING,
    Phase.PRESERVED,
    Phase.SUSPENDING,
    Phase.JUMPING,
    Phase.RETRIEVING,
    Phase.RESUMING,
    Phase.VERIFYING,
    Phase.FINISHING,
    Phase.BAKING,
)
JUMPED = frozenset(STEPS[5:])


@dataclass
class World:
    """Rows with revisions, a fleet that follows them, agents, and a clock moved by hand."""

    first: Sequence[NodeRow] = ()
    policy: FleetPolicy = field(default_factory=FleetPolicy)
    now: datetime = START
    linked: bool = True

    def __post_init__(self) -> None:
        self.rows: dict[RowKey, Row] = {}
        self.events: list[NewEvent] = []
        self.scripts: dict[str, Script] = {}
        self.silent: set[str] = set()
        self.fleet = Fleet(self.policy, INCARNATION)
        self.jumps: dict[tuple[str, int], int] = {}
        self.last_plan = Plan()
        for row in self.first:
            self.put(row)
            if self.linked:
                self.hear(row.node_id)

    # --- the store ---------------------------------------------------------------

    def put(self, row: Row) -> None:
        """A fact from outside, at the revision it says (at least 1)."""
        row = replace(row, revision=max(1, row.revision))
        self.rows[row_key(row)] = row
        self.fleet.apply(row)

    def commit(self, change: Change) -> None:
        """As a store does: all or nothing. Refused if anything moved."""
        keys = [row_key(row) for row in change.writes]
        assert len(keys) == len(set(keys)), "a change writes one row twice"
        relied = [*change.guards, *((row_key(row), row.revision) for row in change.writes)]
        for key, revision in relied:
            actual = self.rows[key].revision if key in self.rows else 0
            if actual != revision:
                raise Refused(f"{key} is at {actual}, not {revision}")
        for row in change.writes:
            written = replace(row, revision=row.revision + 1)
            self.rows[row_key(row)] = written
            self.fleet.apply(written)
        self.events += change.events
        for node_id in {row.node_id for row in change.writes if isinstance(row, AttemptRow)}:
            open_now = [
                a
                for a in self.rows.values()
                if isinstance(a, AttemptRow) and a.node_id == node_id and a.phase not in SETTLED
            ]
            assert len(open_now) <= 1, f"I14: {node_id} has {len(open_now)} open attempts"

    def rebuilt(self) -> Fleet:
        """A fleet from scratch, of the same facts."""
        facts: list[Any] = list(self.rows.values())
        facts += list(self.fleet.heard.values())
        facts += [LinkDown(n, at) for n, at in self.fleet._links.down.items()]
        if self.fleet.grace_ends_at is not None:
            facts.append(GraceEnds(self.fleet.grace_ends_at))
        if self.fleet.replicas is not None:
            facts.append(self.fleet.replicas)
        fleet = Fleet.rebuild(self.policy, INCARNATION, facts)
        fleet.advance(self.fleet.now)
        return fleet

    def crash(self, grace: timedelta = timedelta(0)) -> None:
        """The orchestrator dies and starts again from its rows; nodes link again, to where they were."""
        others = self.fleet.replicas
        self.fleet = Fleet.rebuild(self.policy, INCARNATION, list(self.rows.values()))
        if others is not None:
            self.fleet.apply(replace(others, gone={}))
        self.fleet.advance(self.now)
        self.fleet.apply(GraceEnds(self.now + grace))
        for node_id in list(self.fleet.nodes):
            self.hear(node_id)

    # --- the world ---------------------------------------------------------------

    def rollout(self, made: RolloutSpec, waves: Sequence[Sequence[str]] | None = None, **changes: Any) -> str:
        """Begin a rollout over all nodes: n0 is the canary, the waves follow in order.

        waves: members by wave, canary first; None: by the specification's sizes."""
        ids = sorted(self.fleet.nodes, key=lambda n: (len(n), n))
        if waves is None:
            waves = [ids[:1]]
            left = ids[1:]
            for asked in made.waves:
                size = len(left) if asked.size is None else asked.size.of(len(ids))
                waves.append(left[:size])
                left = left[size:]
        row = RolloutRow(
            rollout_id=made.name,
            spec=made,
            artifact=changes.pop("artifact", artifact()),
            created_at=self.now,
            created_by="test",
            revision=1,
            wave_names=("canary", *(w.name for w in made.waves)),
            members=sum(len(wave) for wave in waves),
        )
        self.put(replace(row, **changes))
        position = 0
        for number, members in enumerate(waves):
            for node_id in members:
                self.put(MemberRow(made.name, node_id, number, position, revision=1))
                position += 1
        return made.name

    def hear(self, node_id: str) -> None:
        """The node beats; here, or where it is linked."""
        stamp = Stamp(self.fleet.nodes[node_id].boot_id, self.now - START)
        if not self.is_elsewhere(node_id):
            self.fleet.apply(Heard(node_id, self.now, stamp))
        elif self.fleet.link(node_id, self.now) is Link.UP:
            self.commit(renewal(self.fleet, node_id, stamp, self.now))

    def replicas(self, *alive: str) -> None:
        """This one is `a`; those that lived and are not named have lost their lease now."""
        known = self.fleet.replicas or Replicas("a", frozenset("a"))
        living = frozenset({"a", *alive})
        gone = {r: at for r, at in known.gone.items() if r not in living}
        self.fleet.apply(Replicas("a", living, gone | dict.fromkeys(known.alive - living, self.now)))

    def is_elsewhere(self, node_id: str) -> bool:
        others = self.fleet.replicas
        return others is not None and self.fleet.nodes[node_id].link_replica not in ("", others.mine)

    def move(self, node_id: str, replica: str, *, up: bool = True) -> None:
        """The node says Hello to a replica, or (not up) that one tells that the link has ended."""
        self.set_node(node_id, link_replica=replica, link_up=up, link_changed_at=self.now)

    def tick(self, by: timedelta = timedelta(seconds=1)) -> None:
        """Time passes; every linked node beats, every fifth second as it should."""
        for _ in range(max(1, int(by / timedelta(seconds=5)))):
            self.now += min(by, timedelta(seconds=5))
            for node_id in self.fleet.nodes:
                if node_id not in self.silent:
                    self.hear(node_id)

    def cut(self, node_id: str) -> None:
        """The node's link ends."""
        self.silent.add(node_id)
        self.fleet.apply(LinkDown(node_id, self.now))

    def mend(self, node_id: str) -> None:
        self.silent.discard(node_id)
        self.now += timedelta(milliseconds=1)
        if self.is_elsewhere(node_id):
            self.move(node_id, "a")
        self.hear(node_id)

    def script(self, node_id: str, **how: Any) -> None:
        self.scripts[node_id] = Script(**how)

    # --- rows by hand --------------------------------------------------------------

    def set_node(self, node_id: str, **changes: Any) -> NodeRow:
        row = self.fleet.nodes[node_id]
        self.put(replace(row, revision=row.revision + 1, **changes))
        return self.fleet.nodes[node_id]

    def set_attempt(self, node_id: str, **changes: Any) -> AttemptRow:
        row = self.fleet.newest_attempt(node_id)
        assert row is not None
        self.put(replace(row, revision=row.revision + 1, **changes))
        return self.attempt(node_id)

    def set_member(self, node_id: str, rollout_id: str = "r1", **changes: Any) -> MemberRow:
        row = self.fleet.members(rollout_id)[node_id]
        self.put(replace(row, revision=row.revision + 1, **changes))
        return self.member(node_id, rollout_id)

    def set_rollout(self, rollout_id: str = "r1", **changes: Any) -> RolloutRow:
        row = self.fleet.rollouts[rollout_id]
        self.put(replace(row, revision=row.revision + 1, **changes))
        return self.fleet.rollouts[rollout_id]

    def set_fleet(self, **changes: Any) -> None:
        row = self.fleet.row
        self.put(replace(row, revision=row.revision + 1, **changes))

    # --- reading --------------------------------------------------------------------

    def attempt(self, node_id: str) -> AttemptRow:
        row = self.fleet.newest_attempt(node_id)
        assert row is not None
        return row

    def member(self, node_id: str, rollout_id: str = "r1") -> MemberRow:
        return self.fleet.members(rollout_id)[node_id]

    def node(self, node_id: str) -> NodeRow:
        return self.fleet.nodes[node_id]

    def row(self, rollout_id: str = "r1") -> RolloutRow:
        return self.fleet.rollouts[rollout_id]

    def phases(self) -> dict[str, str]:
        """Node id → phase, of nodes that have had an attempt."""
        return {n: a.phase.value for n in self.fleet.nodes if (a := self.fleet.newest_attempt(n)) is not None}

    def open_nodes(self) -> list[str]:
        return [n for n in self.fleet.nodes if self.fleet.open_attempt(n) is not None]

    def state(self, rollout_id: str = "r1") -> str:
        row = self.row(rollout_id)
        return row.ended_as or ("HALTED" if row.halted else row.goal.value)

    def reasons(self, rollout_id: str = "r1") -> set[str]:
        """Reasons of the blockers of a plan made now."""
        return {b.reason for b in self.plan().blockers.get(rollout_id, ())}

    def kinds(self) -> list[str]:
        """Kinds of the actions that a plan made now has."""
        return [a.kind for a in self.plan().actions]

    # --- acting ----------------------------------------------------------------------

    def plan(self) -> Plan:
        self.last_plan = plan(self.fleet, self.now)
        return self.last_plan

    def execute(self, actions: Iterable[Action]) -> None:
        for action in actions:
            self.commit(action.change)

    def settle_plans(self, bound: int = 100) -> int:
        """Plan and commit until a plan has no actions; returns how many actions there were."""
        count = 0
        for _ in range(bound):
            made = self.plan()
            if not made.actions:
                return count
            count += len(made.actions)
            self.execute(made.actions)
        raise AssertionError(f"the planner does not come to rest: {[a.kind for a in made.actions]}")

    def agents(self) -> bool:
        """Every linked agent takes one step; whether any did."""
        stepped = [self.step(n) for n in sorted(self.fleet.nodes) if n not in self.silent]
        return any(stepped)

    def run(self, bound: int = 400, until: str = "") -> World:
        """Plan, let agents step, let time pass where nothing moves, until the end or a standstill.

        until: stop as soon as a node is in this phase."""
        for _ in range(bound):
            moved = self.settle_plans() > 0
            if until and until in self.phases().values():
                return self
            moved = self.agents() or moved
            if all(r.ended_at is not None for r in self.fleet.rollouts.values()):
                return self
            if not moved:
                made = self.plan()
                if made.next_wake is None:
                    return self
                before = self.now
                self.tick(max(timedelta(seconds=1), min(made.next_wake - before, timedelta(minutes=10))))
        return self

    def step(self, node_id: str) -> bool:
        """The agent of one node: answer the desired command, or take the saga's next step."""
        row = self.fleet.nodes[node_id]
        script = self.scripts.get(node_id, Script())
        a = self.fleet.newest_attempt(node_id)
        if script.deaf:
            return False
        match row.desired:
            case DesiredStage(artifact=wanted):
                self.set_node(node_id, staged=row.staged | {wanted.digest}, desired=None)
                return True
            case DesiredCancel(generation=g) if a is not None and a.generation == g and a.phase in STEPS[:5]:
                self._move(a, Phase.UNWINDING)
                return True
            case DesiredCommit(generation=g) if a is not None and a.generation == g:
                if a.phase is Phase.BAKING:
                    self._move(a, Phase.COMMITTED)
                    return True
            case DesiredPrepare(generation=g) if a is not None and a.generation == g and not a.acknowledged:
                self.set_attempt(node_id, acknowledged=True)
                return True
            case DesiredProceed(generation=g) if a is not None and a.generation == g:
                if a.phase is Phase.PRESERVED:
                    assert row.desired.stamp.boot_id == row.boot_id, "a stamp of another boot"
                    self._move(a, Phase.SUSPENDING)
                    return True
            case _:
                pass
        if a is None or a.phase in SETTLED or not a.acknowledged or a.phase is Phase.PRESERVED:
            return False
        return self._advance(a, script)

    def _advance(self, a: AttemptRow, script: Script) -> bool:
        if a.phase.value == script.stop_at:
            return False
        if a.phase is Phase.UNWINDING:
            self._move(a, Phase.ABORTED)
            return True
        if a.phase.value == script.fail_at and script.times > 0:
            script.times -= 1
            problem = Problem("REFUSED", script.retry, "the freeze was refused")
            ended = Phase.QUARANTINED if a.phase in JUMPED else Phase.UNWINDING
            self._move(a, ended, problem=problem)
            return True
        after = STEPS[STEPS.index(a.phase) + 1]
        if after is Phase.BAKING and a.kind is Kind.FORWARD and script.end is not None:
            after = script.end
        if after is Phase.RETRIEVING:
            self.jumps[a.node_id, a.generation] = self.jumps.get((a.node_id, a.generation), 0) + 1
            self.set_node(a.node_id, release=a.to_release, boot_id=f"{a.node_id}-boot-{a.generation + 1}")
        self._move(a, after)
        return True

    def _move(self, a: AttemptRow, phase: Phase, problem: Problem | None = None) -> None:
        script = self.scripts.get(a.node_id, Script())
        changes: dict[str, Any] = {"phase": phase, "phase_at": self.now, "acknowledged": True}
        if problem is not None:
            changes["problem"] = problem
        if phase in SETTLED:
            changes["settled_at"] = self.now
        if phase is Phase.PRESERVED:
            boot = self.fleet.nodes[a.node_id].boot_id
            changes["stamp"], changes["stamp_at"] = Stamp(boot, self.now - START), self.now
        if phase is Phase.SUSPENDING:
            changes["blackout_open_at"] = self.now
        if phase in (Phase.VERIFYING, Phase.ABORTED, Phase.COLD_BOOTED):
            changes["blackout_open_at"] = None
        if phase is Phase.VERIFYING:
            sample = Sample("workload", script.blackout, timedelta(0), "emulated", "w", script.rejected)
            changes["samples"], changes["verdict"] = (sample,), Verdict.LIVE_UPDATED
        if phase is Phase.BAKING:
            changes["healthy_since"] = self.now
        if phase in (Phase.QUARANTINED, Phase.COLD_BOOTED, Phase.AWAITING_ROLLBACK):
            changes["failed"] = True
        if phase is Phase.ABORTED:
            changes["failed"] = not spared(a)
        self.set_attempt(a.node_id, **changes)


def planned(w: World, kind: str) -> list[str]:
    """Nodes that a plan made now has an action of this kind for."""
    found: list[str] = []
    for action in w.plan().actions:
        if action.kind == kind:
            found += action.hint or tuple(
                row.node_id for row in action.change.writes if isinstance(row, MemberRow | NodeRow)
            )
    return found
