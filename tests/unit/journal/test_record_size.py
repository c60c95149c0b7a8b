"""The largest records: an attempt with as many files as RFC v2 takes fits into each, the jump included."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node_agent.core.attempt import Attempt
from node_agent.core.history import JUMP_INTENT, body_of, jump_intent, replay
from node_agent.core.phases import Phase
from node_agent.kernel.tokens import FILES_MAX
from node_agent.ports import JournalRecord
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
            name: {str(mine): 1_000_000 + n * each + mine for mine in range(each)}
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
