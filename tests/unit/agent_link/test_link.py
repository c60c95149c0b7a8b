"""The link's rules, over a transport in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from liveroll.v1 import agent_pb2 as pb
from liveroll.v1 import common_pb2 as common

from node_agent.core.commands import Cancel
from node_agent.core.model import Problem
from node_agent.core.phases import Phase
from node_agent.core.report import Outcome
from node_agent.core.rota import DialPolicy, Rota
from node_agent.errors import JournalCorrupt, LinkError, Retry
from node_agent.runtime import link as link_module
from node_agent.runtime.link import WINDOW, Link, LinkView, is_active
from tests.unit.agent_link.fakes import FakeNetwork, FakeNode, FakeTransport


def cancel(command_id: str = "c1", generation: int = 4, node: str = "n1") -> pb.Command:
    ref = common.AttemptRef(node_id=node, generation=generation, incarnation="i1")
    return pb.Command(command_id=command_id, cancel=pb.Cancel(attempt=ref, reason="asked"))


@asynccontextmanager
async def running(
    node: FakeNode, network: FakeNetwork, views: list[LinkView] | None = None
) -> AsyncIterator[Link]:
    seen = views if views is not None else []
    rota = Rota((), random.Random(0), DialPolicy(first_s=0.0, most_s=0.0, spread_s=0.0))
    link = Link(node, network.connect, rota=rota, on_view=seen.append)
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        task.cancel()
        await asyncio.wait([task])


async def welcomed(network: FakeNetwork, **terms: object) -> FakeTransport:
    transport = await network.next()
    await transport.sent("hello")
    transport.welcome(**terms)  # type: ignore[arg-type]
    return transport


async def test_hello_goes_first_and_says_who_calls() -> None:
    node, network = FakeNode(), FakeNetwork()
    async with running(node, network):
        transport = await network.next()
        hello = (await transport.sent("hello")).hello
        assert (hello.node_id, hello.installation_id, hello.highest_generation) == ("n1", "installation", 3)
        assert hello.status.phase == common.PHASE_IDLE
        assert hello.boot_verdict == common.BOOT_VERDICT_SAME_BOOT
        assert dict(hello.labels) == {"zone": "a"}
        assert transport.up.empty(), "nothing goes up before the welcome"


async def test_welcome_is_believed_and_a_heartbeat_with_a_stamp_follows_at_once() -> None:
    node, network = FakeNode(), FakeNetwork()
    async with running(node, network) as link:
        transport = await welcomed(network)
        beat = (await transport.sent("heartbeat")).heartbeat
        assert beat.stamp.boot_id == "boot-1"
        assert beat.stamp.boottime.ToMilliseconds() == 12500
        assert node.incarnations == [("i1", 2)]
        assert link.view.up
        assert link.view.terms is not None
        assert link.view.terms.link_epoch == 7


async def test_reports_are_replayed_on_every_new_link_until_acknowledged() -> None:
    node, network = FakeNode(), FakeNetwork()
    node.add(2, 5, 9)
    async with running(node, network):
        first = await welcomed(network)
        assert [await first.report() for _ in range(3)] == [2, 5, 9]
        first.ack(5)
        first.end()
        second = await welcomed(network)
        assert await second.report() == 9
        assert node.acknowledged == [5]


async def test_what_the_welcome_acknowledges_is_not_sent_again() -> None:
    node, network = FakeNode(), FakeNetwork()
    node.add(2, 5, 9)
    async with running(node, network):
        transport = await welcomed(network, acknowledged=7)
        assert await transport.report() == 9
        assert node.acknowledged == [5]
        assert node.numbered_from == 7, "somebody may have told it in this node's name"


async def test_a_new_report_is_sent_once_and_acks_may_repeat_or_come_late() -> None:
    node, network = FakeNode(), FakeNetwork()
    async with running(node, network):
        transport = await welcomed(network)
        node.add(1, 2)
        assert [await transport.report() for _ in range(2)] == [1, 2]
        transport.ack(2)
        transport.ack(1)
        transport.ack(2)
        node.add(3)
        assert await transport.report() == 3
        assert node.acknowledged == [2]


async def test_an_ack_never_reaches_beyond_what_was_sent() -> None:
    node, network = FakeNode(), FakeNetwork()
    node.add(1)
    async with running(node, network):
        transport = await welcomed(network)
        assert await transport.report() == 1
        transport.ack(10_000)
        node.add(2)
        assert await transport.report() == 2
        assert node.acknowledged == [1]


async def test_at_most_a_window_of_reports_is_under_way() -> None:
    node, network = FakeNode(), FakeNetwork()
    node.add(*range(1, WINDOW + 11))
    async with running(node, network):
        transport = await welcomed(network)
        assert [await transport.report() for _ in range(WINDOW)] == list(range(1, WINDOW + 1))
        await transport.sent("heartbeat")
        assert transport.up.empty()
        transport.ack(3)
        assert [await transport.report() for _ in range(3)] == [WINDOW + 1, WINDOW + 2, WINDOW + 3]


async def test_a_command_reaches_the_runner_every_time_it_is_sent() -> None:
    node, network = FakeNode(), FakeNetwork()
    node.outcome = Outcome.ALREADY_DONE
    async with running(node, network):
        transport = await welcomed(network)
        await transport.sent("heartbeat")
        transport.command(cancel())
        transport.command(cancel())
        await transport.sent("heartbeat")
        async with asyncio.timeout(5):
            while len(node.commands) < 2:
                await transport.sent("heartbeat")
        assert all(isinstance(c, Cancel) and c.attempt.generation == 4 for c in node.commands)


@pytest.mark.parametrize(
    "command",
    [
        pb.Command(command_id="c1"),
        pb.Command(),
        cancel(node="other"),
        cancel(generation=0),
        pb.Command(command_id="c1", stage=pb.Stage()),
        pb.Command(command_id="c1", prepare=pb.Prepare()),
        pb.Command(command_id="c1", proceed=pb.Proceed()),
        pb.Command(command_id="c1", commit=pb.Commit()),
    ],
)
async def test_a_malformed_command_is_refused_and_the_link_goes_on(command: pb.Command) -> None:
    node, network = FakeNode(), FakeNetwork()
    async with running(node, network):
        transport = await welcomed(network)
        transport.command(command)
        node.add(1)
        assert await transport.report() == 1
        transport.command(cancel("c2"))
        transport.end()
        await welcomed(network)
    assert [problem.reason for _, problem in node.refused] == ["COMMAND_MALFORMED"]
    assert [c.command_id for c in node.commands] == ["c2"]


@pytest.mark.parametrize(
    "message", [pb.LinkResponse(), pb.LinkResponse(welcome=pb.Welcome()), None, LinkError("cut")]
)
async def test_a_broken_protocol_or_a_cut_ends_this_link_only(message: object) -> None:
    node, network = FakeNode(), FakeNetwork()
    views: list[LinkView] = []
    async with running(node, network, views):
        first = await welcomed(network)
        await first.sent("heartbeat")
        first.down.put_nowait(message)  # type: ignore[arg-type]
        second = await welcomed(network)
        await second.sent("heartbeat")
    assert [v.up for v in views] == [True, False, True]
    assert views[-1].connects == 2
    assert network.closed == 2


async def test_no_welcome_no_link() -> None:
    node, network = FakeNode(), FakeNetwork()
    async with running(node, network) as link:
        first = await network.next()
        first.ack(3)
        await network.next()
        assert link.view.problem is not None
        assert link.view.problem.reason == "LINK_PROTOCOL"
        assert node.acknowledged == []


async def test_an_unanswered_hello_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "HANDSHAKE_S", 0.01)
    node, network = FakeNode(), FakeNetwork()
    async with running(node, network) as link:
        await network.next()
        await network.next()
        assert link.view.problem is not None
        assert link.view.problem.reason == "HELLO_UNANSWERED"


async def test_a_peer_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "SEND_S", 0.01)
    node, network = FakeNode(), FakeNetwork()
    async with running(node, network) as link:
        first = await welcomed(network)
        await first.sent("heartbeat")
        first.stalled = True
        node.add(1)
        second = await network.next()
        assert link.view.problem is not None
        assert link.view.problem.reason == "PEER_STALLED"
        await second.sent("hello")
        second.welcome()
        assert await second.report() == 1


async def test_a_refusal_that_time_does_not_heal_is_said_and_retried_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await real(0)

    monkeypatch.setattr(link_module.asyncio, "sleep", sleep)
    node, network = FakeNode(), FakeNetwork()
    network.refuse = [LinkError("this node id belongs to another", reason="NODE_ID_CONFLICT")] * 2
    views: list[LinkView] = []
    async with running(node, network, views):
        await welcomed(network)
    assert views[0].refused
    assert views[0].problem is not None
    assert views[0].problem.reason == "NODE_ID_CONFLICT"
    assert 30 <= waits[0] <= 60
    assert 60 <= waits[1] <= 120


@pytest.mark.parametrize(
    ("phase", "longest"), [(Phase.IDLE, [8.0, 16.0, 30.0, 30.0, 30.0]), (Phase.VERIFYING, [5.0] * 5)]
)
async def test_waits_between_links_grow_and_are_bounded(
    monkeypatch: pytest.MonkeyPatch, phase: Phase, longest: list[float]
) -> None:
    waits: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await real(0)

    class TopOfRange:
        def uniform(self, _low: float, high: float, /) -> float:
            return high

    monkeypatch.setattr(link_module.asyncio, "sleep", sleep)
    node, network = FakeNode(), FakeNetwork()
    node.phase = phase
    network.refuse = [LinkError("away", reason="UNREACHABLE")] * 9
    link = Link(node, network.connect, rota=Rota((), TopOfRange()))
    task = asyncio.create_task(link.run())
    await network.next()
    task.cancel()
    await asyncio.wait([task])
    assert waits == [0.5, 1.0, 2.0, 4.0, *longest]


async def test_a_welcomed_node_dials_again_at_least_as_often_as_it_would_beat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await real(0)

    class TopOfRange:
        def uniform(self, _low: float, high: float, /) -> float:
            return high

    monkeypatch.setattr(link_module.asyncio, "sleep", sleep)
    node, network = FakeNode(), FakeNetwork()
    node.phase = Phase.PRESERVED
    link = Link(node, network.connect, rota=Rota((), TopOfRange()))
    task = asyncio.create_task(link.run())
    transport = await network.next()
    await transport.sent("hello")
    terms = pb.Welcome(incarnation="i1")
    terms.active_heartbeat.FromSeconds(3)
    terms.idle_heartbeat.FromSeconds(3000)
    transport.down.put_nowait(pb.LinkResponse(welcome=terms))
    await transport.sent("heartbeat")
    network.refuse = [LinkError("away", reason="UNREACHABLE")] * 5
    transport.end()
    await network.next()
    task.cancel()
    await asyncio.wait([task])
    assert waits == [3.0, 1.0, 2.0, 3.0, 3.0, 3.0]


@pytest.mark.parametrize(("idle_s", "longest"), [(10, 3.0), (400, 20.0), (4000, 30.0)])
async def test_the_larger_the_fleet_the_longer_its_lost_links_take_to_come_back(
    monkeypatch: pytest.MonkeyPatch, idle_s: int, longest: float
) -> None:
    waits: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await real(0)

    class TopOfRange:
        def uniform(self, _low: float, high: float, /) -> float:
            return high

    monkeypatch.setattr(link_module.asyncio, "sleep", sleep)
    node, network = FakeNode(), FakeNetwork()
    rota = Rota(("a:1", "b:1"), TopOfRange())
    link = Link(node, network.connect, rota=rota)
    task = asyncio.create_task(link.run())
    transport = await network.next()
    await transport.sent("hello")
    terms = pb.Welcome(incarnation="i1")
    terms.active_heartbeat.FromSeconds(5)
    terms.idle_heartbeat.FromSeconds(idle_s)
    transport.down.put_nowait(pb.LinkResponse(welcome=terms))
    await transport.sent("heartbeat")
    assert link.view.address == "a:1"
    transport.end()
    await network.next()
    assert (link.view.up, link.view.address, rota.address) == (False, "a:1", "b:1")
    task.cancel()
    await asyncio.wait([task])
    assert waits == [longest]


async def test_a_link_that_lasted_and_is_lost_is_sought_at_the_next_address_within_the_spread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await real(0)

    class TopOfRange:
        def uniform(self, _low: float, high: float, /) -> float:
            return high

    monkeypatch.setattr(link_module.asyncio, "sleep", sleep)
    monkeypatch.setattr(link_module, "STEADY_S", 0.0)
    node, network = FakeNode(), FakeNetwork()
    rota = Rota(("a:1", "b:1"), TopOfRange())
    dialled: list[str] = []

    @asynccontextmanager
    async def connect() -> AsyncIterator[FakeTransport]:
        dialled.append(rota.address)
        async with network.connect() as transport:
            yield transport

    link = Link(node, connect, rota=rota)
    task = asyncio.create_task(link.run())
    for _ in range(3):
        transport = await welcomed(network)
        await transport.sent("heartbeat")
        transport.down.put_nowait(LinkError("the replica is shutting down", reason="SHUTTING_DOWN"))
    await network.next()
    task.cancel()
    await asyncio.wait([task])
    assert dialled == ["a:1", "b:1", "a:1", "b:1"]
    assert waits == [3.0, 3.0, 3.0]


async def test_what_the_runner_raises_comes_out() -> None:
    node, network = FakeNode(), FakeNetwork()
    node.fail_with = JournalCorrupt("torn")
    link = Link(node, network.connect)
    task = asyncio.create_task(link.run())
    transport = await welcomed(network)
    transport.command(cancel())
    with pytest.raises(JournalCorrupt):
        await task


async def test_a_node_that_turns_ready_or_not_says_so_at_once_and_once() -> None:
    node, network = FakeNode(), FakeNetwork()
    async with running(node, network):
        transport = await welcomed(network, beat_s=3000)
        beat = (await transport.sent("heartbeat")).heartbeat
        assert not beat.status.HasField("not_ready")
        for seq, found in enumerate(
            (
                Problem(
                    "LUO_NOT_NORMAL", Retry.FIX_STATE, "LUO is prepared", "undo it", {"luo_state": "prepared"}
                ),
                Problem("LUO_NOT_NORMAL", Retry.FIX_STATE, "LUO is updated", "finish it"),
                None,
            ),
            start=1,
        ):
            node.finds = found
            node.changes.set()
            beat = (await transport.sent("heartbeat")).heartbeat
            if found is None:
                assert not beat.status.HasField("not_ready")
            else:
                said = beat.status.not_ready
                assert (said.reason, said.message, said.remedy) == (found.reason, found.message, found.remedy)
                assert dict(said.fields) == found.fields
            node.add(seq)
            assert await transport.report() == seq
            assert transport.up.empty(), "nothing has turned"


async def test_what_is_only_said_in_other_words_goes_with_the_next_beat() -> None:
    """Somebody preserves a thousand files by hand, and each has a token: no beat for each."""
    node, network = FakeNode(), FakeNetwork()
    node.finds = _kept("1")
    async with running(node, network):
        transport = await welcomed(network, beat_s=3000)
        assert (await transport.sent("heartbeat")).heartbeat.status.not_ready.message == "tokens 1"
        for seq in range(2, 12):
            node.finds = _kept(f"1, {seq}")
            node.add(seq)
            message = await transport.up.get()
            assert message.WhichOneof("message") == "report"
        node.finds = None
        node.changes.set()
        assert not (await transport.sent("heartbeat")).heartbeat.status.HasField("not_ready")


def _kept(tokens: str) -> Problem:
    return Problem("PRESERVED_BY_HAND", Retry.FIX_STATE, f"tokens {tokens}", "See.", {"luo_state": "normal"})


async def test_the_cadence_follows_the_phase() -> None:
    assert not is_active(Phase.IDLE)
    assert not is_active(Phase.COMMITTED)
    assert is_active(Phase.BAKING)
    assert is_active(Phase.PRESERVED)
    node, network = FakeNode(), FakeNetwork()
    async with running(node, network):
        transport = await network.next()
        await transport.sent("hello")
        terms = pb.Welcome(incarnation="i1")
        terms.active_heartbeat.FromMilliseconds(20)
        terms.idle_heartbeat.FromSeconds(3000)
        transport.down.put_nowait(pb.LinkResponse(welcome=terms))
        await transport.sent("heartbeat")
        assert transport.up.empty()
        node.phase = Phase.PRESERVED
        node.add(1)
        for _ in range(3):
            beat = (await transport.sent("heartbeat")).heartbeat
            assert beat.status.phase == common.PHASE_PRESERVED
            assert beat.unacknowledged == 1
