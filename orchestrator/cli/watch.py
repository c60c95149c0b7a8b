"""Looking on at a rollout: a live view on a terminal, a line an event elsewhere.

Rules
1. The watch outlives the orchestrator: if it goes away, the watch goes on from its cursor when it
   is back within follow.PATIENCE_S; nothing is told twice and nothing left out.
2. It ends when the rollout has ended, or has halted and nothing of it is in flight any more (a
   halt waits for a person; --through-halt waits too).
3. Ctrl-C leaves at once and cleanly; the rollout goes on.
"""

from __future__ import annotations

import contextlib
import queue
import threading

from liveroll.v1 import rollout_pb2 as pb
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from orchestrator.cli import render, render_nodes
from orchestrator.cli.client import Client, Stream
from orchestrator.cli.failure import Exit, Failed
from orchestrator.cli.follow import LOST, RETRY_S, Follow
from orchestrator.cli.output import Format, console, json_line, text_of
from orchestrator.cli.shell import now

REDRAW_S = 0.25
QUEUE_SIZE = 64
"""Updates not drawn yet; a full queue slows the stream, which loses nothing."""
LAST_EVENTS = 6

Updates = Follow[pb.WatchRolloutResponse]

EXITS = {
    "SUCCEEDED": Exit.OK,
    "HALTED": Exit.FAILED,
    "FAILED": Exit.FAILED,
    "CANCELLED": Exit.CANCELLED,
    "ROLLED_BACK": Exit.CANCELLED,
}


def is_over(rollout: pb.Rollout, *, through_halt: bool = False) -> bool:
    """Whether a watch has nothing more to wait for (rule 2)."""
    if rollout.HasField("end_time"):
        return True
    if through_halt or render.state_of(rollout) != "HALTED":
        return False
    return not any(wave.in_progress for wave in rollout.waves)


def exit_of(rollout: pb.Rollout) -> Exit:
    """How a rollout that is over ended, as an exit code."""
    return EXITS.get(render.state_of(rollout), Exit.OK)


def watch_rollout(
    client: Client, rollout: str, output: Format, *, cursor: str = "", through_halt: bool = False
) -> Exit:
    """Watch until rule 2 holds. Raises Failed."""
    updates: Updates = Follow(
        lambda after: client.watch(rollout, after),
        lambda update: update.cursor,
        cursor,
        again=f"liveroll watch {rollout} --cursor",
    )
    try:
        if output is not Format.TABLE:
            return _messages(updates, output, through_halt)
        out = console()
        if out.is_terminal:
            return _live(client, rollout, updates, out, through_halt)
        return _lines(updates, out, through_halt)
    except KeyboardInterrupt:
        updates.cancel()
        console(stderr=True).print(f"stopped watching; {rollout} goes on ({updates.onward})", soft_wrap=True)
        return Exit.INTERRUPTED


def _messages(updates: Updates, output: Format, through_halt: bool) -> Exit:
    for update in updates:
        if update is None:
            continue
        print(json_line(update) if output is Format.JSON else text_of(update, output) + "---", flush=True)
        if is_over(update.rollout, through_halt=through_halt):
            return exit_of(update.rollout)
    return Exit.OK


def _lines(updates: Updates, out: Console, through_halt: bool) -> Exit:
    """A line an event, and one whenever the state or what it waits for changes."""
    state, reasons, lost = "", frozenset[str](), False
    last: pb.Rollout | None = None
    for update in updates:
        if update is None:
            if not lost:
                out.print(LOST)
            lost = True
            continue
        lost, last = False, update.rollout
        for event in update.events:
            out.print(render_nodes.event_line(event), soft_wrap=True)
        over = is_over(last, through_halt=through_halt)
        if render.state_of(last) != state and not over:
            state = render.state_of(last)
            out.print(render.headline(last, now()), soft_wrap=True)
        held = [b for b in last.blockers if b.reason != "IN_PROGRESS"]
        if frozenset(b.reason for b in held) != reasons:
            reasons = frozenset(b.reason for b in held)
            if held:
                told = "; ".join(f"{b.reason}: {b.message}" for b in held)
                out.print(Text(f"waits for {told}"), soft_wrap=True)
        if over:
            break
    if last is None:
        return Exit.OK
    out.print()
    out.print(render.rollout_view(last, (), now()))
    return exit_of(last)


class Screen:
    """What the live view shows, filled by two threads and drawn by the main one."""

    def __init__(self) -> None:
        self.rollout: pb.Rollout | None = None
        self.nodes: dict[str, pb.Node] = {}
        self.events: list[pb.Event] = []
        self.lost = False

    def draw(self) -> RenderableType:
        if self.rollout is None:
            return Text("waiting for the orchestrator …", "dim")
        parts: list[RenderableType] = []
        if self.lost:  # first: a small terminal cuts the end off
            parts.append(Text(f"{LOST}; what follows may be old", "yellow"))
        parts.append(render.rollout_view(self.rollout, list(self.nodes.values()), now()))
        if self.events:
            parts += ["", *(render_nodes.event_line(e) for e in self.events)]
        return Group(*parts)


def _live(client: Client, rollout: str, updates: Updates, out: Console, through_halt: bool) -> Exit:
    screen = Screen()
    news: queue.Queue[pb.WatchRolloutResponse | Failed | str | None] = queue.Queue(QUEUE_SIZE)
    gone = threading.Event()

    def put(item: pb.WatchRolloutResponse | Failed | str | None) -> None:
        while not gone.is_set():
            with contextlib.suppress(queue.Full):
                news.put(item, timeout=REDRAW_S)
                return

    def read_updates() -> None:
        try:
            for update in updates:
                put("lost" if update is None else update)
            put(None)
        except Failed as failed:
            put(failed)

    nodes = _NodesReader(client, rollout, screen.nodes, gone)
    threads = [threading.Thread(target=t, daemon=True) for t in (read_updates, nodes.run)]
    for thread in threads:
        thread.start()
    try:
        # The alternate screen, for a frame that scrolled cannot be taken back; the last one is
        # printed below, whole.
        with Live(screen.draw(), console=out, auto_refresh=False, screen=True) as live:
            while True:
                over = _take(news, screen, through_halt)
                live.update(screen.draw(), refresh=True)
                if over:
                    break
    finally:
        gone.set()
        updates.cancel()
        nodes.cancel()
        for thread in threads:
            thread.join(timeout=2)
        if screen.rollout is not None:
            out.print(screen.draw())
    return Exit.OK if screen.rollout is None else exit_of(screen.rollout)


def _take(
    news: queue.Queue[pb.WatchRolloutResponse | Failed | str | None], screen: Screen, through_halt: bool
) -> bool:
    """Wait for the next update or the next redraw. True: it is over."""
    try:
        item = news.get(timeout=REDRAW_S)
    except queue.Empty:
        return False
    if isinstance(item, Failed):
        raise item
    if item is None:
        return True
    if isinstance(item, str):
        screen.lost = True
        return False
    screen.rollout, screen.lost = item.rollout, False
    screen.events = [*screen.events, *item.events][-LAST_EVENTS:]
    return is_over(item.rollout, through_halt=through_halt)


class _NodesReader:
    """Keeps the nodes' phases; only for show, so its failures are no failure of the watch."""

    def __init__(
        self, client: Client, rollout: str, nodes: dict[str, pb.Node], gone: threading.Event
    ) -> None:
        self._client, self._rollout, self._nodes, self._gone = client, rollout, nodes, gone
        self._stream: Stream | None = None

    def cancel(self) -> None:
        if self._stream is not None:
            self._stream.cancel()

    def run(self) -> None:
        while not self._gone.is_set():
            self._stream = self._client.watch_nodes(rollout=self._rollout)
            try:
                for update in self._stream:
                    for node in update.nodes:
                        self._nodes[node.node_id] = node
            except Failed:
                self._gone.wait(RETRY_S)
