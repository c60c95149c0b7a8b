"""`liveroll lab`: a fleet of real kernels in QEMU on this machine, and an orchestrator that it links to.

The lab itself is in `deploy/`, which is part of a checkout and not of the installed package. So it
is imported when a command runs, and where it is missing the command says so.
"""

from __future__ import annotations

import importlib
import json
import shlex
import signal
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import typer

from orchestrator.cli.failure import Exit, Failed
from orchestrator.cli.output import Format, Output, console

R = TypeVar("R")

app = typer.Typer(
    no_args_is_help=True,
    help="Real kernels in QEMU: bring a fleet up, look at it, take it down. Needs a checkout and `make lab`.",
    rich_markup_mode=None,
)

_INVALID = ("WANTED_INVALID", "KERNEL_UNKNOWN", "NODE_UNKNOWN", "ACCEL_UNKNOWN", "POWER_UNKNOWN")
_BLOCKED = ("NOT_BUILT", "LAB_UP", "LAB_DOWN", "NODE_OFF")
_UNREACHABLE = ("GUEST_UNREACHABLE", "NODE_DOWN", "ORCHESTRATOR_UNREACHABLE")
_FOLLOW_S = 0.1

NodeName = Annotated[str, typer.Argument(metavar="NODE", help="For instance node-01")]


@app.command("up")
def up(
    nodes: Annotated[int, typer.Option("--nodes", help="How many", min=1)] = 3,
    kernel: Annotated[
        str, typer.Option("--kernel", help="What they boot: a, b, … as `make lab` built")
    ] = "a",
    workload: Annotated[
        list[str] | None,
        typer.Option(
            "--workload", help="A command that each node runs; default: the example workload with 64 MiB"
        ),
    ] = None,
    memory_mib: Annotated[int, typer.Option("--memory-mib", help="Of each node")] = 512,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Hardware model; given several times: in turn")
    ] = None,
    accel: Annotated[
        str, typer.Option("--accel", help="kvm or tcg; default: KVM where it truly runs a guest")
    ] = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until every agent has linked")] = True,
) -> None:
    """Boot a fleet of real kernels whose agents link to an orchestrator on this machine.

    Everything runs on, detached, until `liveroll lab down`. Its state is in ./lab-state, or in
    $LIVEROLL_LAB_STATE.

    \b
    liveroll lab up --nodes 3
    eval "$(liveroll lab env)"; liveroll nodes
    """
    fleets, wanted = _lab("fleet"), _lab("wanted")
    default = wanted.Wanted()
    asked = wanted.Wanted(
        nodes=nodes,
        kernel=kernel,
        memory_mib=memory_mib,
        workloads=tuple(workload or default.workloads),
        models=tuple(model or default.models),
    )
    with _refusals():
        fleet = fleets.Fleet(fleets.state_dir(), asked, chosen_accel=accel, say=_say)
        began = time.monotonic()
        _run(fleet.up())
        if wait:
            try:
                _run(fleet.wait_linked())
            except KeyboardInterrupt:
                _say("the lab runs on, not all of it linked; `liveroll lab down` ends it")
                raise
    _say(f"up after {time.monotonic() - began:.0f} s; state in {fleet.directory}")
    _say("")
    _say("The ordinary commands drive it, once this shell knows where it is:")
    _say('  eval "$(liveroll lab env)"')
    _say("  liveroll nodes")
    _say(f"  artifacts: {', '.join(sorted(path.name for path in fleet.artifacts.values()))}")
    _say("  liveroll lab down                   ends it and leaves nothing behind")


@app.command("status")
def status(output: Output = Format.TABLE) -> None:
    """Show the lab's nodes: power, kernels, link, ports, console file."""
    with _refusals():
        fleet = _fleet()
        found = _run(_lab("report").report(fleet))
    if output is not Format.TABLE:
        _print(found, output)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("NODE", "POWER", "DEFAULT KERNEL", "RUNNING", "LINK", "EXEC", "METRICS"):
        table.add_column(column, no_wrap=True)
    for node in found["nodes"]:
        table.add_row(
            node["node"],
            node["power"],
            node["default"],
            node["running"],
            node["link"],
            str(node["exec_port"]),
            str(node["metrics_port"]),
        )
    console().print(table)
    serving = found["orchestrator"]
    _say(f"orchestrator {serving['operators'] if serving['running'] else 'is not running'}")


@app.command("env")
def env() -> None:
    """Print what makes the ordinary commands talk to the lab, for a shell's eval.

    \b
    eval "$(liveroll lab env)"
    """
    with _refusals():
        for name, value in _fleet().service.environment().items():
            _say(f"export {name}={shlex.quote(value)}")


@app.command("exec")
def exec_(
    node: NodeName,
    command: Annotated[list[str], typer.Argument(help="Behind --", metavar="COMMAND...")],
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds until it is killed")] = 60.0,
) -> None:
    """Run a command as root on a node; its exit status is this command's.

    \b
    liveroll lab exec node-01 -- uname -r
    liveroll lab exec node-01 -- luoctl status
    """
    with _refusals():
        ran = _run(_fleet()[node].exec(*command, timeout_s=timeout))
    sys.stdout.write(ran.stdout)
    sys.stderr.write(ran.stderr)
    if ran.timed_out:
        raise Failed(
            Exit.FAILED, f"killed after {timeout:g} s", "COMMAND_TIMEOUT", "Give more with --timeout."
        )
    if ran.rc:
        raise typer.Exit(ran.rc if ran.rc > 0 else 128 - ran.rc)


@app.command("console")
def console_(
    node: NodeName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="As it happens; Ctrl-C ends it")] = False,
) -> None:
    """Print a node's serial console, over all of its boots."""
    with _refusals():
        found = _fleet()[node].console
    at = 0
    while True:
        text = found.text(at)
        at += len(text.encode()) if follow else 0
        sys.stdout.write(text)
        sys.stdout.flush()
        if not follow:
            return
        time.sleep(_FOLLOW_S)


@app.command("logs")
def logs(
    node: Annotated[str, typer.Argument(metavar="[NODE]", help="Default: the orchestrator")] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", help="The last so many", min=1)] = 200,
) -> None:
    """Print the log of a node's agent, or of the orchestrator."""
    with _refusals():
        fleet = _fleet()
        if node:
            told = _run(fleet[node].exec("tail", "-n", str(lines), "/var/log/agent.log")).stdout
        else:
            told = "\n".join(fleet.service.log.read_text().splitlines()[-lines:]) + "\n"
    sys.stdout.write(told)


@app.command("power")
def power(
    node: NodeName,
    word: Annotated[str, typer.Argument(metavar="on|off|reset|pause|continue")],
) -> None:
    """Throw a node's switch: what its disk has not synced is lost, as it is with any switch."""
    with _refusals():
        told = _run(_fleet()[node].power(word))
    _say(f"{node} is {told['power']}, {told['boots']} cold boots so far")


@app.command("down")
def down(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the state directory for inspection")] = False,
) -> None:
    """End everything that `up` started and remove its state."""
    fleets = _lab("fleet")
    with _refusals():
        directory = fleets.state_dir()
        if not fleets.is_lab(directory):
            _say(f"no lab in {directory}: nothing to do")
            return
        ended = _run(fleets.Fleet(directory).down(keep=keep))
    _say(f"{ended} processes ended" + (f"; state kept in {directory}" if keep else f"; {directory} removed"))


def _fleet() -> Any:
    fleets = _lab("fleet")
    return fleets.Fleet.attach(fleets.state_dir())


def _lab(module: str) -> Any:
    """A module of the lab. Raises Failed where there is no checkout."""
    try:
        return importlib.import_module(f"deploy.lab.{module}")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("deploy"):
            raise
        raise Failed(
            Exit.INVALID,
            "the lab needs a checkout of the project",
            "NO_CHECKOUT",
            "Clone it, `make install lab` in it, and use its .venv/bin/liveroll.",
        ) from error


@contextmanager
def _refusals() -> Iterator[None]:
    """What the lab refuses, as the CLI tells it."""
    error_type: type[Exception] = _lab("errors").LabError
    try:
        yield
    except error_type as error:
        reason, remedy = str(getattr(error, "reason", "")), str(getattr(error, "remedy", ""))
        code = Exit.FAILED
        for exit_code, reasons in (
            (Exit.INVALID, _INVALID),
            (Exit.BLOCKED, _BLOCKED),
            (Exit.UNREACHABLE, _UNREACHABLE),
        ):
            if reason in reasons:
                code = exit_code
        raise Failed(code, str(error), reason, remedy) from error


def _run(work: Coroutine[Any, Any, R]) -> R:
    """Ctrl-C cancels the work once; what it then has to put away is not disturbed by another one."""
    import asyncio  # heavy for the commands that have no use for it

    async def guarded() -> tuple[R] | None:
        task, interrupts = asyncio.ensure_future(work), list[None]()

        def interrupt() -> None:
            if not interrupts:
                interrupts.append(None)
                task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
        try:
            return (await task,)
        except asyncio.CancelledError:
            return None

    done = asyncio.run(guarded())
    if done is None:
        raise KeyboardInterrupt
    return done[0]


def _say(line: str) -> None:
    typer.echo(line)


def _print(found: object, output: Format) -> None:
    if output is Format.JSON:
        typer.echo(json.dumps(found, indent=2))
        return
    import yaml

    typer.echo(yaml.safe_dump(found, sort_keys=False), nl=False)
