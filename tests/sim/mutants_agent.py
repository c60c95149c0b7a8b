"""Mistakes of the agent: what it obeys, when it jumps, what it brings back, and what it calls success."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from node_agent.core import admission, steps
from node_agent.core import events as ev
from node_agent.core.attempt import Attempt, NodeState
from node_agent.core.events import BootClassified
from node_agent.core.phases import Phase, Verdict
from node_agent.core.recovery import RECOVERY, Row
from node_agent.core.saga import TABLE, Signal
from node_agent.core.steps import Effect
from node_agent.errors import AgentError
from node_agent.runtime import runner, runner_boot, runner_effects, runner_step
from node_agent.runtime.runner_effects import Effects
from node_agent.runtime.runner_session import AgentSession
from node_agent.workloads.inprocess import InProcessWorkloads
from orchestrator.core import transitions_attempt
from tests.sim import provocations as worlds
from tests.sim.mutant import mutant

# --- I3: one attempt, one jump -------------------------------------------------------------


@mutant("agent", "I3", worlds.stale_commands)
def agent_forgets_its_floor() -> Iterator[None]:
    """a PREPARE starts only above the highest generation that was ever accepted or cancelled"""
    real = admission._prepare

    def mistaken(node: NodeState, command: Any) -> Any:
        return real(replace(node, highest_generation=0), command)

    with patch.object(admission, "_prepare", mistaken):
        yield


@mutant("agent", "I3", worlds.refused_freezes)
def agent_calls_reboot_again() -> Iterator[None]:
    """a refused freeze unwinds; reboot is called once an attempt"""
    rows = {**TABLE[Phase.JUMPING], Signal.REBOOT_REFUSED: Row(Phase.JUMPING, Effect.REBOOT)}
    with patch.dict(TABLE, {Phase.JUMPING: rows}):  # type: ignore[arg-type]
        yield


@mutant("agent", "I3", worlds.undisturbed)
def agent_loads_for_no_attempt() -> Iterator[None]:
    """what an attempt loads names the attempt on its command line: the next boot knows itself by it"""
    with patch.object(runner_effects, "name_attempt", lambda command_line, attempt: "quiet"):
        yield


@mutant("agent", "I10", worlds.dying_agents)
def restarted_agent_guesses_its_jump_intent() -> Iterator[None]:
    """in the same boot a restarted agent unwinds; it does not guess that it had meant to jump"""
    rows = {**RECOVERY[Phase.JUMPING], Verdict.SAME_BOOT: Row(Phase.JUMPING, Effect.REBOOT)}
    with patch.dict(RECOVERY, {Phase.JUMPING: rows}):  # type: ignore[arg-type]
        yield


# --- I4: leases ----------------------------------------------------------------------------


@mutant("agent", "I4", worlds.late_proceeds)
def agent_obeys_an_expired_proceed() -> Iterator[None]:
    """a PROCEED is obeyed before stamp + valid_for, or not at all"""

    def mistaken(lease: Any, now: Any) -> None:
        return None

    with ExitStack() as stack:
        for name, module in sorted(sys.modules.items()):
            if name.startswith("node_agent.") and hasattr(module, "lease_problem"):
                stack.enter_context(patch.object(module, "lease_problem", mistaken))
        yield


@mutant("agent", "I4", worlds.slow_disks)
def agent_looks_at_the_lease_on_receipt_only() -> Iterator[None]:
    """the lease is judged again as the last act before reboot"""
    real = runner_step.jump

    async def mistaken(effects: Any, ports: Any, attempt: Attempt, stamp: Any) -> ev.Event:
        assert attempt.lease is not None
        endless = replace(attempt, lease=replace(attempt.lease, valid_for_s=1e6))
        return await real(effects, ports, endless, stamp)

    with patch.object(runner, "jump", mistaken):
        yield


# --- I8: sessions and memory ---------------------------------------------------------------


@mutant("agent", "I8", worlds.undisturbed)
def sessions_are_never_finished() -> Iterator[None]:
    """every preserved session is finished"""

    async def mistaken(self: Effects, attempt: Any) -> None:
        return None

    with patch.object(Effects, "_finish_sessions", mistaken):
        yield


@mutant("agent", "I8", worlds.undisturbed)
def agent_forgets_its_own_session() -> Iterator[None]:
    """the agent finishes its own session as it does the workloads'"""

    async def mistaken(self: AgentSession, kernel: Any, attempt: Attempt) -> None:
        return None

    with patch.object(AgentSession, "finish", mistaken):
        yield


@mutant("agent", "I8", worlds.sick_kernels)
def rollback_starts_with_the_session_unfinished() -> Iterator[None]:
    """an unhealthy node finishes first, and is then rolled back"""
    rows = {**TABLE[Phase.VERIFYING], Signal.UNHEALTHY: Row(Phase.AWAITING_ROLLBACK)}
    with patch.dict(TABLE, {Phase.VERIFYING: rows}):  # type: ignore[arg-type]
        yield


@mutant("agent", "I8", worlds.spoilt_memory)
def nobody_compares_memory() -> Iterator[None]:
    """workloads compare their memory, and the attempt fails by it"""
    with patch.object(runner_effects, "_memory", lambda pauses: None):
        yield


@mutant("agent", "I8", worlds.lost_sessions)
def what_cannot_be_retrieved_is_left_out() -> Iterator[None]:
    """a session that cannot be retrieved fails the attempt"""
    real = InProcessWorkloads.retrieve

    async def mistaken(self: Any, kernel: Any, sessions: Mapping[str, str]) -> None:
        try:
            await real(self, kernel, sessions)
        except AgentError:
            return

    with patch.object(InProcessWorkloads, "retrieve", mistaken):
        yield


@mutant("agent", "I8", worlds.refused_freezes)
def unwinding_resumes_nobody() -> Iterator[None]:
    """what was suspended for a jump that did not happen runs again"""
    undos = {phase: undo for phase, undo in steps.UNDO.items() if phase is not Phase.SUSPENDING}
    with patch.object(steps, "UNDO", undos):
        yield


@mutant("agent", "I8", worlds.refused_freezes)
def unwinding_closes_no_session() -> Iterator[None]:
    """unwinding closes its sessions"""
    undos = {phase: undo for phase, undo in steps.UNDO.items() if phase is not Phase.PRESERVING}
    with patch.object(steps, "UNDO", undos):
        yield


# --- I11: success --------------------------------------------------------------------------


@mutant("agent", "I11", worlds.bad_kernels)
def nobody_asks_which_kernel_booted() -> Iterator[None]:
    """success is the expected release, on both sides"""
    real = runner_boot.classify_boot

    async def mistaken(node: NodeState, *rest: Any) -> tuple[BootClassified, float]:
        event, hz = await real(node, *rest)
        if event.verdict is Verdict.WRONG_KERNEL:
            event = replace(event, verdict=Verdict.LIVE_UPDATED, problem=None)
        return event, hz

    proven = patch.object(transitions_attempt, "unproven", lambda *args, **kwargs: ("", ""))
    with patch.object(runner, "classify_boot", mistaken), proven:
        yield


@mutant("agent", "I11", worlds.moody_nodes)
def health_need_not_hold() -> Iterator[None]:
    """health holds for N seconds before it counts"""
    real = Effects._verify

    async def mistaken(self: Effects, attempt: Attempt) -> ev.Event:
        return await real(self, replace(attempt, health_hold_s=0.0))

    with patch.object(Effects, "_verify", mistaken):
        yield
