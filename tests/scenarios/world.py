"""The world of a transcript: rows, the fleet that follows them, agents, a clock, and a story.

Every commit passes the checker (core/invariants.py), and after every command a fleet rebuilt
from the rows must give the plan that the living one gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from orchestrator.core import transitions
from orchestrator.core.actions import Plan
from orchestrator.core.facts import Fact, GraceEnds, LinkDown
from orchestrator.core.fleet import Fleet
from orchestrator.core.invariants import Checker
from orchestrator.core.messages import Hello
from orchestrator.core.model import Artifact, Change, Event, NewEvent, Row, RowKey, row_key
from orchestrator.core.phases import Kind, Phase
from orchestrator.core.planner import plan
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.transitions_regression import stop_regressed
from tests.scenarios.agent import SILENT, Agent

START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
"""A Monday noon."""
OLD, NEW = "6.19.0", "7.1.0"
ARTIFACT = Artifact("linux-7.1", "sha-new", NEW, "http://artifacts", emulated=True)
INCARNATION = "inc-1"
LONGEST_PAUSE = timedelta(seconds=20)
"""Between heartbeats where nothing moves; in-flight nodes are silent after 30 s."""


class World:
    """One store, one orchestrator, its nodes; `story` collects what happened, line by line."""

    def __init__(self) -> None:
        self.now = START
        self.policy = FleetPolicy()
        self.rows: dict[RowKey, Row] = {}
        self.head_seq = 0
        self.agents: dict[str, Agent] = {}
        self.story: list[str] = []
        self._copy: tuple[dict[RowKey, Row], int] = ({}, 0)
        self._walked: dict[str, list[Phase]] = {}
        self._walk_ended = START
        self.checker = self._checker()
        self.fleet = self.rebuilt()

    # --- telling ---------------------------------------------------------------------

    def clock(self, at: datetime | None) -> str:
        """+75s, from the beginning."""
        return "never" if at is None else f"+{round((at - START).total_seconds(), 1):g}s"

    def say(self, what: str, text: str) -> None:
        self.tell_walks()
        self.story.append(f"{self.clock(self.now):>7}  {what:<9} {text}")

    def tell_walks(self) -> None:
        """The phases that nodes went through since the last line."""
        by_path: dict[tuple[Phase, ...], list[str]] = {}
        for node_id, path in self._walked.items():
            by_path.setdefault(tuple(path), []).append(node_id)
        self._walked = {}
        for walked, nodes in by_path.items():
            text = f"{', '.join(sorted(nodes))}: {' → '.join(walked)}"
            self.story.append(f"{self.clock(self._walk_ended):>7}  {'agent':<9} {text}")

    def _walk(self, node_id: str, before: Phase, after: Phase) -> None:
        path = self._walked.setdefault(node_id, [before])
        if path[-1] is not after:
            path.append(after)
        if len(path) == 1:
            del self._walked[node_id]
        self._walk_ended = self.now

    # --- the store -------------------------------------------------------------------

    def _checker(self) -> Checker:
        return Checker(
            self.rows.values(),
            policy=self.policy,
            incarnation=INCARNATION,
            head_seq=self.head_seq,
            slack=timedelta(0),
        )

    def commit(self, change: Change) -> None:
        """All or nothing, as a store does; a broken promise ends the test."""
        relied = [*((row_key(row), row.revision) for row in change.writes), *change.guards]
        for key, revision in relied:
            held = self.rows.get(key)
            actual = held.revision if held is not None else 0
            assert actual == revision, f"{key} is at revision {actual}, not {revision}"
        rows = [replace(row, revision=row.revision + 1) for row in change.writes]
        events = []
        for new in change.events:
            self.head_seq += 1
            events.append(Event(INCARNATION, self.head_seq, self.now, new))
        self.rows |= {row_key(row): row for row in rows}
        broken = self.checker.committed(rows, events, self.now)
        assert broken == [], broken
        for row in rows:
            self.fleet.apply(row)

    def take(self, seen: transitions.Observation, what: str = "ingest", routine: str = "") -> bool:
        """What a message means; routine: the event kind that the phases' line tells already."""
        self.commit(seen.change)
        for fact in seen.facts:
            self.fleet.apply(fact)
        for event in seen.change.events:
            if event.kind != routine:
                self.say(what, told(event))
        if seen.refusal is not None:
            self.say("refused", f"{seen.refusal.reason}: {seen.refusal.message}")
        return seen.refusal is None

    def rebuilt(self) -> Fleet:
        """A fleet from the rows alone, which has heard of nobody."""
        fleet = Fleet.rebuild(self.policy, INCARNATION, self.rows.values())
        fleet.incarnation_serial = 1
        fleet.advance(self.now)
        return fleet

    def oracle(self) -> Fleet:
        """A fleet from the rows and everything heard."""
        facts: list[Fact] = [*self.rows.values(), *self.fleet.heard.values()]
        facts += [LinkDown(node_id, at) for node_id, at in self.fleet._links.down.items()]
        if self.fleet.grace_ends_at is not None:
            facts.append(GraceEnds(self.fleet.grace_ends_at))
        fleet = Fleet.rebuild(self.policy, INCARNATION, facts)
        fleet.advance(self.now)
        return fleet

    def restart(self) -> None:
        """The orchestrator dies, and comes back from its rows; links break with it."""
        self.fleet = self.rebuilt()
        self.fleet.apply(GraceEnds(self.now + self.policy.restart_grace))
        self.checker = self._checker()
        for agent in self.agents.values():
            self._unlinked(agent)

    def backup(self) -> None:
        self._copy = (dict(self.rows), self.head_seq)

    def restore(self) -> None:
        """The orchestrator dies, and comes back with an older store, which notices it."""
        self.rows, self.head_seq = dict(self._copy[0]), self._copy[1]
        self.restart()
        self.commit(stop_regressed(self.fleet.row, "a backup was put back", self.now))

    # --- links -----------------------------------------------------------------------

    def link(self, agent: Agent, **claims: object) -> bool:
        """Hello; claims replace what it truly says."""
        hello: Hello = replace(agent.hello(INCARNATION, 1), **claims)  # type: ignore[arg-type]
        before = self.fleet.newest_attempt(agent.node_id)
        seen = transitions.hello(self.fleet, hello, "", self.now)
        known = agent.node_id in self.fleet.nodes
        if not self.take(seen, "hello", "node.linked" if known else "node.enrolled"):
            return False
        assert seen.welcome is not None
        agent.epoch, agent.linked, agent.down_since = seen.welcome.link_epoch, True, None
        agent.unsent = [r for r in agent.unsent if r.seq > seen.welcome.acknowledged_seq]
        after = self.fleet.newest_attempt(agent.node_id)
        if before is not None and after is not None:
            self._walk(agent.node_id, before.phase, after.phase)
        return True

    def _unlinked(self, agent: Agent) -> None:
        agent.linked, agent.down_since = False, agent.down_since or self.now

    def cut(self, agent: Agent, *, noticed: bool) -> None:
        """The link ends; if it is noticed, the orchestrator knows at once."""
        if agent.linked and noticed:
            seen = transitions.link_down(self.fleet, agent.node_id, agent.epoch, self.now)
            self.take(seen, "link", "node.unlinked")
        self._unlinked(agent)

    def talk(self, agent: Agent) -> bool:
        """Reports up, a heartbeat, the desired command down; whether anything was said."""
        if not agent.linked:
            return False
        spoke = bool(agent.unsent)
        for message in agent.unsent:
            before = self.fleet.newest_attempt(agent.node_id)
            seen = transitions.report(self.fleet, agent.node_id, message, agent.epoch, self.now)
            assert seen.acknowledge_seq is not None, seen.refusal
            routine = "attempt." + "".join(
                f"_{c.lower()}" if c.isupper() else c for c in message.event
            ).strip("_")
            self._take_report(seen, agent, before.phase if before is not None else Phase.IDLE, routine)
        agent.unsent.clear()
        beat = transitions.heartbeat(
            self.fleet, agent.node_id, agent.heartbeat(self.now), agent.epoch, self.now
        )
        self.take(beat)
        node = self.fleet.nodes[agent.node_id]
        if node.desired is not None:
            generation = getattr(node.desired, "generation", 0)
            attempt = self.fleet.attempts.get((agent.node_id, generation))
            kind = attempt.kind if attempt is not None else Kind.FORWARD
            command_id = f"{INCARNATION}:{node.command_serial}"
            agent.obey(node.desired, command_id, INCARNATION, kind, self.now)
        return spoke or bool(agent.unsent)

    def _take_report(self, seen: transitions.Observation, agent: Agent, before: Phase, routine: str) -> None:
        self.commit(seen.change)
        for fact in seen.facts:
            self.fleet.apply(fact)
        newest = self.fleet.newest_attempt(agent.node_id)
        if newest is not None:
            self._walk(agent.node_id, before, newest.phase)
        for event in seen.change.events:
            if event.kind not in (routine, "node.staged") and not _ended_well(event):
                self.say("ingest", told(event))

    # --- time ------------------------------------------------------------------------

    def plan(self) -> Plan:
        return plan(self.fleet, self.now)

    def settle(self) -> bool:
        """Plan and commit until there is nothing to do; whether there was."""
        acted = False
        for _ in range(50):
            made = self.plan()
            if not made.actions:
                return acted
            acted = True
            for action in made.actions:
                self.commit(action.change)
                lines = [told(event) for event in action.change.events] or [", ".join(action.hint)]
                for line in lines:
                    self.say(action.kind, line)
        raise AssertionError(f"the planner does not come to rest: {[a.kind for a in made.actions]}")

    def turn(self) -> bool:
        """One second: the planner acts, every agent takes a step; whether anything moved."""
        moved = self.settle()
        for node_id in sorted(self.agents):
            agent = self.agents[node_id]
            before = agent.seq
            agent.step(self.now)
            if agent.phase in SILENT:
                moved = True
                if agent.linked and not agent.unsent:
                    self.cut(agent, noticed=True)
            elif not agent.linked and agent.reachable:
                self.link(agent)
            moved = self.talk(agent) or agent.seq > before or moved
        return moved

    def run(self, until: datetime, stop: Mapping[str, Phase] | None = None, ended: str = "") -> None:
        """Turns until an instant, until nodes are in these phases, or until a rollout has ended."""
        while self.now < until:
            moved = self.turn()
            if stop and all(self.phase(node_id) is phase for node_id, phase in stop.items()):
                return
            if ended and self.fleet.rollouts[ended].ended_at is not None:
                return
            pause = timedelta(seconds=1)
            if not moved:
                wake = self.plan().next_wake
                if wake is None and ended:
                    return
                pause = max(pause, min((wake or until) - self.now, LONGEST_PAUSE))
            self.now = min(until, self.now + pause)
        self.settle()

    def phase(self, node_id: str) -> Phase:
        newest = self.fleet.newest_attempt(node_id)
        return newest.phase if newest is not None else Phase.IDLE


def _ended_well(event: NewEvent) -> bool:
    """The phases' line says it already."""
    return event.kind == "node.settled" and not {"failure", "problem"} & event.fields.keys()


def told(event: NewEvent) -> str:
    """kind: message, with what the message does not say already."""
    more = {k: v for k, v in event.fields.items() if k in ("canary", "problem", "verdict") and v}
    if "not_before" in event.fields:
        due = datetime.fromisoformat(event.fields["not_before"])
        more["not_before"] = f"+{(due - START).total_seconds():.1f}s"
    if more.get("canary") == "false":
        del more["canary"]
    extra = "".join(f" {key}={value}" for key, value in more.items())
    actor = f" by {event.actor}" if event.actor not in ("orchestrator", event.node_id) else ""
    text = event.message if actor and actor in event.message else event.message + actor
    return f"{event.kind}: {text}{f' [{extra.strip()}]' if extra else ''}"
