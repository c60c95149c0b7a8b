"""What a node remembers of its attempt goes up with its Hello, and is understood by the orchestrator."""

from __future__ import annotations

from dataclasses import replace

import pytest
from liveroll.v1 import agent_pb2 as pb

from node_agent.core.attempt import Attempt
from node_agent.core.commands import Prepare
from node_agent.core.model import ArtifactRef, AttemptKind, AttemptRef
from node_agent.core.phases import Phase, Verdict
from node_agent.core.report import NodeStatus
from node_agent.runtime import convert
from node_agent.runtime.convert_memory import attempt_memory
from node_agent.runtime.link_transport import HelloFacts
from orchestrator.core.model import Artifact
from orchestrator.core.phases import Kind
from orchestrator.core.phases import Verdict as Known
from orchestrator.errors import InvalidSpec
from orchestrator.rpc.link_in import read_hello

REF = AttemptRef("n1", 7, "inc-1")
ATTEMPT = Attempt.begin(
    Prepare(
        command_id="inc-1:4",
        attempt=REF,
        kind=AttemptKind.ROLLBACK,
        artifact=ArtifactRef("linux", "d" * 64, "http://artifacts", "6.18.9"),
        command_line="quiet",
        expected_boot_id="boot-1",
    ),
    release="6.19.3",
    boot_id="boot-1",
    emulated=True,
)


def facts(attempt: Attempt | None) -> HelloFacts:
    return HelloFacts(
        node_id="n1",
        installation_id="i-1",
        boot_id="boot-2",
        release="6.18.9",
        hardware_model="m",
        capabilities=("luo",),
        labels={},
        highest_generation=7,
        incarnation="inc-1",
        incarnation_serial=3,
        status=NodeStatus(REF, Phase.COMMITTED, 31, True),
        boot_verdict=None,
        agent_version="1",
        staged_artifacts=(),
        rollback_artifact="",
        command_line="quiet",
        acknowledged_seq=30,
        attempt=attempt,
    )


def test_it_is_read_as_it_was_remembered() -> None:
    said = read_hello(convert.hello(facts(replace(ATTEMPT, verdict=Verdict.LIVE_UPDATED))).hello)
    assert said.acknowledged_seq == 30
    assert said.memory is not None
    assert (said.memory.kind, said.memory.verdict) == (Kind.ROLLBACK, Known.LIVE_UPDATED)
    assert said.memory.artifact == Artifact("linux", "d" * 64, "6.18.9", "", emulated=True)
    assert (said.memory.from_release, said.memory.from_boot_id) == ("6.19.3", "boot-1")


def test_an_attempt_that_has_not_jumped_has_no_verdict() -> None:
    said = read_hello(convert.hello(facts(ATTEMPT)).hello)
    assert said.memory is not None
    assert said.memory.verdict is None


def test_a_node_without_an_attempt_remembers_none() -> None:
    assert attempt_memory(None) is None
    assert read_hello(convert.hello(facts(None)).hello).memory is None


@pytest.mark.parametrize(
    "changes",
    [{"kind": 0}, {"kind": 9}, {"from_release": "x" * 200}, {"boot_verdict": 77}],
    ids=["no kind", "an unknown kind", "a release that is none", "an unknown verdict"],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    hello = convert.hello(facts(ATTEMPT)).hello
    memory = pb.AttemptMemory()
    memory.CopyFrom(hello.attempt_memory)
    for name, value in changes.items():
        setattr(memory, name, value)
    hello.attempt_memory.CopyFrom(memory)
    with pytest.raises(InvalidSpec) as refused:
        read_hello(hello)
    assert refused.value.violations[0].path.startswith("hello.attempt_memory")
