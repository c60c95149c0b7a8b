"""The rows that the whole fleet's state is made of, and what one write is.

Rules
1. Rows are immutable; a change is a new row with the same key. The store raises `revision`
   by one with every commit of the row; 0 means it does not exist yet.
2. Everything durable is a row or an event. What the planner knows beyond rows (links heard of
   by this process) is a Heard fact (facts.py) and may be forgotten at any time.
3. Rows hold facts, not conclusions: a rollout's shown state, a node's availability and every
   budget's use are derived (fleet.py), so that they cannot disagree.
4. A Change is the only thing that is ever written: rows with the revisions they were read at,
   rows only relied on (guards), and the events that tell of it, atomically. It guards all that
   it relied on, or is harmless on rows that have moved: docs/decisions/0009-guards.md says which.
5. All rows are plain data (str, int, float, bool, None, datetime, timedelta, enums, tuples,
   frozensets, mappings, dataclasses), so one codec serves every store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import ClassVar, Literal

from orchestrator.core.beyond import Beyond
from orchestrator.core.phases import Goal, Kind, Method, Outcome, Phase, Verdict, WaveState
from orchestrator.core.spec import RolloutSpec
from orchestrator.errors import Retry

EMPTY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as it was told: stable reason, class, message, remedy, fields."""

    reason: str
    retry: Retry
    message: str
    remedy: str = ""
    fields: Mapping[str, str] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True, slots=True)
class Stamp:
    """An instant within one boot of a node (CLOCK_BOOTTIME)."""

    boot_id: str
    boottime: timedelta


@dataclass(frozen=True, slots=True)
class Sample:
    """How long something stood still. vantage: workload, host or link."""

    vantage: str
    duration: timedelta
    uncertainty: timedelta
    clock: str
    workload: str = ""
    rejected: str = ""
    emulated: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A point on the way, read on the node's clocks."""

    name: str
    realtime: datetime
    boottime: timedelta
    tsc: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class Maintenance:
    owner: str
    reason: str
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a target resolved to. digest is the sha256 of the manifest."""

    name: str
    digest: str
    release: str
    url: str
    emulated: bool = False
    command_line_remove: tuple[str, ...] = ()
    command_line_append: tuple[str, ...] = ()
    """The manifest's own rules; those of a rollout's target come on top of them."""
    luo: str = ""
    """LUO's ABI string; empty if the manifest does not say it."""


# --- the one desired command of a node -------------------------------------------------


@dataclass(frozen=True, slots=True)
class DesiredStage:
    artifact: Artifact
    kind: Literal["stage"] = "stage"


@dataclass(frozen=True, slots=True)
class DesiredPrepare:
    """Everything else about the attempt is on its row."""

    generation: int
    artifact: Artifact
    command_line: str
    kind: Literal["prepare"] = "prepare"


@dataclass(frozen=True, slots=True)
class DesiredProceed:
    generation: int
    stamp: Stamp
    valid_for: timedelta
    kind: Literal["proceed"] = "proceed"


@dataclass(frozen=True, slots=True)
class DesiredCancel:
    generation: int
    reason: str
    kind: Literal["cancel"] = "cancel"


@dataclass(frozen=True, slots=True)
class DesiredCommit:
    generation: int
    kind: Literal["commit"] = "commit"


Desired = DesiredStage | DesiredPrepare | DesiredProceed | DesiredCancel | DesiredCommit


# --- rows -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node as it last described itself, what is wanted of it, and what people said of it."""

    table: ClassVar[str] = "nodes"
    node_id: str
    revision: int = 0
    installation_id: str = ""
    link_epoch: int = 0
    link_up: bool = False
    link_changed_at: datetime | None = None
    link_replica: str = ""
    """The orchestrator's process that holds (or held) the link; a replica's id is never used twice."""
    enrolled_at: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    release: str = ""
    boot_id: str = ""
    hardware_model: str = ""
    command_line: str = ""
    capabilities: frozenset[str] = frozenset()
    other_luo: frozenset[str] = frozenset()
    """LUO's ABI strings of another model than its own; it refuses a target that speaks one."""
    agent_version: str = ""
    highest_generation: int = 0
    """max over the store and every Hello; the next attempt gets one more."""
    acknowledged_seq: int = 0
    """Reports of the node are committed up to here."""
    healthy: bool = True
    problem: Problem | None = None
    not_ready: Problem | None = None
    """Why it would refuse a PREPARE, as it said under the link of not_ready_epoch: read `refuses`."""
    not_ready_epoch: int = 0
    boot_verdict: Verdict | None = None
    boot_by_hand: str = ""
    """The last boot that an operator's kexec on the node has started, by its boot_id: it stands for itself,
    so that a release that does not know of it cannot pass it on to another boot."""
    staged: frozenset[str] = frozenset()
    stage_problem: Problem | None = None
    stage_problem_digest: str = ""
    stage_failed_at: datetime | None = None
    stage_failures: int = 0
    """In a row, of the artifact that it was told to stage last."""
    stage_failed_epoch: int = 0
    """link_epoch when staging failed; a later one is a Hello since."""
    rollback_artifact: str = ""
    """Digest that boots the release it runs; empty if the node has none."""
    attempt: int = 0
    """Generation of its newest attempt in this store, 0 if it never had one."""
    desired: Desired | None = None
    command_serial: int = 0
    """Rises whenever `desired` changes; the command_id is <incarnation>:<serial>."""
    maintenance: Maintenance | None = None
    written_off: str = ""
    """The operator's reason; empty if it counts."""
    incarnation: str = ""
    """Of the store, when it last took the node's link; empty if that was before it was kept."""
    beyond: Beyond | None = None
    """What the node has lived through that this store did not know, until its next attempt."""

    @property
    def key(self) -> tuple[str, ...]:
        return (self.node_id,)

    @property
    def refuses(self) -> Problem | None:
        """Why it would refuse a PREPARE; None if it would not. What it said under an older link is over: the
        present one may be to a release that does not hear it say so, and writes the row all the same."""
        return self.not_ready if self.not_ready_epoch == self.link_epoch else None


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One numbered try at one node."""

    table: ClassVar[str] = "attempts"
    node_id: str
    generation: int
    incarnation: str
    rollout_id: str
    kind: Kind
    method: Method
    phase: Phase
    artifact: Artifact
    from_release: str
    to_release: str
    hardware_model: str
    expected_boot_id: str
    command_line: str
    opened_at: datetime
    phase_at: datetime
    """When the orchestrator learnt of the phase."""
    revision: int = 0
    domains: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """The node's labels when it started: it counts under these and the current ones."""
    wave: int = 0
    pair_canary: bool = False
    acknowledged: bool = False
    """The agent has answered the PREPARE."""
    seq: int = 0
    settled_at: datetime | None = None
    stamp: Stamp | None = None
    """Newest stamp seen while PRESERVED."""
    stamp_at: datetime | None = None
    proceed_until: datetime | None = None
    """An outstanding PROCEED may be obeyed until then at the latest, plus slack."""
    cancel_cause: str = ""
    """Why a CANCEL was wanted: pause, halt, window, embargo, fleet_stop, cancel, lease, ack_timeout."""
    spares_budget: bool = False
    """Unwound by the system's own wish: spends no retry and no failure budget."""
    failed: bool = False
    """Counts against the failure budget. Once true, true for ever."""
    failure: str = ""
    """lost, state_lost, cold_booted, wrong_kernel, quarantined, unhealthy, aborted, …"""
    ever_lost: bool = False
    verdict: Verdict | None = None
    problem: Problem | None = None
    healthy_since: datetime | None = None
    """While BAKING and healthy."""
    samples: tuple[Sample, ...] = ()
    marks: tuple[Mark, ...] = ()
    brownout: timedelta | None = None
    blackout_open_at: datetime | None = None
    """Set on Suspended (or its command), cleared on Resumed or unwound."""
    workloads: int = 0
    memory_intact: int = 0
    memory_bytes: int = 0
    operator_word: bool = False
    """Sent with PREPARE: admits it where the last attempt settled in QUARANTINED or COLD_BOOTED."""
    adopted: bool = False
    """Not prepared by this store as it is now: it went back in time, and the node has told of the
    attempt. Its rollout_id is empty until a rollout takes it in (adoption.py)."""

    @property
    def key(self) -> tuple[str, ...]:
        return (self.node_id, str(self.generation))


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A node's place in a rollout. Fixed when the rollout starts."""

    table: ClassVar[str] = "members"
    rollout_id: str
    node_id: str
    wave: int
    position: int
    """Order within the rollout; rollback goes in reverse of updated_seq."""
    revision: int = 0
    outcome: Outcome = Outcome.PENDING
    reason: str = ""
    tries: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Failed attempts by retry class (Retry value → count)."""
    not_before: datetime | None = None
    """A retry waits until then."""
    generation: int = 0
    """Its newest attempt in this rollout."""
    crossed: bool = False
    """It ran (or may run) the target kernel because of this rollout: a rollback must bring it back."""
    jumped: bool = False
    """It crossed and came back: whatever is tried on it later, its pair has had its answer."""
    from_release: str = ""
    from_artifact: str = ""
    """What a rollback goes to: the rollback artifact's digest when its first attempt began."""
    from_command_line: str | None = None
    """What a rollback composes from: the node's command line when its first attempt began. None:
    not known, the row was written by a release that did not keep it."""
    updated_order: int = 0
    failed: bool = False
    retries: int = 0
    operator_word: bool = False
    """A person asked for its next attempt (RetryNodes): the planner hands it on to the
    AttemptRow and clears it here."""

    @property
    def key(self) -> tuple[str, ...]:
        return (self.rollout_id, self.node_id)


@dataclass(frozen=True, slots=True)
class GateVerdict:
    gate: str
    result: str
    """PASS, FAIL, INCONCLUSIVE, ERROR"""
    evidence: str
    wave: int


Pair = tuple[str, str, str]
"""(from release, to release, hardware model)"""


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """A campaign: goal × gates, and where its waves stand."""

    table: ClassVar[str] = "rollouts"
    rollout_id: str
    spec: RolloutSpec
    artifact: Artifact
    created_at: datetime
    created_by: str
    revision: int = 0
    goal: Goal = Goal.FORWARD
    roll_back_after_cancel: bool = False
    paused: str = ""
    """The operator's reason; empty if it is not paused."""
    halted: str = ""
    """UPPER_SNAKE reason; empty if it is not halted."""
    halt_message: str = ""
    wave: int = 0
    """Current wave; 0 is the canary wave."""
    wave_state: WaveState = WaveState.RUNNING
    wave_settled_at: datetime | None = None
    approved: frozenset[int] = frozenset()
    """Waves that a person let begin."""
    gates_waived: frozenset[int] = frozenset()
    """Waves that a person let pass whatever their gates say (approve while the wave is GATED)."""
    wave_names: tuple[str, ...] = ()
    """canary, the spec's, and stragglers if there are any."""
    pairs_passed: frozenset[Pair] = frozenset()
    pair_canaries: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """"from|to|model" → node id."""
    members: int = 0
    """Fixed at the start; percentages are of this."""
    gates: tuple[GateVerdict, ...] = ()
    rollback_baseline: int = 0
    """Unavailable members when the rollback began."""
    failures_forgiven: int = 0
    """An operator's resume with clear_halt accepts the failures so far."""
    ended_at: datetime | None = None
    ended_as: str = ""
    """RolloutState when it ended."""

    @property
    def key(self) -> tuple[str, ...]:
        return (self.rollout_id,)


@dataclass(frozen=True, slots=True)
class FleetRow:
    """The one row above all rollouts."""

    table: ClassVar[str] = "fleet"
    revision: int = 0
    stopped: str = ""
    """UPPER_SNAKE reason of a fleet stop (OPERATOR, STORE_REGRESSED, INVARIANT_VIOLATED); else empty."""
    stop_message: str = ""
    stopped_by: str = ""
    stopped_at: datetime | None = None
    regressed_serial: int = 0
    """Newest incarnation serial that a node knew and this store did not; accepted once a person
    has released that stop."""
    unheard: frozenset[str] = frozenset()
    """Nodes that had not said Hello when a person last accepted differences: what they bring is
    accepted too."""
    losses: int = 0
    """How often the fleet has stopped because the store had gone back in time, as far as the store knows."""

    @property
    def key(self) -> tuple[str, ...]:
        return ("fleet",)


@dataclass(frozen=True, slots=True)
class IdempotencyRow:
    """The first answer to a mutating call, for its repetitions."""

    table: ClassVar[str] = "idempotency"
    idempotency_key: str
    method: str
    actor: str
    request_hash: str
    response: str
    """The response message, base64 of its bytes; empty if it carries only a rollout id."""
    at: datetime
    revision: int = 0

    @property
    def key(self) -> tuple[str, ...]:
        return (self.actor, self.idempotency_key)


@dataclass(frozen=True, slots=True)
class CapacityRow:
    """Nothing but a revision: it rises with every commit that leaves less room for starts, whoever
    makes it, so that a start which relied on the budgets before it does not stand (capacity.py)."""

    table: ClassVar[str] = "capacity"
    revision: int = 0

    @property
    def key(self) -> tuple[str, ...]:
        return ("fleet",)


Row = NodeRow | AttemptRow | MemberRow | RolloutRow | FleetRow | CapacityRow | IdempotencyRow
RowKey = tuple[str, tuple[str, ...]]
"""(table, key)"""


CAPACITY: RowKey = (CapacityRow.table, CapacityRow().key)
"""For guards."""


Guard = tuple[RowKey, int]
"""A row that a Change relies on, and the revision at which it was read."""


def row_key(row: Row) -> RowKey:
    """The row's identity over all tables."""
    return (row.table, row.key)


def guarding(row: Row) -> Guard:
    """The row as it is, for Change.guards."""
    return (row_key(row), row.revision)


@dataclass(frozen=True, slots=True)
class NewEvent:
    """Something that happened, before the store gives it its place in the log."""

    kind: str
    """noun.verbed: rollout.created, attempt.prepared, node.settled, wave.passed, fleet.stopped …"""
    message: str
    rollout_id: str = ""
    node_id: str = ""
    generation: int = 0
    actor: str = "orchestrator"
    cause: str = ""
    fields: Mapping[str, str] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True, slots=True)
class Event:
    """A committed event. seq is gapless in commit order within an incarnation."""

    incarnation: str
    seq: int
    at: datetime
    new: NewEvent


@dataclass(frozen=True, slots=True)
class Change:
    """One atomic write.

    writes: new rows, each carrying the revision at which its predecessor was read (0: must not
    exist). guards: further rows that the decision relied on, as (key, revision); they must not
    have moved. events: in order. shrinks: there is less room for starts after it, as capacity.py
    measures; the store raises the CapacityRow's revision by one, whatever it was. Nothing to do is
    `Change()`; nothing to do *because of* rows is a Change of guards alone, which is committed like
    any other: whoever saw an older state must not answer from it.
    """

    writes: tuple[Row, ...] = ()
    guards: tuple[Guard, ...] = ()
    events: tuple[NewEvent, ...] = ()
    shrinks: bool = False

    def __bool__(self) -> bool:
        return bool(self.writes or self.events or self.guards)
