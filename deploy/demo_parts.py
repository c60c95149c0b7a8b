"""What the demo's scenarios have in common: `liveroll` on this terminal, waiting, the words at the end."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path

from liveroll.v1 import rollout_pb2 as pb

from deploy.local import Child, ChildFailed, LocalFleet
from orchestrator.cli.client import Client, Connection
from orchestrator.cli.entry import HELD_BACK
from orchestrator.cli.failure import Failed

LINK_TIMEOUT_S = 30.0


def say(text: str) -> None:
    """On the terminal, after a blank line."""
    print(f"\n{text}", flush=True)


def wait_for_links(fleet: LocalFleet, wanted: int) -> None:
    """Until so many nodes are linked and have a way back."""
    ready: set[str] = set()
    with Client(Connection(fleet.operators)) as client:
        watch = client.watch_nodes()
        timer = threading.Timer(LINK_TIMEOUT_S, watch.cancel)
        timer.start()
        try:
            for update in watch:
                ready |= {n.node_id for n in update.nodes if n.link == "up" and n.rollback_artifact}
                if len(ready) >= wanted:
                    return
        except Failed as error:
            raise ChildFailed(
                f"{len(ready)} of {wanted} nodes linked within {LINK_TIMEOUT_S:.0f} s"
            ) from error
        finally:
            timer.cancel()
            watch.cancel()


def get(fleet: LocalFleet, name: str) -> pb.Rollout:
    with Client(Connection(fleet.operators)) as client:
        return client.get(name)


async def foreground(fleet: LocalFleet, *arguments: str) -> int:
    """One `liveroll` command with this terminal. Returns its exit status."""
    # Ctrl-C goes to all on this terminal: a Python that has just been started would answer with a traceback.
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "orchestrator.cli.entry", "--server", fleet.operators, *arguments
        )
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
    child = Child(arguments[0], process, fleet.directory / "orchestrator.log")
    fleet.children.append(child)
    try:
        return await process.wait()
    finally:
        await child.stop()
        fleet.children.remove(child)


def summarise(fleet: LocalFleet, name: str) -> None:
    """What came of it, in a few lines."""
    rollout = get(fleet, name)
    blackout = rollout.blackout
    state = pb.RolloutState.Name(rollout.state).removeprefix("ROLLOUT_STATE_")

    def total(field: str) -> int:
        return sum(int(getattr(wave, field)) for wave in rollout.waves)

    lines = [
        f"{name}: {state}",
        f"nodes     {total('updated')} updated, {total('failed')} failed, "
        f"{total('rolled_back')} rolled back, {total('left_out')} left out, of {rollout.members}",
        f"retries   {rollout.retries}",
        f"blackout  p50 {blackout.p50.ToTimedelta().total_seconds():.3f} s, "
        f"p99 {blackout.p99.ToTimedelta().total_seconds():.3f} s, "
        f"max {blackout.max.ToTimedelta().total_seconds():.3f} s "
        f"({blackout.samples} samples{', emulated' if blackout.emulated else ''})",
        f"memory    {rollout.memory_checks_passed} checks passed, {rollout.memory_checks_failed} failed",
    ]
    say("\n".join(lines))


async def stay_up(fleet: LocalFleet, node_id: str, more: Sequence[Sequence[str]] = ()) -> None:
    """Prints what to try, about that node for instance, and waits for Ctrl-C or SIGTERM.

    more: command lines to try as well.
    """
    liveroll = shlex.join([str(Path(sys.executable).parent / "liveroll"), "--server", fleet.operators])
    say(
        textwrap.dedent(f"""\
        Still running; Ctrl-C ends it.
          operators  {fleet.operators}   agents  {fleet.agents}   metrics  http://{fleet.http}/metrics
        Try:
          {liveroll} list
          {liveroll} nodes
          {liveroll} story {node_id}
          {liveroll} events
          curl -s http://{fleet.http}/metrics | grep liveroll_blackout_seconds""")
    )
    for words in more:
        print(f"  {shlex.join(words)}", flush=True)
    print(f"State and logs are in {fleet.directory}", flush=True)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
