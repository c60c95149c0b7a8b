"""Whom a node dials, and when: the order is its own, losses spread, nobody hammers and nobody is given up."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_agent.core.rota import DialPolicy, Rota

THREE = ("a:1", "b:1", "c:1")


class Top:
    """Draws the longest wait."""

    def uniform(self, _a: float, b: float, /) -> float:
        return b


def waits(rota: Rota, number: int, **how: bool) -> list[float]:
    return [rota.failed(**how) for _ in range(number)]  # type: ignore[arg-type]


def test_one_address_backs_off_exponentially_up_to_the_bound() -> None:
    rota = Rota(("a:1",), Top())
    assert waits(rota, 8) == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert rota.address == "a:1"


def test_no_address_is_one_without_a_name() -> None:
    assert Rota((), Top()).order == ("",)


def test_a_round_goes_over_all_addresses_almost_at_once_and_then_backs_off() -> None:
    rota = Rota(THREE, Top())
    seen = [rota.address]
    told = []
    for _ in range(9):
        told.append(rota.failed())
        seen.append(rota.address)
    assert told == [0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 0.5, 0.5, 2.0]
    assert seen[:3] == seen[3:6] == seen[6:9]
    assert set(seen) == set(THREE)


def test_where_the_link_lasted_failures_are_forgotten_and_the_address_stays() -> None:
    rota = Rota(("a:1",), Top())
    waits(rota, 6)
    rota.lasted()
    assert rota.failed() == 0.5
    three = Rota(THREE, Top())
    at = three.address
    three.lasted()
    assert three.address == at


def test_the_caller_bounds_the_wait_and_never_lengthens_it() -> None:
    rota = Rota(("a:1",), Top())
    waits(rota, 6)
    assert rota.failed(most_s=5.0) == 5.0
    assert rota.failed(most_s=3000.0) == 30.0
    assert Rota(("a:1",), Top()).failed(was_up=True, most_s=0.5) == 0.5


def test_refused_by_all_it_tries_slowly_and_by_some_it_goes_on() -> None:
    rota = Rota(("a:1",), Top())
    assert waits(rota, 6, refused=True) == [60.0, 120.0, 240.0, 480.0, 600.0, 600.0]
    assert rota.failed() == 0.5, "what time does heal ends the slowness"
    two = Rota(("a:1", "b:1"), Top())
    assert [two.failed(refused=r) for r in (True, True, True, False, True, True)] == [
        0.5,
        60.0,
        0.5,
        0.5,
        0.5,
        60.0,
    ]


def test_an_address_given_twice_is_dialled_once_a_round() -> None:
    assert Rota(("a:1", "a:1"), Top()).order == ("a:1",)


def test_links_spread_over_the_replicas_and_those_of_a_lost_one_over_the_rest() -> None:
    rotas = [Rota(THREE, random.Random(f"node-{i}")) for i in range(3000)]
    first = Counter(rota.address for rota in rotas)
    assert all(900 <= first[a] <= 1100 for a in THREE), first
    orphans = [rota for rota in rotas if rota.address == "b:1"]
    for rota in orphans:
        rota.failed(was_up=True)
    then = Counter(rota.address for rota in orphans)
    assert then["b:1"] == 0
    assert all(420 <= then[a] <= 580 for a in ("a:1", "c:1")), then


def test_a_thousand_lost_links_do_not_land_as_one_herd() -> None:
    policy = DialPolicy()
    drawn = [Rota(THREE, random.Random(i)).failed(was_up=True) for i in range(1000)]
    tenths = Counter(int(wait / policy.spread_s * 10) for wait in drawn)
    assert set(tenths) == set(range(10)), "the whole spread is used, and nothing beyond it"
    assert max(tenths.values()) <= 140, tenths


@given(
    st.integers(1, 4),
    st.lists(
        st.tuples(st.booleans(), st.booleans(), st.none() | st.floats(0.5, 100), st.booleans()), max_size=40
    ),
    st.integers(0, 1000),
)
def test_every_wait_is_bounded_and_every_address_has_its_turn(
    number: int, story: list[tuple[bool, bool, float | None, bool]], seed: int
) -> None:
    policy = DialPolicy()
    rota = Rota([f"h{i}:1" for i in range(number)], random.Random(seed), policy)
    for was_up, refused, most_s, lasted in story:
        if lasted:
            rota.lasted()
        before = rota.order.index(rota.address)
        wait = rota.failed(was_up=was_up, refused=refused, most_s=most_s)
        assert rota.order.index(rota.address) == (before + 1) % number
        limit = policy.slow_most_s if refused else policy.most_s
        assert 0 <= wait <= limit
        if most_s is not None and not refused:
            assert wait <= most_s


def test_a_large_fleet_comes_back_over_a_longer_time() -> None:
    assert Rota(THREE, Top()).failed(was_up=True, spread_s=20.0) == 20.0
    assert Rota(THREE, Top()).failed(was_up=True, spread_s=20.0, most_s=5.0) == 5.0
    assert Rota(THREE, Top()).failed(was_up=True, spread_s=100.0) == 30.0
    assert Rota(THREE, Top()).failed(was_up=True, spread_s=1.0) == 3.0
    assert Rota(THREE, Top()).failed(spread_s=20.0) == 0.5, "nobody was linked, nobody comes back"


def test_a_policy_of_ones_own() -> None:
    rota = Rota(("a:1",), Top(), DialPolicy(first_s=0.1, most_s=0.3, spread_s=0.2))
    assert rota.failed(was_up=True) == pytest.approx(0.2)
    assert waits(rota, 3) == pytest.approx([0.2, 0.3, 0.3])
