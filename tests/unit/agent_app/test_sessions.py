"""luoctl sessions: what is held now, not what an attempt once held."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from node_agent.app_control import Control
from node_agent.core.phases import Phase

ROW = {"workload": "vm-1", "session": "lr.1-a.vm-1"}


@pytest.mark.parametrize(
    ("phase", "held"),
    [
        (Phase.PRESERVED, [ROW]),
        (Phase.FINISHING, [ROW]),
        (Phase.QUARANTINED, [ROW]),
        (Phase.BAKING, []),
        (Phase.COMMITTED, []),
        (Phase.ABORTED, []),
    ],
)
async def test_a_settled_attempt_holds_no_session(phase: Phase, held: list[dict[str, str]]) -> None:
    attempt = SimpleNamespace(phase=phase, sessions={"vm-1": "lr.1-a.vm-1"})
    life: Any = SimpleNamespace(runner=SimpleNamespace(attempt=attempt))
    assert await Control(cast(Any, life)).sessions({}) == held
