"""A hypothesis machine over the agent's core: any commands, events and boots, in any order.

The machine is the runner without its ports: it journals what the core decides, forgets the rest
at will, and checks what must hold however it came about.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from node_agent.core import commands as cmd
from node_agent.core import events as ev
from node_agent.core.admission import Begin, Deliver, RaiseFloor, classify_command
from node_agent.core.attempt import Attempt, NodeState
from node_agent.core.history import EVENT, body_of, replay
from node_agent.core.model import AttemptKind, AttemptRef, BootStamp
from node_agent.core.phases import SETTLED, Phase
from node_agent.core.recovery import BootView, SessionFinding, classify, name_attempt
from node_agent.core.report import Report
from node_agent.core.saga import TABLE, signal_of, transition
from node_agent.core.steps import STEPS, Effect, undo_plan
from tests.unit.agent_core.make import EVENTS, prepare

TROUBLE = (
    ev.CancelRequested,
    ev.LeaseExpired,
    ev.RebootRefused,
    ev.Relapsed,
    ev.StepFailed,
    ev.TimedOut,
    ev.Unhealthy,
)
WELL = tuple(event for event in EVENTS if not isinstance(event, TROUBLE))


@dataclass(frozen=True)
class Record:
    seq: int
    kind: str
    body: dict[str, object]


class AgentMachine(RuleBasedStateMachine):
    """One node."""

    @initialize()
    def start(self) -> None:
        self.node = NodeState(boot_id="boot-0")
        self.boots = 0
        self.boottime_s = 100.0
        self.effect: Effect | None = None
        self.records: list[Record] = []
        self.reboots: list[AttemptRef] = []
        self.floor = 0

    @property
    def now(self) -> BootStamp:
        return BootStamp(f"boot-{self.boots}", self.boottime_s)

    def save(self, node: NodeState, effect: Effect | None) -> None:
        attempt = node.attempt
        ref = attempt.ref if attempt is not None else None
        report = Report(0, "X", node.phase, self.now, node.boot_id, "r", node.healthy, attempt=ref)
        record = Record(len(self.records) + 1, EVENT, body_of(node=node, report=report, at="t"))
        self.records.append(record)
        if attempt is not None:
            node = replace(node, attempt=replace(attempt, seq=record.seq))
        self.node, self.effect = node, effect

    def apply(self, event: ev.Event) -> None:
        assert self.node.attempt is not None
        step = transition(self.node.attempt, event)
        if step.effect is Effect.REBOOT:
            self.reboots.append(step.attempt.ref)
        self.save(replace(self.node, attempt=step.attempt), step.effect)

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.boottime_s += seconds

    @rule(kind=st.sampled_from(AttemptKind), word=st.booleans(), steps=st.integers(0, 16))
    def attempt_that_goes_well_for_a_while(self, kind: AttemptKind, word: bool, steps: int) -> None:
        self.prepare(self.floor + 1, kind, word)
        self.go_well(steps)

    @rule(steps=st.integers(1, 10))
    def go_well(self, steps: int) -> None:
        for _ in range(steps):
            attempt = self.node.attempt
            if attempt is None or self.effect is None:
                return
            if attempt.phase is Phase.PRESERVED:
                self.proceed(0.0, 30.0, False)
            elif self.effect is Effect.REBOOT:
                self.node_restarts("7.3.4", SessionFinding.VALID, True, False)
            elif attempt.phase is Phase.BAKING and not attempt.committing:
                self.commit()
            else:
                good = [event for event in WELL if signal_of(attempt, event) in TABLE[attempt.phase]]
                if not good:
                    return
                self.apply(good[0])

    @rule(
        generation=st.integers(1, 12),
        kind=st.sampled_from(AttemptKind),
        word=st.booleans(),
    )
    def prepare(self, generation: int, kind: AttemptKind, word: bool) -> None:
        command = prepare(generation, kind=kind, operator_word=word)
        decision = classify_command(self.node, command, self.now)
        if isinstance(decision, Begin):
            assert generation > self.floor
            assert self.node.phase in SETTLED
            if self.node.phase is Phase.AWAITING_ROLLBACK and not word:
                assert kind is AttemptKind.ROLLBACK
            self.floor = generation
            begun = Attempt.begin(command, release="7.2.13", boot_id=self.node.boot_id, emulated=True)
            self.save(replace(self.node, attempt=begun, highest_generation=generation), Effect.LOAD)

    @rule(age_s=st.floats(-5, 60), valid_for_s=st.floats(0, 30), other_boot=st.booleans())
    def proceed(self, age_s: float, valid_for_s: float, other_boot: bool) -> None:
        if self.node.attempt is None:
            return
        boot_id = "boot-x" if other_boot else self.now.boot_id
        stamp = BootStamp(boot_id, self.boottime_s - age_s)
        command = cmd.Proceed("p", self.node.attempt.ref, stamp, valid_for_s)
        decision = classify_command(self.node, command, self.now)
        if isinstance(decision, Deliver):
            assert not other_boot
            assert self.boottime_s < stamp.boottime_s + valid_for_s
            self.apply(decision.event)

    @rule(generation=st.integers(1, 12))
    def cancel(self, generation: int) -> None:
        attempt = self.node.attempt
        ref = prepare(generation).attempt
        jumped = attempt is not None and attempt.jumped
        decision = classify_command(self.node, cmd.Cancel("c", ref), self.now)
        if isinstance(decision, Deliver):
            assert not jumped
            self.apply(decision.event)
            assert self.node.phase is Phase.UNWINDING
        elif isinstance(decision, RaiseFloor):
            assert generation > self.floor
            self.floor = generation
            self.save(replace(self.node, highest_generation=generation), self.effect)

    @rule()
    def commit(self) -> None:
        if self.node.attempt is not None:
            decision = classify_command(self.node, cmd.Commit("k", self.node.attempt.ref), self.now)
            if isinstance(decision, Deliver):
                self.apply(decision.event)

    @precondition(lambda self: self.effect is not None)
    @rule(data=st.data())
    def effect_ends(self, data: st.DataObject) -> None:
        attempt = self.node.attempt
        assert attempt is not None
        commands = (ev.CancelRequested, ev.Proceeded, ev.CommitRequested)
        legal = [
            event
            for event in EVENTS
            if not isinstance(event, commands)
            and signal_of(attempt, event) in TABLE[attempt.phase]
            and not (attempt.jumped and isinstance(event, ev.JumpIntentRecorded))
        ]
        if legal:
            self.apply(data.draw(st.sampled_from(legal)))

    @rule()
    def agent_restarts(self) -> None:
        before = self.node
        self.node = replay(self.records).node if self.records else NodeState(boot_id="boot-0")
        assert self.node == before, "the journal forgets nothing"
        self.boot_is(BootView(self.now.boot_id, "7.3.4"))

    @rule(
        release=st.sampled_from(["7.2.13", "7.3.4"]),
        session=st.sampled_from(SessionFinding),
        ours=st.booleans(),
        poisoned=st.booleans(),
    )
    def node_restarts(self, release: str, session: SessionFinding, ours: bool, poisoned: bool) -> None:
        self.boots += 1
        self.boottime_s = 1.0
        attempt = self.node.attempt
        line = name_attempt("quiet", attempt.ref.id) if ours and attempt is not None else "quiet"
        self.boot_is(BootView(f"boot-{self.boots}", release, line, poisoned, session))

    def boot_is(self, view: BootView) -> None:
        verdict = classify(self.node, view)
        node = replace(self.node, boot_id=view.boot_id, verdict=verdict)
        self.effect = None
        if node.attempt is not None:
            event = ev.BootClassified(verdict, view.boot_id, view.release)
            step = transition(node.attempt, event)
            self.save(replace(node, attempt=step.attempt), step.effect)
        else:
            self.save(node, None)

    @invariant()
    def an_attempt_jumps_at_most_once(self) -> None:
        assert len(self.reboots) == len(set(self.reboots))

    @invariant()
    def generations_only_rise(self) -> None:
        assert self.node.highest_generation == self.floor

    @invariant()
    def what_is_not_settled_is_being_worked_on(self) -> None:
        if self.node.phase not in SETTLED:
            assert self.effect in STEPS

    @invariant()
    def unwinding_knows_what_to_undo(self) -> None:
        attempt = self.node.attempt
        if attempt is not None:
            assert undo_plan(attempt.furthest)

    @invariant()
    def a_salvage_never_counts_as_healthy(self) -> None:
        attempt = self.node.attempt
        if attempt is not None and attempt.salvage:
            assert attempt.phase not in (Phase.BAKING, Phase.COMMITTED, Phase.AWAITING_ROLLBACK)

    @invariant()
    def only_the_methods_own_rule_counts_as_success(self) -> None:
        attempt = self.node.attempt
        if attempt is not None and attempt.phase in (Phase.BAKING, Phase.COMMITTED):
            assert attempt.jumped
            assert attempt.healthy


AgentMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestAgentMachine = AgentMachine.TestCase
