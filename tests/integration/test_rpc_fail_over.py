"""The client among several orchestrators: two servers over one state stand for two replicas."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from liveroll.v1 import rollout_pb2 as pb

from orchestrator.cli import client as client_module
from orchestrator.cli.client import Client, Connection
from orchestrator.cli.failure import Exit, Failed
from orchestrator.cli.follow import Follow
from orchestrator.core.model import Change, NewEvent
from orchestrator.errors import NotLeader
from orchestrator.rpc.server import RpcServer
from tests.integration.rpc_harness import Listen, ScriptedNode, Served, serving, spec


@asynccontextmanager
async def replicas() -> AsyncIterator[tuple[Served, RpcServer, RpcServer]]:
    """One orchestrator, and two servers of it."""
    async with (
        serving() as served,
        RpcServer(served.orchestrator, operators=Listen(), agents=Listen()) as other,
    ):
        yield served, served.rpc, other


def at(*servers: RpcServer) -> str:
    return ",".join(f"127.0.0.1:{server.operators_port}" for server in servers)


def nobody() -> str:
    """An address at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """An address that accepts, and never says a word: a process that is stopped."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)
        yield f"127.0.0.1:{listening.getsockname()[1]}"


async def happen(served: Served, kind: str) -> None:
    await served.orchestrator._commits.commit(Change(events=(NewEvent(kind, "x"),)))


async def stop_by(server: str, key: str = "", timeout_s: float = 20.0) -> tuple[pb.FleetStopResponse, str]:
    """A mutating call, and who answered it."""

    def call() -> tuple[pb.FleetStopResponse, str]:
        with Client(Connection(server, timeout_s=timeout_s)) as client:
            return client.fleet_stop("incident", key=key), client.server

    return await asyncio.to_thread(call)


def stops(served: Served) -> int:
    return sum(event.new.kind == "fleet.stopped" for event in served.orchestrator._store.disk.events)  # type: ignore[attr-defined]


async def test_a_call_goes_to_the_next_that_answers_and_the_client_stays_there() -> None:
    async with replicas() as (served, one, two):
        answer, who = await stop_by(f"{nobody()}, {at(two)},{at(one)}")
        assert (answer.stopped, who) == (True, at(two))
        answer, who = await stop_by(f"{at(one)},{nobody()}")
        assert (answer.stopped, who) == (True, at(one))
        assert stops(served) == 1


async def test_a_process_that_stands_still_is_passed_over() -> None:
    async with replicas() as (_, one, __):
        with silent() as stopped:
            answer, who = await stop_by(f"{stopped},{at(one)}")
        assert (answer.stopped, who) == (True, at(one))


async def test_a_call_that_was_done_but_not_answered_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first replica commits, and ends before it answers: the second one has the first answer."""
    async with replicas() as (served, one, two):
        operate, calls = served.orchestrator.operate, 0

        async def dies(**call: Any) -> Any:
            nonlocal calls
            calls += 1
            done = await operate(**call)
            if calls == 1:
                raise NotLeader("the orchestrator is shutting down", reason="SHUTTING_DOWN")
            return done

        monkeypatch.setattr(served.orchestrator, "operate", dies)
        answer, who = await stop_by(at(one, two))
        assert (answer.stopped, who, calls) == (True, at(two), 2)
        assert stops(served) == 1


async def test_all_are_asked_twice_before_a_call_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAUSE_S", 0.0)
    async with replicas() as (served, one, two):
        operate, calls = served.orchestrator.operate, 0

        async def late(**call: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls <= 3:
                raise NotLeader("nobody leads yet")
            return await operate(**call)

        monkeypatch.setattr(served.orchestrator, "operate", late)
        answer, who = await stop_by(at(one, two))
        assert (answer.stopped, who, calls) == (True, at(two), 4)


async def test_what_one_of_them_refuses_is_not_asked_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async with replicas() as (_, one, two):

        def call() -> Failed:
            with Client(Connection(at(one, two))) as client, pytest.raises(Failed) as caught:
                client.get("none")
            assert client.server == at(one)
            return caught.value

        failed = await asyncio.to_thread(call)
        assert (failed.reason, failed.exit) == ("NOT_FOUND", Exit.INVALID)


def test_none_that_answers_is_one_sentence_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAUSE_S", 0.0)
    first, second = nobody(), nobody()
    with Client(Connection(f"{first},{second}")) as client:
        for ask in (lambda: client.get("k"), lambda: list(client.watch("k"))):
            with pytest.raises(Failed) as caught:
                ask()
            assert caught.value.message == f"cannot reach an orchestrator at {first} or {second}"
            assert caught.value.exit is Exit.UNREACHABLE
    with pytest.raises(Failed, match="names nothing"):
        Client(Connection(" , "))


async def test_a_followed_log_goes_on_at_the_other_without_loss_or_repetition() -> None:
    async with replicas() as (served, one, two):
        for i in range(5):
            await happen(served, f"before.n{i}")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "orchestrator.cli.main", "--server", at(one, two)),
            *("events", "--follow", "-o", "json"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        seen: list[int] = []

        async def read_to(kind: str) -> None:
            assert process.stdout is not None
            while line := await process.stdout.readline():
                event = json.loads(line)
                seen.append(int(event["seq"]))
                if event["kind"] == kind:
                    return
            raise AssertionError((await process.communicate())[1])

        async with asyncio.timeout(40):
            await read_to("before.n4")
            await one.stop(grace_s=0)
            for i in range(5):
                await happen(served, f"after.n{i}")
            await read_to("after.n4")
        assert seen == list(range(1, len(seen) + 1))
        process.terminate()
        _, err = await process.communicate()
        assert "connection lost" in err.decode()


async def test_a_watch_of_a_rollout_goes_on_at_the_other() -> None:
    async with replicas() as (served, one, two):
        await ScriptedNode(served, "n1").connect()
        await served.operators.FleetStop(pb.FleetStopRequest(stop=True, reason="t", idempotency_key="s"))
        await served.operators.CreateRollout(pb.CreateRolloutRequest(spec=spec(), idempotency_key="1"))

        began = asyncio.Event()
        loop = asyncio.get_running_loop()

        def look() -> list[int]:
            seqs: list[int] = []
            with Client(Connection(at(one, two))) as client:
                cursor = served.orchestrator.cursor(0)
                for update in Follow(lambda after: client.watch("k", after), lambda u: u.cursor, cursor):
                    loop.call_soon_threadsafe(began.set)
                    if update is not None:
                        seqs += [event.seq for event in update.events]
            return seqs

        watching = asyncio.create_task(asyncio.to_thread(look))
        await began.wait()
        await one.stop(grace_s=0)

        def cancel() -> None:
            with Client(Connection(at(two))) as client:
                client.cancel("k")

        await asyncio.to_thread(cancel)
        async with asyncio.timeout(40):
            seqs = await watching
        mine = [e.seq for e in served.orchestrator._store.disk.events if e.new.rollout_id == "k"]  # type: ignore[attr-defined]
        assert seqs == mine
