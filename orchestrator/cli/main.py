"""`liveroll`: the operators' command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import artifact, cmd_events, cmd_fleet, cmd_rollouts, lab
from orchestrator.cli.output import Format, Output
from orchestrator.cli.shell import Globals, Shell

if TYPE_CHECKING:
    from orchestrator.cli.client import Client

EPILOG = """\
\b
first use:
  liveroll example > rollout.yaml       a commented rollout file
  liveroll plan rollout.yaml            what would happen
  liveroll create rollout.yaml --watch  begin it and look on
  liveroll why                          what it waits for

\b
exit status: 0 ok, 2 invalid, 3 blocked, 4 halted or failed, 5 cancelled or rolled back,
6 unreachable, 7 denied; 1 is a fault inside, 130 Ctrl-C
"""

app = typer.Typer(
    cls=Shell,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback()
def options(
    context: typer.Context,
    server: Annotated[
        str,
        typer.Option(
            envvar="LIVEROLL_SERVER",
            help="The orchestrator's operators' port; of several, with commas, any that answers",
            metavar="HOST:PORT[,…]",
        ),
    ] = "127.0.0.1:7443",
    ca: Annotated[
        Path | None, typer.Option(envvar="LIVEROLL_CA", help="PEM of the CA that vouches for the server; TLS")
    ] = None,
    cert: Annotated[
        Path | None, typer.Option(envvar="LIVEROLL_CERT", help="PEM of your operator's certificate")
    ] = None,
    key: Annotated[Path | None, typer.Option(envvar="LIVEROLL_KEY", help="PEM of its key")] = None,
    timeout: Annotated[
        float, typer.Option(envvar="LIVEROLL_TIMEOUT", help="Seconds that a call may take", min=0.1, max=3600)
    ] = 20.0,
) -> None:
    """Roll live kernel updates over a fleet: plan, begin, watch, stop, undo."""

    def connect() -> Client:
        from orchestrator.cli.client import Client, Connection

        return Client(Connection(server, ca, cert, key, timeout))

    context.obj = Globals(connect)


@app.command()
def example() -> None:
    """Print a commented rollout file.

    \b
    liveroll example > rollout.yaml
    """
    from orchestrator.cli.example import EXAMPLE

    typer.echo(EXAMPLE, nl=False)


@app.command()
def version(output: Output = Format.TABLE) -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    number = installed("liveroll")
    if output is Format.TABLE:
        typer.echo(f"liveroll {number}")
    else:
        typer.echo(json.dumps({"version": number}) if output is Format.JSON else f"version: {number}")


cmd_rollouts.register(app)
cmd_fleet.register(app)
cmd_events.register(app)
app.add_typer(artifact.app, name="artifact")
app.add_typer(lab.app, name="lab")


def main() -> None:
    """Entry point; exits the process."""
    app(prog_name="liveroll")


if __name__ == "__main__":
    main()
