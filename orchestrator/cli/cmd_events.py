"""`liveroll` commands about what has happened: events, and a node's story."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import friendly
from orchestrator.cli.output import Format, Output, console, json_line, show
from orchestrator.cli.shell import RolloutOption, client_of, now

if TYPE_CHECKING:
    from liveroll.v1 import rollout_pb2 as pb

    from orchestrator.cli.client import Stream


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("events")(events)
    app.command("story")(story)


def events(
    context: typer.Context,
    rollout: RolloutOption = "",
    node: Annotated[str, typer.Option("--node", help="Only of this node")] = "",
    since: Annotated[
        str, typer.Option("--since", help="A cursor from an earlier event, or so long ago, e.g. 10m")
    ] = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as they come; Ctrl-C ends it")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", help="At most so many; 0: all", min=0)] = 0,
    output: Output = Format.TABLE,
) -> None:
    """Show what happened, in the order in which it was committed.

    With -o json or yaml an event is a line or a document. If the orchestrator goes away, it is
    waited for, and nothing is lost or told twice.

    \b
    liveroll events --since 10m
    liveroll events --follow -o json | jq -r .cursor
    """
    from orchestrator.cli import render_nodes
    from orchestrator.cli.follow import LOST, Follow

    cursor, after = _since(since)
    client, told = client_of(context), 0

    def start(behind: str) -> Stream:
        left = limit - told if limit else 0
        return client.events(cursor=behind, rollout=rollout, node=node, follow=follow, limit=left)

    scope = "".join(f" --{name} {value}" for name, value in (("rollout", rollout), ("node", node)) if value)
    pages: Follow[pb.ListEventsResponse] = Follow(
        start,
        lambda page: page.events[-1].cursor,
        cursor,
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
                if after is not None and event.time.ToDatetime(UTC) < after:
                    continue
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


def _since(text: str) -> tuple[str, datetime | None]:
    """(cursor, instant): one of them."""
    if not text:
        return "", None
    try:
        return "", now() - friendly.parse_duration(text)
    except ValueError:
        return text, None


def story(
    context: typer.Context,
    node: Annotated[str, typer.Argument(metavar="NODE")],
    rollout: RolloutOption = "",
    output: Output = Format.TABLE,
) -> None:
    """Tell a node's history: its attempts, each step, and what went wrong.

    \b
    liveroll story node-7
    """
    from liveroll.v1 import rollout_pb2 as messages

    from orchestrator.cli import render_nodes

    client = client_of(context)
    client.node(node)  # an unknown node is an error, not an empty story
    found: list[pb.Event] = []
    for page in client.events(rollout=rollout, node=node):
        found += page.events
    show(messages.ListEventsResponse(events=found), output, render_nodes.story(node, found))
