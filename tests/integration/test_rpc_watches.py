"""The operators' streams: nothing repeated, nothing lost, nobody buffered for."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from liveroll.v1 import rollout_pb2 as pb

from orchestrator.core.model import Event
from orchestrator.rpc import boundary, watches
from orchestrator.rpc.views_out import event_of
from tests.integration.rpc_harness import ScriptedNode, Served, nodes, serving, spec


async def run_one(served: Served, name: str = "k") -> list[pb.WatchRolloutResponse]:
    """Create a rollout and watch it from before its first event to its end."""
    cursor = served.orchestrator.cursor()
    request = pb.CreateRolloutRequest(spec=spec(name), idempotency_key=name)
    await served.operators.CreateRollout(request)
    call = served.operators.WatchRollout(pb.WatchRolloutRequest(rollout=name, cursor=cursor))
    return [update async for update in call]


def seqs(updates: list[Any]) -> list[int]:
    return [event.seq for update in updates for event in update.events]


def reason_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    packed = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(packed).details[0].Unpack(info)  # type: ignore[arg-type]
    return info


async def test_a_watch_from_a_cursor_has_every_event_once_and_in_order() -> None:
    async with serving() as served, nodes(served, "n1", "n2"):
        updates = await run_one(served)
        told = seqs(updates)
        assert told == sorted(set(told))
        assert updates[0].events[0].kind == "rollout.created"
        assert updates[-1].rollout.state == pb.ROLLOUT_STATE_SUCCEEDED


async def test_resumed_from_any_cursor_it_tells_exactly_the_rest() -> None:
    async with serving() as served, nodes(served, "n1", "n2"):
        updates = await run_one(served)
        events = [event for update in updates for event in update.events]
        for at in (0, len(events) // 2, len(events) - 1):
            request = pb.WatchRolloutRequest(rollout="k", cursor=events[at].cursor)
            rest = [update async for update in served.operators.WatchRollout(request)]
            assert seqs(rest) == [event.seq for event in events[at + 1 :]]
            assert rest[0].rollout.state == pb.ROLLOUT_STATE_SUCCEEDED
        for update in updates:
            request = pb.WatchRolloutRequest(rollout="k", cursor=update.cursor)
            rest = [u async for u in served.operators.WatchRollout(request)]
            before = seqs(updates[: updates.index(update) + 1])
            assert before + seqs(rest) == seqs(updates)


async def test_a_watch_of_what_has_ended_is_one_snapshot() -> None:
    async with serving() as served, nodes(served, "n1"):
        await run_one(served)
        call = served.operators.WatchRollout(pb.WatchRolloutRequest(rollout="k"))
        updates = [update async for update in call]
        assert len(updates) == 1
        assert updates[0].cursor
        assert not updates[0].events


@pytest.mark.parametrize(
    ("cursor", "code"),
    [
        ("nonsense", grpc.StatusCode.INVALID_ARGUMENT),
        ("other:1", grpc.StatusCode.OUT_OF_RANGE),
        ("x" * 300, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_cursor_of_nothing_here_is_told(cursor: str, code: grpc.StatusCode) -> None:
    async with serving() as served, nodes(served, "n1"):
        await run_one(served)
        for call in (
            served.operators.WatchRollout(pb.WatchRolloutRequest(rollout="k", cursor=cursor)),
            served.operators.ListEvents(pb.ListEventsRequest(cursor=cursor)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is code


async def test_a_watch_of_an_unknown_rollout_is_not_found() -> None:
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.operators.WatchRollout(pb.WatchRolloutRequest(rollout="none")).read()
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_stopping_server_ends_watches_with_their_cursor() -> None:
    async with serving() as served:
        await ScriptedNode(served, "n1").connect()
        await served.operators.FleetStop(pb.FleetStopRequest(stop=True, reason="t", idempotency_key="s"))
        await served.operators.CreateRollout(pb.CreateRolloutRequest(spec=spec(), idempotency_key="1"))
        call = served.operators.WatchRollout(pb.WatchRolloutRequest(rollout="k"))
        first = await call.read()
        stopping = asyncio.create_task(served.rpc.stop(grace_s=5))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while isinstance(await call.read(), pb.WatchRolloutResponse):
                pass
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        info = reason_of(caught.value)
        assert info.reason == "SHUTTING_DOWN"
        assert info.metadata["cursor"].split(":")[0] == first.cursor.split(":")[0]
        await stopping


async def test_a_reader_that_does_not_read_is_cut_off_and_told_where_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut = asyncio.Event()

    async def refuse(context: Any, error: Exception, **more: Any) -> None:
        cut.set()
        await boundary.refuse(context, error, **more)

    sent = 0

    def fat(event: Event) -> pb.Event:
        """So that few events are more than any window on the way. There is room for the first, so the machine
        may take its time with it; the reader has little for the others."""
        nonlocal sent
        sent += 1
        if sent > 1:
            monkeypatch.setattr(watches, "SEND_TIMEOUT_S", 0.2)
        made = event_of(event)
        made.cause = "x" * 500_000
        return made

    monkeypatch.setattr(watches, "EVENTS_PAGE", 1)
    monkeypatch.setattr(watches, "refuse", refuse)
    monkeypatch.setattr(watches, "event_of", fat)
    async with serving() as served:
        await ScriptedNode(served, "n1").connect()
        for i in range(40):
            request = pb.FleetStopRequest(stop=i % 2 == 0, reason="t", idempotency_key=f"k{i}")
            await served.operators.FleetStop(request)
        call = served.operators.ListEvents(pb.ListEventsRequest())
        seen = [(await call.read()).events[0]]
        await cut.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while isinstance(page := await call.read(), pb.ListEventsResponse):
                seen += page.events
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        info = reason_of(caught.value)
        assert info.reason == "SLOW_READER"
        monkeypatch.setattr(watches, "event_of", event_of)
        monkeypatch.setattr(watches, "SEND_TIMEOUT_S", 30.0)
        again = served.operators.ListEvents(pb.ListEventsRequest(cursor=seen[-1].cursor))
        rest = [event async for page in again for event in page.events]
        told = [event.seq for event in (*seen, *rest)]
        assert told == list(range(told[0], served.orchestrator.head_seq + 1))


async def test_events_are_gapless_filtered_and_limited() -> None:
    async with serving() as served, nodes(served, "n1", "n2"):
        await run_one(served)
        everything = [page async for page in served.operators.ListEvents(pb.ListEventsRequest())]
        told = seqs(everything)
        assert told == list(range(told[0], told[0] + len(told)))
        request = pb.ListEventsRequest(node_id="n1")
        only = [e async for page in served.operators.ListEvents(request) for e in page.events]
        assert {event.node_id for event in only} == {"n1"}
        request = pb.ListEventsRequest(limit=3)
        few = [e async for page in served.operators.ListEvents(request) for e in page.events]
        assert [e.seq for e in few] == told[:3]
        request = pb.ListEventsRequest(cursor=few[-1].cursor, limit=2)
        more = [e async for page in served.operators.ListEvents(request) for e in page.events]
        assert [e.seq for e in more] == told[3:5]


async def test_following_events_sees_what_comes_later() -> None:
    async with serving() as served, nodes(served, "n1"):
        request = pb.ListEventsRequest(cursor=served.orchestrator.cursor(), follow=True)
        call = served.operators.ListEvents(request)
        await served.operators.FleetStop(pb.FleetStopRequest(stop=True, reason="t", idempotency_key="s"))
        page = await call.read()
        assert page.events[0].kind == "fleet.stopped"
        call.cancel()


async def test_watching_nodes_begins_with_all_and_goes_on_with_those_that_changed() -> None:
    async with serving() as served, nodes(served, "n1", "n2", "n3"):
        call = served.operators.WatchNodes(pb.WatchNodesRequest(selector="pool=prod"))
        first = await call.read()
        assert [node.node_id for node in first.nodes] == ["n1", "n2", "n3"]
        request = pb.SetMaintenanceRequest(
            nodes=["n2"], maintenance=pb.Maintenance(reason="r"), idempotency_key="1"
        )
        await served.operators.SetMaintenance(request)
        changed = await call.read()
        assert [node.node_id for node in changed.nodes] == ["n2"]
        call.cancel()


async def test_watching_nodes_of_which_there_are_none_says_so() -> None:
    async with serving() as served:
        call = served.operators.WatchNodes(pb.WatchNodesRequest())
        assert not (await call.read()).nodes
        call.cancel()
