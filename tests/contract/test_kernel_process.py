"""A kernel process and its userspace: what dies with a kexec, what with a kill, what starts again."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from node_agent.kernel.emulated import syncclient

COMMAND = (sys.executable, "-m", "node_agent.kernel.emulated.process", "--root")

AGENT = """
import os, sys, time
from node_agent.kernel.emulated import syncclient as luo
root = os.environ["LIVEROLL_NODE_ROOT"]
def say(*words):  # in one write, as several processes share the pipe
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
say("agent", os.getpid())
"""
"""The beginning of every agent in these tests; its lines come back to the test."""

HOLD = (
    AGENT
    + """
try:
    held = luo.open_session_create(root, "s")
    say("created")
except FileExistsError:
    say("exists")
memory = os.memfd_create("m"); os.write(memory, b"memory"); luo.preserve_fd(held, memory, 1)
say("preserved")
time.sleep(600)
"""
)

JUMP = (
    AGENT
    + """
if luo.facts(root)["kexec_count"] == "0":
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            say("daemon", os.getpid())
            time.sleep(600)
        os._exit(0)
    os.wait()
    sys.stdin.readline()
    held = luo.open_session_create(root, "s")
    memory = os.memfd_create("m"); os.write(memory, b"memory"); luo.preserve_fd(held, memory, 1)
    luo.control(root, "load", sys.executable, "", "kho=on liveupdate=on", "7.3.4")
    luo.control(root, "reboot")
    say("still alive")
held = luo.retrieve_session(root, "s")
memory = luo.retrieve_fd(held, 1)
luo.finish(held)
say("retrieved", os.pread(memory, 6, 0).decode(), luo.facts(root)["release"])
"""
)


class Node:
    """A kernel process whose userspace's standard output is read here."""

    def __init__(self, root: str, process: asyncio.subprocess.Process) -> None:
        self.root, self.process = root, process

    async def line(self) -> str:
        assert self.process.stdout
        return (await self.process.stdout.readline()).decode().strip()

    async def agent(self) -> int:
        """The pid of the agent that starts next."""
        word, pid = (await self.line()).split()
        assert word == "agent"
        return int(pid)


StartProcess = Callable[..., Awaitable[Node]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[StartProcess]:
    async with AsyncExitStack() as stack:

        async def start(agent: str, *options: str, root: Path | None = None) -> Node:
            where = str(root or tmp_path / "node")
            process = await asyncio.create_subprocess_exec(
                *(
                    *COMMAND,
                    where,
                    *options,
                    "--",
                    sys.executable,
                    "-W",
                    "error::DeprecationWarning",
                    "-c",
                    agent,
                ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )

            async def end() -> None:
                if process.returncode is None:
                    process.terminate()
                assert await process.wait() == 0
                assert process.stdin
                process.stdin.close()

            stack.push_async_callback(end)
            return Node(where, process)

        yield start


def gone(pid: int) -> Awaitable[None]:
    """Until a process that is not ours has ended. Looked for at once: later its pid is nobody's."""
    fd = os.pidfd_open(pid)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(fd, ended.set)

    async def until_then() -> None:
        await ended.wait()
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)

    return until_then()


async def test_a_kexec_kills_all_of_userspace_and_starts_it_again(start: StartProcess) -> None:
    node = await start(JUMP)
    await node.agent()
    word, daemon = (await node.line()).split()
    assert word == "daemon"
    watch = gone(int(daemon))
    assert node.process.stdin
    node.process.stdin.write(b"go\n")
    await node.agent()
    assert await node.line() == "retrieved memory 7.3.4"
    await watch
    assert await node.process.wait() == 0


async def test_kill_9_of_the_agent_unpreserves_and_restarts_it_in_the_same_boot(start: StartProcess) -> None:
    node = await start(HOLD)
    boot_ids = set()
    for _ in range(2):
        pid = await node.agent()
        assert [await node.line(), await node.line()] == ["created", "preserved"]
        boot_ids.add(syncclient.facts(node.root)["boot_id"])
        os.kill(pid, signal.SIGKILL)
    assert len(boot_ids) == 1
    await node.agent()


async def test_a_workload_outlives_its_agents_kill(start: StartProcess) -> None:
    node = await start(HOLD, "--service", "/bin/sh -c 'echo workload $$; exec sleep 600'")
    lines = {}
    for _ in range(4):
        word, *rest = (await node.line()).split()
        lines[word] = rest
    os.kill(int(lines["agent"][0]), signal.SIGKILL)
    await node.agent()
    os.kill(int(lines["workload"][0]), 0)


async def test_a_service_is_restarted_and_the_node_ends_with_its_command(start: StartProcess) -> None:
    ends = AGENT + "sys.stdin.readline()"
    node = await start(ends, "--service", "/bin/sh -c 'echo service; exit 0'")
    seen = [await node.line() for _ in range(3)]
    assert seen.count("service") >= 2
    assert node.process.stdin
    node.process.stdin.write(b"end\n")
    assert await node.process.wait() == 0
    assert not os.listdir(f"{node.root}/dev")


async def test_sigterm_ends_everything(start: StartProcess) -> None:
    node = await start(HOLD)
    agent = await node.agent()
    assert await node.line() == "created"
    watch = gone(agent)
    node.process.terminate()
    assert await node.process.wait() == 0
    await watch
    assert not os.listdir(f"{node.root}/dev")


async def test_userspace_dies_with_a_killed_kernel(start: StartProcess, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, str(tmp_path / "other"), "--", sys.executable, "-c", HOLD),
        stdout=subprocess.PIPE,
    )
    node = Node(str(tmp_path / "other"), process)
    watch = gone(await node.agent())
    process.kill()
    await process.wait()
    await watch
    with pytest.raises(OSError) as caught:
        syncclient.retrieve_session(node.root, "s")
    assert caught.value.errno == errno.ECONNREFUSED


async def test_the_oom_killer_takes_the_caller_inside_preserve_fd(start: StartProcess) -> None:
    node = await start(HOLD, "--memory-bytes", "5")
    for _ in range(2):
        await node.agent()
        assert await node.line() == "created"


async def test_the_device_is_for_its_owner_only(start: StartProcess) -> None:
    node = await start(HOLD)
    await node.agent()
    for name in ("liveupdate", "kexec"):
        assert stat.S_IMODE(os.stat(f"{node.root}/dev/{name}").st_mode) == 0o600


async def test_a_root_with_a_long_path_works(start: StartProcess, tmp_path: Path) -> None:
    node = await start(HOLD, root=tmp_path / ("long" * 30))
    await node.agent()
    assert await node.line() == "created"
    assert await node.line() == "preserved"
    assert syncclient.control(node.root, "sessions") == "s"


async def test_control_refuses_what_it_does_not_know(start: StartProcess) -> None:
    node = await start(HOLD)
    await node.agent()
    for words, number in (
        (("nonsense",), errno.ENOSYS),
        (("load", "too few"), errno.EINVAL),
        (("faults", "nonsense@1"), errno.EINVAL),
    ):
        with pytest.raises(OSError) as caught:
            syncclient.control(node.root, *words)
        assert caught.value.errno == number


async def test_control_sets_faults_and_the_default_kernel(start: StartProcess) -> None:
    node = await start(HOLD)
    await node.agent()
    assert [await node.line(), await node.line()] == ["created", "preserved"]
    syncclient.control(node.root, "faults", "panic@1")
    syncclient.control(node.root, "default", "7.9.9", "kho=on liveupdate=on quiet")
    syncclient.control(node.root, "load", sys.executable, "", "", "7.3.4")
    with pytest.raises(OSError) as caught:
        syncclient.control(node.root, "reboot")
    assert caught.value.errno == errno.ESHUTDOWN
    await node.agent()
    facts = syncclient.facts(node.root)
    assert (facts["release"], facts["command_line"]) == ("7.9.9", "kho=on liveupdate=on quiet")
    assert "7.9.9" in syncclient.control(node.root, "log")


def test_a_fault_that_cannot_be_read_is_a_wrong_argument(tmp_path: Path) -> None:
    run = subprocess.run(
        [*COMMAND, str(tmp_path), "--faults", "panik@1", "--", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr.startswith("error: --faults: unknown fault 'panik'; known are ")


def test_a_command_that_is_not_there_is_said_and_tried_again(tmp_path: Path) -> None:
    told, tell = os.pipe()
    process = subprocess.Popen([*COMMAND, str(tmp_path / "node"), "--", "/no/such/command"], stderr=tell)
    os.close(tell)
    with os.fdopen(told, encoding="utf-8") as lines:
        for _ in range(2):
            assert lines.readline() == "cannot start /no/such/command: No such file or directory\n"
        process.terminate()
        assert process.wait() == 0
