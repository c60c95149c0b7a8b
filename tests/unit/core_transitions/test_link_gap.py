"""The blackout as the link saw it, made by the Hello that ends it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.core import link_gap, transitions
from orchestrator.core.facts import Arrival, Heard
from orchestrator.core.fleet import Fleet
from orchestrator.core.messages import Heartbeat, NodeStatus
from orchestrator.core.model import AttemptRow, NodeRow, Sample
from orchestrator.core.phases import SETTLED, Phase, Verdict
from tests.unit.core_ops.build import ARTIFACT, NEW, NOW, apply, attempt, fleet, hello, node, ref

S = timedelta(seconds=1)
BEAT = 5 * S
"""FleetPolicy.active_heartbeat."""


def came(seconds: float, skew: float = 0.0) -> Arrival:
    """So long after NOW by the monotonic clock; the wall clock was set by skew before that."""
    return Arrival(NOW + (seconds + skew) * S, 1000.0 + seconds)


def jumping(phase: Phase = Phase.JUMPING, *, heard: bool = True, **fields: Any) -> Fleet:
    """A fleet of one node, whose last word came at NOW."""
    made = fleet(
        node("n00", highest_generation=1),
        attempt(phase=phase, acknowledged=True, **fields),
        heard=False,
    )
    if heard:
        made.apply(Heard("n00", NOW, came=came(0)))
    return made


def back(
    made: Fleet,
    seconds: float,
    verdict: Verdict | None = Verdict.LIVE_UPDATED,
    skew: float = 0.0,
    **fields: Any,
) -> transitions.Observation:
    """The first Hello of the new boot."""
    news = {"boot_id": "boot-2", "release": NEW, "boot_verdict": verdict, "highest_generation": 1}
    said = hello(**{**news, **fields})
    return transitions.hello(made, said, "", NOW + (seconds + skew) * S, came(seconds, skew))


def samples(seen: transitions.Observation) -> tuple[Sample, ...]:
    return tuple(s for row in seen.change.writes if isinstance(row, AttemptRow) for s in row.samples)


def test_it_is_written_with_the_verdict_of_the_boot() -> None:
    seen = back(jumping(), 3)
    assert samples(seen) == (Sample("link", 3 * S, 3 * S, "link", emulated=True),)
    (row,) = [r for r in seen.change.writes if isinstance(r, NodeRow)]
    assert (row.boot_id, row.boot_verdict) == ("boot-2", Verdict.LIVE_UPDATED)
    (linked,) = seen.change.events
    assert linked.fields["blackout"] == "link 3.000 s ± 3.000 s"


def test_a_real_kernel_is_not_called_emulated() -> None:
    (sample,) = samples(back(jumping(artifact=replace(ARTIFACT, emulated=False)), 3))
    assert not sample.emulated


def test_the_node_may_have_died_until_the_beat_that_did_not_come() -> None:
    (sample,) = samples(back(jumping(), 20))
    assert (sample.duration, sample.uncertainty) == (20 * S, BEAT)


def test_a_node_that_beats_late_is_less_certain() -> None:
    made = jumping(opened_at=NOW - 30 * S)
    for at, boot in ((7, 1), (9, 1)):
        beat = Heartbeat(NodeStatus(ref(), Phase.JUMPING))
        made.take(transitions.heartbeat(made, "n00", beat, boot, NOW + at * S, came(at)).facts)
    (sample,) = samples(back(made, 29))
    assert (sample.duration, sample.uncertainty) == (20 * S, 7 * S)


def test_what_was_waited_before_the_attempt_says_nothing() -> None:
    made = fleet(node("n00", highest_generation=1), heard=False)
    made.apply(Heard("n00", NOW - 60 * S, came=came(-60)))
    made.apply(attempt(phase=Phase.LOADING, acknowledged=True))
    made.apply(Heard("n00", NOW + 2 * S, came=came(2)))
    assert made.heard["n00"].widest == 2 * S
    made.apply(replace(made.attempts["n00", 1], phase=Phase.JUMPING))
    (sample,) = samples(back(made, 22))
    assert (sample.duration, sample.uncertainty) == (20 * S, BEAT)


@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.PRESERVED, Phase.UNWINDING])
def test_without_word_of_a_suspend_the_link_may_have_been_cut_long_before(phase: Phase) -> None:
    (sample,) = samples(back(jumping(phase), 20))
    assert (sample.duration, sample.uncertainty) == (20 * S, 20 * S)


def test_a_lost_node_that_returns_is_measured_too() -> None:
    lost = jumping(Phase.LOST, settled_at=NOW, blackout_open_at=NOW, ever_lost=True, failed=True)
    seen = back(lost, 900, highest_generation=1, status=NodeStatus(ref(), Phase.RETRIEVING))
    (sample,) = samples(seen)
    assert (sample.duration, sample.uncertainty) == (900 * S, BEAT)
    (row,) = [r for r in seen.change.writes if isinstance(r, AttemptRow)]
    assert row.phase is Phase.RETRIEVING


def test_a_hello_said_again_counts_once() -> None:
    made = jumping()
    apply(made, back(made, 3).change)
    assert len(back(made, 9).change.writes) == 1
    # Replayed reports of the old boot put its boot_id into the row for a moment.
    made.apply(replace(made.nodes["n00"], boot_id="boot-n00"))
    assert len(back(made, 9).change.writes) == 1


def test_a_link_that_breaks_within_the_old_boot_is_no_blackout() -> None:
    assert samples(back(jumping(), 3, Verdict.SAME_BOOT, boot_id="boot-n00")) == ()
    assert samples(back(jumping(), 3, boot_id="")) == ()


def test_a_link_that_breaks_within_the_new_boot_is_no_second_one() -> None:
    made = jumping(Phase.RETRIEVING)
    made.apply(replace(made.nodes["n00"], boot_id="boot-2"))
    assert samples(back(made, 3)) == ()


@pytest.mark.parametrize("verdict", [*sorted(set(Verdict) - link_gap.CROSSED), None])
def test_a_boot_that_brought_nothing_along_ends_no_blackout(verdict: Verdict | None) -> None:
    seen = back(jumping(), 3, verdict)
    assert samples(seen) == ()
    assert [e.fields for e in seen.change.events] == [{}]


@pytest.mark.parametrize("phase", sorted(SETTLED - {Phase.LOST, Phase.IDLE}))
def test_a_settled_attempt_has_had_its_blackout(phase: Phase) -> None:
    assert samples(back(jumping(phase, settled_at=NOW), 3, Verdict.FOREIGN_KEXEC)) == ()


def test_an_attempt_that_its_node_has_undone_had_none_over_a_kexec_by_hand() -> None:
    """It was LOST here, unwound there, and then somebody said `luoctl kexec DIGEST`."""
    undone = NodeStatus(ref(), Phase.ABORTED, 5, True)
    seen = back(jumping(Phase.LOST, settled_at=NOW), 40, Verdict.FOREIGN_KEXEC, status=undone)
    assert samples(seen) == ()


def test_an_orchestrator_that_began_in_the_blackout_cannot_say() -> None:
    made = jumping(heard=False)
    seen = back(made, 40)
    (sample,) = samples(seen)
    assert (sample.duration, sample.uncertainty) == (40 * S, 40 * S)
    assert sample.rejected == "the orchestrator began to listen while the node was silent"
    assert seen.change.events[0].fields["blackout"] == f"link 40.000 s (rejected: {sample.rejected})"
    apply(made, seen.change)
    assert samples(back(made, 50)) == (), "it is not measured anew"


@pytest.mark.parametrize("skew", [-7200.0, -3.0, 3.0, 7200.0])
def test_a_wall_clock_that_was_set_meanwhile_cannot_say(skew: float) -> None:
    (sample,) = samples(back(jumping(), 10, skew=skew))
    assert sample.duration == 10 * S
    assert sample.rejected == "the orchestrator's clock was set while the node was silent"


def test_a_wall_clock_that_drifts_a_little_has_no_part_in_it() -> None:
    (sample,) = samples(back(jumping(), 10, skew=0.4))
    assert (sample.duration, sample.rejected) == (10 * S, "")


def test_rows_that_tell_of_the_future_give_no_negative_silence() -> None:
    (sample,) = samples(back(jumping(heard=False, phase_at=NOW + 60 * S), 3))
    assert (sample.duration, sample.uncertainty) == (0 * S, 0 * S)


def test_where_nobody_measures_arrivals_the_wall_clock_counts() -> None:
    made = jumping(heard=False)
    made.apply(Heard("n00", NOW + 2 * S))
    said = hello(boot_id="boot-2", release=NEW, boot_verdict=Verdict.LIVE_UPDATED)
    (sample,) = samples(transitions.hello(made, said, "", NOW + 3 * S))
    assert sample.duration == S


def test_a_node_that_no_attempt_was_made_on_has_no_blackout() -> None:
    made = fleet(node("n00"))
    assert samples(back(made, 3)) == ()
    assert samples(transitions.hello(fleet(), hello(highest_generation=0), "", NOW, came(0))) == ()
