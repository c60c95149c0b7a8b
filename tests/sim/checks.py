"""The promises, watched from outside: at the disk, at the wire, at each node's kernel.

I1 I2 I3 I5 I6 I11 I12 I14  core/invariants.Checker, over every commit as the disk took it.
I5  a pair's canary is never replaced after its jump.
I3  at the kernel: at most one reboot call an attempt; what is loaded is of rising generation,
    and never of an attempt whose CANCEL the node had taken before it began.
I4  at the kernel: no reboot without a committed PROCEED of this boot that is still valid.
I8  what counts as updated really crossed, with every workload's memory bit-identical; at the end
    no session is left but on a node that says it is quarantined, nor a token of RFC v2's.
TWICE  no rollout updates a node that it has updated, whatever the database forgot in between.
DISPATCH  a command on the wire is one that the disk holds. ACK  so is what is acknowledged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from liveroll.v1 import agent_pb2 as pb

from node_agent.core.recovery import attempt_on_command_line
from node_agent.kernel.emulated.node import Boot
from node_agent.ports import KexecImage
from orchestrator.core import invariants
from orchestrator.core.model import (
    AttemptRow,
    Desired,
    DesiredProceed,
    Event,
    IdempotencyRow,
    NodeRow,
    RolloutRow,
)
from orchestrator.core.phases import SETTLED, Kind, Phase
from orchestrator.ports import Committed
from tests.sim import preserved
from tests.sim.promises import Promises
from tests.sim.truth import Jump, Truth

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.world import World

UPDATED = frozenset({Phase.BAKING, Phase.COMMITTED})


@dataclass(slots=True)
class Checks:
    """Told by the store, the wire and the nodes; raises (or notes) Violation."""

    world: World
    truths: dict[tuple[str, int], Truth] = field(default_factory=dict)
    proceeds: dict[tuple[str, int], list[DesiredProceed]] = field(default_factory=dict)
    desired: dict[str, dict[int, list[Desired | None]]] = field(default_factory=dict)
    """Node → command serial → what was committed under it; more than one only where the database
    has gone back in time."""
    events: list[Event] = field(default_factory=list)
    _acknowledged: dict[str, int] = field(default_factory=dict)
    """Node → the newest report that was ever stored."""
    _jumps: dict[str, Jump] = field(default_factory=dict)
    _floors: dict[str, tuple[int, int]] = field(default_factory=dict)
    _loaded: dict[str, int] = field(default_factory=dict)
    _rows: dict[tuple[str, int], AttemptRow] = field(default_factory=dict)
    _nodes: dict[str, NodeRow] = field(default_factory=dict)
    _rollouts: dict[str, RolloutRow] = field(default_factory=dict)
    _forward: dict[tuple[str, int], str] = field(default_factory=dict)
    """Attempts that were to bring a node forward, with their rollouts; of lost futures, too."""
    _retried: dict[tuple[str, str], int] = field(default_factory=dict)
    """(rollout, node) → the generation after which a person has sent it round again."""
    _updated: dict[tuple[str, str], str] = field(default_factory=dict)
    """(machine, rollout) → the release that it was updated to, as it says itself."""
    _checker: invariants.Checker | None = None
    promises: Promises = field(init=False)
    """What takes a history, the wire or a node's hardware to see."""

    def __post_init__(self) -> None:
        self.promises = Promises(self.world)

    # --- at the disk

    def committed(self, committed: Committed, now: datetime) -> None:
        if self._checker is None:
            disk = self.world.disk
            self._checker = invariants.Checker(
                (), policy=self.world.scenario.policy, incarnation=disk.incarnation
            )
        story = self.world.story
        for event in committed.events:
            self.events.append(event)
            new = event.new
            who = new.node_id or new.rollout_id or "orchestrator"
            story.tell(who, f"[{event.seq}] {new.kind} {new.rollout_id} {new.message}")
            story.count(f"event {new.kind}")
            if new.kind == "node.retry_wanted":
                newest = self.newest(new.node_id)
                self._retried[new.rollout_id, new.node_id] = newest.generation if newest is not None else 0
        for row in committed.rows:
            if isinstance(row, NodeRow):
                self._node(row)
            elif isinstance(row, AttemptRow):
                self._attempt(row)
            elif isinstance(row, RolloutRow):
                self._rollout(row)
        for broken in self._checker.committed(committed.rows, committed.events, now):
            self.world.violated(broken.invariant, broken.message, broken.node_id, broken.rollout_id)
        self.promises.committed(committed)

    def regressed(self) -> None:
        """The database has gone back in time, or has begun a new incarnation: what it has now is
        where it goes on from. What nodes have done stays done."""
        disk = self.world.disk
        self._rows.clear()
        self._nodes.clear()
        self._rollouts.clear()
        for row in disk.rows.values():
            if isinstance(row, AttemptRow):
                self._rows[row.node_id, row.generation] = row
            elif isinstance(row, NodeRow):
                self._nodes[row.node_id] = row
            elif isinstance(row, RolloutRow):
                self._rollouts[row.rollout_id] = row
        self.events = list(disk.events)
        self.promises.regressed()
        self._checker = invariants.Checker(
            tuple(row for row in disk.rows.values() if not isinstance(row, IdempotencyRow)),
            policy=self.world.scenario.policy,
            incarnation=disk.incarnation,
            head_seq=disk.head_seq,
        )

    def _node(self, row: NodeRow) -> None:
        before = self._nodes.get(row.node_id)
        newest = self.newest(row.node_id)
        if (
            before is not None
            and before.link_replica != row.link_replica
            and newest is not None
            and newest.phase is Phase.PRESERVED
        ):
            self.world.story.count("link moved between replicas in PRESERVED")
        problem = row.stage_problem
        if problem is not None and (before is None or before.stage_problem != problem):
            self.world.story.count(f"stage refused: {problem.reason}")
        self._acknowledged[row.node_id] = max(self._acknowledged.get(row.node_id, 0), row.acknowledged_seq)
        self._nodes[row.node_id] = row
        wanted = self.desired.setdefault(row.node_id, {}).setdefault(row.command_serial, [])
        if row.desired not in wanted:
            wanted.append(row.desired)
            if row.desired is not None:
                self.world.ambushes.committed(row, row.desired)
            if isinstance(row.desired, DesiredProceed):
                self.proceeds.setdefault((row.node_id, row.desired.generation), []).append(row.desired)

    def _attempt(self, row: AttemptRow) -> None:
        key = (row.node_id, row.generation)
        before = self._rows.get(key)
        self._rows[key] = row
        if row.rollout_id and row.kind is Kind.FORWARD:
            self._forward[key] = row.rollout_id
        if before is None or before.phase is not row.phase:
            self.world.story.count(f"phase {row.phase}")
        if before is None or before.verdict is not row.verdict:
            self.world.story.count(f"verdict {row.verdict}")
        if row.failure and (before is None or before.failure != row.failure):
            self.world.story.count(f"failure {row.failure}")
        if before is None and row.opened_at:
            self.world.story.count(f"attempt {row.kind}")
        if row.phase in UPDATED and (before is None or before.phase not in UPDATED):
            truth = self._truth(row.node_id, row.generation)
            if not truth.arrived or not truth.intact:
                what = "never arrived" if not truth.arrived else "lost memory"
                self.world.violated(
                    "I8", f"attempt {row.generation} of {row.node_id} is {row.phase}, but {what}", row.node_id
                )
            if truth.to_release != row.to_release:
                self.world.violated(
                    "I11",
                    f"attempt {row.generation} of {row.node_id} is {row.phase} on {truth.to_release}, "
                    f"not {row.to_release}",
                    row.node_id,
                )

    def _truth(self, node_id: str, generation: int) -> Truth:
        """Of the machine that carried the attempt: the node's, or its double's with the same journal."""
        found = [t for (name, g), t in self.truths.items() if g == generation and _node_of(name) == node_id]
        return max(found, key=lambda t: (t.arrived, t.intact), default=Truth())

    def _rollout(self, row: RolloutRow) -> None:
        before = self._rollouts.get(row.rollout_id)
        self._rollouts[row.rollout_id] = row
        if row.ended_at is not None:
            self.world.story.count(f"rollout {row.ended_as}")
        for key, node_id in before.pair_canaries.items() if before is not None else ():
            now = row.pair_canaries.get(key)
            if now == node_id:
                continue
            if self._jumped(node_id, row.rollout_id, key):
                self.world.violated(
                    "I5", f"{now} is the canary of {key} after {node_id} has jumped", node_id, row.rollout_id
                )

    def _jumped(self, node_id: str, rollout_id: str, pair: str) -> bool:
        """Its forward attempt there went past the point of no return, and no person has sent it round
        again since: what it said before is then forgotten."""
        forgotten = self._retried.get((rollout_id, node_id), 0)
        for (name, generation), attempt in self._rows.items():
            if generation <= forgotten:
                continue
            truth = self.truths.get((name, generation))
            if name == node_id and attempt.rollout_id == rollout_id and attempt.kind is Kind.FORWARD:
                of = (attempt.from_release, attempt.to_release, attempt.hardware_model)
                if truth is not None and truth.left and "|".join(of) == pair:
                    return True
        return False

    def open_attempts(self) -> list[AttemptRow]:
        """As the disk has them."""
        return [row for row in self._rows.values() if row.phase not in SETTLED]

    def newest(self, node_id: str) -> AttemptRow | None:
        """The node's newest attempt, as the disk has it."""
        generations = [g for n, g in self._rows if n == node_id]
        return self._rows[node_id, max(generations)] if generations else None

    # --- at the wire

    def sent(self, node_id: str, message: pb.LinkResponse) -> None:
        """A live orchestrator writes this to the node's stream."""
        self.promises.sent(node_id, message)
        which = message.WhichOneof("message")
        if which == "ack":
            if message.ack.seq > self._acknowledged.get(node_id, 0):
                self.world.violated(
                    "ACK", f"report {message.ack.seq} of {node_id} is acknowledged, not stored", node_id
                )
        elif which == "command":
            serial = int(message.command.command_id.rpartition(":")[2])
            wanted = self.desired.get(node_id, {}).get(serial, [])
            action = message.command.WhichOneof("action")
            if not any(each is not None and each.kind == action for each in wanted):
                self.world.violated(
                    "DISPATCH",
                    f"{action} (command {serial}) goes to {node_id}, but the disk has {wanted}",
                    node_id,
                )

    # --- at the kernel

    def standing(self, node: SimNode) -> None:
        """The agent is at a point: neither its attempt nor its floor may ever fall back."""
        if node.life is None or not hasattr(node.life, "runner"):
            return
        state = node.life.runner.node
        attempt = state.attempt.ref.generation if state.attempt is not None else 0
        before = self._floors.get(node.name, (0, 0))
        if attempt < before[0] or state.highest_generation < before[1]:
            self.world.violated(
                "I3",
                f"{node.node_id} goes from attempt {before[0]} (floor {before[1]}) to {attempt} "
                f"(floor {state.highest_generation})",
                node.node_id,
            )
        self._floors[node.name] = (attempt, state.highest_generation)
        if state.attempt is not None and state.attempt.phase.value in UPDATED:
            rollout = self._forward.get((node.node_id, attempt))
            if rollout is not None:
                self._updated[node.name, rollout] = node.release

    def loading(self, node: SimNode, image: KexecImage) -> None:
        """kexec_file_load is about to be called."""
        if not attempt_on_command_line(image.command_line):
            self._by_hand(node, f"loads {image.release}")
            return
        generation = generation_of(image.command_line)
        highest = self._loaded.get(node.name, 0)
        node.tell(f"loads {image.release} for attempt {generation}")
        if generation < highest:
            text = f"{node.node_id} loads for attempt {generation} after {highest}"
            self.world.violated("I3", text, node.node_id)
        self._loaded[node.name] = max(highest, generation)
        rollout = self._forward.get((node.node_id, generation))
        if rollout is not None and self._updated.get((node.name, rollout)) == node.release == image.release:
            self.world.violated(
                "TWICE",
                f"{node.node_id} is on {image.release} by {rollout}, and is sent there again",
                rollout,
            )
        truth = self.truths.setdefault((node.name, generation), Truth())
        truth.loads += 1
        if truth.loads > 1:
            self.world.violated(
                "I3", f"{node.node_id} begins attempt {generation} a second time", node.node_id
            )

    def _by_hand(self, node: SimNode, what: str) -> None:
        """For no attempt: luoctl's, beside any. In the midst of one the agent names it."""
        node.tell(f"{what} by hand")
        if not node.settled:
            text = f"{node.node_id} {what} for no attempt while it is {node.phase}"
            self.world.violated("I3", text, node.node_id)

    def rebooting(self, node: SimNode) -> None:
        """reboot(KEXEC) is about to be called."""
        loaded = node.emulated.model._loaded
        if loaded is None:
            node.tell("reboot without an image")
            return
        if not attempt_on_command_line(loaded.command_line):
            self._by_hand(node, "calls reboot")
            self.world.story.count("luoctl kexec")
            self._jumps.pop(node.name, None)
            return
        generation = generation_of(loaded.command_line)
        truth = self.truths.setdefault((node.name, generation), Truth())
        truth.reboots += 1
        others = [
            name
            for (name, g), other in self.truths.items()
            if g == generation and name != node.name and _node_of(name) == node.node_id and other.reboots
        ]
        if others:
            self.world.violated(
                "I3", f"attempt {generation} jumps on {node.name} after {others[0]}", node.node_id
            )
        node.tell(f"reboot for attempt {generation}")
        self.promises.rebooting(node, generation)
        self.world.story.count("reboot")
        if truth.reboots > 1:
            self.world.violated(
                "I3",
                f"{node.node_id} calls reboot {truth.reboots} times in attempt {generation}",
                node.node_id,
            )
        assert node.life is not None
        boot_id = node.emulated.model.boot_id
        now_s = node.life.ports.clock.boottime_s()
        leases = self.proceeds.get((node.node_id, generation), [])
        if not any(
            lease.stamp.boot_id == boot_id
            and now_s < (lease.stamp.boottime + lease.valid_for).total_seconds() + 1e-6
            for lease in leases
        ):
            self.world.violated(
                "I4",
                f"{node.node_id} jumps at {now_s:.3f} s of its boot without a valid PROCEED; it had {leases}",
                node.node_id,
            )
        attempt = node.life.runner.attempt
        workloads = len(attempt.sessions) if attempt is not None else 0
        self._jumps[node.name] = Jump(generation, preserved.going_out(node.emulated.model), workloads)

    def foreign(self, node: SimNode) -> None:
        """Somebody else is about to jump with what is preserved."""
        self._jumps.pop(node.name, None)

    def journal_lost(self, node: SimNode) -> None:
        """What it can no longer read, it cannot hold to; what it must never do again is watched at
        the kernel."""
        self._floors.pop(node.name, None)

    def proceeding(self) -> bool:
        """Some node has a PROCEED that it has not answered."""
        return any(isinstance(row.desired, DesiredProceed) for row in self._nodes.values())

    def reboot_refused(self, node: SimNode) -> None:
        self._jumps.pop(node.name, None)

    def booted(self, node: SimNode, boot: Boot) -> None:
        """A userspace begins."""
        if boot.starts != 1:
            return
        jump = self._jumps.pop(node.name, None)
        if jump is None:
            return
        model, truth = node.emulated.model, self.truths[node.name, jump.generation]
        truth.left = True
        if not model.facts().kexec_count:
            return
        truth.arrived = jump.preserved <= preserved.going_out(model) | preserved.came_in(model)
        truth.to_release = boot.release
        truth.boot, truth.workloads = boot.boots, jump.workloads
        if not truth.arrived:
            self.world.story.count("sessions did not cross")

    def resumed(self, node: SimNode, *, crossed: int, intact: bool) -> None:
        """All workloads run again; crossed: how many got their memory out of a session."""
        for (node_id, _), truth in self.truths.items():
            if node_id == node.name and truth.boot == node.boots and truth.arrived:
                truth.intact = intact and crossed == truth.workloads


def _node_of(machine: str) -> str:
    return machine.partition("~")[0]


def generation_of(command_line: str) -> int:
    """Of the attempt that a command line names."""
    return int(attempt_on_command_line(command_line).partition("-")[0])
