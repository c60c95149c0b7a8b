"""Mistakes with RFC v2's model of LUO: its tokens, its one state for the machine, and the other model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from node_agent.core.attempt import Attempt
from node_agent.kernel.tokens import TokenSessions
from node_agent.ports import Tokens
from node_agent.runtime import preflight
from node_agent.runtime.runner_effects import Effects
from tests.sim import provocations_luo as worlds
from tests.sim.mutant import mutant


@mutant("luo", "I8", worlds.rfc2_dying_agents)
def cancel_forgets_what_nobody_holds() -> Iterator[None]:
    """unwinding lets go of tokens that an agent took before it died"""

    real = TokenSessions.cancel

    async def nothing() -> tuple[int, ...]:
        return ()

    async def mistaken(self: TokenSessions) -> None:
        with patch.object(self.device, "registered", nothing):
            await real(self)

    with patch.object(TokenSessions, "cancel", mistaken):
        yield


@mutant("luo", "I8", worlds.rfc2_early_cancels)
def unwinding_leaves_luo_prepared() -> Iterator[None]:
    """unwinding brings LUO back to NORMAL"""

    async def mistaken(self: TokenSessions) -> None:
        return None

    with patch.object(TokenSessions, "cancel", mistaken):
        yield


@mutant("luo", "I8", worlds.rfc2_by_hand)
def nobody_looks_whether_luo_is_ready() -> Iterator[None]:
    """reboot is called only where LUO still has all that is to cross, prepared"""

    async def mistaken(self: TokenSessions) -> None:
        return None

    with patch.object(TokenSessions, "ready_to_jump", mistaken):
        yield


@mutant("luo", "I8", worlds.rfc2_undisturbed)
def tokens_are_not_journalled() -> Iterator[None]:
    """the journal has every token before the jump, for nobody else knows which file is whose"""
    real = TokenSessions.prepare

    async def mistaken(self: TokenSessions) -> Tokens:
        await real(self)
        return {}

    with patch.object(TokenSessions, "prepare", mistaken):
        yield


@mutant("luo", "I8", worlds.rfc2_undisturbed)
def luo_is_never_finished() -> Iterator[None]:
    """after the last session LUO itself is finished"""
    real = Effects._finish_sessions

    async def nothing(self: TokenSessions) -> None:
        return None

    async def mistaken(self: Effects, attempt: Attempt) -> None:
        with patch.object(TokenSessions, "finish", nothing):
            await real(self, attempt)

    with patch.object(Effects, "_finish_sessions", mistaken):
        yield


@mutant("luo", "I8", worlds.two_models)
def preflight_takes_any_model_for_its_own() -> Iterator[None]:
    """no node jumps from one model of LUO into the other with memory preserved"""

    def mistaken(*arguments: Any, **named: Any) -> tuple[()]:
        return ()

    with patch.object(preflight, "check_model", mistaken), patch.object(preflight, "check_abi", mistaken):
        yield
