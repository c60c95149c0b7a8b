"""Reports and Hello as the runner builds them. `seq` is 0 of a report until the journal has given one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from node_agent.core import events as ev
from node_agent.core.attempt import Attempt, NodeState
from node_agent.core.model import AttemptRef, BootStamp, Problem
from node_agent.core.phases import Verdict
from node_agent.core.report import NodeStatus, Report
from node_agent.errors import Retry
from node_agent.kernel.luo_models import others
from node_agent.ports import BootFacts
from node_agent.runtime.runner_items import Identity

if TYPE_CHECKING:
    from node_agent.runtime.link_transport import HelloFacts


def build_report(
    name: str,
    node: NodeState,
    facts: BootFacts,
    stamp: BootStamp,
    *,
    ref: AttemptRef | None,
    event: ev.Event | None,
    rollback: str,
) -> Report:
    """The report of what the node has become.

    Args:
        name: the event's name. node: after the event. ref: the attempt it is about, if any.
        rollback: digest of the artifact that leads back.

    Samples, memory check and brownout are told once, with the event that brought them; marks are
    told in full with every event that brings one.
    """
    attempt = node.attempt if node.attempt is not None and node.attempt.ref == ref else None
    resumed = event if isinstance(event, ev.Resumed) else None
    return Report(
        seq=0,
        event=name,
        phase=node.phase,
        stamp=stamp,
        boot_id=facts.boot_id,
        release=facts.release,
        healthy=node.healthy,
        attempt=ref,
        marks=attempt.marks if attempt is not None and getattr(event, "marks", None) else (),
        samples=resumed.samples if resumed is not None else (),
        problem=_skipped(event)
        or _by_hand(event, attempt.problem if attempt is not None else node.quarantine),
        boot_verdict=_verdict(event, attempt) or node.verdict,
        brownout_s=event.brownout_s if isinstance(event, ev.Finished) else None,
        memory_check=resumed.memory if resumed is not None else None,
        left_behind=event.left_behind if isinstance(event, ev.Preserved) else {},
        rollback_artifact=rollback,
    )


def _verdict(event: ev.Event | None, attempt: Attempt | None) -> Verdict | None:
    """Of the boot that the event has named, whatever that says about the attempt; else the attempt's."""
    if isinstance(event, ev.BootClassified) and event.verdict is not Verdict.SAME_BOOT:
        return event.verdict
    return attempt.verdict if attempt is not None else None


def _skipped(event: ev.Event | None) -> Problem | None:
    """What the image was loaded in spite of, so that it stands in the story."""
    if not isinstance(event, ev.Loaded) or not event.skipped:
        return None
    return Problem(
        "PREFLIGHT_SKIPPED",
        Retry.NEVER,
        f"loaded on a person's word, though preflight found {', '.join(event.skipped)}",
        "Expect to lose what is preserved; `luoctl cancel` still goes back.",
        {"findings": ",".join(event.skipped)},
    )


def _by_hand(event: ev.Event | None, stands: Problem | None) -> Problem | None:
    """What is wrong with the node or its attempt, if anything is. A boot by hand is told with it: field
    `by_hand`."""
    if not isinstance(event, ev.BootClassified) or event.by_hand is None:
        return stands
    if stands is None:
        return event.by_hand
    return replace(stands, fields={**stands.fields, "by_hand": event.by_hand.fields["by_hand"]})


def build_hello(
    identity: Identity,
    installation_id: str,
    facts: BootFacts,
    node: NodeState,
    status: NodeStatus,
    *,
    staged: Sequence[str],
    rollback: str,
    acknowledged_seq: int = 0,
) -> HelloFacts:
    """Who is calling and where it stands.

    acknowledged_seq: reports up to here are not sent again.
    """
    # Imported here: protobuf is not needed before there is a link.
    from node_agent.runtime.link_transport import HelloFacts

    return HelloFacts(
        node_id=identity.node_id,
        installation_id=installation_id,
        boot_id=facts.boot_id,
        release=facts.release,
        hardware_model=facts.hardware_model,
        capabilities=identity.capabilities,
        labels=identity.labels,
        highest_generation=node.highest_generation,
        incarnation=node.incarnation,
        incarnation_serial=node.incarnation_serial,
        status=status,
        boot_verdict=node.verdict,
        agent_version=identity.agent_version,
        staged_artifacts=tuple(staged),
        rollback_artifact=rollback,
        command_line=facts.command_line,
        acknowledged_seq=acknowledged_seq,
        attempt=node.attempt,
        other_luo=others(facts) if facts.luo else (),
    )
