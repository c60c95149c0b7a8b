"""`make soak`: 200 emulated nodes, three orchestrators on PostgreSQL, and ten minutes of random kills.

    python -m tests.soak [--minutes 10] [--nodes 200] [--seed N] [--replicas 3]

Half of the nodes have sessions, a quarter each RFC v2 in one of its couplings. Each model has targets and
rollouts of its own, one after the other; both go on at the same time, while replicas, nodes and the database
are killed, frozen and cut off from each other. Judged from the outside only: the event log is followed all
the time and read again at the end from every replica, metrics are scraped, journals are read; then everything
is mended, and a last rollout of each model must bring every node to its target. Prints a report; exit status
1 if anything was violated. Leaves nothing behind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import random
import re
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.artifacts.build import build_emulated
from orchestrator.cli.client import Client
from orchestrator.cli.failure import Failed
from tests.integration.mortal_fleet import insist
from tests.integration.replica_fleet import ReplicaFleet, own_database, replica_fleet
from tests.postgres import Postgres
from tests.soak.audit import LogAudit, check_journals
from tests.soak.campaigns import Campaigns, Part, Stalled
from tests.soak.trouble import Trouble

PARTS = (
    Part("sessions", ("sessions",) * 4, ("7.2.13", "7.3.4")),
    Part(
        "rfc-v2",
        ("rfc-v2/notifier", "rfc-v2/luo-driven") * 2,
        ("6.16.1-rfc2", "6.16.3-rfc2"),
        abi=("kho=kho-v1", "luo=luo-v1", "memfd=memfd-v1"),
    ),
)
PROCESSES = sum(len(part.processes) for part in PARTS)
"""That host the nodes: a power cut takes one of them."""


class Watcher:
    """Follows the log and scrapes the metrics."""

    def __init__(self, fleet: ReplicaFleet, audit: LogAudit) -> None:
        self._fleet = fleet
        self._audit = audit
        self.log: list[tuple[str, str, str]] = []
        """(kind, node, message) of every event."""
        self.scrapes = 0
        self.violations: Counter[str] = Counter()
        """By replica's address: liveroll_invariant_violations_total at its most."""

    async def run(self) -> None:
        while True:
            with contextlib.suppress(Failed):
                await asyncio.to_thread(self._read)
            await asyncio.to_thread(self._scrape)
            await asyncio.sleep(1)

    async def catch_up(self) -> None:
        """To the end, whoever has just come back."""
        await asyncio.to_thread(insist, self._fleet.connection, lambda _client, _key: self._read())

    def _read(self) -> None:
        with Client(self._fleet.connection) as client:
            cursor = self._cursor if self.log else ""
            for page in client.events(cursor=cursor):
                self._audit.take(page.events)
                self.log += map(_what, page.events)
                if page.events:
                    self._cursor = page.events[-1].cursor

    def _scrape(self) -> None:
        for replica in self._fleet.replicas:
            with contextlib.suppress(OSError, http.client.HTTPException):
                with urllib.request.urlopen(f"http://{replica.http}/metrics", timeout=2) as answer:
                    text = answer.read().decode()
                self.scrapes += 1
                found = re.findall(r"^liveroll_invariant_violations_total(?:{.*})? (\S+)", text, re.MULTILINE)
                total = sum(map(float, found))
                self.violations[replica.http] = max(self.violations[replica.http], int(total))

    async def read_again(self) -> list[str]:
        """From the beginning, of every replica: the same, or what differs."""
        wrong = []
        for replica in self._fleet.replicas:
            log = await asyncio.to_thread(insist, replica.connection, lambda client, _key: _whole(client))
            if log[: len(self.log)] != self.log:
                wrong.append(
                    f"{replica.operators} tells another log: {len(log)} events, {len(self.log)} seen"
                )
        return wrong


def _what(event: Any) -> tuple[str, str, str]:
    return (event.kind, event.node_id, event.message)


def _whole(client: Client) -> list[tuple[str, str, str]]:
    return [_what(event) for page in client.events() for event in page.events]


async def soak(directory: Path, options: argparse.Namespace) -> int:
    """The exit status."""
    audit = LogAudit()
    began = time.monotonic()
    with Postgres() as server, own_database(server) as url:
        async with replica_fleet(directory, url, (), count=options.replicas) as fleet:
            campaigns = [await _started(fleet, audit, part, options) for part in PARTS]
            await fleet.until_linked()
            print(f"{len(_nodes(fleet))} nodes are linked to {options.replicas} replicas", flush=True)
            watcher, stop = Watcher(fleet, audit), asyncio.Event()
            trouble = Trouble(fleet, server, options.seed, every_s=options.every_s)
            tasks = [asyncio.ensure_future(watcher.run()), asyncio.ensure_future(trouble.run())]
            working = asyncio.gather(*(campaign.run(stop) for campaign in campaigns))
            progress = asyncio.ensure_future(_progress(audit, trouble))
            try:
                await asyncio.wait(
                    {working, *tasks}, timeout=60 * options.minutes, return_when="FIRST_EXCEPTION"
                )
            finally:
                stop.set()
                tasks[1].cancel()
                await trouble.end()
            wrong = list(trouble.failed)
            wrong += [f"the soak itself failed: {t.exception()}" for t in tasks if _failed(t)]
            try:
                await working
                await fleet.until_linked()
                await asyncio.gather(*(campaign.calm() for campaign in campaigns))
            except (Stalled, Failed) as error:
                wrong.append(f"after all was mended: {error}")
            progress.cancel()
            tasks[0].cancel()
            await asyncio.wait([*tasks, progress])
            await watcher.catch_up()
            wrong += await watcher.read_again()
            wrong += await asyncio.to_thread(_nodes_at_the_end, fleet)
        journals: Counter[str] = Counter()
        for agents in fleet.agents.values():
            told, broken = check_journals(directory / agents.name, agents.nodes)
            journals += told
            wrong += broken
        wrong += audit.violations + _tracebacks(directory)
        wrong += [f"{n} invariants violated, says {who}" for who, n in watcher.violations.items() if n]
    _report(options, time.monotonic() - began, audit, trouble, campaigns, watcher, journals, wrong)
    return 1 if wrong else 0


async def _started(
    fleet: ReplicaFleet, audit: LogAudit, part: Part, options: argparse.Namespace
) -> Campaigns:
    """The part's artifacts and nodes, and its operator."""
    for release in part.releases:
        await asyncio.to_thread(build_emulated, fleet.artifacts_dir, release=release, abi=part.abi)
    share, nodes = -(-options.nodes // PROCESSES), frozenset[str]()
    for model in part.processes:
        number = len(fleet.agents) + 1
        started = await fleet.start_agents(
            f"n{number}", share, "--releases", part.releases[0], "--luo-model", model, "--mib", "0.1",
            "--kexec-s", "0.3", "--seed", str(options.seed + number), "--log-level", "warning",
        )  # fmt: skip
        nodes |= set(started.nodes)
    return Campaigns(fleet, audit, part, nodes, options.seed)


def _nodes(fleet: ReplicaFleet) -> list[str]:
    return [node for agents in fleet.agents.values() for node in agents.nodes]


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


def _nodes_at_the_end(fleet: ReplicaFleet) -> list[str]:
    with Client(fleet.connection) as client:
        nodes = client.nodes()
    releases = Counter((node.labels["luo_model"], node.kernel_release) for node in nodes)
    down = [node.node_id for node in nodes if node.link != "up"]
    wrong = [f"{dict(releases)}: not every node is on its target"] if len(releases) != len(PARTS) else []
    return wrong + ([f"not linked at the end: {down}"] if down else [])


def _tracebacks(directory: Path) -> list[str]:
    """Programs never show one, whatever is done to them."""
    return [
        f"a traceback in {log.name}: …{text[text.index('Traceback') :][:400]}"
        for log in sorted(directory.rglob("*.log"))
        if "Traceback" in (text := log.read_text(errors="replace"))
    ]


async def _progress(audit: LogAudit, trouble: Trouble) -> None:
    while True:
        await asyncio.sleep(30)
        print(
            f"  {audit.seq} events, {audit.updates} updates, {sum(trouble.made.values())} troubles, "
            f"{sum(audit.ends.values())} rollouts ended, {len(audit.violations)} violations",
            flush=True,
        )


def _report(
    options: argparse.Namespace,
    took_s: float,
    audit: LogAudit,
    trouble: Trouble,
    campaigns: Sequence[Campaigns],
    watcher: Watcher,
    journals: Counter[str],
    wrong: list[str],
) -> None:
    def table(title: str, counts: Counter[str]) -> None:
        print(f"\n{title}: {sum(counts.values())}")
        for name, count in counts.most_common():
            print(f"  {count:6}  {name}")

    print(f"\nsoak of {took_s / 60:.1f} minutes, seed {options.seed}, {options.nodes} nodes")
    table("survived", trouble.made)
    table("rollouts, as they ended", audit.ends)
    for part, campaign in zip(PARTS, campaigns, strict=True):
        table(f"rollouts of {part.model}, as their operator meant them", campaign.made)
    print(
        f"\nupdates (nodes that came to bake): {audit.updates}; attempts lost: {audit.kinds['attempt.lost']}"
    )
    print(
        f"events: {audit.seq}, gapless, the same from every replica; metrics scraped {watcher.scrapes} times"
    )
    print(
        f"journals: {journals['records']} records, {journals['jumps']} jumps, "
        f"{journals['memories']} memories compared"
    )
    print(f"peaks: {dict(audit.peak)}")
    longest = ", ".join(f"{kind} {seconds:.3f} s" for kind, seconds in sorted(audit.longest.items()))
    print(f"longest blackouts told (emulated): {longest or 'none'}")
    print(f"\nviolations: {len(wrong)}")
    for line in wrong[:50]:
        print(f"  {line}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--every-s", type=float, default=4.0, help="between two troubles, on average")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--keep", type=Path, help="a directory for all files, which is kept")
    options = parser.parse_args()
    if options.keep is not None:
        options.keep.mkdir(parents=True)
        return asyncio.run(soak(options.keep, options))
    with tempfile.TemporaryDirectory(prefix="liveroll-soak-") as directory:
        return asyncio.run(soak(Path(directory), options))


if __name__ == "__main__":
    sys.exit(main())
