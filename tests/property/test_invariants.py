"""Each promise has rows that break exactly it, and rows beside it that break nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest

from orchestrator.core.invariants import Broken, Checker, check
from orchestrator.core.invariants_starts import is_open
from orchestrator.core.model import (
    AttemptRow,
    DesiredPrepare,
    DesiredProceed,
    Event,
    FleetRow,
    Maintenance,
    NewEvent,
    NodeRow,
    Row,
    Stamp,
)
from orchestrator.core.phases import Goal, Kind, Method, Outcome, Phase, Verdict
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.spec import (
    Amount,
    Budgets,
    DomainBudget,
    Embargo,
    Promotion,
    RollbackPolicy,
    Schedule,
    Window,
)
from tests.unit.core_ops.build import (
    ARTIFACT,
    INCARNATION,
    NEW,
    NOW,
    OLD,
    attempt,
    member,
    node,
    rollout,
    spec,
)

PAIR = (OLD, NEW, "m1")
LIVE = {"verdict": Verdict.LIVE_UPDATED, "settled_at": NOW}


def base(**fields: Any) -> list[Row]:
    """Six members in zones a and b, the canary wave done; n00 bakes."""
    budgets = Budgets(Amount(count=2), Amount(count=2), domain=DomainBudget("zone", Amount(count=2)))
    campaign = rollout(
        6,
        **{"wave": 1, "pairs_passed": frozenset({PAIR}), "spec": spec(budgets=budgets), **fields},
    )
    rows: list[Row] = [campaign]
    for i in range(6):
        n = f"n{i:02}"
        rows += [node(n, labels={"zone": "ab"[i % 2]}), member(n, wave=min(i, 1), position=i)]
    return [*rows, attempt("n00", Phase.BAKING, **LIVE)]


def prepare(node_id: str, generation: int = 1, **fields: Any) -> list[Row]:
    n = node(node_id, labels={"zone": "ab"[int(node_id[1:]) % 2]})
    wanted = DesiredPrepare(generation, ARTIFACT, "")
    return [
        replace(
            n, desired=wanted, command_serial=generation, attempt=generation, highest_generation=generation
        ),
        attempt(node_id, generation=generation, **{"wave": 1, "domains": n.labels, **fields}),
    ]


def proceed(node_id: str) -> list[Row]:
    wanted = DesiredProceed(1, Stamp("b", timedelta(0)), timedelta(seconds=30))
    return [node(node_id, desired=wanted, command_serial=9, highest_generation=1)]


def events(*seqs: int, incarnation: str = INCARNATION) -> list[Event]:
    return [Event(incarnation, seq, NOW, NewEvent("x.y", "z")) for seq in seqs]


def look(
    before: Sequence[Row],
    rows: Sequence[Row],
    told: Sequence[Event] = (),
    policy: FleetPolicy | None = None,
    now: datetime = NOW,
) -> list[Broken]:
    return check(before, rows, told, policy=policy or FleetPolicy(), incarnation=INCARNATION, now=now)


def broken(found: Sequence[Broken]) -> set[str]:
    return {b.invariant for b in found}


TWO_OPEN = [*base(), *prepare("n01"), *prepare("n02")]
TIGHT = {"spec": spec(budgets=Budgets(Amount(count=6), Amount(count=2)))}
WIDE = Budgets(Amount(count=6), Amount(count=6))
CLOSED = Schedule(embargoes=(Embargo(NOW - timedelta(hours=1), NOW + timedelta(hours=1)),))
FLEETWIDE = FleetPolicy(max_unavailable=Amount(count=1))
FLEET_BLACKOUT = FleetPolicy(max_in_blackout=Amount(count=1))

MUTANTS: list[tuple[str, list[Row], list[Row], set[str], FleetPolicy | None]] = [
    ("a start within every budget", base(), prepare("n01"), set(), None),
    ("two at once", base(), [*prepare("n01"), *prepare("n02")], set(), None),
    (
        "one more than max_unavailable",
        [
            *base(spec=spec(budgets=WIDE)),
            *prepare("n01"),
            *prepare("n02"),
            rollout(
                6,
                wave=1,
                pairs_passed=frozenset({PAIR}),
                spec=spec(budgets=Budgets(Amount(count=2), Amount(count=6))),
            ),
        ],
        prepare("n03"),
        {"I1"},
        None,
    ),
    (
        "a broken node counts",
        [*base(), node("n04", healthy=False), node("n05", link_up=False)],
        prepare("n03"),
        {"I1"},
        None,
    ),
    (
        "a node in maintenance does not",
        [
            *base(),
            node("n04", healthy=False, maintenance=Maintenance("a", "b")),
            node("n05", written_off="x", link_up=False),
        ],
        prepare("n03"),
        set(),
        None,
    ),
    (
        "an expired maintenance is none",
        [
            *base(),
            node("n04", healthy=False, maintenance=Maintenance("a", "b", NOW)),
            node("n05", healthy=False),
        ],
        prepare("n03"),
        {"I1"},
        None,
    ),
    (
        "a start on a broken node takes no slot",
        [*base(), node("n04", healthy=False), node("n05", healthy=False)],
        prepare("n05"),
        set(),
        None,
    ),
    (
        "a domain over its cap",
        [
            *base(
                spec=spec(
                    budgets=Budgets(
                        Amount(count=6), Amount(count=6), domain=DomainBudget("zone", Amount(count=1))
                    )
                )
            ),
            *prepare("n01"),
        ],
        prepare("n03"),
        {"I1"},
        None,
    ),
    (
        "a node that moved counts in both domains",
        [
            *base(
                spec=spec(
                    budgets=Budgets(
                        Amount(count=6), Amount(count=6), domain=DomainBudget("zone", Amount(count=1))
                    )
                )
            ),
            *prepare("n01", domains={"zone": "a"}),
        ],
        prepare("n02"),
        {"I1"},
        None,
    ),
    ("the fleet's own bound", [*base(), *prepare("n01")], prepare("n02"), {"I1"}, FLEETWIDE),
    (
        "a rollback's budget counts above its baseline",
        [
            *base(
                goal=Goal.BACK,
                rollback_baseline=1,
                spec=spec(rollback=RollbackPolicy(max_in_blackout=Amount(count=9))),
            ),
            node("n04", healthy=False),
        ],
        prepare("n00", 2, kind=Kind.ROLLBACK),
        set(),
        None,
    ),
    (
        "one rollback too many",
        [
            *base(goal=Goal.BACK, spec=spec(rollback=RollbackPolicy(max_in_blackout=Amount(count=9)))),
            node("n04", healthy=False),
        ],
        prepare("n00", 2, kind=Kind.ROLLBACK),
        {"I1"},
        None,
    ),
    (
        "one more than max_in_blackout",
        [*base(**TIGHT), *prepare("n01"), *prepare("n02")],
        prepare("n03"),
        {"I2"},
        None,
    ),
    ("the fleet's blackout bound", [*base(), *prepare("n01")], prepare("n02"), {"I2"}, FLEET_BLACKOUT),
    (
        "a lost attempt gave its slot back",
        [
            *base(**TIGHT),
            *prepare("n01"),
            *prepare("n02"),
            attempt("n02", Phase.LOST, ever_lost=True, settled_at=NOW),
        ],
        prepare("n03"),
        set(),
        None,
    ),
    (
        "a generation given out before",
        [*base(), node("n01", highest_generation=4)],
        [prepare("n01", 4)[1]],
        {"I3"},
        None,
    ),
    (
        "a fallen generation",
        [node("n01", highest_generation=4)],
        [node("n01", highest_generation=3)],
        {"I3"},
        None,
    ),
    ("a fallen link epoch", [node("n01", link_epoch=4)], [node("n01", link_epoch=3)], {"I3"}, None),
    (
        "another command under the same serial",
        [node("n01", command_serial=3)],
        [node("n01", command_serial=3, desired=DesiredPrepare(1, ARTIFACT, ""))],
        {"I3"},
        None,
    ),
    ("an attempt of another rollout", TWO_OPEN, [attempt("n01", rollout_id="other", wave=1)], {"I3"}, None),
    ("a second jump", [attempt("n01", Phase.UNWINDING)], [attempt("n01", Phase.JUMPING)], {"I3"}, None),
    (
        "a jump seen late",
        [attempt("n01", Phase.LOST, ever_lost=True)],
        [attempt("n01", Phase.JUMPING, ever_lost=True)],
        set(),
        None,
    ),
    ("a pair that has not passed", base(pairs_passed=frozenset()), prepare("n01"), {"I5"}, None),
    (
        "that pair's canary",
        base(pairs_passed=frozenset(), pair_canaries={"|".join(PAIR): "n01"}),
        prepare("n01"),
        set(),
        None,
    ),
    ("a wave whose turn has not come", base(wave=0), prepare("n01"), {"I5"}, None),
    (
        "a wave that nobody approved",
        base(spec=spec(promotion=Promotion.MANUAL)),
        prepare("n01"),
        {"I5"},
        None,
    ),
    (
        "an approved wave",
        base(spec=spec(promotion=Promotion.MANUAL), approved=frozenset({1})),
        prepare("n01"),
        set(),
        None,
    ),
    (
        "no rollback needs a canary",
        base(pairs_passed=frozenset()),
        prepare("n00", 2, kind=Kind.ROLLBACK),
        set(),
        None,
    ),
    ("paused", base(paused="x"), prepare("n01"), {"I6"}, None),
    ("halted", base(halted="X"), prepare("n01"), {"I6"}, None),
    ("halted, a rollback", base(halted="X"), prepare("n00", 2, kind=Kind.ROLLBACK), set(), None),
    ("stopped", [*base(), FleetRow(stopped="OPERATOR")], prepare("n01"), {"I6"}, None),
    ("cancelled", base(goal=Goal.CANCEL), prepare("n01"), {"I6"}, None),
    ("going back", base(goal=Goal.BACK), prepare("n01"), {"I6"}, None),
    ("ended", base(ended_at=NOW, ended_as="FAILED"), prepare("n01"), {"I6"}, None),
    ("under embargo", base(spec=spec(schedule=CLOSED)), prepare("n01"), {"I6"}, None),
    ("a start for no rollout", [node("n01")], prepare("n01"), {"I6"}, None),
    ("a jump while paused", [*base(paused="x"), *prepare("n01")[1:]], proceed("n01"), {"I6"}, None),
    (
        "a jump under embargo",
        [*base(spec=spec(schedule=CLOSED)), *prepare("n01")[1:]],
        proceed("n01"),
        {"I6"},
        None,
    ),
    ("a jump in time", [*base(), *prepare("n01")[1:]], proceed("n01"), set(), None),
    ("a jump in no attempt", base(), proceed("n01"), {"I6"}, None),
    (
        "success without a live update",
        [attempt("n01", Phase.FINISHING)],
        [attempt("n01", Phase.BAKING, verdict=Verdict.COLD_BOOT)],
        {"I11"},
        None,
    ),
    (
        "a reboot needs none",
        [attempt("n01", Phase.FINISHING, method=Method.DRAIN_REBOOT)],
        [attempt("n01", Phase.BAKING, method=Method.DRAIN_REBOOT)],
        set(),
        None,
    ),
    (
        "success with memory lost",
        [attempt("n01", Phase.FINISHING)],
        [attempt("n01", Phase.BAKING, verdict=Verdict.LIVE_UPDATED, workloads=2, memory_intact=1)],
        {"I11"},
        None,
    ),
    ("a failure forgotten", [attempt("n01", failed=True)], [attempt("n01")], {"I11"}, None),
    (
        "an updated member whose attempt is not",
        [*base(), attempt("n01", Phase.QUARANTINED, settled_at=NOW)],
        [member("n01", Outcome.UPDATED, generation=1)],
        {"I11"},
        None,
    ),
    (
        "an updated member without attempt",
        base(),
        [member("n01", Outcome.BAKING, generation=3)],
        {"I11"},
        None,
    ),
    ("an updated member", base(), [member("n00", Outcome.UPDATED, generation=1)], set(), None),
    ("success with members left", base(), [rollout(6, ended_at=NOW, ended_as="SUCCEEDED")], {"I11"}, None),
    (
        "rolled back with a node still across",
        [*base(), member("n00", Outcome.FAILED, crossed=True)],
        [rollout(6, ended_at=NOW, ended_as="ROLLED_BACK")],
        {"I11"},
        None,
    ),
    (
        "rolled back but for a written-off node",
        [*base(), member("n00", Outcome.WRITTEN_OFF, crossed=True)],
        [rollout(6, ended_at=NOW, ended_as="ROLLED_BACK")],
        set(),
        None,
    ),
    ("a failed end", base(), [rollout(6, ended_at=NOW, ended_as="FAILED")], set(), None),
    ("two open attempts", TWO_OPEN, prepare("n01", 2), {"I14"}, FleetPolicy()),
]


@pytest.mark.parametrize(
    ("name", "before", "rows", "expected", "policy"), MUTANTS, ids=[m[0] for m in MUTANTS]
)
def test_each_promise(
    name: str, before: list[Row], rows: list[Row], expected: set[str], policy: FleetPolicy | None
) -> None:
    if name == "two open attempts":
        before = [*before, rollout(6, wave=1, pairs_passed=frozenset({PAIR}), spec=spec(budgets=WIDE))]
    found = look(before, rows, policy=policy)
    assert broken(found) == expected, found
    assert all(b.message for b in found)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (events(1, 2, 3), set()),
        (events(2), {"I12"}),
        (events(1, 3), {"I12"}),
        (events(1, 1), {"I12"}),
        (events(1, incarnation="inc-b"), {"I12"}),
    ],
)
def test_events_are_gapless(told: list[Event], expected: set[str]) -> None:
    assert broken(look([], [], told)) == expected


def test_one_gap_is_told_once() -> None:
    checker = Checker([], policy=FleetPolicy(), incarnation=INCARNATION, head_seq=4)
    assert checker.committed([], events(5), NOW) == []
    assert len(checker.committed([], events(7), NOW)) == 1
    assert checker.committed([], events(8), NOW) == []


@pytest.mark.parametrize("age", [timedelta(0), timedelta(seconds=-1), timedelta(seconds=1)])
def test_no_report_that_crossed_the_plan_is_an_excuse(age: timedelta) -> None:
    """n04 and n05 fell ill while the PREPARE was on its way: its guard must have refused it."""
    checker = Checker(base(), policy=FleetPolicy(), incarnation=INCARNATION)
    for n in ("n04", "n05"):
        assert checker.committed([node(n, healthy=False)], [], NOW - age) == []
    assert broken(checker.committed(prepare("n03"), [], NOW)) == {"I1"}


def test_recovery_frees_the_slot() -> None:
    before = [*base(), node("n04", healthy=False), node("n05", healthy=False)]
    checker = Checker(before, policy=FleetPolicy(), incarnation=INCARNATION)
    checker.committed([node("n04")], [], NOW)
    assert checker.committed(prepare("n03"), [], NOW) == []


def test_labels_that_change_are_counted_anew() -> None:
    budgets = Budgets(Amount(count=6), Amount(count=6), domain=DomainBudget("zone", Amount(percent=34)))
    checker = Checker(base(spec=spec(budgets=budgets)), policy=FleetPolicy(), incarnation=INCARNATION)
    assert checker.committed(prepare("n01"), [], NOW) == []
    moved = node("n03", labels={"zone": "a"})
    assert checker.committed([moved], [], NOW) == []
    found = checker.committed(prepare("n05"), [], NOW)
    assert broken(found) == {"I1"}


BERLIN = Window(frozenset({0}), time(22), time(2), "Europe/Berlin")


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (datetime(2026, 3, 2, 21, 0, tzinfo=UTC), True),
        (datetime(2026, 3, 2, 20, 59, tzinfo=UTC), False),
        (datetime(2026, 3, 3, 0, 59, tzinfo=UTC), True),
        (datetime(2026, 3, 3, 1, 0, tzinfo=UTC), False),
        (datetime(2026, 3, 3, 22, 0, tzinfo=UTC), False),
    ],
)
def test_windows(at: datetime, expected: bool) -> None:
    assert is_open(Schedule((BERLIN,)), at) is expected


def test_the_row_before_the_checker_is_not_new() -> None:
    first: AttemptRow = attempt("n01", wave=1)
    row: NodeRow = node("n01", highest_generation=1)
    checker = Checker([*base(paused="x"), row, first], policy=FleetPolicy(), incarnation=INCARNATION)
    assert checker.committed([replace(first, phase=Phase.DRAINING)], [], NOW) == []
