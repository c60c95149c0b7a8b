"""`liveroll-orchestrator`: the composition root, the only place that builds concrete adapters.

Order of start: settings, store (migrated), fleet, planner lease if it is free, HTTP, gRPC, READY.
Order of stop: gRPC (streams end with a status that tells agents to dial another orchestrator, or
again), HTTP, planner, leases, store. An error that an operator can mend is one line on stderr and
an exit status, never a traceback.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.metadata
import os
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from orchestrator import app_backup, health
from orchestrator.artifacts.catalogue import DirectoryCatalogue
from orchestrator.errors import (
    CorruptState,
    InvalidSpec,
    LiverollError,
    NotLeader,
    SettingsError,
    StoreUnavailable,
)
from orchestrator.logs import configure_logging
from orchestrator.rpc.server import RpcServer
from orchestrator.runtime.clock import SystemClock
from orchestrator.runtime.notify import notify_service_manager
from orchestrator.runtime.retention import Retention
from orchestrator.runtime.service import Orchestrator
from orchestrator.settings import Settings, load
from orchestrator.store.factory import make_database
from orchestrator.store.sql import SqlStore
from orchestrator.web.gauges import FleetGauges, Here
from orchestrator.web.metrics import Metrics
from orchestrator.web.server import make_app, serving

log = structlog.get_logger("liveroll.orchestrator")

GARBAGE_THRESHOLD = 50_000
"""Objects made before the collector looks for cycles. Rows and messages are in none and go by
reference counts; with Python's 700, looking takes a tenth of the process under load."""

EXIT_OK, EXIT_FAILED, EXIT_INVALID, EXIT_BLOCKED, EXIT_UNREACHABLE = 0, 1, 2, 3, 6


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; exits the process."""
    options = _parser().parse_args(argv)
    try:
        sys.exit(options.command(options))
    except LiverollError as error:
        print(f"liveroll-orchestrator: {error.message}", file=sys.stderr)
        if error.remedy:
            print(f"  to mend it: {error.remedy}", file=sys.stderr)
        sys.exit(_exit_status(error))


def _exit_status(error: LiverollError) -> int:
    if isinstance(error, SettingsError):
        return EXIT_INVALID
    if isinstance(error, NotLeader | CorruptState) or error.reason == "STORE_IN_USE":
        return EXIT_BLOCKED
    return EXIT_UNREACHABLE if isinstance(error, StoreUnavailable) else EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="liveroll-orchestrator",
        description="Rolls live kernel updates over a fleet of nodes.",
        epilog="""examples:
  liveroll-orchestrator run --state-dir ./state
      everything on loopback: operators on 127.0.0.1:7443, agents on :7444, metrics and artifacts on :7480
  liveroll-orchestrator run --config /etc/liveroll/orchestrator.toml
  liveroll-orchestrator run --store 'postgresql://liveroll@db/liveroll?password_file=/etc/liveroll/db-password'
      one of several replicas: any takes links and calls, one of them plans
  liveroll-orchestrator pki ./pki --node node-1 --node node-2 --operator alice --host orchestrator.example
  liveroll-orchestrator health
  liveroll-orchestrator backup ./liveroll-monday.backup --config /etc/liveroll/orchestrator.toml
  liveroll-orchestrator restore ./liveroll-monday.backup --config /etc/liveroll/orchestrator.toml

exit status: 0 ok, 2 invalid settings, 3 store held by another or corrupt, or a restore without --yes,
6 store unreachable""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="serve until SIGTERM or Ctrl-C")
    run.add_argument(
        "--config", type=Path, help="TOML file (or LIVEROLL_CONFIG); LIVEROLL_* and flags go over it"
    )
    run.add_argument("--state-dir", type=Path, help="database and artifacts (default /var/lib/liveroll)")
    run.add_argument(
        "--store", metavar="URL", help="postgresql://… for several replicas (SQLite in the state directory)"
    )
    run.add_argument("--operators", metavar="HOST:PORT", help="port of the operators' API (127.0.0.1:7443)")
    run.add_argument("--agents", metavar="HOST:PORT", help="port that agents link to (127.0.0.1:7444)")
    run.add_argument("--http", metavar="HOST:PORT", help="metrics, health, artifacts (127.0.0.1:7480)")
    run.add_argument("--artifacts-dir", type=Path, help="default: artifacts/ in the state directory")
    run.add_argument("--log-format", choices=("console", "json"))
    run.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    run.set_defaults(command=_run_command)

    asking = commands.add_parser(
        "health",
        help="ask a running orchestrator whether it is ready",
        description="Asks the orchestrator that runs with the same settings, or the one at --http.",
    )
    asking.add_argument("--config", type=Path, help="ask the one that runs with this file (and LIVEROLL_*)")
    asking.add_argument("--http", metavar="URL", help="ask this one, for instance https://host:7480")
    asking.add_argument("--ca", type=Path, help="PEM of the CA that vouches for an https URL")
    asking.add_argument("--cert", type=Path, help="PEM to show where clients need certificates")
    asking.add_argument("--key", type=Path, help="PEM of its key")
    asking.set_defaults(command=_health_command)

    pki = commands.add_parser("pki", help="make certificates for a first use (not for production)")
    pki.add_argument("directory", type=Path)
    pki.add_argument("--node", action="append", default=[], help="a node id; may be repeated")
    pki.add_argument("--operator", action="append", default=[], help="a person or pipeline; may be repeated")
    pki.add_argument("--host", action="append", default=[], help="name or address of the orchestrator")
    pki.set_defaults(command=_pki_command)

    app_backup.register(commands, _version, _config)

    version = commands.add_parser("version", help="print the version")
    version.set_defaults(command=_version_command)
    return parser


def _version() -> str:
    return importlib.metadata.version("liveroll")


def _version_command(options: argparse.Namespace) -> int:
    print(f"liveroll-orchestrator {_version()}")
    return EXIT_OK


def _pki_command(options: argparse.Namespace) -> int:
    from orchestrator.rpc.pki import make_pki  # cryptography is slow to import

    hosts = options.host or ["localhost", "127.0.0.1", "::1"]
    try:
        pki = make_pki(options.directory, options.node, options.operator, hosts=hosts)
    except InvalidSpec as error:
        told = error.violations
        raise SettingsError(
            "; ".join(f"{v.path}: {v.problem}" for v in told),
            remedy=" ".join(dict.fromkeys(v.remedy for v in told)),
        ) from error
    print(f"authority {pki.ca}\nserver    {pki.server.certificate}")
    for role, pairs in (("agent", pki.agents), ("operator", pki.operators)):
        for name, pair in pairs.items():
            print(f"{role:<9} {name}: {pair.certificate}")
    return EXIT_OK


def _config(options: argparse.Namespace) -> Path | None:
    """The file named by --config or LIVEROLL_CONFIG, the same for `run` and `health`."""
    named = os.environ.get("LIVEROLL_CONFIG", "")
    return options.config or (Path(named) if named else None)


def _health_command(options: argparse.Namespace) -> int:
    if options.http:
        target = health.given(options.http, options.ca, options.cert, options.key)
    else:
        target = health.own(load(_config(options), {}), options.cert, options.key)
    ready, told = health.ask(target)
    print(told)
    return EXIT_OK if ready else EXIT_BLOCKED


def _run_command(options: argparse.Namespace) -> int:
    settings = load(
        _config(options),
        {
            "state_dir": options.state_dir,
            "store": options.store,
            "operators.address": options.operators,
            "agents.address": options.agents,
            "http.address": options.http,
            "artifacts_dir": options.artifacts_dir,
            "log_format": options.log_format,
            "log_level": options.log_level,
        },
    )
    configure_logging(settings.log_format, settings.log_level)
    gc.freeze()  # what is imported stays
    gc.set_threshold(GARBAGE_THRESHOLD, 10, 10)
    failed: BaseExceptionGroup[LiverollError] | None = None
    try:
        asyncio.run(serve(settings))
    except* LiverollError as group:
        failed = group
    if failed is not None:
        # Not in there: Python before 3.11.4 would wrap it into a group of its own.
        raise _first(failed) from None
    return EXIT_OK


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def serve(settings: Settings, *, stop: asyncio.Event | None = None) -> None:
    """Runs the whole service until SIGTERM, SIGINT or `stop`.

    Raises SettingsError (a port, a certificate, a directory), StoreUnavailable (STORE_IN_USE:
    another orchestrator has the SQLite file), CorruptState.
    """
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    _make_state_dir(settings)
    metrics = Metrics()
    clock = SystemClock()
    catalogue = DirectoryCatalogue(settings.artifacts_path, _artifacts_url(settings, settings.http.port))
    database = make_database(settings.store_url)
    replica = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    orchestrator = Orchestrator(
        store=SqlStore(database, on_batch=metrics.batched),
        clock=clock,
        catalogue=catalogue,
        policy=settings.fleet.policy(),
        holder=replica,
        observer=metrics,
        retention=Retention(age=timedelta(days=settings.events_keep_days), count=settings.events_keep_count),
    )
    metrics.registry.register(
        FleetGauges(lambda: _fleet_now(orchestrator), _version(), lambda: _here(orchestrator))
    )
    web_app = make_app(metrics.registry, catalogue, orchestrator.ready, lambda: orchestrator.role)
    async with (
        orchestrator,
        serving(web_app, settings.http) as (http_host, http_port),
    ):
        catalogue.base_url = _artifacts_url(settings, http_port)
        async with RpcServer(orchestrator, operators=settings.operators, agents=settings.agents) as rpc:
            log.info(
                "serving",
                pid=os.getpid(),
                operators=f"{settings.operators.host}:{rpc.operators_port}",
                agents=f"{settings.agents.host}:{rpc.agents_port}",
                http=f"{http_host}:{http_port}",
                store=str(database),
                replica=replica,
                role=orchestrator.role,
                incarnation=orchestrator.incarnation,
            )
            notify_service_manager("READY=1")
            await orchestrator.run_until(stop)
            notify_service_manager("STOPPING=1")
            log.info("stopping")


def _fleet_now(orchestrator: Orchestrator) -> Any:
    try:
        fleet = orchestrator.fleet
    except NotLeader:
        fleet = None
    return fleet, orchestrator.plan_to_show(), orchestrator.now()


def _here(orchestrator: Orchestrator) -> Here:
    return Here(orchestrator.plans(), orchestrator.links, orchestrator.replicas)


def _artifacts_url(settings: Settings, port: int) -> str:
    if settings.artifacts_url:
        return settings.artifacts_url
    scheme = "https" if settings.http.tls is not None else "http"
    return f"{scheme}://{settings.http.host}:{port}/artifacts"


def _make_state_dir(settings: Settings) -> None:
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings.artifacts_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"cannot make {error.filename}: {error.strerror}",
            remedy="set state_dir to a directory that this user may write: --state-dir ./state",
        ) from error


if __name__ == "__main__":
    main()
