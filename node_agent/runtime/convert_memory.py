"""What a node remembers of its attempt, as it travels in a Hello: all that an orchestrator whose
store has forgotten the attempt needs to take it in."""

from __future__ import annotations

from liveroll.v1 import agent_pb2 as pb

from node_agent.core.attempt import Attempt


def attempt_memory(attempt: Attempt | None) -> pb.AttemptMemory | None:
    """The attempt without what reports have told or will tell."""
    if attempt is None:
        return None
    verdict = f"BOOT_VERDICT_{attempt.verdict or 'UNSPECIFIED'}"
    return pb.AttemptMemory(
        kind=f"KIND_{attempt.kind}",
        artifact=pb.ArtifactRef(
            name=attempt.artifact.name,
            digest=attempt.artifact.digest,
            url=attempt.artifact.url,
            kernel_release=attempt.artifact.release,
        ),
        from_release=attempt.from_release,
        from_boot_id=attempt.expected_boot_id,
        boot_verdict=verdict,
        emulated=attempt.emulated,
    )
