"""`liveroll` commands about rollouts: plan, create, look, steer, undo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.failure import Exit, Failed
from orchestrator.cli.output import Format, Output, show
from orchestrator.cli.shell import Key, MaybeRollout, Reason, Rollout, client_of, now, which

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message
    from liveroll.v1 import rollout_pb2 as pb

    from orchestrator.cli.client import Client

File = Annotated[Path, typer.Argument(help="A rollout file; `liveroll example` prints one", metavar="FILE")]
Nodes = Annotated[list[str] | None, typer.Argument(help="Names of nodes", metavar="[NODE]...")]
Watch = Annotated[
    bool, typer.Option("--watch", "-w", help="Look on until it ends; its end is the exit status")
]
ThroughHalt = Annotated[bool, typer.Option("--through-halt", help="Do not leave when the rollout halts")]


def register(app: typer.Typer) -> None:
    """Add these commands, in the order in which a rollout needs them."""
    for name, command in (
        ("plan", plan),
        ("create", create),
        ("get", get),
        ("list", list_rollouts),
        ("watch", watch),
        ("why", why),
        ("pause", pause),
        ("resume", resume),
        ("approve", approve),
        ("cancel", cancel),
        ("rollback", rollback),
        ("commit", commit),
        ("retry", retry),
        ("exclude", exclude),
    ):
        app.command(name)(command)


def plan(context: typer.Context, file: File, output: Output = Format.TABLE) -> None:
    """Show what a rollout file would do: waves, kernel pairs, nodes left out and why.

    Nothing is created. Every problem of the file is told at once, with its line.

    \b
    liveroll plan rollout.yaml
    liveroll plan rollout.yaml -o json | jq .waves
    """
    from orchestrator.cli import render
    from orchestrator.cli.rollout_file import load

    loaded = load(file)
    try:
        planned = client_of(context).plan(loaded.spec)
    except Failed as failed:
        raise loaded.located(failed) from None
    show(planned, output, render.plan_view(planned))


def create(
    context: typer.Context,
    file: File,
    watch: Watch = False,
    through_halt: ThroughHalt = False,
    output: Output = Format.TABLE,
    key: Key = "",
) -> None:
    """Begin a rollout. The same file again is the same rollout, not another one.

    \b
    liveroll create rollout.yaml
    liveroll create rollout.yaml --watch
    """
    from orchestrator.cli.rollout_file import load

    loaded = load(file)
    client = client_of(context)
    existed = _exists(client, loaded.spec.name)
    try:
        made = client.create(loaded.spec, key=key)
    except Failed as failed:
        raise loaded.located(failed) from None
    if existed:
        typer.echo(f"{made.rollout_id} exists already, nothing was created", err=output is not Format.TABLE)
    if watch:
        from orchestrator.cli.watch import watch_rollout

        raise typer.Exit(watch_rollout(client, made.rollout_id, output, through_halt=through_halt))
    from orchestrator.cli import render

    show(made, output, render.headline(made, now()))
    if output is Format.TABLE and not made.HasField("end_time"):
        typer.echo(f"watch it: liveroll watch {made.rollout_id}")


def _exists(client: Client, name: str) -> bool:
    try:
        client.get(name)
    except Failed as failed:
        if failed.exit is Exit.INVALID:  # not found
            return False
        raise
    return True


def get(context: typer.Context, rollout: MaybeRollout = "", output: Output = Format.TABLE) -> None:
    """Show a rollout: waves, figures, what it waits for.

    \b
    liveroll get kernel-6.19.3 -o json | jq .state
    """
    from orchestrator.cli import render

    client = client_of(context)
    found = client.get(which(client, rollout))
    nodes = client.nodes(rollout=found.rollout_id) if output is Format.TABLE else ()
    show(found, output, render.rollout_view(found, nodes, now()))


def list_rollouts(
    context: typer.Context,
    active: Annotated[bool, typer.Option("--active", help="Only those that have not ended")] = False,
    output: Output = Format.TABLE,
) -> None:
    """List rollouts, newest first."""
    from liveroll.v1 import rollout_pb2 as messages

    from orchestrator.cli import render

    found = client_of(context).list(active_only=active)
    answer = messages.ListRolloutsResponse(rollouts=found)
    show(answer, output, render.rollouts_table(found, now()))


def watch(
    context: typer.Context,
    rollout: MaybeRollout = "",
    cursor: Annotated[str, typer.Option("--cursor", help="Go on after this event", metavar="CURSOR")] = "",
    through_halt: ThroughHalt = False,
    output: Output = Format.TABLE,
) -> None:
    """Look on until the rollout ends or halts. Ctrl-C leaves; the rollout goes on.

    A terminal shows a live view, anything else a line for each event, -o json a message a line.
    If the orchestrator goes away, it is waited for, and nothing is lost or told twice.

    Exit status: 0 succeeded, 4 halted or failed, 5 cancelled or rolled back.

    \b
    liveroll watch kernel-6.19.3
    liveroll watch kernel-6.19.3 -o json | jq -c .rollout.state
    """
    from orchestrator.cli.watch import watch_rollout

    client = client_of(context)
    name = which(client, rollout)
    raise typer.Exit(watch_rollout(client, name, output, cursor=cursor, through_halt=through_halt))


def why(
    context: typer.Context,
    rollout: MaybeRollout = "",
    node: Annotated[str, typer.Option("--node", help="Why this node stands where it stands")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Say why it stands where it stands: what is in the way, and who must do what.

    \b
    liveroll why kernel-6.19.3
    liveroll why kernel-6.19.3 --node node-7
    """
    from orchestrator.cli import render

    client = client_of(context)
    answer = client.explain(which(client, rollout), node)
    show(answer, output, render.explanation(answer, now()))


def pause(
    context: typer.Context,
    rollout: Rollout,
    reason: Reason = "",
    output: Output = Format.TABLE,
    key: Key = "",
) -> None:
    """Start nothing more. Nodes that have not jumped yet are unwound at once."""
    _steered(client_of(context).pause(rollout, reason, key=key), output)


def resume(
    context: typer.Context,
    rollout: Rollout,
    reason: Reason = "",
    clear_halt: Annotated[
        bool, typer.Option("--clear-halt", help="Accept the failures so far and go on after a halt")
    ] = False,
    output: Output = Format.TABLE,
    key: Key = "",
) -> None:
    """End a pause; with --clear-halt also a halt.

    \b
    liveroll resume kernel-6.19.3
    liveroll resume kernel-6.19.3 --clear-halt -m "the rack had lost power"
    """
    _steered(client_of(context).resume(rollout, reason, clear_halt=clear_halt, key=key), output)


def approve(
    context: typer.Context,
    rollout: Rollout,
    wave: Annotated[str, typer.Option("--wave", help="Default: the one that waits")] = "",
    remark: Annotated[str, typer.Option("--remark", "-m", help="Kept in the audit trail")] = "",
    output: Output = Format.TABLE,
    key: Key = "",
) -> None:
    """Let a wave begin that waits for a person."""
    _steered(client_of(context).approve(rollout, wave, remark=remark, key=key), output)


def cancel(
    context: typer.Context,
    rollout: Rollout,
    reason: Reason = "",
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="Also bring back what is updated, newest first")
    ] = False,
    output: Output = Format.TABLE,
    key: Key = "",
) -> None:
    """Give a rollout up: nodes that have not jumped unwind, the others settle.

    Without --roll-back, nodes that are updated stay so; `commit` or `rollback` decides about them.

    \b
    liveroll cancel kernel-6.19.3 -m "wrong config"
    liveroll cancel kernel-6.19.3 --roll-back
    """
    _steered(client_of(context).cancel(rollout, reason, roll_back=roll_back, key=key), output)


def rollback(
    context: typer.Context,
    rollout: Rollout,
    reason: Reason = "",
    watch: Watch = False,
    output: Output = Format.TABLE,
    key: Key = "",
) -> None:
    """Bring every updated node back to its kernel from before, in reverse order."""
    client = client_of(context)
    found = client.roll_back(rollout, reason, key=key)
    if watch:
        from orchestrator.cli.watch import watch_rollout

        raise typer.Exit(watch_rollout(client, found.rollout_id, output, through_halt=True))
    _steered(found, output)


def commit(
    context: typer.Context,
    rollout: Rollout,
    nodes: Nodes = None,
    reason: Reason = "",
    output: Output = Format.TABLE,
    key: Key = "",
) -> None:
    """Make the new kernel what a cold boot starts, on these nodes or all that are uncommitted."""
    from liveroll.v1 import rollout_pb2 as messages

    done = client_of(context).commit(rollout, nodes or (), reason, key=key)
    _named("committing", done, messages.CommitNodesResponse(nodes=done), output)


def retry(
    context: typer.Context,
    rollout: Rollout,
    nodes: Nodes = None,
    reason: Reason = "",
    output: Output = Format.TABLE,
    key: Key = "",
) -> None:
    """Give failed nodes another attempt, or another try to stage, once what failed is mended.

    Without names all that have failed; nodes that could not stage are named (`liveroll why`).

    \b
    liveroll retry kernel-6.19.3 node-7 -m "disk replaced"
    """
    from liveroll.v1 import rollout_pb2 as messages

    done = client_of(context).retry(rollout, nodes or (), reason, key=key)
    _named("trying again", done, messages.RetryNodesResponse(nodes=done), output)


def exclude(
    context: typer.Context,
    rollout: Rollout,
    nodes: Annotated[list[str], typer.Argument(help="Names of nodes", metavar="NODE...")],
    reason: Annotated[str, typer.Option("--reason", "-m", help="Kept in the audit trail")],
    output: Output = Format.TABLE,
    key: Key = "",
) -> None:
    """Leave nodes out of a rollout that is under way."""
    _steered(client_of(context).exclude(rollout, nodes, reason, key=key), output)


def _steered(rollout: pb.Rollout, output: Format) -> None:
    from orchestrator.cli import render

    show(rollout, output, render.headline(rollout, now()))


def _named(doing: str, nodes: Sequence[str], answer: Message, output: Format) -> None:
    from orchestrator.cli import render

    show(answer, output, f"{doing}: {render.few(nodes)}" if nodes else "no nodes to do it on")
