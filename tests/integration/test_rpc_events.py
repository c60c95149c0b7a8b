"""ListEvents: what it filters, where it ends, and what it says when there is no going on."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from liveroll.v1 import rollout_pb2 as pb

from orchestrator.core.model import Change, NewEvent
from orchestrator.rpc import watches
from tests.integration.rpc_harness import ScriptedNode, Served, nodes, now, serving, spec


async def told(served: Served, **asked: Any) -> list[pb.Event]:
    """All events of one list."""
    pages = served.operators.ListEvents(pb.ListEventsRequest(**asked))
    return [event async for page in pages for event in page.events]


async def refused(call: Any) -> tuple[grpc.StatusCode, str, error_details_pb2.ErrorInfo]:
    """(code, sentence, machine-readable details) that end a stream."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while isinstance(await call.read(), pb.ListEventsResponse | pb.WatchRolloutResponse):
            pass
    packed = dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(packed).details[0].Unpack(info)  # type: ignore[arg-type]
    return caught.value.code(), caught.value.details() or "", info


async def happen(served: Served, number: int, kind: str = "made.up", actor: str = "nobody") -> None:
    for i in range(number):
        event = NewEvent(kind, f"{kind} {i}", actor=actor)
        await served.orchestrator._commits.commit(Change(events=(event,)))


async def forget(served: Served, up_to: int) -> None:
    """A trim."""
    await served.orchestrator._store.trim(
        keep_events_after=up_to, idempotency_before=now() - timedelta(days=1)
    )


async def roll(served: Served, name: str = "k") -> None:
    await served.operators.CreateRollout(pb.CreateRolloutRequest(spec=spec(name), idempotency_key=name))
    async for _ in served.operators.WatchRollout(pb.WatchRolloutRequest(rollout=name)):
        pass


async def test_every_event_says_who_why_and_of_what() -> None:
    async with serving() as served, nodes(served, "n1", "n2"):
        await served.operators.FleetStop(
            pb.FleetStopRequest(stop=True, reason="incident", idempotency_key="s")
        )
        await served.operators.FleetStop(pb.FleetStopRequest(stop=False, reason="over", idempotency_key="r"))
        await roll(served)
        events = await told(served)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert all(event.actor and event.kind and event.message and event.cursor for event in events)
        stopped = next(event for event in events if event.kind == "fleet.stopped")
        assert stopped.actor.startswith("local:")
        assert (stopped.cause, "incident" in stopped.message) == ("OPERATOR", True)
        attempts = [event for event in events if event.kind.startswith("attempt.")]
        assert all(event.rollout == "k" and event.attempt.generation == 1 for event in attempts)
        assert {event.actor for event in attempts} == {"orchestrator", "n1", "n2"}
        assert all(event.fields["phase"] for event in attempts if event.actor != "orchestrator")


async def test_kinds_and_actors() -> None:
    async with serving() as served, nodes(served, "n1", "n2"):
        await roll(served)
        everything = await told(served)
        for kinds in (["attempt"], ["attempt."], ["attempt.*"]):
            some = await told(served, kinds=kinds)
            assert [e.seq for e in some] == [e.seq for e in everything if e.kind.startswith("attempt.")]
        some = await told(served, kinds=["rollout.created", "wave"])
        assert {e.kind.partition(".")[0] for e in some} == {"rollout", "wave"}
        assert "rollout.ended" not in {e.kind for e in some}
        assert await told(served, kinds=["attempt.pre"]) == []
        mine = await told(served, actor="n1", until_cursor=everything[-1].cursor)
        assert mine == [e for e in everything if e.actor in ("n1", "local:n1")]
        person = next(e.actor for e in everything if e.kind == "rollout.created")
        assert person.startswith("local:")
        for name in (person, person.partition(":")[2]):
            assert [e.kind for e in await told(served, actor=name)] == ["rollout.created"]
        both = await told(served, actor="n1", kinds=["attempt"], node_id="n1", rollout="k", limit=2)
        assert both == [e for e in mine if e.kind.startswith("attempt.")][:2]


async def test_a_limit_counts_what_matches() -> None:
    async with serving() as served:
        await happen(served, 3, "a.b")
        await happen(served, 600, "x.y")
        await happen(served, 3, "a.b")
        assert [e.seq for e in await told(served, kinds=["a"], limit=5)] == [1, 2, 3, 604, 605]
        cursor = served.orchestrator.cursor(2)
        assert [e.seq for e in await told(served, cursor=cursor, kinds=["a"], limit=2)] == [3, 604]


async def test_from_and_until() -> None:
    async with serving() as served:
        await happen(served, 5)
        await asyncio.sleep(0.01)
        middle = now()
        await happen(served, 5)
        at = served.orchestrator.cursor
        assert [e.seq for e in await told(served, since_time=middle)] == [6, 7, 8, 9, 10]
        assert [e.seq for e in await told(served, until_time=middle)] == [1, 2, 3, 4, 5]
        assert [e.seq for e in await told(served, cursor=at(2), until_cursor=at(4))] == [3, 4]
        assert await told(served, cursor=at(4), until_cursor=at(4)) == []
        assert await told(served, cursor=at(6), until_cursor=at(4)) == []
        assert await told(served, since_time=middle, until_time=middle) == []
        # Followed, it ends there all the same.
        assert [e.seq for e in await told(served, until_cursor=at(3), follow=True)] == [1, 2, 3]
        assert [e.seq for e in await told(served, kinds=["z"], until_cursor=at(10), follow=True)] == []
        assert [e.seq for e in await told(served, until_time=middle, follow=True)] == [1, 2, 3, 4, 5]
        soon = now() + timedelta(seconds=0.2)
        assert len(await told(served, until_time=soon, follow=True)) == 10


@pytest.mark.parametrize(
    "asked",
    [
        {"cursor": "memory-1:1", "since_time": now()},
        {"until_cursor": "nonsense"},
        {"kinds": ["x"] * 60},
        {"actor": " "},
        {"since_time": {"seconds": -(10**14)}},
    ],
)
async def test_what_makes_no_sense_is_refused(asked: Any) -> None:
    async with serving() as served:
        await happen(served, 1)
        call = served.operators.ListEvents(pb.ListEventsRequest(**asked))
        assert (await refused(call))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_who_filters_hears_of_the_cursor_though_nothing_matches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watches, "PROGRESS_EVENTS", 20)
    monkeypatch.setattr(watches, "EVENTS_PAGE", 10)
    async with serving() as served:
        await happen(served, 50)
        request = pb.ListEventsRequest(kinds=["never"], follow=True, progress=True)
        call = served.operators.ListEvents(request)
        pages = [await call.read(), await call.read()]
        assert [page.cursor for page in pages] == [served.orchestrator.cursor(s) for s in (20, 40)]
        assert not any(page.events for page in pages)
        await forget(served, 39)
        assert await told(served, cursor=pages[-1].cursor, kinds=["never"]) == []
        await happen(served, 1, "never.say")
        page = await call.read()
        assert ([e.kind for e in page.events], page.cursor) == (["never.say"], served.orchestrator.cursor())
        call.cancel()
        silent = served.operators.ListEvents(pb.ListEventsRequest(kinds=["none"]))
        assert [page async for page in silent] == []


async def test_a_cursor_before_the_tail_says_where_the_log_begins() -> None:
    async with serving() as served:
        await happen(served, 20)
        at = served.orchestrator.cursor
        await forget(served, 12)
        for cursor in (at(3), at(11)):
            code, message, info = await refused(
                served.operators.ListEvents(pb.ListEventsRequest(cursor=cursor))
            )
            assert code is grpc.StatusCode.OUT_OF_RANGE
            assert (info.reason, info.metadata["why"]) == ("OUT_OF_RANGE", "TRIMMED")
            assert message == f"events after {cursor} are no longer kept"
            assert (info.metadata["first_available"], info.metadata["head"]) == (at(12), at(20))
        kept = await told(served, cursor=info.metadata["first_available"])
        assert [event.seq for event in kept] == list(range(13, 21))
        assert [event.seq for event in await told(served)] == list(range(13, 21))
        assert await told(served, cursor=info.metadata["head"]) == []


async def test_a_followed_log_that_is_trimmed_behind_the_reader_goes_on() -> None:
    async with serving() as served:
        await happen(served, 10)
        call = served.operators.ListEvents(pb.ListEventsRequest(follow=True))
        assert len((await call.read()).events) == 10
        await forget(served, 10)
        await happen(served, 2)
        assert [event.seq for event in (await call.read()).events] == [11, 12]
        call.cancel()


async def test_a_reader_that_a_trim_overtakes_is_told_and_skips_nothing_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watches, "EVENTS_PAGE", 1)
    async with serving() as served:
        await happen(served, 40)
        events_after, looked = served.orchestrator.events_after, 0

        async def slowly(*args: Any, **more: Any) -> Any:
            nonlocal looked
            looked += 1
            if looked == 5:
                await forget(served, 30)
            return await events_after(*args, **more)

        monkeypatch.setattr(served.orchestrator, "events_after", slowly)
        call = served.operators.ListEvents(pb.ListEventsRequest())
        seen = [(await call.read()).events[0].seq for _ in range(4)]
        code, _, info = await refused(call)
        assert (seen, code) == ([1, 2, 3, 4], grpc.StatusCode.OUT_OF_RANGE)
        assert info.metadata["first_available"] == served.orchestrator.cursor(30)


async def test_a_store_that_is_replaced_ends_every_watch_that_has_a_cursor() -> None:
    async with serving() as served:
        await ScriptedNode(served, "n1").connect()
        await served.operators.FleetStop(pb.FleetStopRequest(stop=True, reason="t", idempotency_key="s"))
        await served.operators.CreateRollout(pb.CreateRolloutRequest(spec=spec(), idempotency_key="1"))
        events = served.operators.ListEvents(pb.ListEventsRequest(follow=True))
        await events.read()
        rollout = served.operators.WatchRollout(pb.WatchRolloutRequest(rollout="k"))
        await rollout.read()
        watched = served.operators.WatchNodes(pb.WatchNodesRequest())
        assert [node.node_id for node in (await watched.read()).nodes] == ["n1"]
        old = served.orchestrator.incarnation
        served.orchestrator._events.incarnation = "another-life"
        served.orchestrator.feed.restart(served.orchestrator.head_seq)
        for call in (events, rollout):
            code, message, info = await refused(call)
            assert code is grpc.StatusCode.OUT_OF_RANGE
            assert (info.metadata["why"], "another life" in message) == ("OTHER_INCARNATION", True)
            assert info.metadata["cursor"].startswith(f"{old}:")
            assert info.metadata["first_available"] == "another-life:0"
            assert info.metadata["incarnation"] == "another-life"
        # A watch of nodes has no cursor that anybody keeps: it looks at all of them anew.
        request = pb.SetMaintenanceRequest(
            nodes=["n1"], maintenance=pb.Maintenance(reason="r"), idempotency_key="m"
        )
        await served.operators.SetMaintenance(request)
        assert [node.node_id for node in (await watched.read()).nodes] == ["n1"]
        watched.cancel()


async def test_a_replica_that_is_behind_waits_for_what_another_has_told() -> None:
    """The cursor is of an event that is committed, but not applied here yet."""
    async with serving() as served:
        await happen(served, 5)
        head = served.orchestrator.cursor()
        served.orchestrator.feed.restart(3)
        call = served.operators.ListEvents(pb.ListEventsRequest(cursor=head, follow=True))
        page = asyncio.create_task(call.read())
        behind = served.operators.ListEvents(pb.ListEventsRequest(cursor=served.orchestrator.cursor(6)))
        code, _, info = await refused(behind)
        assert (code, info.metadata["why"]) == (grpc.StatusCode.OUT_OF_RANGE, "NOT_YET")
        assert not page.done()
        await happen(served, 1, "at.last")
        assert [event.kind for event in (await page).events] == ["at.last"]
        call.cancel()
