"""The broker over the emulated kernel: preserve, suspend, hand back, unwind, and every refusal."""

from __future__ import annotations

import asyncio
import os

import pytest

from node_agent.errors import BrokerError, KernelError
from node_agent.runtime.broker import Broker, BrokerTimeouts

from .support import GIVES_UP, QUICK, Machine, PlainClient, running, subscribed, until

RESUMED = {
    "cmd": "RESUMED",
    "duration_s": 1.5,
    "uncertainty_s": 0.01,
    "clock": "tsc",
    "memory_intact": True,
    "bytes_checked": 4096,
}


async def preserved(broker: Broker, machine: Machine, *clients: PlainClient) -> dict[str, str]:
    task = asyncio.create_task(broker.preserve(machine.kernel, "1.ab"))  # type: ignore[arg-type]
    for client in clients:
        assert await client.hear() == {"event": "START_PRESERVATION"}
        client.say(cmd="READY")
    return dict(await task)


async def suspended(broker: Broker, *clients: PlainClient) -> None:
    task = asyncio.create_task(broker.suspend())
    for client in clients:
        assert await client.hear() == {"event": "SUSPEND"}
        client.say(cmd="SUSPENDED")
    await task


async def failed(task: asyncio.Task[object]) -> BrokerError:
    with pytest.raises(BrokerError) as caught:
        await task
    return caught.value


async def test_a_plain_luo_agent_client_goes_all_the_way(machine: Machine, path: str) -> None:
    fd = os.memfd_create("guest")
    os.write(fd, b"memory")
    async with running(Broker(path, timeouts=QUICK)) as broker:
        client = await subscribed(path, "vm-1", suspends=False)
        await until(broker, "vm-1")
        task = asyncio.create_task(broker.preserve(machine.kernel, "1.ab"))
        assert await client.hear() == {"event": "START_PRESERVATION"}
        assert len(client.fds) == 1
        # What the client does on its copy of the session, the kernel does to the session itself.
        await broker._workloads["vm-1"].session.preserve_fd(fd, 7)
        client.say(cmd="READY")
        sessions = await task
        assert sessions == {"vm-1": "lr.1.ab.vm-1"}
        await broker.suspend()
        bindings = broker.bindings()
        assert bindings == {"vm-1": {"uid": os.getuid(), "unit": "", "suspend": False}}
        client.close()
    os.close(fd)
    kernel = await machine.kexec()
    broker = Broker(path, timeouts=QUICK)
    broker.restore(bindings)
    async with running(broker):
        await broker.retrieve(kernel, sessions)
        resume = asyncio.create_task(broker.resume())
        client = await PlainClient(path).connect()
        client.say(cmd="CLAIM", id="vm-1")
        assert await client.hear() == {"event": "CLAIMED", "id": "vm-1"}
        assert len(client.fds) == 1
        (pause,) = await resume
        assert pause.rejected
        assert pause.memory_intact is None
        fd = await broker._workloads["vm-1"].session.retrieve_fd(7)
        assert os.pread(fd, 6, 0) == b"memory"
        os.close(fd)
        await broker.finish()
        client.close()


async def test_suspend_and_resume_cross_with_the_workloads_own_measurement(
    machine: Machine, path: str
) -> None:
    async with running(Broker(path, timeouts=QUICK)) as broker:
        clients = [await subscribed(path, id) for id in ("a", "b")]
        sessions = await preserved(broker, machine, *clients)
        await suspended(broker, *clients)
        bindings = broker.bindings()
        for client in clients:
            client.close()
    kernel = await machine.kexec()
    broker = Broker(path, timeouts=QUICK)
    broker.restore(bindings)
    async with running(broker):
        # Workloads may be faster than the agent: a CLAIM waits for its session.
        early = await PlainClient(path).connect()
        early.say(cmd="CLAIM", id="a", extensions=["suspend"])
        await broker.retrieve(kernel, sessions)
        late = await PlainClient(path).connect()
        late.say(cmd="CLAIM", id="b", extensions=["suspend"])
        resume = asyncio.create_task(broker.resume())
        for id, client in (("a", early), ("b", late)):
            assert await client.hear() == {"event": "CLAIMED", "id": id}
            assert await client.hear() == {"event": "RESUME"}
            client.say(**RESUMED)
        pauses = await resume
        assert [(p.workload, p.duration_s, p.clock, p.memory_intact) for p in pauses] == [
            ("a", 1.5, "tsc", True),
            ("b", 1.5, "tsc", True),
        ]
        assert await broker.resume() == pauses
        await broker.finish()
        assert await broker.resume() == ()
        # Finished: the next attempt may begin.
        for client in (early, late):
            client.close()
        await until(broker)
        assert broker.bindings() == {}


async def test_a_workload_restarted_after_the_kexec_claims_again(
    broker: Broker, machine: Machine, path: str
) -> None:
    client = await subscribed(path, "a")
    sessions = await preserved(broker, machine, client)
    client.close()
    await until(broker)
    kernel = await machine.kexec()
    broker._workloads["a"].session = None
    broker.restore(broker.bindings())
    await broker.retrieve(kernel, sessions)
    resume = asyncio.create_task(broker.resume())
    for attempt in range(2):
        client = await PlainClient(path).connect()
        client.say(cmd="CLAIM", id="a", extensions=["suspend"])
        assert (await client.hear())["event"] == "CLAIMED"
        assert await client.hear() == {"event": "RESUME"}
        if attempt == 1:
            client.say(**RESUMED)
            await resume
        client.close()
    # Restarted once more, now that the attempt has its answer: still handed back and woken.
    client = await PlainClient(path).connect()
    client.say(cmd="CLAIM", id="a", extensions=["suspend"])
    assert (await client.hear())["event"] == "CLAIMED"
    assert await client.hear() == {"event": "RESUME"}
    client.say(**RESUMED)
    await broker.finish()
    client.close()


async def test_unwinding_resumes_and_releases_in_the_same_boot(
    broker: Broker, machine: Machine, path: str
) -> None:
    client = await subscribed(path, "a")
    await preserved(broker, machine, client)
    await suspended(broker, client)
    resume = asyncio.create_task(broker.resume())
    assert await client.hear() == {"event": "RESUME"}
    client.say(**RESUMED)
    (pause,) = await resume
    assert pause.duration_s == 1.5
    release = asyncio.create_task(broker.release())
    assert await client.hear() == {"event": "RELEASE"}
    os.close(client.take_fd())
    client.say(cmd="RELEASED")
    await release
    assert machine.model.sessions() == ()
    await preserved(broker, machine, client)
    release = asyncio.create_task(broker.release())
    await client.hear()
    os.close(client.take_fd())
    client.say(cmd="RELEASED")
    await release
    client.close()


async def test_a_copy_of_the_session_still_held_is_said(broker: Broker, machine: Machine, path: str) -> None:
    client = await subscribed(path, "a", suspends=False)
    await until(broker, "a")
    await preserved(broker, machine, client)
    broker._timeouts = GIVES_UP
    with pytest.raises(BrokerError) as caught:
        await broker.release()
    assert caught.value.reason == "SESSION_STILL_HELD"
    assert caught.value.fields == {"workload": "a", "session": "lr.1.ab.a"}
    assert caught.value.remedy
    assert machine.model.sessions() == ("lr.1.ab.a",)
    os.close(client.take_fd())
    await broker.release()
    assert machine.model.sessions() == ()
    client.close()


async def test_unwinding_hangs_up_on_a_client_that_cannot_be_told(
    broker: Broker, machine: Machine, path: str
) -> None:
    client = await subscribed(path, "a", suspends=False)
    await until(broker, "a")
    task = asyncio.create_task(broker.preserve(machine.kernel, "1.ab"))
    assert await client.hear() == {"event": "START_PRESERVATION"}
    client.say(cmd="READY")
    await task
    release = asyncio.create_task(broker.release())
    assert await client.hear() is None, "it hears nothing but the end of its connection"
    client.close()  # and so lets go of its session
    await release
    again = await subscribed(path, "a", suspends=False)
    await until(broker, "a")
    again.close()


async def test_release_without_anything_does_nothing(broker: Broker, path: str) -> None:
    client = await subscribed(path, "a")
    await broker.release()
    await broker.finish()
    assert await broker.resume() == ()
    client.close()


async def test_all_are_asked_at_once_and_all_failures_are_named(
    broker: Broker, machine: Machine, path: str
) -> None:
    clients = [await subscribed(path, id) for id in ("a", "b", "c")]
    task = asyncio.create_task(broker.preserve(machine.kernel, "1.ab"))
    for client in clients:
        assert await client.hear() == {"event": "START_PRESERVATION"}
    clients[0].say(cmd="ERROR", reason="NO_ROOM", message="too large", remedy="Make it smaller.")
    clients[1].close()
    error = await failed(task)
    reasons = {error.fields.get(f"workload_{id}") for id in ("a", "b")} - {None} or {error.reason}
    assert reasons <= {"WORKLOAD_REFUSED", "WORKLOAD_GONE"}
    # Nothing is left behind: c was cancelled, and release unpreserves all.
    for client in clients:
        client.close()
    await until(broker)
    await broker.release()
    assert machine.model.sessions() == ()


async def test_a_refusal_carries_the_workloads_words(broker: Broker, machine: Machine, path: str) -> None:
    client = await subscribed(path, "a")
    task = asyncio.create_task(broker.preserve(machine.kernel, "1.ab"))
    await client.hear()
    client.say(cmd="ERROR", reason="NO_ROOM", message="too large", remedy="Make it smaller.")
    error = await failed(task)
    assert (error.reason, error.fields["says"], error.remedy) == (
        "WORKLOAD_REFUSED",
        "NO_ROOM",
        "Make it smaller.",
    )
    assert "too large" in error.message
    client.close()


@pytest.mark.parametrize("step", ["preserve", "suspend", "resume"])
async def test_each_wait_ends_and_names_the_workload(machine: Machine, path: str, step: str) -> None:
    short = BrokerTimeouts(preserve_s=5, suspend_s=5, claim_s=5, resume_s=5, release_s=5)
    timeouts = BrokerTimeouts(**{**{f: getattr(short, f) for f in short.__slots__}, f"{step}_s": 0.05})
    async with running(Broker(path, timeouts=timeouts)) as broker:
        client = await subscribed(path, "mute")
        if step != "preserve":
            await preserved(broker, machine, client)
        if step == "resume":
            await suspended(broker, client)
        with pytest.raises(BrokerError) as caught:
            await {
                "preserve": lambda: broker.preserve(machine.kernel, "1.ab"),
                "suspend": broker.suspend,
                "resume": broker.resume,
            }[step]()
        assert caught.value.reason == "WORKLOAD_TIMEOUT"
        assert caught.value.fields["workload"] == "mute"
        # The late answer of a slow workload is no breach of protocol.
        await client.hear()
        client.say(cmd={"preserve": "READY", "suspend": "SUSPENDED", "resume": "RESUMED"}[step])
        release = asyncio.create_task(broker.release())
        assert await client.hear() == {"event": "RELEASE"}
        os.close(client.take_fd())
        client.say(cmd="RELEASED")
        await release
        client.close()


async def test_nobody_claims_in_time(machine: Machine, path: str) -> None:
    timeouts = BrokerTimeouts(claim_s=0.05)
    async with running(Broker(path, timeouts=timeouts)) as broker:
        client = await subscribed(path, "a")
        sessions = await preserved(broker, machine, client)
        bindings = broker.bindings()
        client.close()
    kernel = await machine.kexec()
    broker = Broker(path, timeouts=timeouts)
    broker.restore(bindings)
    async with running(broker):
        await broker.retrieve(kernel, sessions)
        with pytest.raises(BrokerError) as caught:
            await broker.resume()
        assert (caught.value.reason, caught.value.fields["workload"]) == ("CLAIM_TIMEOUT", "a")
        await broker.finish()


async def test_a_late_subscriber_stops_the_suspend(broker: Broker, machine: Machine, path: str) -> None:
    first = await subscribed(path, "a")
    await preserved(broker, machine, first)
    late = await subscribed(path, "b")
    with pytest.raises(BrokerError) as caught:
        await broker.suspend()
    assert (caught.value.reason, caught.value.fields["workload"]) == ("NOT_PRESERVED", "b")
    first.close()
    late.close()


async def test_a_workload_that_died_after_ready_stops_the_suspend(
    broker: Broker, machine: Machine, path: str
) -> None:
    client = await subscribed(path, "a")
    await preserved(broker, machine, client)
    client.close()
    await until(broker)
    with pytest.raises(BrokerError) as caught:
        await broker.suspend()
    assert caught.value.reason == "WORKLOAD_DIED"
    # Its successor holds other memory than what was preserved.
    client = await subscribed(path, "a")
    with pytest.raises(BrokerError) as caught:
        await broker.suspend()
    assert caught.value.reason == "WORKLOAD_RESTARTED"
    client.close()


async def test_preserving_twice_is_refused(broker: Broker, machine: Machine, path: str) -> None:
    client = await subscribed(path, "a")
    await preserved(broker, machine, client)
    with pytest.raises(BrokerError) as caught:
        await broker.preserve(machine.kernel, "2.cd")
    assert caught.value.reason == "ALREADY_PRESERVED"
    client.close()


async def test_sessions_that_did_not_cross_are_said_and_the_others_held(machine: Machine, path: str) -> None:
    async with running(Broker(path, timeouts=QUICK)) as broker:
        client = await subscribed(path, "a")
        sessions = await preserved(broker, machine, client)
        client.close()
    kernel = await machine.kexec()
    broker = Broker(path, timeouts=QUICK)
    me = {"uid": os.getuid(), "unit": "", "suspend": True}
    broker.restore({"a": me, "b": me})
    async with running(broker):
        with pytest.raises(KernelError) as caught:
            await broker.retrieve(kernel, {**sessions, "b": "lr.1.ab.b"})
        assert caught.value.fields["errno"] == "ENOENT"
        b = await PlainClient(path).connect()
        b.say(cmd="CLAIM", id="b")
        assert (await b.hear())["reason"] == "NO_SUCH_CLAIM"
        a = await PlainClient(path).connect()
        a.say(cmd="CLAIM", id="a")
        assert (await a.hear())["event"] == "CLAIMED"
        with pytest.raises(BrokerError) as refused:
            await broker.retrieve(kernel, {"stranger": "lr.1.ab.stranger"})
        assert refused.value.reason == "NO_BINDING"
        await broker.finish()
        a.close()
        b.close()


async def test_the_agent_restarts_in_the_same_boot_and_unwinds(machine: Machine, path: str) -> None:
    async with running(Broker(path, timeouts=QUICK)) as broker:
        client = await subscribed(path, "a")
        sessions = await preserved(broker, machine, client)
        await suspended(broker, client)
        bindings = broker.bindings()
    for workload in broker._workloads.values():
        await workload.session.close()
    assert await client.hear() is None
    broker = Broker(path, timeouts=GIVES_UP)
    broker.restore(bindings, kernel=machine.kernel, sessions=sessions)
    async with running(broker):
        resume = asyncio.create_task(broker.resume())
        again = await PlainClient(path).connect()
        again.say(cmd="SUBSCRIBE", id="a", extensions=["suspend"], suspended=True)
        assert (await again.hear())["event"] == "SUBSCRIBED"
        assert await again.hear() == {"event": "RESUME"}
        again.say(**RESUMED)
        await resume
        release = asyncio.create_task(broker.release())
        assert await again.hear() == {"event": "RELEASE"}
        again.say(cmd="RELEASED")
        # The old process image kept its copy: the kernel, not the answer, is believed.
        assert (await failed(release)).reason == "SESSION_STILL_HELD"
        client.close()
        again.close()


async def test_a_suspended_workload_is_woken_when_no_attempt_is_under_way(broker: Broker, path: str) -> None:
    client = await PlainClient(path).connect()
    client.say(cmd="SUBSCRIBE", id="a", extensions=["suspend"], suspended=True)
    assert (await client.hear())["event"] == "SUBSCRIBED"
    assert await client.hear() == {"event": "RESUME"}
    client.say(**RESUMED)
    client.close()
