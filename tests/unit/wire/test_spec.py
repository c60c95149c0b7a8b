"""RolloutSpec over the wire: defaults, the way there and back, and everything malformed."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from google.protobuf import duration_pb2, timestamp_pb2
from hypothesis import given
from hypothesis import strategies as st
from liveroll.v1 import rollout_pb2 as pb

from orchestrator.core import spec as core
from orchestrator.errors import InvalidSpec, Retry
from orchestrator.wire.check import read_duration, read_instant, say
from orchestrator.wire.spec_in import examine, read_spec
from orchestrator.wire.spec_out import spec_of

MINIMAL = pb.RolloutSpec(name="k", target=pb.Target(artifact="a"))

FULL = core.RolloutSpec(
    name="kernel-6.19.3",
    target=core.Target("linux", ("quiet",), ("loglevel=4",)),
    selection=core.Selection("pool=prod", ("n1", "n2"), ("n3",)),
    canary=core.Canary(2, ("n1",)),
    waves=(core.WaveSpec("one", core.Amount(percent=12.5), "zone=a"), core.WaveSpec("rest")),
    late_nodes=core.LateNodes.LAST_WAVE,
    budgets=core.Budgets(
        core.Amount(count=3),
        core.Amount(percent=5),
        core.Amount(count=0),
        core.DomainBudget("zone", core.Amount(count=1)),
        core.FailureBudget(core.Amount(percent=1), frozenset()),
    ),
    rollback=core.RollbackPolicy(True, core.Amount(count=2), core.Amount(percent=50)),
    gates=(
        core.BlackoutGate(0.99, timedelta(seconds=2), timedelta(seconds=5), 3, core.OnFail.ROLL_BACK),
        core.BlackoutGate(0.5, timedelta(milliseconds=1)),
        core.HealthGate(99.5, core.OnFail.HOLD),
    ),
    bake=core.Bake(timedelta(0), timedelta(hours=1)),
    promotion=core.Promotion.MANUAL_CANARY,
    retries={
        **core.DEFAULT_RETRIES,
        Retry.CALL: core.RetryRule(5, timedelta(seconds=1), timedelta(minutes=1)),
    },
    timeouts=core.Timeouts(draining=timedelta(hours=2)),
    schedule=core.Schedule(
        (core.Window(frozenset({0, 6}), time(22, 30), time(4), "Europe/Berlin"),),
        (core.Embargo(datetime(2026, 12, 24, tzinfo=UTC), datetime(2027, 1, 2, tzinfo=UTC), "holidays"),),
    ),
    silence_lease=timedelta(minutes=7),
)


def violations(**changes: Any) -> dict[str, str]:
    proto = pb.RolloutSpec()
    proto.CopyFrom(MINIMAL)
    proto.MergeFrom(pb.RolloutSpec(**changes))
    with pytest.raises(InvalidSpec) as refused:
        read_spec(proto)
    return {v.path: v.problem for v in refused.value.violations}


def test_what_is_unset_takes_the_cores_defaults() -> None:
    assert read_spec(MINIMAL) == core.RolloutSpec("k", core.Target("a"))


def test_there_and_back() -> None:
    assert read_spec(spec_of(FULL)) == FULL
    assert read_spec(spec_of(read_spec(MINIMAL))) == read_spec(MINIMAL)


def test_what_the_core_would_refuse_is_left_to_it_if_the_message_is_sound() -> None:
    spec = read_spec(pb.RolloutSpec(name="Not A Name", target=pb.Target(artifact="a")))
    assert spec.name == "Not A Name"
    assert [v.path for v in examine(spec_of(spec))] == ["name"]


def test_a_malformed_message_is_told_with_all_that_the_core_would_refuse() -> None:
    found = violations(name="Not A Name", gates=[pb.Gate()])
    assert set(found) == {"name", "gates[0]"}


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"budgets": pb.Budgets(max_unavailable=pb.Amount())}, "budgets.max_unavailable"),
        ({"budgets": pb.Budgets(max_in_blackout=pb.Amount(percent=float("nan")))}, "budgets.max_in_blackout"),
        ({"budgets": pb.Budgets(max_uncommitted=pb.Amount(percent=-1))}, "budgets.max_uncommitted"),
        ({"budgets": pb.Budgets(max_uncommitted=pb.Amount(count=2**31))}, "budgets.max_uncommitted"),
        ({"budgets": pb.Budgets(domain=pb.DomainBudget())}, "budgets.domain.key"),
        ({"budgets": pb.Budgets(failures=pb.FailureBudget(halt_on=["x"] * 17))}, "budgets.failures.halt_on"),
        ({"rollback": pb.RollbackPolicy(max_unavailable=pb.Amount(percent=101))}, "rollback.max_unavailable"),
        ({"waves": [pb.Wave()] * 65}, "waves"),
        ({"waves": [pb.Wave(size=pb.Amount(percent=float("inf")))]}, "waves[0].size"),
        ({"waves": [pb.Wave(selector="x" * 5000)]}, "waves[0].selector"),
        ({"selection": pb.Selection(nodes=["n\n1"])}, "selection.nodes[0]"),
        ({"selection": pb.Selection(nodes=["n"] * 20_001)}, "selection.nodes"),
        ({"target": pb.Target(command_line_append=["x"] * 65)}, "target.command_line.append"),
        ({"late_nodes": 9}, "late_nodes"),
        ({"promotion": 9}, "promotion"),
        ({"method": 9}, "method"),
        ({"gates": [pb.Gate()]}, "gates[0]"),
        ({"gates": [pb.Gate(health=pb.HealthGate(), on_fail=7)]}, "gates[0].on_fail"),  # type: ignore[arg-type]
        ({"gates": [pb.Gate(health=pb.HealthGate())]}, "gates[0].health.min_healthy_percent"),
        ({"gates": [pb.Gate(blackout=pb.BlackoutGate(quantile=2))]}, "gates[0].blackout.quantile"),
        ({"gates": [pb.Gate(blackout=pb.BlackoutGate(quantile=1))]}, "gates[0].blackout.max"),
        ({"gates": [pb.Gate()] * 17}, "gates"),
        ({"bake": pb.Bake(node=duration_pb2.Duration(seconds=-1))}, "bake.node"),
        ({"bake": pb.Bake(wave=duration_pb2.Duration(seconds=1, nanos=-1))}, "bake.wave"),
        ({"silence_lease": duration_pb2.Duration(seconds=2**62)}, "silence_lease"),
        ({"proceed_lease": duration_pb2.Duration(nanos=1)}, "proceed_lease"),
        ({"retries": [pb.RetryRule(attempts=1)]}, "retries[0].retry"),
        ({"retries": [pb.RetryRule(retry=9, attempts=1)]}, "retries[0].retry"),  # type: ignore[arg-type]
        ({"retries": [pb.RetryRule(retry="RETRY_CLASS_CALL")]}, "retries.call.attempts"),
        ({"retries": [pb.RetryRule(retry="RETRY_CLASS_CALL", attempts=1)] * 2}, "retries[1].retry"),
        ({"retries": [pb.RetryRule(retry="RETRY_CLASS_CALL", attempts=1)] * 9}, "retries"),
        ({"schedule": pb.Schedule(windows=[pb.Window(start="25:00")])}, "schedule.windows[0].start"),
        (
            {"schedule": pb.Schedule(windows=[pb.Window(start="1:00", end="02:00", days=["x"])])},
            "schedule.windows[0].days[0]",
        ),
        (
            {"schedule": pb.Schedule(windows=[pb.Window(start="01:00", end="02:00", time_zone="../etc")])},
            "schedule.windows[0].time_zone",
        ),
        ({"schedule": pb.Schedule(windows=[pb.Window()] * 65)}, "schedule.windows"),
        ({"schedule": pb.Schedule(embargoes=[pb.Embargo()])}, "schedule.embargoes[0].start"),
        (
            {
                "schedule": pb.Schedule(
                    embargoes=[
                        pb.Embargo(
                            start=timestamp_pb2.Timestamp(seconds=5), end=timestamp_pb2.Timestamp(seconds=5)
                        )
                    ]
                )
            },
            "schedule.embargoes[0].end",
        ),
        (
            {"schedule": pb.Schedule(embargoes=[pb.Embargo(start=timestamp_pb2.Timestamp(seconds=2**62))])},
            "schedule.embargoes[0].start",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_everything_malformed_has_a_path(changes: dict[str, Any], path: str) -> None:
    assert path in violations(**changes)


def test_a_backoff_above_the_default_bound_lifts_it() -> None:
    rule = pb.RetryRule(retry="RETRY_CLASS_CALL", attempts=2)
    rule.backoff.FromTimedelta(timedelta(minutes=9))
    spec = read_spec(pb.RolloutSpec(name="k", target=pb.Target(artifact="a"), retries=[rule]))
    assert spec.retries[Retry.CALL] == core.RetryRule(2, timedelta(minutes=9), timedelta(minutes=9))


@given(st.binary(max_size=300))
def test_reading_is_total(data: bytes) -> None:
    proto = pb.RolloutSpec()
    try:
        proto.ParseFromString(data)
    except Exception:
        return
    try:
        spec = read_spec(proto)
    except InvalidSpec:
        return
    assert read_spec(spec_of(spec)) == spec


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_durations_and_instants_are_total(seconds: int, nanos: int) -> None:
    span = read_duration(duration_pb2.Duration(seconds=seconds, nanos=nanos))
    assert span is None or abs(span) < timedelta(days=365 * 10_001)
    instant = read_instant(timestamp_pb2.Timestamp(seconds=seconds, nanos=nanos))
    assert instant is None or instant.tzinfo is UTC


def test_durations_are_said_in_their_largest_unit() -> None:
    spans = [timedelta(seconds=s) for s in (0, 90, 300, 7200, 366 * 86400)]
    assert [say(span) for span in spans] == ["0s", "90s", "5m", "2h", "366d"]
