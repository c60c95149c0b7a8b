"""Clients that lie, flood or pry: each is cut off with a word on why, and nothing leaks."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_agent.errors import BrokerError, SettingsError
from node_agent.resume import identity
from node_agent.runtime import broker_peer
from node_agent.runtime.broker import Broker

from .support import QUICK, Machine, PlainClient, open_fds, running, subscribed, until

HOSTILE = [
    (b"GET / HTTP/1.1\r\n\r\n", "MALFORMED"),
    (b"\x00\x01\x02\n", "MALFORMED"),
    (b"x" * 5000, "LINE_TOO_LONG"),
    (b'{"cmd":"SUBSCRIBE","id":"../../x"}\n', "INVALID_FIELD"),
    (b'{"cmd":"REBOOT"}\n', "UNKNOWN_COMMAND"),
    (b'{"cmd":"READY"}\n', "UNEXPECTED"),
    (b'{"cmd":"SUBSCRIBE","id":"a"}\n{"cmd":"RELEASED"}\n', "UNEXPECTED"),
    (b'{"cmd":"SUBSCRIBE","id":"a"}\n{"cmd":"SUBSCRIBE","id":"b"}\n', "ONE_ID_A_CONNECTION"),
]


@pytest.mark.parametrize(("data", "reason"), HOSTILE)
async def test_a_breach_is_named_and_cut_off(broker: Broker, path: str, data: bytes, reason: str) -> None:
    client = await PlainClient(path).connect()
    client.raw(data)
    said = await client.hear()
    assert said is not None
    assert (said["event"], said["reason"]) == ("ERROR", reason)
    assert said["message"]
    assert await client.hear() is None
    client.close()
    await until(broker)


async def test_fds_sent_by_a_client_are_never_installed(broker: Broker, path: str) -> None:
    before = open_fds()
    for count in (1, 200):
        client = await PlainClient(path).connect()
        with open(os.devnull) as junk:
            client.raw(b'{"cmd":"SUBSCRIBE","id":"a"}\n', [junk.fileno()] * count)
        assert (await client.hear())["reason"] == "UNEXPECTED_FDS"
        assert await client.hear() is None
        client.close()
    await until(broker)
    assert open_fds() == before


async def test_an_answer_of_the_wrong_kind_is_a_breach(broker: Broker, machine: Machine, path: str) -> None:
    client = await subscribed(path, "a")
    task = asyncio.create_task(broker.preserve(machine.kernel, "1.ab"))
    await client.hear()
    client.say(cmd="RESUMED")
    with pytest.raises(BrokerError) as caught:
        await task
    assert caught.value.reason == "WORKLOAD_GONE"
    assert (await client.hear())["reason"] == "UNEXPECTED"
    client.close()


async def test_a_taken_id_is_refused_until_its_owner_leaves(broker: Broker, path: str) -> None:
    first = await subscribed(path, "a")
    second = await PlainClient(path).connect()
    second.say(cmd="SUBSCRIBE", id="a")
    assert (await second.hear())["reason"] == "ID_IN_USE"
    second.close()
    first.close()
    # No wait: the broker looks whether the former one has hung up.
    third = await subscribed(path, "a")
    third.close()


async def test_too_many_connections_are_closed_at_once(machine: Machine, path: str) -> None:
    async with running(Broker(path, timeouts=QUICK, max_clients=2)) as broker:
        clients = [await subscribed(path, f"c{n}") for n in range(2)]
        third = await PlainClient(path).connect()
        assert await third.hear() is None
        for client in (*clients, third):
            client.close()
        await until(broker)
        (await subscribed(path, "c9")).close()


async def test_a_silent_connection_is_cut_off(
    broker: Broker, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_peer, "FIRST_WORD_TIMEOUT_S", 0.02)
    client = await PlainClient(path).connect()
    assert await client.hear() is None
    client.close()


async def test_who_spoke_while_this_process_was_busy_is_heard(
    broker: Broker, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_peer, "FIRST_WORD_TIMEOUT_S", 0.5)
    client = await PlainClient(path).connect()
    client.say(cmd="CLAIM", id="a")
    assert (await client.hear())["reason"] == "NO_SUCH_CLAIM"
    client.say(cmd="SUBSCRIBE", id="a", extensions=["suspend"])
    busy_until = time.monotonic() + 0.6
    while time.monotonic() < busy_until:
        pass  # as an import does: the loop comes to nothing meanwhile
    assert (await client.hear())["event"] == "SUBSCRIBED"
    client.close()


async def test_a_uid_that_is_not_allowed_is_refused(machine: Machine, path: str) -> None:
    async with running(Broker(path, timeouts=QUICK, allowed_uids=[os.getuid() + 1])):
        client = await PlainClient(path).connect()
        client.say(cmd="SUBSCRIBE", id="a")
        assert (await client.hear())["reason"] == "UID_NOT_ALLOWED"
        client.close()


STRANGER = textwrap.dedent(
    """
    import os, socket, sys
    os.setgid(65534); os.setuid(65534)
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
    s.sendall(sys.argv[2].encode() + b"\\n")
    data, fds, _, _ = socket.recv_fds(s, 4096, 8)
    print(len(fds), data.decode(), flush=True)
    """
)


async def as_stranger(path: str, line: str) -> str:
    """One line said by another uid in a process of its own, and what it heard."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", STRANGER, path, line, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


@pytest.fixture
def open_path() -> Iterator[str]:
    """A socket that anybody may reach: pytest's own directories are root's, at a depth that varies."""
    with tempfile.TemporaryDirectory(prefix="lr-") as directory:
        os.chmod(directory, 0o755)
        yield os.path.join(directory, "b.sock")


async def test_another_uid_neither_subscribes_nor_claims_what_is_not_its_own(
    machine: Machine, open_path: str
) -> None:
    if os.getuid() != 0:
        pytest.fail("this test becomes another user and must run as root")
    async with running(Broker(open_path, timeouts=QUICK, socket_mode=0o666)) as broker:
        client = await subscribed(open_path, "a", suspends=False)
        await until(broker, "a")
        assert '"NOT_YOURS"' in await as_stranger(open_path, '{"cmd":"SUBSCRIBE","id":"a"}')
        task = asyncio.create_task(broker.preserve(machine.kernel, "1.ab"))
        await client.hear()
        client.say(cmd="READY")
        sessions, bindings = await task, broker.bindings()
        client.close()
        await until(broker)
        # Gone, but its session is held: the id is still its own.
        assert '"NOT_YOURS"' in await as_stranger(open_path, '{"cmd":"SUBSCRIBE","id":"a"}')
    kernel = await machine.kexec()
    broker = Broker(open_path, timeouts=QUICK, socket_mode=0o666)
    broker.restore(bindings)
    async with running(broker):
        await broker.retrieve(kernel, sessions)
        heard = await as_stranger(open_path, '{"cmd":"CLAIM","id":"a"}')
        assert heard.startswith("0 ")
        assert '"NOT_YOURS"' in heard
        await broker.finish()
        heard = await as_stranger(open_path, '{"cmd":"SUBSCRIBE","id":"a","extensions":["suspend"]}')
        assert '"SUBSCRIBED"' in heard


async def test_the_unit_binds_too(broker: Broker, path: str) -> None:
    broker.restore({"a": {"uid": os.getuid(), "unit": "qemu.service"}})
    client = await PlainClient(path).connect()
    client.say(cmd="CLAIM", id="a")
    assert (await client.hear())["reason"] == "NOT_YOURS"
    client.close()


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/qemu.service\n", "qemu.service"),
        ("0::/user.slice/user@7.service/app.slice/vm.service/x\n", "vm.service"),
        ("0::/user.slice/session-3.scope\n", ""),
        ("1:name=systemd:/system.slice/a.service\n2:cpu:/system.slice/b.service\n", "a.service"),
        ("2:cpu:/b.service\n", ""),
        ("nonsense", ""),
    ],
)
def test_the_unit_is_the_innermost_service(cgroup: str, unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "read_text", {"/proc/1/cgroup": cgroup}.__getitem__)
    assert identity.unit_of(1) == unit


def test_a_process_that_is_gone_has_no_unit() -> None:
    assert identity.unit_of(2**22 + 1) == ""


async def test_a_stale_socket_is_replaced_and_a_served_one_is_not(broker: Broker, path: str) -> None:
    with pytest.raises(BrokerError) as caught:
        await Broker(path).run()
    assert caught.value.reason == "SOCKET_IN_USE"
    (await subscribed(path, "a")).close()


async def test_a_dead_brokers_socket_file_is_no_obstacle(machine: Machine, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    async with running(Broker(path, timeouts=QUICK)):
        (await subscribed(path, "a")).close()
        assert os.stat(path).st_mode & 0o777 == 0o660


async def test_a_path_too_long_says_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        await Broker(str(tmp_path / ("x" * 108))).run()
    assert caught.value.reason == "SOCKET_PATH_TOO_LONG"


async def test_a_path_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError) as caught:
        await Broker(str(tmp_path / "file" / "b.sock")).run()
    assert caught.value.reason == "SOCKET_UNUSABLE"
    assert caught.value.remedy


async def test_the_sockets_directory_is_made(machine: Machine, tmp_path: Path) -> None:
    path = str(tmp_path / "run" / "b.sock")
    async with running(Broker(path, timeouts=QUICK)):
        (await subscribed(path, "a")).close()
