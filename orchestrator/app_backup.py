"""`liveroll-orchestrator backup` and `restore`: the store in one file, and back.

What is asked for is printed on stdout (a table, or JSON with -o json); progress of a big one goes
to stderr. Exit status 3: a restore that a person has not said yes to, or a store that is in use.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.settings import load
from orchestrator.store import backup
from orchestrator.store.backup_file import EVENTS, Header
from orchestrator.store.database import Database
from orchestrator.store.factory import make_database

EXIT_OK, EXIT_BLOCKED = 0, 3

BIG = 20_000
"""Lines from which on progress is shown: below, it is over within a second or two."""

FEW = 8
"""Names in a line; the rest is a count."""

Find = Callable[[argparse.Namespace], "Path | None"]


def register(commands: Any, version: Callable[[], str], config: Find) -> None:
    """Add the commands to the program's parser.

    version: of this program. config: the settings file that the options name.
    """

    def with_store(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        parser.add_argument("file", type=Path, metavar="FILE")
        parser.add_argument("--config", type=Path, help="the orchestrator's settings (or LIVEROLL_CONFIG)")
        parser.add_argument("--state-dir", type=Path, help="as for run")
        parser.add_argument("--store", metavar="URL", help="this store instead of the settings' one")
        parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
        return parser

    out = with_store(
        commands.add_parser(
            "backup",
            help="write the whole store into one file, also while the orchestrator runs",
            description="A consistent snapshot, the same for SQLite and PostgreSQL, checksummed. FILE is "
            "complete or absent; an older backup of that name is replaced.",
        )
    )
    out.add_argument(
        "--verify", action="store_true", help="write nothing: read FILE to its end and say what is in it"
    )
    out.set_defaults(command=lambda options: _backup(options, version, config))

    back = with_store(
        commands.add_parser(
            "restore",
            help="make the store what a backup says; the orchestrators must be stopped",
            description="Says what the store has that the backup has not, and restores it with --yes: all "
            "of it or nothing. The fleet stands still afterwards until a person has looked at the "
            "differences (`liveroll differences`) and released it.",
        )
    )
    back.add_argument("--yes", action="store_true", help="what the store has now may be lost")
    back.set_defaults(command=lambda options: _restore(options, config))


def _database(options: argparse.Namespace, config: Find) -> Database:
    if options.store:
        return make_database(options.store)
    return make_database(load(config(options), {"state_dir": options.state_dir}).store_url)


def _backup(options: argparse.Namespace, version: Callable[[], str], config: Find) -> int:
    progress = Progress()
    if options.verify:
        header = asyncio.run(backup.verify(options.file, progress))
        word = "whole"
    else:
        database = _database(options, config)
        header = asyncio.run(backup.back_up(database, options.file, release=version(), progress=progress))
        word = "written"
    progress.end()
    if options.output == "json":
        _print_json({"file": str(options.file), word: True, **asdict(header)})
    else:
        print(f"{options.file} is {word}")
        print(_told(header))
    return EXIT_OK


def _restore(options: argparse.Namespace, config: Find) -> int:
    database = _database(options, config)
    header, lost = asyncio.run(_look(database, options.file))
    if lost.anything and not options.yes:
        if options.output == "json":
            _print_json({"restored": False, "backup": asdict(header), "lost": asdict(lost)})
        else:
            print(f"{options.file} is of\n{_told(header)}\nand {database} would lose\n{_told_lost(lost)}")
        print("nothing was touched; to go on, say --yes", file=sys.stderr)
        return EXIT_BLOCKED
    progress = Progress()
    done = asyncio.run(backup.restore(database, options.file, actor=_actor(), progress=progress))
    progress.end()
    if options.output == "json":
        _print_json({"restored": True, **asdict(done)})
    else:
        print(f"{database} is restored from {options.file}\n{_told(done.header)}")
        if done.lost.anything:
            print(f"and has lost\n{_told_lost(done.lost)}")
        print(
            f"it goes on as incarnation {done.incarnation}; start the orchestrator, wait for the nodes, look "
            "at `liveroll differences`, then release the fleet"
        )
    return EXIT_OK


async def _look(database: Database, path: Path) -> tuple[Header, backup.Lost]:
    return await backup.verify(path), await backup.lost_by(database, path)


def _actor() -> str:
    try:
        return f"local:{getpass.getuser()}"
    except (KeyError, OSError):  # no name for this user id
        return "local"


def _told(header: Header) -> str:
    newest = _newest(header.event_seq, header.event_at)
    rows = ", ".join(f"{count} {name}" for name, count in header.counts.items() if count and name != EVENTS)
    return (
        f"  made      {header.created_at} by release {header.release}, schema {header.schema}\n"
        f"  of        incarnation {header.incarnation}, serial {header.serial}, epoch {header.epoch}\n"
        f"  events    {header.counts.get(EVENTS, 0)}, the newest {newest}\n"
        f"  rows      {rows or 'none'}"
    )


def _told_lost(lost: backup.Lost) -> str:
    of = f" of {_few(lost.nodes)}" if lost.nodes else ""
    return (
        f"  events    to {_newest(lost.event_seq, lost.event_at)} of incarnation {lost.incarnation}\n"
        f"  rollouts  {_few(lost.rollouts) if lost.rollouts else 'none'}\n"
        f"  attempts  {lost.attempts}{of}"
    )


def _newest(seq: int, at: str) -> str:
    return f"{seq} ({at})" if at else str(seq)


def _few(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more


def _print_json(answer: dict[str, Any]) -> None:
    print(json.dumps(answer, indent=2, default=list))


class Progress:
    """A line on stderr that is written over, or one a tenth where nobody watches."""

    def __init__(self) -> None:
        self._tenth = -1
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        if total < BIG or done * 10 // total == self._tenth:
            return
        self._tenth = done * 10 // total
        self._shown = True
        end = "\r" if sys.stderr.isatty() else "\n"
        print(f"{done} of {total} lines ({self._tenth * 10} %)", end=end, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._shown and sys.stderr.isatty():
            print(file=sys.stderr)
