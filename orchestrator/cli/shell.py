"""What every command shares: the global options, how failures end, and which rollout is meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from orchestrator.cli.failure import Exit, Failed, invalid

if TYPE_CHECKING:
    from orchestrator.cli.client import Client

Key = Annotated[
    str,
    typer.Option("--idempotency-key", help="Repeat a call safely; one is made up if omitted", metavar="KEY"),
]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Kept in the audit trail")]


COMPLETION_TIMEOUT_S = 1.0
"""Longer than that, and a shell seems to hang."""


def rollout_names(context: typer.Context, incomplete: str) -> list[str]:
    """For the shell's completion: rollouts that begin so, newest first; silence if none can be had."""
    names = _asked(context, lambda client: [rollout.rollout_id for rollout in client.list()])
    return [name for name in names if name.startswith(incomplete)]


def node_names(context: typer.Context, incomplete: str) -> list[str]:
    """For the shell's completion: nodes that begin so; silence if none can be had."""
    names = _asked(context, lambda client: [node.node_id for node in client.nodes()])
    return [name for name in names if name.startswith(incomplete)]


def kind_names(incomplete: str) -> list[str]:
    """For the shell's completion: kinds of events that begin so."""
    from orchestrator.cli.kinds import KINDS

    nouns = dict.fromkeys(kind.partition(".")[0] for kind in KINDS)
    return [name for name in (*nouns, *KINDS) if name.startswith(incomplete)]


def _asked(context: typer.Context, ask: Callable[[Client], list[str]]) -> list[str]:
    given = context.parent.params if context.parent is not None else {}
    try:
        from orchestrator.cli.client import DEFAULT_SERVER, Client, Connection

        connection = Connection(
            given.get("server") or DEFAULT_SERVER,
            given.get("ca"),
            given.get("cert"),
            given.get("key"),
            COMPLETION_TIMEOUT_S,
        )
        with Client(connection) as client:
            return ask(client)
    except Failed:
        return []


Rollout = Annotated[str, typer.Argument(help="The rollout's name", autocompletion=rollout_names)]
MaybeRollout = Annotated[
    str,
    typer.Argument(
        help="The rollout's name; may be left out while only one is under way", autocompletion=rollout_names
    ),
]
RolloutOption = Annotated[
    str, typer.Option("--rollout", help="Only of this rollout", autocompletion=rollout_names)
]


@dataclass(frozen=True, slots=True)
class Globals:
    """The options before the command. connect makes the client when a command needs it."""

    connect: Callable[[], Client]


def client_of(context: typer.Context) -> Client:
    """The connection that the global options describe."""
    held: Globals = context.obj
    client = held.connect()
    context.call_on_close(client.close)
    return client


def which(client: Client, rollout: str) -> str:
    """The rollout meant when none is named. Raises Failed."""
    if rollout:
        return rollout
    active = client.list(active_only=True)
    if len(active) == 1:
        return active[0].rollout_id
    if not active:
        raise invalid("no rollout is under way", "Name one; `liveroll list` shows those that have ended.")
    names = ", ".join(r.rollout_id for r in active[:5])
    raise invalid("more than one rollout is under way", f"Name one of {names}.")


def now() -> datetime:
    """The CLI's one look at the clock, for ages on the screen."""
    return datetime.now(UTC)


class Shell(TyperGroup):
    """Turns a Failed into its lines on stderr and its exit code, and Ctrl-C into 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Failed as failed:
            for line in failed.lines():
                typer.echo(line, err=True)
            raise typer.Exit(failed.exit) from None
        except KeyboardInterrupt:
            raise typer.Exit(Exit.INTERRUPTED) from None
