"""Hellos where there are several replicas: whose link it is, and what may be said of the gap."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.core import transitions
from orchestrator.core.facts import Arrival, Heard, Replicas
from orchestrator.core.model import AttemptRow, NodeRow, Sample
from orchestrator.core.phases import Phase, Verdict
from tests.unit.core_ops.build import NEW, NOW, attempt, fleet, hello, node

S = timedelta(seconds=1)


def test_a_hello_is_its_replica_s_link() -> None:
    made = fleet(node("n00", link_replica="b"))
    made.apply(Replicas("a", frozenset({"a", "b"})))
    seen = transitions.hello(made, hello(), "", NOW)
    (row,) = [r for r in seen.change.writes if isinstance(r, NodeRow)]
    assert row.link_replica == "a"


def test_where_there_never_were_replicas_it_is_nobody_s() -> None:
    seen = transitions.hello(fleet(node("n00")), hello(), "", NOW)
    (row,) = [r for r in seen.change.writes if isinstance(r, NodeRow)]
    assert row.link_replica == ""


@pytest.mark.parametrize(
    ("before", "rejected"),
    [("a", ""), ("", ""), ("b", "the node was linked to another replica before it fell silent")],
)
def test_a_gap_that_began_at_another_replica_is_not_measured_here(before: str, rejected: str) -> None:
    """This process has heard the node, long ago: the silence since then is no blackout."""
    made = fleet(
        node("n00", highest_generation=1, link_replica=before),
        attempt(phase=Phase.JUMPING, acknowledged=True),
        heard=False,
    )
    made.apply(Heard("n00", NOW, came=Arrival(NOW, 1000.0)))
    made.apply(Replicas("a", frozenset({"a", "b"})))
    said = hello(boot_id="boot-2", release=NEW, boot_verdict=Verdict.LIVE_UPDATED)
    seen = transitions.hello(made, said, "", NOW + 3 * S, Arrival(NOW + 3 * S, 1003.0))
    (sample,) = [s for r in seen.change.writes if isinstance(r, AttemptRow) for s in r.samples]
    assert isinstance(sample, Sample)
    assert sample.rejected == rejected
    assert sample.duration >= sample.uncertainty > 0 * S
