"""`liveroll` commands about nodes and the whole fleet."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli import friendly
from orchestrator.cli.failure import invalid
from orchestrator.cli.output import Format, Output, show
from orchestrator.cli.shell import Key, client_of, now

Names = Annotated[list[str], typer.Argument(help="Names of nodes", metavar="NODE...")]
MustReason = Annotated[str, typer.Option("--reason", "-m", help="Kept in the audit trail")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for name, command in (
        ("nodes", nodes),
        ("node", node),
        ("maintenance", maintenance),
        ("write-off", write_off),
        ("stop", stop),
        ("differences", differences),
        ("release", release),
    ):
        app.command(name)(command)


def nodes(
    context: typer.Context,
    selector: Annotated[
        str, typer.Option("--selector", "-l", help="For instance pool=prod,zone in (a,b)")
    ] = "",
    rollout: Annotated[str, typer.Option("--rollout", help="Only members of this rollout")] = "",
    output: Output = Format.TABLE,
) -> None:
    """List nodes.

    \b
    liveroll nodes -l 'zone in (a,b)'
    liveroll nodes -o json | jq -r '.nodes[] | select(.link != "up") | .nodeId'
    """
    from liveroll.v1 import rollout_pb2 as messages

    from orchestrator.cli import render_nodes

    found = client_of(context).nodes(selector, rollout)
    show(messages.ListNodesResponse(nodes=found), output, render_nodes.nodes_table(found))


def node(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NODE")],
    output: Output = Format.TABLE,
) -> None:
    """Show one node."""
    from orchestrator.cli import render_nodes

    found = client_of(context).node(name)
    show(found, output, render_nodes.node_view(found, now()))


def maintenance(
    context: typer.Context,
    names: Names,
    reason: Annotated[str, typer.Option("--reason", "-m", help="Why; required unless --end")] = "",
    owner: Annotated[str, typer.Option("--owner", help="Who answers for it; default: you")] = "",
    how_long: Annotated[str, typer.Option("--for", help="It ends by itself after so long, e.g. 2h")] = "",
    end: Annotated[bool, typer.Option("--end", help="Put the nodes back into service")] = False,
    output: Output = Format.TABLE,
    key: Key = "",
) -> None:
    """Take nodes out of service, out of rollouts and out of every count; --end puts them back.

    \b
    liveroll maintenance node-7 -m "new memory" --for 2h
    liveroll maintenance node-7 --end
    """
    from liveroll.v1 import rollout_pb2 as messages

    from orchestrator.cli import render_nodes

    until = None
    if how_long:
        try:
            until = now() + friendly.parse_duration(how_long)
        except ValueError as error:
            raise invalid(f"--for: {how_long!r} {error}", "Write for instance 30m or 2h.") from error
    if not end and not reason:
        raise invalid("--reason is missing", "Say why the nodes are out of service, or give --end.")
    found = client_of(context).maintenance(names, reason, owner=owner, until=until, end=end, key=key)
    show(messages.SetMaintenanceResponse(nodes=found), output, render_nodes.nodes_table(found))


def write_off(
    context: typer.Context, names: Names, reason: MustReason, output: Output = Format.TABLE, key: Key = ""
) -> None:
    """Say that lost nodes no longer count. Your word for it is kept.

    \b
    liveroll write-off node-7 -m "mainboard is dead, ticket 4711"
    """
    from liveroll.v1 import rollout_pb2 as messages

    done = client_of(context).write_off(names, reason, key=key)
    show(messages.WriteOffResponse(nodes=done), output, f"written off: {', '.join(done)}")


def stop(context: typer.Context, reason: MustReason, output: Output = Format.TABLE, key: Key = "") -> None:
    """The red button: every rollout stops starting nodes, and what has not jumped unwinds.

    \b
    liveroll stop -m "storage incident"
    """
    answer = client_of(context).fleet_stop(reason, key=key)
    show(answer, output, f"the fleet is stopped: {answer.reason}; `liveroll release` ends it")


def differences(context: typer.Context, output: Output = Format.TABLE) -> None:
    """After the store went back in time: what nodes have done that it does not know, and what becomes of it.

    \b
    liveroll differences
    liveroll differences -o json | jq -r '.differences[] | select(.remedy != "") | .nodeId'
    """
    from orchestrator.cli import render_differences

    found = client_of(context).differences()
    show(found, output, render_differences.differences_view(found))


def release(
    context: typer.Context,
    reason: Annotated[str, typer.Option("--reason", "-m", help="Kept in the audit trail")] = "",
    accept: Annotated[
        bool,
        typer.Option(
            "--accept-differences", help="You have seen what nodes know beyond the store (differences)"
        ),
    ] = False,
    output: Output = Format.TABLE,
    key: Key = "",
) -> None:
    """End a fleet stop; every rollout goes on where it stood.

    \b
    liveroll release -m "storage is back"
    liveroll release --accept-differences -m "restored from Monday's backup"
    """
    answer = client_of(context).fleet_stop(reason, stop=False, accept_differences=accept, key=key)
    show(answer, output, "the fleet is released" if not answer.stopped else f"stopped: {answer.reason}")
