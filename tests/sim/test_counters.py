"""The list of what must be reached is itself complete: it follows the tables, and the code's own words."""

from __future__ import annotations

import re
from pathlib import Path

import orchestrator.core
from node_agent.core.phases import Phase
from tests.sim.counters import BLOCKERS, DECLARED, ROWS, unreached

CORE = Path(orchestrator.core.__path__[0])


def test_every_blockers_reason_is_declared() -> None:
    text = "".join(path.read_text() for path in sorted(CORE.glob("blocking*.py")))
    found = set(re.findall(r'(?:Blocker|_At|on)\(\s*"([A-Z_]{4,})"', text))
    found |= set(re.findall(r'REASON = "([A-Z_]{4,})"', text))
    assert found <= set(BLOCKERS), sorted(found - set(BLOCKERS))


def test_every_phase_has_its_rows() -> None:
    begun = {row.partition(" × ")[0] for row in ROWS}
    assert begun >= {phase.value for phase in Phase if phase is not Phase.IDLE}


def test_names_are_declared_once() -> None:
    assert len(set(DECLARED)) == len(DECLARED)


def test_what_was_seen_is_not_missing() -> None:
    assert unreached(DECLARED) == []
    assert unreached(DECLARED[1:]) == [DECLARED[0]]
