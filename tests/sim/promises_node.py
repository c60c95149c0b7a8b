"""Promises that are watched at a node's own hardware: its journal, its kernel's sessions, its health.

See promises.py, which lists them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from node_agent.core.history import JUMP_INTENT
from node_agent.core.phases import Verdict
from node_agent.core.recovery import attempt_on_command_line
from node_agent.kernel.faults import FaultKind
from node_agent.ports import JournalRecord
from node_agent.runtime.journal_format import decode_file, encode_record
from orchestrator.core.phases import Phase
from tests.sim import preserved

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.world import World

SETTLED_WELL = frozenset({Phase.BAKING, Phase.COMMITTED, Phase.ABORTED, Phase.AWAITING_ROLLBACK})
"""Nothing preserved is left then. On the other nodes somebody has to look."""


@dataclass(slots=True)
class _Health:
    """A node's probes in one boot."""

    boot: int
    good_since_s: float | None = None
    last_good_s: float = 0.0

    @property
    def held_s(self) -> float:
        return self.last_good_s - self.good_since_s if self.good_since_s is not None else -1.0


@dataclass(slots=True)
class NodePromises:
    """Told by a node's ports and by its kernel."""

    world: World
    _health: dict[str, _Health] = field(default_factory=dict)
    _written: dict[str, dict[int, bytes]] = field(default_factory=dict)
    """Machine → seq → the record as it was written."""
    _held_s: dict[tuple[str, int], float] = field(default_factory=dict)
    """How long health had held when an attempt was done with its verification."""

    def probed(self, node: SimNode, *, healthy: bool) -> None:
        """Its health was asked for."""
        known = self._health.get(node.name)
        if known is None or known.boot != node.boots:
            known = self._health[node.name] = _Health(node.boots)
        if not healthy:
            known.good_since_s = None
            return
        known.last_good_s = asyncio.get_running_loop().time()
        if known.good_since_s is None:
            known.good_since_s = known.last_good_s

    def finishing(self, node: SimNode) -> None:
        """It is done with its verification."""
        known, attempt = self._health.get(node.name), _attempt_of(node)
        if known is not None and known.boot == node.boots and attempt:
            self._held_s.setdefault((node.name, attempt), known.held_s)

    def rebooting(self, node: SimNode, generation: int) -> None:
        """It is about to call reboot for this attempt."""
        left = sorted(preserved.came_in(node.emulated.model))
        attempt = node.life.runner.attempt if node.life is not None else None
        # After QUARANTINED a person has looked at the node, and said that it goes on without.
        if left and attempt is not None and not attempt.was_quarantined:
            text = f"{node.node_id} jumps, and loses {', '.join(left)}, which it never finished"
            self.world.violated("I8", text, node.node_id)
        decoded = decode_file(node.disk.data[: node.disk.synced])
        intents = [record for record in decoded.records if record.kind == JUMP_INTENT]
        if decoded.corrupt is None and not any(r.body.get("generation") == generation for r in intents):
            text = f"{node.node_id} jumps in attempt {generation}, and its disk knows of no JumpIntent"
            self.world.violated("I10", text, node.node_id)

    def journalled(self, node: SimNode, phase: str, verdict: str) -> None:
        """Its attempt has come into this phase, and it is written down."""
        self._given_up(node, verdict)
        left = preserved.left(node.emulated.model)
        if left and not node.by_hand and phase in SETTLED_WELL:
            text = f"{node.node_id} is {phase}, and keeps {', '.join(left)}"
            self.world.violated("I8", text, node.node_id)

    def frozen(self, node: SimNode) -> None:
        """Its kernel has let the agent's reboot through: what is preserved now crosses, or is lost."""
        model = node.emulated.model
        if node.settled and not attempt_on_command_line(model._target().command_line):
            return  # luoctl's, who goes whatever the target is
        here, there = model._running.image.model, model._target().image.model
        kept = sorted(preserved.going_out(model))
        if kept and not preserved.crosses(model):
            text = (
                f"{node.node_id} jumps with LUO in [{model.facts().luo_state}], and loses {', '.join(kept)}"
            )
            self.world.violated("I8", text, node.node_id)
        if kept and here != there:
            text = f"{node.node_id} jumps from {here} to {there} with {', '.join(kept)} preserved"
            self.world.violated("I8", text, node.node_id)

    def _given_up(self, node: SimNode, verdict: str) -> None:
        """It says that its memory is lost: of what its own kexec has carried, nothing may be there."""
        model, attempt = node.emulated.model, _attempt_of(node)
        truth = self.world.checks.truths.get((node.name, attempt))
        whole = truth is not None and truth.boot == node.boots and truth.arrived
        excused = (
            node.flipped
            or model.faults.at(FaultKind.RETRIEVE_ERROR, model.reboots)
            or _restored_by_the_dead(node)
            or preserved.refused(model)
        )
        if verdict == Verdict.STATE_LOST and whole and preserved.came_in(model) and not excused:
            text = f"{node.node_id} gives up {', '.join(sorted(preserved.came_in(model)))}, which has crossed"
            self.world.violated("I8", text, node.node_id)

    def leaving(self, node: SimNode) -> None:
        """Its kernel jumps, some time after the call."""
        phase = ""
        for record in decode_file(node.disk.data[: node.disk.synced]).records:
            state = record.body.get("node")
            attempt = state.get("attempt") if isinstance(state, Mapping) else None
            phase = str(attempt.get("phase")) if isinstance(attempt, Mapping) else phase
        if phase != Phase.JUMPING:
            text = f"{node.node_id} jumps, and its journal says that it is {phase}"
            self.world.violated("I10", text, node.node_id)

    def written(self, node: SimNode, record: JournalRecord) -> None:
        """A record is on its disk."""
        self._written.setdefault(node.name, {})[record.seq] = encode_record(record)

    def opened(self, node: SimNode, records: Sequence[JournalRecord]) -> None:
        """An agent begins with this journal, of which nothing seemed damaged."""
        known = self._written.get(node.name, {})
        for record in records:
            if known.get(record.seq, wrote := encode_record(record)) != wrote:
                text = f"{node.node_id} believes its journal's record {record.seq}, which it never wrote so"
                self.world.violated("I10", text, node.node_id)
                return

    def set_aside(self, node: SimNode) -> None:
        """It takes its journal for damaged."""
        if not node.flipped:
            text = f"{node.node_id} sets its journal aside, and no bit of it was ever changed"
            self.world.violated("I10", text, node.node_id)


def _restored_by_the_dead(node: SimNode) -> bool:
    """A kernel of RFC v2 restores a file once: what an earlier agent of this boot restored of its own, and
    died before it said so, cannot be shown again (docs/luo-models.md). Its workloads are brought back."""
    rfc2 = node.emulated.model.rfc2
    earlier = node.emulated._starts > 1
    return earlier and rfc2 is not None and any(f.reclaimed for f in rfc2.files.incoming.values())


def _attempt_of(node: SimNode) -> int:
    if node.life is None or node.life.runner.attempt is None:
        return 0
    return node.life.runner.attempt.ref.generation
