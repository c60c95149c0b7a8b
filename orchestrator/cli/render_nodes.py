"""How nodes, events and a node's story look. Pure; see render.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby

from liveroll.v1 import common_pb2
from liveroll.v1 import rollout_pb2 as pb
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli import friendly

AT_REST = frozenset({"IDLE", "BAKING", "COMMITTED", "ABORTED"})
BLACKOUT = frozenset({"SUSPENDING", "JUMPING", "RETRIEVING", "RESUMING"})
BROKEN = frozenset({"AWAITING_ROLLBACK", "QUARANTINED", "COLD_BOOTED", "LOST"})
IN_FLIGHT_ROWS = 12
"""As many as a budget usually lets fly; the rest is counted."""
RFC2 = "luo-rfc-v2"
"""Capability of a node whose LUO is of RFC v2's model."""
_STORY_FIELDS = 8
_SAID_ANYWAY = frozenset({"kind", "phase", "outcome"})
"""Fields that an event's message says in words."""
_BOTH_SAY = frozenset({"attempt.prepared", "attempt.proceeded"})
"""The orchestrator asks, the node has done it."""
_ENDS = frozenset({"node.settled", "member.settled", "member.retrying", "attempt.lost"})
"""After these a node may be at rest."""


def phase_of(node: pb.Node) -> str:
    """IDLE, LOADING, …"""
    return common_pb2.Phase.Name(node.phase).removeprefix("PHASE_")


def phase_text(phase: str) -> Text:
    if phase in BROKEN:
        return Text(phase, "bold red")
    if phase in BLACKOUT:
        return Text(phase, "bold yellow")
    if phase in ("BAKING", "COMMITTED"):
        return Text(phase, "green")
    return Text(phase, "dim" if phase in AT_REST else "yellow")


def in_flight(nodes: Iterable[pb.Node]) -> Table | None:
    """Nodes that are under way or need somebody, the first of them; None if there are none."""
    flying = sorted((n for n in nodes if phase_of(n) not in AT_REST), key=lambda n: n.node_id)
    if not flying:
        return None
    table = _table("node", "phase", "wave", "link", "")
    for node in flying[:IN_FLIGHT_ROWS]:
        table.add_row(
            Text(node.node_id),
            phase_text(phase_of(node)),
            Text(node.wave),
            link_text(node),
            Text(problem_line(node), "red"),
        )
    if len(flying) > IN_FLIGHT_ROWS:
        table.add_row(Text(f"and {len(flying) - IN_FLIGHT_ROWS} more", "dim"))
    return table


def link_text(node: pb.Node) -> Text:
    return Text(node.link, {"up": "green", "down": "red"}.get(node.link, "yellow"))


def problem_line(node: pb.Node) -> str:
    """REASON: message; empty if there is none."""
    return _in_words(node.problem)


def _in_words(problem: common_pb2.Problem) -> str:
    return f"{problem.reason}: {problem.message}" if problem.reason else ""


def _luo(node: pb.Node) -> str:
    """Its model, and its state where the node tells of one."""
    if "luo" not in node.capabilities:
        return ""
    told = node.not_ready.fields
    if RFC2 not in node.capabilities:
        return "sessions"
    final = ", KHO finalized" if told.get("kho_finalized") else ""
    return f"rfc-v2, {told['luo_state']}{final}" if told.get("luo_state") else "rfc-v2"


def nodes_table(nodes: Sequence[pb.Node]) -> RenderableType:
    """What `nodes` prints."""
    if not nodes:
        return Text("no nodes")
    table = _table("node", "kernel", "phase", "link", "health", "rollout", "labels")
    for node in nodes:
        notes = [f"{k}={v}" for k, v in sorted(node.labels.items())]
        table.add_row(
            Text(node.node_id),
            Text(node.kernel_release),
            phase_text(phase_of(node)),
            link_text(node),
            _health(node),
            Text(node.rollout),
            Text(" ".join(notes), "dim"),
        )
    return table


def _health(node: pb.Node) -> Text:
    if node.written_off:
        return Text("written off", "magenta")
    if node.HasField("maintenance"):
        return Text("maintenance", "magenta")
    if not node.healthy:
        return Text("unhealthy", "red")
    return Text("not ready", "yellow") if node.HasField("not_ready") else Text("ok", "green")


def node_view(node: pb.Node, now: datetime) -> RenderableType:
    """What `node` prints."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    rows: list[tuple[str, str | Text]] = [
        ("kernel", node.kernel_release),
        ("hardware", node.hardware_model),
        ("phase", phase_text(phase_of(node))),
        ("health", _health(node)),
        ("problem", Text(problem_line(node), "red")),
        ("remedy", node.problem.remedy),
        ("not ready", Text(_in_words(node.not_ready), "yellow")),
        ("remedy", node.not_ready.remedy),
        ("link", _link_line(node, now)),
        ("rollout", f"{node.rollout}, wave {node.wave}" if node.rollout else ""),
        ("attempt", str(node.attempt.generation) if node.HasField("attempt") else ""),
        ("boot", f"{node.boot_id} {_verdict(node)}".strip()),
        ("wanted", node.desired),
        ("labels", " ".join(f"{k}={v}" for k, v in sorted(node.labels.items()))),
        ("capabilities", ", ".join(node.capabilities)),
        ("LUO", _luo(node)),
        ("way back", node.rollback_artifact),
        ("staged", ", ".join(d[:16] for d in node.staged_artifacts)),
        ("maintenance", _maintenance(node)),
        ("agent", node.agent_version),
    ]
    for name, value in rows:
        if value:
            table.add_row(name, value if isinstance(value, Text) else Text(value))
    return Group(Text(node.node_id, "bold"), table)


def _link_line(node: pb.Node, now: datetime) -> Text:
    line = link_text(node)
    if node.HasField("link_changed_time"):
        line.append(f" for {friendly.duration(max(now - node.link_changed_time.ToDatetime(UTC), now - now))}")
    return line


def _verdict(node: pb.Node) -> str:
    if not node.boot_verdict:
        return ""
    name = common_pb2.BootVerdict.Name(node.boot_verdict).removeprefix("BOOT_VERDICT_")
    by_hand = ", by hand" if node.boot_by_hand else ""
    return f"({name.lower().replace('_', ' ')}{by_hand})"


def _maintenance(node: pb.Node) -> str:
    if not node.HasField("maintenance"):
        return ""
    line = f"{node.maintenance.reason} ({node.maintenance.owner})"
    if node.maintenance.HasField("expire_time"):
        line += f" until {friendly.instant(node.maintenance.expire_time.ToDatetime(UTC))}"
    return line


def event_line(event: pb.Event) -> Text:
    """One line, never wrapped: when, what kind, in words, by whom."""
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{friendly.clock(event.time.ToDatetime(UTC))}  ", "dim")
    line.append(f"{event.kind:<20} ", _event_style(event.kind))
    if event.node_id and not event.message.startswith(event.node_id):
        line.append(f"{event.node_id}: ")
    line.append(event.message)
    if event.node_id:
        line.highlight_words([event.node_id], "bold")
    _whence(line, event)
    return line


def _whence(line: Text, event: pb.Event) -> None:
    """Why and by whom, where that is news: nodes and the orchestrator itself are not."""
    if event.cause and event.cause not in event.message:
        line.append(f"  because of {event.cause}", "dim")
    if event.actor.removeprefix("local:").removeprefix("agent:") not in ("", "orchestrator", event.node_id):
        line.append(f"  by {event.actor}", "dim")


def _event_style(kind: str) -> str:
    if any(word in kind for word in ("halt", "fail", "lost", "stopped", "quarantin", "refus", "violat")):
        return "red"
    if any(word in kind for word in ("succeed", "passed", "committed", "ended")):
        return "green"
    return "cyan"


def story(node_id: str, events: Sequence[pb.Event], *, whole: bool = False) -> RenderableType:
    """A node's history as attempts, each with its events and how long after its begin they came.

    whole: it is meant to be all of it; if it does not begin with the node's, that is said.
    """
    if not events:
        return Text(f"nothing is known of {node_id}; events may have been trimmed")
    parts: list[RenderableType] = [Text(f"the story of {node_id}", "bold")]
    if whole and events[0].kind != "node.enrolled":
        parts.append(Text("its beginning is no longer kept", "dim"))
    for generation, chapter in chapters(events):
        parts += ["", *_chapter(generation, chapter)]
    return Group(*parts)


def chapters(events: Sequence[pb.Event]) -> Iterator[tuple[int, Sequence[pb.Event]]]:
    """Runs of one attempt (0: at rest). What happens to the node until its attempt's last event
    belongs to the attempt: its link ends and comes back in the middle of every blackout."""
    last = {e.attempt.generation: i for i, e in enumerate(events)}
    settled = {e.attempt.generation for e in events if e.kind in _ENDS}
    current = 0
    generations = []
    for i, event in enumerate(events):
        if event.attempt.generation:
            current = event.attempt.generation
        elif current and i > last[current] and current in settled:
            current = 0
        generations.append(current)
    for generation, run in groupby(zip(generations, events, strict=True), key=lambda pair: pair[0]):
        yield generation, [event for _, event in run]


def _chapter(generation: int, events: Sequence[pb.Event]) -> Iterator[RenderableType]:
    begun = events[0].time.ToDatetime(UTC)
    title = f"attempt {generation}" if generation else "at rest"
    rollout = next((e.rollout for e in events if e.rollout), "")
    yield Text.assemble(
        (title, "bold"), f" of {rollout}" if rollout and generation else "", f", {friendly.instant(begun)}"
    )
    lines = Table.grid(padding=(0, 1, 0, 0))
    lines.add_column(no_wrap=True, min_width=10, style="dim")
    lines.add_column(no_wrap=True, min_width=20)
    lines.add_column(overflow="fold")
    said: dict[str, str] = {}
    unlinked_at: datetime | None = None
    for event in events:
        at = event.time.ToDatetime(UTC)
        line = Text(event.message.removeprefix(f"{event.node_id}: "))
        if event.kind == "node.unlinked":
            unlinked_at = at
        elif event.kind == "node.linked" and unlinked_at is not None:
            line.append(f", after {friendly.duration(at - unlinked_at)} without a link")
            unlinked_at = None
        _tell_news(line, event, said)
        if event.kind in _BOTH_SAY and event.actor == "orchestrator":
            line.append("  by orchestrator", "dim")
        elif event.kind in _BOTH_SAY and event.actor.removeprefix("agent:") == event.node_id:
            line.append("  by node", "dim")
        _whence(line, event)
        lines.add_row(f"  +{friendly.duration(at - begun)}", Text(event.kind, _event_style(event.kind)), line)
    yield lines


def _tell_news(line: Text, event: pb.Event, said: dict[str, str]) -> None:
    """The problem, and fields that say what no earlier event of the chapter said."""
    news = {k: v for k, v in event.fields.items() if v and k not in _SAID_ANYWAY and said.get(k) != v}
    said.update(news)
    problem, message = news.pop("problem", ""), news.pop("problem_message", "")
    blackout = news.pop("blackout", "")
    if blackout:
        line.append(f"  blackout {blackout}", "yellow")
    if message:
        line.append(f"  {problem or event.fields['problem']}: {message}", "red")
    elif problem:
        line.append(f"  {problem}", "red")
    if news:
        line.append("  " + " ".join(f"{k}={v}" for k, v in sorted(news.items())[:_STORY_FIELDS]), "dim")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
