"""`liveroll` commands about what has happened: events, and a node's story."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import friendly
from orchestrator.cli.failure import invalid
from orchestrator.cli.output import Format, Output, console, json_line, show
from orchestrator.cli.shell import RolloutOption, client_of, kind_names, node_names, now

if TYPE_CHECKING:
    from liveroll.v1 import rollout_pb2 as pb

    from orchestrator.cli.client import Stream


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("events")(events)
    app.command("story")(story)


@dataclass(frozen=True, slots=True)
class Place:
    """Where to begin or to end in the log: behind a cursor, or at an instant."""

    cursor: str = ""
    at: datetime | None = None

    @classmethod
    def read(cls, text: str) -> Place:
        """A cursor, so long ago (10m), or a date and time with its zone. Raises Failed (INVALID)."""
        if not text:
            return cls()
        try:
            return cls(at=now() - friendly.parse_duration(text))
        except ValueError:
            pass
        try:
            return cls(at=friendly.parse_instant(text))
        except ValueError as error:
            incarnation, _, seq = text.partition(":")
            if not incarnation or not seq.isdigit():
                raise invalid(
                    f"{text!r} is no place in the log",
                    "Give an event's cursor, so long ago (10m), or an instant (2026-08-01T12:00:00Z).",
                ) from error
            return cls(cursor=text)


def events(
    context: typer.Context,
    rollout: RolloutOption = "",
    node: Annotated[str, typer.Option("--node", help="Only of this node", autocompletion=node_names)] = "",
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            help="Only these: rollout.halted, or a noun (attempt) for all of its kinds; may be repeated",
            autocompletion=kind_names,
        ),
    ] = None,
    actor: Annotated[
        str, typer.Option("--actor", help="Only what this person, node or the orchestrator caused")
    ] = "",
    since: Annotated[
        str,
        typer.Option(
            "--since", help="Behind an earlier event's cursor, since so long ago (10m), or since an instant"
        ),
    ] = "",
    until: Annotated[
        str, typer.Option("--until", help="Up to and including a cursor's event, or before an instant")
    ] = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as they come; Ctrl-C ends it")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", help="At most so many; 0: all", min=0)] = 0,
    output: Output = Format.TABLE,
) -> None:
    """Show what happened, in the order in which it was committed.

    With -o json an event is a line, with -o yaml a document; each has its cursor, and --since with
    the last one goes on without loss or repetition. If the orchestrator goes away, it or another
    one of --server is waited for.

    \b
    liveroll events --since 10m
    liveroll events --kind rollout --kind fleet.stopped --actor alice
    liveroll events --follow -o json | jq -r .cursor
    """
    from orchestrator.cli import render_nodes
    from orchestrator.cli.follow import LOST, Follow

    begin, end = Place.read(since), Place.read(until)
    client, told = client_of(context), 0

    def start(behind: str) -> Stream:
        return client.events(
            cursor=behind,
            rollout=rollout,
            node=node,
            follow=follow,
            limit=limit - told if limit else 0,
            kinds=kind or (),
            actor=actor,
            since=begin.at,
            until=end.at,
            until_cursor=end.cursor,
            progress=True,
        )

    options = [("rollout", rollout), ("node", node), *(("kind", k) for k in kind or ()), ("actor", actor)]
    scope = "".join(
        f" --{name} {shlex.quote(value)}" for name, value in (*options, ("until", until)) if value
    )
    pages: Follow[pb.ListEventsResponse] = Follow(
        start,
        lambda page: page.cursor or page.events[-1].cursor,
        begin.cursor,
        again=f"liveroll events{' --follow' if follow else ''}{scope} --since",
    )
    out, lost = console(), False
    try:
        for page in pages:
            if page is None:
                if not lost:
                    typer.echo(LOST, err=True)
                lost = True
                continue
            lost = False
            told += len(page.events)
            for event in page.events:
                if output is Format.TABLE:
                    out.print(render_nodes.event_line(event), soft_wrap=True)
                elif output is Format.JSON:
                    typer.echo(json_line(event))
                else:
                    show(event, output, "")
                    typer.echo("---")
            if limit and told >= limit:
                break
    except KeyboardInterrupt:
        pages.cancel()
        typer.echo(f"stopped; to go on: {pages.onward}", err=True)
        raise


def story(
    context: typer.Context,
    node: Annotated[str, typer.Argument(metavar="NODE", autocompletion=node_names)],
    rollout: RolloutOption = "",
    attempt: Annotated[
        int, typer.Option("--attempt", help="Only this attempt, by its number; 0: all", min=0)
    ] = 0,
    output: Output = Format.TABLE,
) -> None:
    """Tell a node's history over all rollouts: its attempts, each step, and what went wrong.

    \b
    liveroll story node-7
    liveroll story node-7 --attempt 3 -o json
    """
    from liveroll.v1 import rollout_pb2 as messages

    from orchestrator.cli import render_nodes

    client = client_of(context)
    client.node(node)  # an unknown node is an error, not an empty story
    found: list[pb.Event] = []
    for page in client.events(rollout=rollout, node=node):
        found += page.events
    if attempt:
        chapters = list(render_nodes.chapters(found))
        found = [event for generation, chapter in chapters if generation == attempt for event in chapter]
        if not found:
            known = ", ".join(str(g) for g, _ in chapters if g) or "none"
            raise invalid(
                f"the log has no attempt {attempt} of {node}",
                f"It has: {known}; older ones may have been trimmed.",
            )
    told = render_nodes.story(node, found, whole=not (rollout or attempt))
    show(messages.ListEventsResponse(events=found), output, told)
