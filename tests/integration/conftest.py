"""Real processes on loopback: fleets that end with their test, and an operator's eyes on them."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from liveroll.v1 import rollout_pb2 as pb

from deploy.local import LocalFleet
from orchestrator.cli.client import Client
from orchestrator.cli.failure import Failed
from orchestrator.cli.rollout_file import load

REPOSITORY = Path(__file__).resolve().parents[2]
OLD, NEW = "7.2.13", "6.19.3"
WAIT_S = 45.0
"""Far beyond what anything here takes; a test that waits so long has failed."""

Event = Any
"""liveroll.v1.Event"""


@dataclass(frozen=True)
class Done:
    """A command's end."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


def run(command: Sequence[str], *, timeout_s: float = WAIT_S, cwd: Path = REPOSITORY) -> Done:
    """A command to its end. Whatever it is, it shows nobody a traceback."""
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert "Traceback" not in ended.stdout + ended.stderr, ended.stdout + ended.stderr
    return Done(ended.returncode, ended.stdout, ended.stderr)


async def liveroll(fleet: LocalFleet, *arguments: str) -> Done:
    """One CLI command, as the operator."""
    return await asyncio.to_thread(run, fleet.liveroll(*arguments))


def module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


class Operator:
    """Looks at a fleet through the public client, from a thread."""

    def __init__(self, fleet: LocalFleet) -> None:
        self.fleet = fleet

    def create(self, text: str) -> pb.Rollout:
        """From a rollout file's text."""
        file = self.fleet.directory / "rollout.yaml"
        file.write_text(text)
        with Client(self.fleet.connection) as client:
            return client.create(load(file).spec)

    def wait_for_links(self, count: int) -> None:
        """Until so many nodes are linked, and have a way back."""

        def linked(nodes: dict[str, pb.Node]) -> bool:
            return sum(n.link == "up" and bool(n.rollback_artifact) for n in nodes.values()) >= count

        self.wait_for_nodes(linked)

    def wait_for_nodes(self, wanted: Callable[[dict[str, pb.Node]], bool]) -> dict[str, pb.Node]:
        """Until the nodes are as wanted."""
        seen: dict[str, pb.Node] = {}
        with Client(self.fleet.connection) as client:
            for update in _bounded(client.watch_nodes()):
                seen.update({n.node_id: n for n in update.nodes})
                if wanted(seen):
                    return seen
        raise AssertionError(f"never came true; at last {seen}")

    def wait_for_event(self, wanted: Callable[[Event], bool], *, cursor: str = "") -> Event:
        """The first event from the cursor on that is wanted."""
        with Client(self.fleet.connection) as client:
            for page in _bounded(client.events(follow=True, cursor=cursor)):
                for event in page.events:
                    if wanted(event):
                        return event
        raise AssertionError("never happened")

    def kill_at(self, wanted: Callable[[Event], bool], pid: int, number: int, *, cursor: str = "") -> Event:
        """Sends the signal from the very place that sees the event."""

        def see(event: Event) -> bool:
            if not wanted(event):
                return False
            os.kill(pid, number)
            return True

        return self.wait_for_event(see, cursor=cursor)

    def wait_for_end(self, rollout: str) -> pb.Rollout:
        """Its last snapshot."""
        last: pb.Rollout | None = None
        with Client(self.fleet.connection) as client:
            for update in _bounded(client.watch(rollout)):
                last = update.rollout
        assert last is not None
        return last

    def events(self) -> list[Event]:
        with Client(self.fleet.connection) as client:
            return [event for page in client.events() for event in page.events]

    def events_of(self, kind: str) -> list[Event]:
        return [event for event in self.events() if event.kind == kind]

    def rollout(self, name: str) -> pb.Rollout:
        with Client(self.fleet.connection) as client:
            return client.get(name)

    def nodes(self) -> dict[str, pb.Node]:
        with Client(self.fleet.connection) as client:
            return {n.node_id: n for n in client.nodes()}


def _bounded(stream: Any) -> Iterator[Any]:
    """A stream that is cancelled after WAIT_S, and then says so."""
    late = threading.Event()

    def cut() -> None:
        late.set()
        stream.cancel()

    timer = threading.Timer(WAIT_S, cut)
    timer.start()
    try:
        yield from stream
    except Failed as failed:
        raise AssertionError(
            f"the stream ended{' (too late)' if late.is_set() else ''}: {failed}"
        ) from failed
    finally:
        timer.cancel()
        stream.cancel()


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid: int) -> dict[int, str]:
    """pid → command line of every process below this one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: dict[int, str] = {}
    waiting = list(children.get(pid, ()))
    while waiting:
        one = waiting.pop()
        try:
            found[one] = (Path("/proc") / str(one) / "cmdline").read_text().replace("\0", " ").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        waiting += children.get(one, ())
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A fleet's directory."""
    return tmp_path / "f"
