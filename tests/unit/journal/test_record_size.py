"""The largest records: an attempt with as many files as RFC v2 takes fits into each, the jump included."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node_agent.core.attempt import Attempt
from node_agent.core.history import JUMP_INTENT, body_of, jump_intent, replay
from node_agent.core.phases import Phase
from node_agent.kernel.tokens import FILES_MAX
from node_agent.ports import JournalRecord
from node_agent.runtime.journal import BALLAST_BYTES
from node_agent.runtime.journal_format import MAX_PAYLOAD_BYTES, encode_record
from tests.unit.agent_core.make import attempt, node


def largest(workloads: int) -> Attempt:
    """Every file that one update may have, spread over so many workloads."""
    names = {f"vm-{n:04d}.example.slice": f"lr.7-abcdef01.vm-{n:04d}.example.slice" for n in range(workloads)}
    each = FILES_MAX // workloads
    return attempt(
        Phase.JUMPING,
        sessions=names,
        bindings={id: {"uid": 100_000, "unit": f"{id}.service", "suspend": True} for id in names},
        tokens={
            name: {mine: 1_000_000 + n * each + mine for mine in range(each)}
            for n, name in enumerate(names.values())
        },
    )


@pytest.mark.parametrize("workloads", [1, 16, 256, 1024])
def test_an_attempt_with_as_many_files_as_there_may_be(workloads: int) -> None:
    made = largest(workloads)
    state = replace(node(Phase.JUMPING), attempt=made)
    body = body_of(node=state, extra=jump_intent(made, state))
    record = JournalRecord(9, JUMP_INTENT, body)
    assert len(encode_record(record)) < MAX_PAYLOAD_BYTES // 2 * (2 if workloads > 256 else 1)
    read = replay([record]).node.attempt
    assert read is not None
    assert read.tokens == made.tokens
    assert sum(len(files) for files in read.tokens.values()) == FILES_MAX


@pytest.mark.parametrize("workloads", [1, 16, 128])
def test_all_records_of_such_an_attempt_fit_into_the_ballast(workloads: int) -> None:
    """Of a disk that is full, from the first to the last: through the jump, or to the end of its undoing."""
    made = largest(workloads)

    def size(record: Attempt) -> int:
        state = replace(node(Phase.JUMPING), attempt=record)
        return len(encode_record(JournalRecord(9, "event", body_of(node=state))))

    jumping = replace(node(Phase.JUMPING), attempt=made)
    intent = body_of(node=jumping, extra=jump_intent(made, jumping))
    before, after = size(replace(made, tokens={})), size(made)
    # Prepared, Loaded, Drained; Preserved, Proceeded, Suspended; the jump; BootClassified, Retrieved,
    # Resumed, Healthy; Finished, Committed.
    whole = 5 * before + 7 * after + len(encode_record(JournalRecord(9, JUMP_INTENT, intent)))
    assert whole <= BALLAST_BYTES
