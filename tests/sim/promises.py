"""Further promises, watched from outside as checks.py watches the others: what the committed rows of one
moment do not show, because it takes a history, the wire or the node's hardware to see it.

FRESH   a replica speaks to nodes only while its own lease runs.
VOUCHED nothing starts on a node whose link was a replica's that is long dead.
STALE   a report is taken from whoever holds the node's newest link.
ADMITS  after QUARANTINED, COLD_BOOTED or LOST an attempt begins by a person's word only; a node that is
        AWAITING_ROLLBACK is rolled back.
I1   no forward start makes more nodes bake, now or soon, than max_uncommitted.
I4   a PROCEED carries a stamp that the node itself has said.
I5   a kernel pair passes because an attempt of its kind was committed.
I6   nothing goes forward beyond the failure budget; pause, halt, stop, window's end and embargo unwind
     who waits PRESERVED within seconds.
I7   a rollout that has ended holds nobody who is open or bakes.
I7   a cancel or a way back unwinds who waits PRESERVED within seconds.
I8   nobody jumps while a session that came in is unfinished: it would be lost; none is left once an
     attempt has settled otherwise than badly. The same of RFC v2's tokens, whose LUO is in [normal] then;
     nobody jumps with files registered unless they cross, nor from one model into the other.
I9   a node is called LOST only after its silence lease of somebody's listening.
     A store that went back in time behind a node's back has stopped the fleet before anything starts.
     A way back does not end while somebody could be brought back who is where his rollout has left him
     (what came since was undone), nor with an attempt of a lost future that is nobody's.
I13  nobody commits under an epoch that is not the database's.
I10  at the reboot the JumpIntent is on the disk, and a journal that was torn is not taken for damaged.
I11  health held for as long as the rollout asks before the attempt counts as good.
I12  what retention takes is of no rollout that runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from liveroll.v1 import agent_pb2 as pb

from orchestrator.core.invariants_starts import at_most
from orchestrator.core.model import (
    AttemptRow,
    DesiredPrepare,
    DesiredProceed,
    FleetRow,
    MemberRow,
    NodeRow,
    RolloutRow,
    Row,
)
from orchestrator.core.phases import SETTLED, Goal, Kind, Outcome, Phase
from orchestrator.ports import Committed
from tests.sim.promises_node import NodePromises
from tests.sim.promises_time import Watch

if TYPE_CHECKING:
    from tests.sim.life import Life

NEEDS_WORD = frozenset({Phase.QUARANTINED, Phase.COLD_BOOTED, Phase.LOST})
UPDATED = frozenset({Phase.BAKING, Phase.COMMITTED})
UNFINISHED = frozenset({Outcome.PENDING, Outcome.OPEN, Outcome.BAKING})
KNOWN = timedelta(seconds=2)
"""What changed less than this before a start may be news to whoever planned it."""
LISTENS_S = 1.0
"""How often it is looked whether anybody serves."""
STOPPED_S = 10.0
"""A process that stands still for longer knows it (follower.py, rule 7), and has not listened."""
HEARD_OF = timedelta(seconds=20)
"""A lease has run out for longer: the planner has beaten since, and knows."""
ON_THE_WAY_S = 2.0
"""Between an acknowledgement's writing and the beat that the planner has counted."""


@dataclass(slots=True)
class Promises(NodePromises):
    """Told by the same as Checks, and by it."""

    _attempts: dict[tuple[str, int], AttemptRow] = field(default_factory=dict)
    _newest: dict[str, int] = field(default_factory=dict)
    _members: dict[str, dict[str, MemberRow]] = field(default_factory=dict)
    _rollouts: dict[str, RolloutRow] = field(default_factory=dict)
    _nodes: dict[str, NodeRow] = field(default_factory=dict)
    _words: set[tuple[str, str]] = field(default_factory=set)
    """(rollout, node): a person has asked for it to be tried again."""
    _proven: set[tuple[str, str]] = field(default_factory=set)
    """(rollout, pair) of which an attempt was committed."""
    _said: dict[str, dict[str, set[int]]] = field(default_factory=dict)
    """Node → boot → milliseconds of the stamps that it has sent."""
    _word_s: dict[str, float] = field(default_factory=dict)
    """Node → when an orchestrator last answered it."""
    _deaf_until_s: float = 0.0
    """Until then nobody served."""
    watch: Watch = field(init=False)
    _fleet: FleetRow = field(default_factory=FleetRow)
    _forgotten: set[str] = field(default_factory=set)
    """Nodes that have begun an attempt that the database has lost, and have not been welcomed since."""
    _stopped_since: bool = False
    """The fleet was stopped since the database went back last."""
    _must_stop: str = ""
    """The node whose Hello has told of the loss, until the fleet stops."""

    def __post_init__(self) -> None:
        self.watch = Watch(self.world)

    # --- at the disk

    def accepted(self, life: Life, epoch: int | None, rows: Sequence[Row]) -> None:
        """The database takes this of a replica."""
        current = self.world.disk.epoch
        if epoch is not None and epoch != current:
            self.world.violated(
                "I13", f"{life.name} commits under epoch {epoch}, the database is at {current}"
            )
        for row in rows:
            if not isinstance(row, NodeRow) or row.link_replica in ("", life.name):
                continue
            before = self._nodes.get(row.node_id)
            if before is not None and row.acknowledged_seq > before.acknowledged_seq:
                text = f"{life.name} takes a report of {row.node_id}, whose link is at {row.link_replica}"
                self.world.violated("STALE", text, row.node_id)

    def committed(self, committed: Committed) -> None:
        for event in committed.events:
            if event.new.kind == "node.retry_wanted":
                self._words.add((event.new.rollout_id, event.new.node_id))
        # An attempt that a store adopts from a node, having forgotten it, is no start.
        prepared = {
            (row.node_id, row.desired.generation)
            for row in committed.rows
            if isinstance(row, NodeRow) and isinstance(row.desired, DesiredPrepare)
        }
        begun: list[tuple[AttemptRow | None, AttemptRow]] = []
        for row in committed.rows:
            match row:
                case AttemptRow():
                    newest = self._attempts.get((row.node_id, self._newest.get(row.node_id, 0)))
                    if self._attempt(row) and (row.node_id, row.generation) in prepared:
                        begun.append((newest, row))
                case RolloutRow():
                    self._rollout(row)
                case NodeRow():
                    self._node(row)
            self._put(row)
        for row in committed.rows:
            if isinstance(row, RolloutRow) and row.ended_at is not None:
                self._ended(row)
        adopted = {e.new.node_id for e in committed.events if e.new.kind == "attempt.adopted"}
        for before, attempt in begun:
            if attempt.node_id in adopted:
                # Nobody starts it: a store that went back learns of what its node has begun before.
                continue
            for invariant, text in self._start(before, attempt):
                self.world.violated(invariant, text, attempt.node_id, attempt.rollout_id)

    def regressed(self) -> None:
        """The database has gone back in time. A person's word that it has forgotten was given."""
        for known in (self._attempts, self._newest, self._members, self._rollouts, self._nodes):
            known.clear()  # type: ignore[attr-defined]
        for row in self.world.disk.rows.values():
            self._put(row)
        self._must_stop, self._stopped_since = "", bool(self._fleet.stopped)
        begun = {key for key, truth in self.world.checks.truths.items() if truth.loads}
        lost = dict(sorted(begun - self._attempts.keys()))
        for name, generation in lost.items():
            node = self._nodes.get(name)
            if node is None or node.highest_generation < generation:
                self._forgotten.add(name)

    def _put(self, row: Row) -> None:
        match row:
            case AttemptRow():
                self._attempts[row.node_id, row.generation] = row
                self._newest[row.node_id] = max(self._newest.get(row.node_id, 0), row.generation)
                if row.phase is Phase.COMMITTED and row.kind is Kind.FORWARD:
                    self._proven.add((row.rollout_id, _pair(row)))
            case MemberRow():
                self._members.setdefault(row.rollout_id, {})[row.node_id] = row
            case RolloutRow():
                self._rollouts[row.rollout_id] = row
            case NodeRow():
                self._nodes[row.node_id] = row
            case FleetRow():
                if row.stopped:
                    self._must_stop, self._stopped_since = "", True
                self._fleet = row

    def _node(self, row: NodeRow) -> None:
        before = self._nodes.get(row.node_id)
        desired = row.desired
        if not isinstance(desired, DesiredProceed) or (before is not None and before.desired == desired):
            return
        said = self._said.get(row.node_id, {}).get(desired.stamp.boot_id, set())
        at_ms = round(desired.stamp.boottime.total_seconds() * 1000)
        if said.isdisjoint((at_ms - 1, at_ms, at_ms + 1)):
            self.world.violated(
                "I4",
                f"PROCEED of {row.node_id} carries a stamp that it never said: {desired.stamp}",
                row.node_id,
            )

    def _attempt(self, row: AttemptRow) -> bool:
        """Whether it begins with this."""
        key = (row.node_id, row.generation)
        before = self._attempts.get(key)
        rollout = self._rollouts.get(row.rollout_id)
        if rollout is None:
            return before is None
        if row.phase in UPDATED and before is not None and before.phase not in UPDATED:
            held_s, wanted_s = self._held_s.get(key), rollout.spec.health_hold.total_seconds()
            if held_s is not None and held_s < wanted_s - 1e-3:
                text = (
                    f"{row.node_id} is {row.phase} after {held_s:.3f} s of health, {wanted_s:g} s are asked"
                )
                self.world.violated("I11", text, row.node_id)
        if row.phase is Phase.LOST and before is not None and before.phase not in SETTLED:
            self._lost(row, rollout)
        return before is None

    def _lost(self, row: AttemptRow, rollout: RolloutRow) -> None:
        node = self._nodes.get(row.node_id)
        if node is None or node.written_off:
            return
        now_s = asyncio.get_running_loop().time()
        since_s = max(self._word_s.get(row.node_id, 0.0), self._deaf_until_s)
        lease_s = rollout.spec.silence_lease.total_seconds()
        if now_s - since_s < lease_s - ON_THE_WAY_S:
            listened = f"{now_s - since_s:.0f} s of listening"
            text = f"{row.node_id} is called LOST after {listened}, its lease is {lease_s:g} s"
            self.world.violated("I9", text, row.node_id)

    def _rollout(self, row: RolloutRow) -> None:
        before = self._rollouts.get(row.rollout_id)
        passed = row.pairs_passed - (before.pairs_passed if before is not None else frozenset())
        for pair in sorted(passed):
            if (row.rollout_id, "|".join(pair)) not in self._proven:
                text = (
                    f"{' → '.join(pair[:2])} on {pair[2]} passes in {row.rollout_id}, and nobody has shown it"
                )
                self.world.violated("I5", text, row.rollout_id)

    def _ended(self, row: RolloutRow) -> None:
        members = self._members.get(row.rollout_id, {}).values()
        left = sorted(m.node_id for m in members if m.outcome in UNFINISHED and not _waits_to_go_back(m))
        if left:
            outcome = self._members[row.rollout_id][left[0]].outcome
            text = f"{row.rollout_id} has ended as {row.ended_as}, and {left[0]} is {outcome}"
            self.world.violated("I7", text, row.rollout_id, left[0])
        if row.goal is Goal.BACK:
            for member in members:
                if why := self._left_behind(row, member):
                    text = f"{row.rollout_id} has ended as {row.ended_as}, and {member.node_id} {why}"
                    self.world.violated("I9", text, row.rollout_id, member.node_id)

    def _left_behind(self, row: RolloutRow, member: MemberRow) -> str:
        """How the member of a rollout that went back was forgotten; empty if it was not."""
        node = self.world.nodes.get(member.node_id)
        newest = self._attempts.get((member.node_id, self._newest.get(member.node_id, 0)))
        if node is None or newest is None or member.outcome is Outcome.WRITTEN_OFF:
            return ""
        there = node.release == row.artifact.release
        undone = there and newest.phase is Phase.ABORTED
        others = newest.rollout_id != row.rollout_id
        back = there and others and newest.kind is Kind.ROLLBACK and newest.phase in UPDATED
        able = member.crossed and member.from_artifact and member.outcome is not Outcome.FAILED
        if able and (undone or back):
            return f"runs {node.release}: attempt {newest.generation} has left it there"
        nobodys = newest.adopted and not newest.rollout_id and newest.kind is Kind.ROLLBACK
        if nobodys and newest.to_release == member.from_release:
            if newest.phase is Phase.BAKING:
                return f"would boot {row.artifact.release}: nobody commits attempt {newest.generation}"
            if undone and not member.crossed:
                return f"runs {node.release}, as its attempt {newest.generation} shows"
        return ""

    def _start(self, before: AttemptRow | None, attempt: AttemptRow) -> Iterator[tuple[str, str]]:
        name, rollout = attempt.node_id, self._rollouts.get(attempt.rollout_id)
        word = (attempt.rollout_id, name) in self._words
        self._words.discard((attempt.rollout_id, name))
        if self._must_stop:
            yield "I9", f"{name} starts, though {self._must_stop} has told that the store went back in time"
        loaded = [g for n, g in self.world.checks.truths if n == name]
        if loaded and attempt.generation <= max(loaded):
            yield "I3", f"{name} is given generation {attempt.generation}, and has begun {max(loaded)} before"
        node = self._nodes.get(name)
        if node is not None and self._is_long_dead(node.link_replica):
            yield "VOUCHED", f"{name} starts, and {node.link_replica}, which held its link, is dead"
        if before is not None and not word:
            if before.phase in NEEDS_WORD:
                yield "ADMITS", f"{name} is {before.phase}, and nobody has asked for another attempt"
            if before.phase is Phase.AWAITING_ROLLBACK and attempt.kind is Kind.FORWARD:
                yield "ADMITS", f"{name} waits to be rolled back, and is sent forward"
        if rollout is None or attempt.kind is not Kind.FORWARD:
            return
        members = self._members.get(attempt.rollout_id, {})
        failed = sum(member.failed for member in members.values()) - rollout.failures_forgiven
        allowed = at_most(rollout.spec.budgets.failures.max, len(members))
        if failed > allowed:
            yield (
                "I6",
                f"{name} starts in {rollout.rollout_id} after {failed} failures, {allowed} are allowed",
            )
        uncommitted = sorted(n for n in members if self._will_bake(n, attempt))
        allowed = at_most(rollout.spec.budgets.max_uncommitted, rollout.members)
        if len(uncommitted) > allowed:
            yield "I1", f"{name} makes {len(uncommitted)} that bake or will, {allowed} are allowed"

    def _will_bake(self, node_id: str, start: AttemptRow) -> bool:
        newest = self._attempts.get((node_id, self._newest.get(node_id, 0)))
        node = self._nodes.get(node_id)
        if newest is None or newest.rollout_id != start.rollout_id or newest.kind is not Kind.FORWARD:
            return False
        if newest.phase is Phase.BAKING:
            known = newest.phase_at <= start.opened_at - KNOWN
            return known and node is not None and not node.written_off
        return newest.phase not in SETTLED

    def _is_long_dead(self, replica: str) -> bool:
        """Its lease ran out longer ago than everybody takes to hear of it."""
        if not replica:
            return False
        # A commit may have waited since before it left, or since before a stale copy took over.
        until = self.world.disk.replicas.get(replica) or self.world.leases.get(replica)
        return until is None or until < self.world.store_clock.now() - HEARD_OF

    def trimmed(self, first_seq: int) -> None:
        """Retention has taken everything before first_seq."""
        for event in self.world.checks.events:
            if event.seq >= first_seq:
                return
            rollout = self._rollouts.get(event.new.rollout_id)
            if rollout is not None and rollout.ended_at is None:
                text = f"event {event.seq} of {rollout.rollout_id} is gone, and it still runs"
                self.world.violated("I12", text, rollout.rollout_id)
                return

    # --- at the wire

    def heard(self, node_id: str, message: pb.LinkRequest) -> None:
        """An orchestrator reads this."""
        stamps = []
        match message.WhichOneof("message"):
            case "heartbeat" if message.heartbeat.HasField("stamp"):
                stamps.append(message.heartbeat.stamp)
            case "reports":
                stamps += [report.stamp for report in message.reports.reports if report.HasField("stamp")]
            case "report" if message.report.HasField("stamp"):
                stamps.append(message.report.stamp)
        for stamp in stamps:
            at_ms = round(stamp.boottime.ToTimedelta().total_seconds() * 1000)
            self._said.setdefault(node_id, {}).setdefault(stamp.boot_id, set()).add(at_ms)

    def sent(self, node_id: str, message: pb.LinkResponse) -> None:
        """An orchestrator answers."""
        which = message.WhichOneof("message")
        if which in ("welcome", "ack"):
            self._word_s[node_id] = asyncio.get_running_loop().time()
        if which == "welcome" and node_id in self._forgotten:
            self._forgotten.discard(node_id)
            self._must_stop = self._must_stop or ("" if self._stopped_since else node_id)

    def speaks(self, life: Life, node_id: str) -> None:
        """A replica is about to write to a node."""
        until = life.leased_until
        if until is not None and until < self.world.store_clock.now():
            text = f"{life.name} speaks to {node_id}, and its own lease ran out at {until:%H:%M:%S}"
            self.world.violated("FRESH", text, node_id)

    async def run(self) -> None:
        """Looks whether anybody serves, until cancelled. What comes to one that is stopped for a moment
        waits in its socket."""
        loop = asyncio.get_running_loop()
        stopped_s = 0.0
        while True:
            serving = any(life.serving for life in self.world.host.lives)
            stopped_s = stopped_s + LISTENS_S if self.world.host.current is None else 0.0
            if not serving or stopped_s > STOPPED_S:
                self._deaf_until_s = loop.time() + LISTENS_S
            self.watch.look(self._rollouts, self._fleet.stopped)
            await asyncio.sleep(LISTENS_S)


def _pair(attempt: AttemptRow) -> str:
    return f"{attempt.from_release}|{attempt.to_release}|{attempt.hardware_model}"


def _waits_to_go_back(member: MemberRow) -> bool:
    """It could not be brought back, and the end says so."""
    return member.outcome is Outcome.PENDING and member.crossed
