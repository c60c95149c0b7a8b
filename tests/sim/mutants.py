"""Mistakes put into the system on purpose: a simulation that does not notice them proves nothing.

Each is a context manager that breaks one rule in one place, by its name, for as long as it lasts.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from node_agent.core import admission
from node_agent.core.attempt import NodeState
from node_agent.core.events import BootClassified
from node_agent.core.phases import Phase, Verdict
from node_agent.core.recovery import Row
from node_agent.core.saga import TABLE, Signal
from node_agent.core.steps import Effect
from node_agent.kernel.faults import FaultPlan
from node_agent.runtime import runner, runner_boot
from orchestrator.core import attempts, budgets, permits, settlement, standing, transitions_attempt
from orchestrator.core.index import RolloutIndex
from orchestrator.core.messages import Report
from orchestrator.core.model import Change
from orchestrator.core.phases import Outcome
from orchestrator.core.settlement import BAD_ENDS
from orchestrator.core.spec import Schedule
from orchestrator.ports import Committed
from orchestrator.runtime import ingest
from orchestrator.runtime.commits import Commits
from orchestrator.store.admission import risen
from tests.sim.draw import Scenario, seconds


@contextmanager
def planner_forgets_what_is_under_way() -> Iterator[None]:
    """I1: max_unavailable counts what was unavailable before, not the attempts in flight."""
    real = budgets.unavailable

    def mutant(index: RolloutIndex) -> budgets.Use:
        use = real(index)
        return replace(use, used=max(0, use.used - index.count(Outcome.OPEN)))

    with patch.object(budgets, "unavailable", mutant):
        yield


@contextmanager
def planner_forgets_blackout_slots() -> Iterator[None]:
    """I2."""

    def mutant(index: RolloutIndex) -> budgets.Use:
        return budgets.Use("max_in_blackout", 1000, 0)

    with patch.object(budgets, "blackout", mutant):
        yield


@contextmanager
def commands_go_out_before_their_commit() -> Iterator[None]:
    """DISPATCH: applied and told first, written afterwards."""

    async def mutant(self: Commits, change: Change, facts: Sequence[Any] = ()) -> Committed:
        if not change:
            self.hear(facts)
            return Committed((), ())
        fleet, epoch = self.fleet, self._epoch
        early = Committed(risen(change), ())
        self._apply(fleet, early, facts)
        self._in_flight += 1
        try:
            return await self._store.commit(epoch, change)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._landed.set()

    with patch.object(Commits, "commit", mutant):
        yield


@contextmanager
def acknowledgements_go_out_before_their_commit() -> Iterator[None]:
    """ACK: a report is acknowledged when it has been read."""
    real = ingest.Ingest.report

    async def mutant(self: ingest.Ingest, handle: Any, messages: Sequence[Report]) -> int:
        async def later() -> None:
            try:
                await real(self, handle, messages)
            except Exception:  # nobody is left to tell
                return

        self._tasks.spawn(later())
        await asyncio.sleep(0)
        return messages[-1].seq

    with patch.object(ingest.Ingest, "report", mutant):
        yield


@contextmanager
def agent_obeys_an_expired_proceed() -> Iterator[None]:
    """I4: neither on receipt nor before the reboot does it look at the clock."""

    def mutant(lease: Any, now: Any) -> None:
        return None

    with ExitStack() as stack:
        for name, module in sorted(sys.modules.items()):
            if name.startswith("node_agent.") and hasattr(module, "lease_problem"):
                stack.enter_context(patch.object(module, "lease_problem", mutant))
        yield


@contextmanager
def agent_forgets_its_floor() -> Iterator[None]:
    """I3: a PREPARE of an old generation begins again."""
    real = admission._prepare

    def mutant(node: NodeState, command: Any) -> Any:
        return real(replace(node, highest_generation=0), command)

    with patch.object(admission, "_prepare", mutant):
        yield


@contextmanager
def agent_calls_reboot_again() -> Iterator[None]:
    """I3: a refused freeze is tried once more in the same attempt."""
    rows = {**TABLE[Phase.JUMPING], Signal.REBOOT_REFUSED: Row(Phase.JUMPING, Effect.REBOOT)}
    with patch.dict(TABLE, {Phase.JUMPING: rows}):
        yield


@contextmanager
def nobody_asks_which_kernel_booted() -> Iterator[None]:
    """I11: whatever booted was the update, says the agent, and the orchestrator believes it."""
    real = runner_boot.classify_boot

    async def mutant(node: NodeState, *rest: Any) -> tuple[BootClassified, float]:
        event, hz = await real(node, *rest)
        if event.verdict is Verdict.WRONG_KERNEL:
            event = replace(event, verdict=Verdict.LIVE_UPDATED, problem=None)
        return event, hz

    proven = patch.object(transitions_attempt, "unproven", lambda *args, **kwargs: ("", ""))
    with patch.object(runner, "classify_boot", mutant), proven:
        yield


@contextmanager
def pause_stops_no_proceed() -> Iterator[None]:
    """I6: PROCEED is sent whatever the gates say."""
    real = permits.start_refusal

    def mutant(draft: Any, index: RolloutIndex, kind: Any) -> Any:
        no = real(draft, index, kind)
        return None if no is not None and no.cause == "pause" else no

    with patch.object(attempts, "start_refusal", mutant):
        yield


@contextmanager
def sessions_are_never_finished() -> Iterator[None]:
    """I8: preserved memory stays in the kernel."""
    from node_agent.runtime.runner_effects import Effects

    async def mutant(self: Effects, attempt: Any) -> None:
        return None

    with patch.object(Effects, "_finish_sessions", mutant):
        yield


@contextmanager
def failures_settle_no_member() -> Iterator[None]:
    """I7: a member whose attempt failed stays open for ever."""
    real = settlement.settle_needed

    def mutant(rollout: Any, member: Any, own: Any, node: Any) -> bool:
        return real(rollout, member, own, node) and (own is None or own.phase not in BAD_ENDS)

    with patch.object(standing, "settle_needed", mutant):
        yield


# --- what brings each of them to light ---------------------------------------------------


def as_drawn(scenario: Scenario) -> Scenario:
    return scenario


def stale_commands(scenario: Scenario) -> Scenario:
    """Old commands are delivered again and again, also to nodes that have gone back since."""
    rates = replace(scenario.rates, stale=1.0, duplicates=0.5, latency_s=1.0, unhealthy=0.8)
    return replace(scenario, rates=rates)


def late_proceeds(scenario: Scenario) -> Scenario:
    """Leases hardly longer than the way to the node."""
    rollouts = tuple(
        (at, replace(spec, proceed_lease=seconds(5), schedule=Schedule())) for at, spec in scenario.rollouts
    )
    return replace(scenario, rollouts=rollouts, rates=replace(scenario.rates, latency_s=4.0))


def impatient_people(scenario: Scenario) -> Scenario:
    """Somebody presses a button every ten seconds, and preserving takes its time."""
    return replace(scenario, rates=replace(scenario.rates, operator_s=10.0, latency_s=2.0))


def bad_kernels(scenario: Scenario) -> Scenario:
    """Every node's first kexecs go wrong in one of two ways."""
    plans = itertools.cycle(("wrong_kernel=6.0.0-wrong@1,wrong_kernel=6.0.0-wrong@2", "refuse_freeze@1"))
    nodes = tuple(
        replace(node, faults=FaultPlan.parse(plan)) for node, plan in zip(scenario.nodes, plans, strict=False)
    )
    return replace(scenario, nodes=nodes)


Mutant = Callable[[], AbstractContextManager[None]]
Provocation = Callable[[Scenario], Scenario]

MUTANTS: Sequence[tuple[Mutant, Provocation, str]] = (
    (planner_forgets_what_is_under_way, as_drawn, "I1"),
    (planner_forgets_blackout_slots, as_drawn, "I2"),
    (commands_go_out_before_their_commit, as_drawn, "DISPATCH"),
    (acknowledgements_go_out_before_their_commit, as_drawn, "ACK"),
    (agent_obeys_an_expired_proceed, late_proceeds, "I4"),
    (agent_forgets_its_floor, stale_commands, "I3"),
    (agent_calls_reboot_again, bad_kernels, "I3"),
    (nobody_asks_which_kernel_booted, bad_kernels, "I11"),
    (pause_stops_no_proceed, impatient_people, "I6"),
    (sessions_are_never_finished, as_drawn, "I8"),
    (failures_settle_no_member, bad_kernels, "I7"),
)
"""(mistake, what provokes it, the promise that it breaks)"""
