"""The list of what must be reached is itself complete: it follows the tables, and the code's own words."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import orchestrator.core
from node_agent.core.phases import Phase
from tests.sim.campaign import Campaign, Outcome
from tests.sim.counters import BLOCKERS, DECLARED, OFTEN, ROWS, unreached

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


def test_what_ought_to_be_often_is_declared() -> None:
    assert set(OFTEN) <= set(DECLARED)
    assert len(set(OFTEN)) == len(OFTEN)


def test_what_few_seeds_have_reached_is_seldom_however_often_they_did() -> None:
    campaign = Campaign()
    for seed in range(100):
        rare = Counter({OFTEN[0]: 1000}) if seed < 4 else Counter[str]()
        campaign.take(Outcome(seed, rare + Counter({OFTEN[1]: 1}) if seed < 5 else rare, 1.0))
    assert campaign.share(OFTEN[0]) == 0.04
    assert OFTEN[0] in campaign.seldom()
    assert OFTEN[1] not in campaign.seldom()


def test_what_was_seen_is_not_missing() -> None:
    assert unreached(DECLARED) == []
    assert unreached(DECLARED[1:]) == [DECLARED[0]]
