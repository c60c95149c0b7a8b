"""How a watch ends, and how it outlives the orchestrator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from liveroll.v1 import rollout_pb2 as pb

from orchestrator.cli import follow
from orchestrator.cli.client import Stream
from orchestrator.cli.failure import Exit, Failed
from orchestrator.cli.follow import Follow
from orchestrator.cli.watch import EXITS, Screen, exit_of, is_over
from tests.unit.cli import samples
from tests.unit.cli.fake_time import Time
from tests.unit.cli.golden import drawn


def update(cursor: str) -> pb.WatchRolloutResponse:
    return pb.WatchRolloutResponse(rollout=samples.rollout(), cursor=cursor)


class Script:
    """A client whose watches give what is listed, one list a call; an exception ends one."""

    def __init__(self, *calls: list[Any]) -> None:
        self.calls = list(calls)
        self.cursors: list[str] = []

    def watch(self, rollout: str, cursor: str = "") -> Iterator[Any]:
        self.cursors.append(cursor)
        for item in self.calls.pop(0):
            if isinstance(item, Failed):
                raise item
            yield item


def follow_of(script: Script) -> Follow[pb.WatchRolloutResponse]:
    return Follow(
        lambda after: cast(Stream, script.watch("k", after)),
        lambda update: update.cursor,
        again="liveroll watch k --cursor",
    )


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(follow, "time", made)
    return made


def lost(reason: str = "UNREACHABLE") -> Failed:
    return Failed(Exit.UNREACHABLE, "gone", reason)


def test_a_lost_connection_is_sought_again_from_the_cursor(time: Time) -> None:
    script = Script([update("a:1"), lost()], [lost()], [update("a:2")])
    following = follow_of(script)
    assert [None if u is None else u.cursor for u in following] == ["a:1", None, None, "a:2"]
    assert script.cursors == ["", "a:1", "a:1"]
    assert time.naps == 2


def test_a_slow_reader_goes_on_from_its_cursor() -> None:
    slow = Failed(Exit.BLOCKED, "slow", "SLOW_READER")
    script = Script([update("a:1"), slow], [update("a:2")])
    following = follow_of(script)
    assert [u.cursor for u in following if u is not None] == ["a:1", "a:2"]


@pytest.mark.parametrize(
    "script",
    [
        Script([lost()]),
        Script([update("a:1"), Failed(Exit.INVALID, "trimmed", "OUT_OF_RANGE")]),
    ],
    ids=["never reached", "refused"],
)
def test_what_waiting_does_not_mend_is_raised(script: Script) -> None:
    with pytest.raises(Failed):
        list(follow_of(script))


def test_a_cursor_that_is_out_of_range_comes_with_the_commands_that_go_on() -> None:
    fields = {"first_available": "b:0", "head": "b:7"}
    gone = Failed(Exit.INVALID, "a:1 is of another life of the store", "OUT_OF_RANGE", fields=fields)
    with pytest.raises(Failed) as caught:
        list(follow_of(Script([update("a:1"), lost()], [gone])))
    assert caught.value.lines() == [
        "liveroll: a:1 is of another life of the store",
        "    All that is kept: liveroll watch k --cursor b:0",
        "    Only what is new: liveroll watch k --cursor b:7",
    ]


@pytest.mark.parametrize("state", sorted(EXITS))
def test_every_end_has_its_exit_code(state: str) -> None:
    made = samples.rollout(state)
    assert exit_of(made) is EXITS[state]


def test_a_halt_ends_a_watch_once_nothing_is_in_flight() -> None:
    made = samples.halted()
    assert not is_over(made)
    made.waves[1].in_progress = 0
    assert is_over(made)
    assert not is_over(made, through_halt=True)
    assert not is_over(samples.rollout("RUNNING"))
    assert is_over(samples.cancelled(), through_halt=True)


def test_whoever_gives_up_says_where_to_go_on(time: Time) -> None:
    time.nap_s = follow.PATIENCE_S
    script = Script([update("a:1"), lost()], [lost()], [lost()])
    with pytest.raises(Failed) as caught:
        list(follow_of(script))
    assert caught.value.exit is Exit.UNREACHABLE
    assert caught.value.remedy.endswith("liveroll watch k --cursor a:1")


def test_an_orchestrator_that_was_there_is_waited_for_though_it_had_told_nothing() -> None:
    following = follow_of(Script([lost("SHUTTING_DOWN")], [lost()], []))
    assert list(following) == [None, None]
    assert following.onward == "liveroll watch k"


def test_the_first_line_of_a_live_view_says_that_the_connection_is_lost() -> None:
    screen = Screen()
    assert drawn(screen.draw()).startswith("waiting for the orchestrator")
    screen.rollout, screen.lost = samples.rollout(), True
    assert drawn(screen.draw()).startswith(
        "connection lost; trying again for 120 s; what follows may be old\n"
    )
    screen.lost = False
    assert drawn(screen.draw()).startswith("kernel-6.19.3")
