"""Whether the node would refuse a PREPARE if it came now: told ahead, so that none is sent.

Rules
1. It is what preflight would say of the running kernel (preflight.check_now), asked of the kernel anew
   whenever the link is about to tell where the node stands. LOADING looks again, and that is what counts.
2. An attempt that luoctl began stands in the way as well. In one of the orchestrator's nothing is said.
3. Sessions as merged have no state of the machine, and what stands in their way stays for the whole boot:
   nothing is asked of them.
4. A kernel that does not answer in time says what it said before: a heartbeat must not wait for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from node_agent.core.attempt import NodeState
from node_agent.core.model import LOCAL_INCARNATION, Problem
from node_agent.core.phases import SETTLED
from node_agent.errors import AgentError, Retry
from node_agent.kernel.luo_models import RFC2
from node_agent.ports import BootFacts, Kernel
from node_agent.runtime.preflight import check_now, registered
from node_agent.runtime.preflight_findings import refusal

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""Nodes in an attempt beat every 5 s; GET_STATE may wait for whoever holds LUO's lock."""


class Readiness:
    """What stood in the way when the kernel was asked last.

    Args:
        boot: as the agent found it.
    """

    def __init__(self, kernel: Kernel, boot: BootFacts) -> None:
        self._kernel = kernel
        self._boot = boot
        self._found = not_ready(boot, ())

    async def look(self, node: NodeState) -> None:
        """Ask the kernel, unless an attempt has LUO. Never raises AgentError."""
        if self._boot.luo_model != RFC2 or node.phase not in SETTLED:
            return
        try:
            async with asyncio.timeout(LOOK_S):
                boot = await self._kernel.facts()
                self._found = not_ready(boot, await registered(self._kernel, boot))
        except (AgentError, TimeoutError) as error:
            log.info("cannot see whether an update could begin: %s", error or "no answer in time")

    def of(self, node: NodeState) -> Problem | None:
        """Why it would refuse a PREPARE; None if it would not, or in an attempt of the orchestrator's."""
        if node.phase in SETTLED:
            return self._found
        attempt = node.attempt
        if attempt is None or attempt.ref.incarnation != LOCAL_INCARNATION:
            return None
        return Problem(
            "ATTEMPT_UNDER_WAY",
            Retry.REPLAN,
            f"attempt {attempt.ref.id}, which luoctl began, is under way",
            "Let it come to its end, or undo it with `luoctl cancel`.",
            {"attempt": attempt.ref.id},
        )


def not_ready(boot: BootFacts, registered: Sequence[int]) -> Problem | None:
    """What preflight would say of this kernel now. Pure."""
    found = tuple(check_now(boot, registered))
    if not found:
        return None
    said = {
        "luo_model": boot.luo_model,
        "luo_state": boot.luo_state,
        "coupling": boot.coupling,
        "kho_finalized": "true" if boot.kho_finalized else "",
    }
    return Problem.of(refusal(found), **{name: value for name, value in said.items() if value})
