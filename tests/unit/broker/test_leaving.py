"""A workload that cannot be preserved: refused, or drained and left behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node_agent.errors import BrokerError, HookFailed, Retry
from node_agent.runtime.broker import Broker
from node_agent.runtime.broker_leaving import by_command
from node_agent.runtime.broker_peer import Peer
from node_agent.settings import HookCommand
from node_agent.workloads.hooks import CommandHooks

from .support import GIVES_UP, QUICK, Machine, PlainClient, running, subscribed, until


class Drain:
    """This node's command."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.calls: list[tuple[str, str]] = []
        self._then = then

    async def __call__(self, workload: str, why: str) -> None:
        self.calls.append((workload, why))
        self._then()


async def started(broker: Broker, machine: Machine, *clients: PlainClient) -> asyncio.Task[object]:
    """preserve(), of which every client has heard."""
    task: asyncio.Task[object] = asyncio.create_task(broker.preserve(machine.kernel, "1.ab"))  # type: ignore[arg-type]
    for client in clients:
        assert await client.hear() == {"event": "START_PRESERVATION"}
    return task


async def refused(task: asyncio.Task[object]) -> BrokerError:
    with pytest.raises(BrokerError) as caught:
        await task
    return caught.value


async def test_one_that_says_failed_refuses_with_its_errno(machine: Machine, path: str) -> None:
    async with running(Broker(path, timeouts=QUICK)) as broker:
        client = await subscribed(path, "vm-1", suspends=False)
        await until(broker, "vm-1")
        preserving = await started(broker, machine, client)
        client.say(cmd="FAILED", id="vm-1", error="FILE_UNPRESERVABLE: ENOENT")
        error = await refused(preserving)
        assert error.reason == "WORKLOAD_UNPRESERVABLE"
        assert error.message == "workload vm-1 cannot be preserved: FILE_UNPRESERVABLE: ENOENT"
        assert (error.fields["workload"], error.fields["errno"]) == ("vm-1", "ENOENT")
        assert "hooks.drain_workload" in error.remedy
        assert broker.left_behind() == {}
        os.close(client.take_fd())
        await broker.release()
        assert machine.model.sessions() == ()
        client.close()


async def test_failed_without_a_word_is_still_a_no(machine: Machine, path: str) -> None:
    async with running(Broker(path, timeouts=QUICK)) as broker:
        client = await subscribed(path, "vm-1")
        preserving = await started(broker, machine, client)
        client.say(cmd="FAILED")
        error = await refused(preserving)
        assert "it did not say why" in error.message
        assert error.fields["errno"] == ""
        client.close()


async def test_failed_without_a_question_is_a_breach(broker: Broker, path: str) -> None:
    client = await subscribed(path, "vm-1")
    client.say(cmd="FAILED", error="x")
    assert (await client.hear() or {})["reason"] == "UNEXPECTED"
    client.close()


async def test_running_is_of_no_interest_and_plain_clients_do_not_know_it(
    machine: Machine, path: str
) -> None:
    async with running(Broker(path, timeouts=QUICK)) as broker:
        client = await subscribed(path, "vm-1")
        preserving = await started(broker, machine, client)
        client.say(cmd="RUNNING")
        client.say(cmd="READY")
        assert await preserving == {"vm-1": "lr.1.ab.vm-1"}
        client.close()
        plain = await subscribed(path, "vm-2", suspends=False)
        plain.say(cmd="RUNNING")
        assert (await plain.hear() or {})["reason"] == "UNEXPECTED"
        plain.close()


def says_failed(client: PlainClient) -> None:
    client.say(cmd="FAILED", error="PRESERVE_FD: ENOENT")


def says_error(client: PlainClient) -> None:
    client.say(cmd="ERROR", reason="PRESERVE_FAILED", message="no")


def says_nothing(client: PlainClient) -> None:
    pass


def leaves(client: PlainClient) -> None:
    client.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (says_failed, "WORKLOAD_UNPRESERVABLE"),
        (says_error, "WORKLOAD_REFUSED"),
        (says_nothing, "WORKLOAD_TIMEOUT"),
        (leaves, "WORKLOAD_GONE"),
    ],
)
@pytest.mark.parametrize("suspends", [True, False])
async def test_the_update_goes_on_without_one_that_was_drained(
    machine: Machine,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[PlainClient], None],
    reason: str,
    suspends: bool,
) -> None:
    ask = Peer.ask

    async def not_for_long(
        peer: Peer, event: Any, kind: Any, timeout_s: float, fd: int | None = None
    ) -> object:
        return await ask(peer, event, kind, 0.05 if peer.workload == "bad" else timeout_s, fd)

    if answer is says_nothing:
        monkeypatch.setattr(Peer, "ask", not_for_long)
    # As a workload would be ended: its connection and its copy of the session close.
    drain = Drain(then=lambda: bad.close())
    async with running(Broker(path, timeouts=QUICK, drain_workload=drain)) as broker:
        good = await subscribed(path, "good")
        bad = await subscribed(path, "bad", suspends=suspends)
        await until(broker, "bad", "good")
        preserving = await started(broker, machine, good, bad)
        good.say(cmd="READY")
        answer(bad)
        assert await preserving == {"good": "lr.1.ab.good"}
        ((workload, why),) = drain.calls
        assert workload == "bad"
        problem = broker.left_behind()["bad"]
        assert (problem.reason, problem.retry, problem.message) == (reason, Retry.CALL, why)
        assert "went on without it" in problem.remedy
        assert set(broker.bindings()) == {"good"}
        assert machine.model.sessions() == ("lr.1.ab.good",)
        suspending = asyncio.create_task(broker.suspend())
        assert await good.hear() == {"event": "SUSPEND"}
        good.say(cmd="SUSPENDED")
        await suspending
        good.close()


async def test_one_that_was_drained_may_come_back_and_is_asked_next_time(machine: Machine, path: str) -> None:
    drain = Drain(then=lambda: bad.close())
    async with running(Broker(path, timeouts=QUICK, drain_workload=drain)) as broker:
        bad = await subscribed(path, "vm-1")
        preserving = await started(broker, machine, bad)
        says_failed(bad)
        assert await preserving == {}
        again = await subscribed(path, "vm-1")
        await broker.suspend()
        await broker.release()
        assert broker.left_behind() == {}
        preserving = await started(broker, machine, again)
        again.say(cmd="READY")
        assert await preserving == {"vm-1": "lr.1.ab.vm-1"}
        again.close()


async def test_a_drain_that_fails_refuses_after_all(machine: Machine, path: str) -> None:
    async def fails(workload: str, why: str) -> None:
        raise HookFailed("the drain_workload command failed with status 1", remedy="Look.", status=1)

    async with running(Broker(path, timeouts=QUICK, drain_workload=fails)) as broker:
        bad = await subscribed(path, "vm-1")
        preserving = await started(broker, machine, bad)
        says_failed(bad)
        error = await refused(preserving)
        assert (error.reason, error.retry, error.remedy) == ("WORKLOAD_NOT_DRAINED", Retry.REPLAN, "Look.")
        assert error.fields["workload"] == "vm-1"
        assert "ENOENT" in error.fields["preserving"]
        assert "status 1" in error.fields["draining"]
        bad.close()


async def test_a_session_that_somebody_still_holds_refuses_after_all(machine: Machine, path: str) -> None:
    async with running(Broker(path, timeouts=GIVES_UP, drain_workload=Drain())) as broker:
        bad = await subscribed(path, "vm-1", suspends=False)
        await until(broker, "vm-1")
        preserving = await started(broker, machine, bad)
        says_failed(bad)
        error = await refused(preserving)
        assert error.reason == "WORKLOAD_NOT_DRAINED"
        assert error.retry is Retry.FIX_STATE
        bad.close()


async def test_what_is_the_nodes_own_fault_drains_nobody(machine: Machine, path: str) -> None:
    drain = Drain()
    async with running(Broker(path, timeouts=QUICK, drain_workload=drain)) as broker:
        client = await subscribed(path, "vm-1")
        preserving = await started(broker, machine, client)
        client.say(cmd="READY")
        await preserving
        assert (await refused(await started(broker, machine))).reason == "ALREADY_PRESERVED"
        assert drain.calls == []
        client.close()


@pytest.mark.parametrize("suspends", [True, False])
async def test_one_that_dies_after_ready_is_never_taken_as_preserved(
    machine: Machine, path: str, suspends: bool
) -> None:
    async with running(Broker(path, timeouts=QUICK)) as broker:
        client = await subscribed(path, "vm-1", suspends=suspends)
        await until(broker, "vm-1")
        preserving = await started(broker, machine, client)
        client.say(cmd="READY")
        await preserving
        client.close()
        with pytest.raises(BrokerError) as caught:
            await broker.suspend()
        assert caught.value.reason == "WORKLOAD_DIED"
        assert caught.value.fields == {"workload": "vm-1", "session": "lr.1.ab.vm-1"}
        await broker.release()
        assert machine.model.sessions() == ()


async def test_one_that_is_restarted_after_ready_is_another_one(machine: Machine, path: str) -> None:
    async with running(Broker(path, timeouts=QUICK)) as broker:
        client = await subscribed(path, "vm-1", suspends=False)
        await until(broker, "vm-1")
        preserving = await started(broker, machine, client)
        client.say(cmd="READY")
        await preserving
        client.close()
        await until(broker)
        again = await subscribed(path, "vm-1", suspends=False)
        await until(broker, "vm-1")
        with pytest.raises(BrokerError) as caught:
            await broker.suspend()
        assert caught.value.reason == "WORKLOAD_RESTARTED"
        again.close()


@pytest.mark.parametrize("policy", ["refuse", "drain"])
async def test_one_that_dies_while_others_are_still_at_it(machine: Machine, path: str, policy: str) -> None:
    drain = Drain() if policy == "drain" else None
    async with running(Broker(path, timeouts=QUICK, drain_workload=drain)) as broker:
        slow, brief = await subscribed(path, "slow"), await subscribed(path, "brief")
        preserving = await started(broker, machine, brief, slow)
        brief.say(cmd="READY")
        brief.close()
        await until(broker, "slow")
        slow.say(cmd="READY")
        if policy == "refuse":
            assert (await refused(preserving)).fields["workload"] == "brief"
        else:
            assert await preserving == {"slow": "lr.1.ab.slow"}
            assert set(broker.left_behind()) == {"brief"}
        slow.close()


async def test_eight_workloads_one_of_which_fails(machine: Machine, path: str) -> None:
    drain = Drain(then=lambda: clients["vm-3"].close())
    async with running(Broker(path, timeouts=QUICK, drain_workload=drain)) as broker:
        clients = {f"vm-{i}": await subscribed(path, f"vm-{i}") for i in range(8)}
        preserving = await started(broker, machine, *clients.values())
        for id, client in clients.items():
            if id == "vm-3":
                says_failed(client)
            else:
                client.say(cmd="READY")
        sessions = await preserving
        assert isinstance(sessions, dict)
        assert sorted(sessions) == [f"vm-{i}" for i in range(8) if i != 3]
        assert [workload for workload, _ in drain.calls] == ["vm-3"]
        for client in clients.values():
            client.close()


async def test_the_nodes_command_is_told_whom_and_why(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = (
        'printf "%s|%s|%s|%s" "$LIVEROLL_HOOK" "$LIVEROLL_NODE" "$LIVEROLL_WORKLOAD" "$LIVEROLL_WHY" > '
        + str(told)
    )
    hooks = CommandHooks(
        {"drain_workload": HookCommand(("/bin/sh", "-c", script), 5.0)}, {"LIVEROLL_NODE": "n1"}
    )
    await by_command(hooks)("vm-1", "workload vm-1 cannot be preserved: \0\x1b[31m")
    assert told.read_text() == "drain_workload|n1|vm-1|workload vm-1 cannot be preserved:   [31m"
