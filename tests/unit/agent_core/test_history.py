"""The journal read back, what compaction keeps, and the codec underneath."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from node_agent.core.attempt import Attempt, NodeState
from node_agent.core.codec import decode, encode
from node_agent.core.history import (
    EVENT,
    INSTALLATION,
    JUMP_INTENT,
    NODE,
    STORY_RECORDS,
    body_of,
    jump_intent,
    replay,
    retained,
)
from node_agent.core.model import BlackoutSample, Lease, MemoryCheck, Vantage
from node_agent.core.phases import Phase, Verdict
from node_agent.core.report import CommandRefusal, Report, StageResult
from tests.unit.agent_core.make import NOW, PROBLEM, REF, attempt, mark, node


@dataclass(frozen=True)
class Record:
    seq: int
    kind: str
    body: Mapping[str, object]


def report(event: str = "Loaded", **changes: Any) -> Report:
    told = Report(0, event, Phase.DRAINING, NOW, "boot-a", "7.2.13", True, attempt=REF)
    return replace(told, **changes)


def record(seq: int, kind: str = EVENT, **parts: Any) -> Record:
    # Through JSON, as on disk.
    return Record(seq, kind, json.loads(json.dumps(body_of(at=f"t{seq}", **parts))))


FIRST = Record(1, INSTALLATION, {"installation_id": "i"})

FULL: Attempt = attempt(
    Phase.JUMPING,
    lease=Lease(NOW, 5.0),
    jumped=True,
    sessions={"vm": "lr.7-abcdef01.vm"},
    bindings={"vm": {"uid": 1000, "unit": "vm.service", "suspend": True}},
    tokens={"lr.7-abcdef01.vm": {1: 5}, "lr.7-abcdef01.agent": {0: 6, 1: 7}},
    marks=(mark("suspend", 1.5, tsc=7),),
    samples=(BlackoutSample(Vantage.HOST, 1.0, 0.1, "tsc"),),
    memory=MemoryCheck(1, 1, 10),
    verdict=Verdict.LIVE_UPDATED,
    problem=PROBLEM,
    healthy=False,
    tsc_hz=2.4e9,
)


@pytest.mark.parametrize(
    "value",
    [
        NodeState(attempt=FULL, highest_generation=7, incarnation="i", boot_id="b", quarantine=PROBLEM),
        NodeState(),
        report(stage=StageResult("d", False, PROBLEM), refusal=CommandRefusal("c", PROBLEM), brownout_s=1.0),
    ],
)
def test_values_survive_json(value: NodeState | Report) -> None:
    assert decode(type(value), json.loads(json.dumps(encode(value)))) == value


def test_fields_of_other_versions() -> None:
    raw = encode(NodeState(highest_generation=3))
    raw["added_later"] = 1
    del raw["healthy"]
    assert decode(NodeState, raw) == NodeState(highest_generation=3)


def test_a_journal_from_before_there_were_tokens() -> None:
    raw = encode(NodeState(attempt=FULL))
    del raw["attempt"]["tokens"]
    assert decode(NodeState, raw) == NodeState(attempt=replace(FULL, tokens={}))


@pytest.mark.parametrize("raw", [{"highest_generation": "3"}, {"verdict": "MAYBE"}, {"attempt": 5}])
def test_what_makes_no_sense_is_not_read(raw: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        decode(NodeState, raw)


def test_the_newest_node_counts_and_reports_wait_for_their_acknowledgement() -> None:
    early, late = node(Phase.LOADING), node(Phase.DRAINING)
    records = [
        FIRST,
        record(2, node=early, report=report("Prepared", phase=Phase.LOADING)),
        record(5, node=late, report=report(problem=PROBLEM), acked=2),
        record(6, NODE, node=replace(late, incarnation="i2", incarnation_serial=2)),
    ]
    history = replay(records)
    assert history.acked == 2
    assert [told.seq for told in history.unacknowledged] == [5]
    assert history.node.incarnation == "i2"
    assert history.node.attempt is not None
    assert history.node.attempt.phase is Phase.DRAINING
    assert [str(line) for line in history.story] == [
        "2 t2 7-abcdef01 Prepared → LOADING",
        "5 t5 7-abcdef01 Loaded → DRAINING (BROKEN)",
    ]


def test_an_attempt_learns_its_record_when_it_is_read_back() -> None:
    history = replay([FIRST, record(4, JUMP_INTENT, node=node(Phase.JUMPING), report=report())])
    assert history.node.attempt is not None
    assert history.node.attempt.seq == 4
    at_rest = replay([FIRST, record(3, node=NodeState(boot_id="b"), report=report(attempt=None))])
    assert at_rest.node == NodeState(boot_id="b")
    assert at_rest.story[0].attempt == ""


def test_a_number_that_is_none() -> None:
    with pytest.raises(TypeError):
        replay([Record(1, EVENT, {"acked": "many"})])


def test_compaction_keeps_what_the_truth_needs() -> None:
    jump = record(3, JUMP_INTENT, node=node(Phase.JUMPING), report=report("JumpIntentRecorded"), acked=0)
    unacknowledged = record(5, report=report("Retrieved"), acked=4)
    filler = [record(seq, NODE, acked=4) for seq in range(10, 10 + STORY_RECORDS)]
    last_node = record(7, NODE, node=node(Phase.RETRIEVING), acked=4)
    dropped = [record(2, node=node(Phase.LOADING), report=report("Prepared")), record(8, NODE, acked=4)]
    everything = sorted([FIRST, jump, unacknowledged, last_node, *dropped, *filler], key=lambda r: r.seq)
    kept = retained(everything)
    assert [r for r in everything if r not in kept] == dropped
    assert replay(kept).node == replay(everything).node
    assert replay(kept).unacknowledged == replay(everything).unacknowledged
    assert retained([]) == []


def test_the_jump_intent_holds_what_the_resume_path_needs() -> None:
    intent = jump_intent(FULL, node(Phase.JUMPING))
    assert json.loads(json.dumps(intent)) == {
        "attempt": "7-abcdef01",
        "node_id": "node-1",
        "generation": 7,
        "incarnation": "abcd-ef0123456",
        "kind": "FORWARD",
        "agent_session": "lr.7-abcdef01.agent",
        "sessions": {"vm": "lr.7-abcdef01.vm"},
        "bindings": {"vm": {"uid": 1000, "unit": "vm.service", "suspend": True}},
        "tokens": {"lr.7-abcdef01.vm": {"1": 5}, "lr.7-abcdef01.agent": {"0": 6, "1": 7}},
        "from_release": "7.2.13",
        "to_release": "7.3.4",
        "boot_id": "boot-a",
        "tsc_hz": 2.4e9,
        "highest_generation": 7,
    }


def test_an_incarnation_without_letters_still_names_a_session() -> None:
    assert replace(REF, incarnation="--").id == "7-none"
