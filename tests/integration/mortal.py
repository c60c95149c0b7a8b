"""Programs that are struck dead at named points: `python -m tests.integration.mortal ROLE FATE …`.

FATE is a directory. In it, `armed` lists the points, one a line: `before NAME` and `after NAME`;
`struck` gets a line for each death, fsync'd before it. A point strikes once. Death is SIGKILL by the
program's own hand in the middle of the call, so that nothing after the point happens: no answer, no
dispatch, no flush.

orchestrator ARGUMENTS   every write of its store is a point (names: see store_points). A parent, which
                         has all modules loaded, forks it anew after each SIGKILL, whoever sent it, and
                         ends as the child ends otherwise.
agent ARGUMENTS          every record of its journal is a point (names: see record_point), and every step of
                         its blackout path (`blackout.STEP`), and `luo.finish`.
node ARGUMENTS           `liveroll-agent run` as an emulated node: becomes the next one.
kernel ARGUMENTS         the node's kernel; it does not wait long before it starts a dead agent anew.

Nothing of the programs knows of this: what they are built from is wrapped here.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

BEFORE, AFTER = "before", "after"
PR_SET_PDEATHSIG = 1
STORE_WRITES = ("commit", "acquire", "release", "beat", "leave", "trim")
"""Of ports.Store; a test compares them with the port."""


class Fate:
    """The points that are still to come, as the files have them at the start of this life."""

    def __init__(self, directory: Path) -> None:
        self._struck = directory / "struck"
        self._seen_file = directory / "seen"
        self._seen = set(_lines(self._seen_file))
        self._armed = armed(directory)

    def pass_by(self, names: Iterable[str]) -> None:
        """Such points exist."""
        for name in set(names) - self._seen:
            self._seen.add(name)
            with self._seen_file.open("a") as file:
                file.write(f"{name}\n")

    def strike(self, when: str, names: Iterable[str]) -> None:
        """Dies here if one of them is armed; all of them are then used up."""
        points = [f"{when} {name}" for name in names]
        if not self._armed.intersection(points):
            return
        fd = os.open(self._struck, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(fd, "".join(f"{point}\n" for point in points if point in self._armed).encode())
        os.fsync(fd)
        os.kill(os.getpid(), signal.SIGKILL)


def arm(directory: Path, points: Iterable[str]) -> None:
    """By the test, before the program starts. A point without its side is both."""
    directory.mkdir(parents=True, exist_ok=True)
    both = [(point,) if " " in point else (f"{BEFORE} {point}", f"{AFTER} {point}") for point in points]
    with (directory / "armed").open("a") as file:
        file.writelines(f"{point}\n" for sides in both for point in sides)


def armed(directory: Path) -> frozenset[str]:
    """Points that have not struck yet."""
    return _lines(directory / "armed") - _lines(directory / "struck")


def seen(directory: Path) -> frozenset[str]:
    """Points that some life has passed, or died at."""
    return _lines(directory / "seen")


def struck(directory: Path) -> frozenset[str]:
    return _lines(directory / "struck")


def _lines(path: Path) -> frozenset[str]:
    return frozenset(path.read_text().splitlines()) if path.exists() else frozenset()


# --- the orchestrator ------------------------------------------------------------------------


def store_points(change: Any) -> list[str]:
    """A committed write's names: its events' kinds, `said.` before those that tell a node's word;
    `silent.` and what it is about for one without events."""
    if change.events:
        return [f"said.{e.kind}" if e.node_id and e.actor == e.node_id else e.kind for e in change.events]
    tables = {row.table for row in change.writes}
    if tables == {"nodes"}:
        wanted = type(change.writes[0].desired).__name__
        return [{"DesiredStage": "silent.stage", "NoneType": "silent.clear"}.get(wanted, "silent.nodes")]
    return ["silent." + ("+".join(sorted(tables - {"idempotency"})) or "answer")]


class MortalStore:
    """ports.Store."""

    def __init__(self, store: Any, fate: Fate) -> None:
        self._store = store
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._store, name)
        if name not in STORE_WRITES:
            return inner

        async def write(*arguments: Any, **named: Any) -> Any:
            names = store_points(arguments[1]) if name == "commit" else [name]
            self._fate.pass_by(names)
            self._fate.strike(BEFORE, names)
            done = await inner(*arguments, **named)
            self._fate.strike(AFTER, names)
            return done

        return write


def _orchestrator(directory: Path, arguments: list[str]) -> int:
    from orchestrator import app

    make_store = app.SqlStore

    def life() -> int:
        fate = Fate(directory)

        def mortal(*given: Any, **named: Any) -> Any:
            return MortalStore(make_store(*given, **named), fate)

        app.SqlStore = mortal  # type: ignore[assignment, misc]
        app.main(arguments)
        return 0

    return again_and_again(life)


def again_and_again(life: Callable[[], int]) -> int:
    """Forks a child that lives it, anew after each SIGKILL; SIGTERM is passed on."""
    child = 0
    ending = False

    def pass_on(number: int, _frame: FrameType | None) -> None:
        nonlocal ending
        ending = True
        if child:
            os.kill(child, number)

    signal.signal(signal.SIGTERM, pass_on)
    while not ending:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os._exit(_exit_status(life))
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code != -signal.SIGKILL:
            return code if code >= 0 else 128 - code
    return 0


def _exit_status(life: Callable[[], int]) -> int:
    try:
        return life()
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


# --- the agent -------------------------------------------------------------------------------


def record_point(kind: str, body: Mapping[str, object]) -> str:
    """A journal record's name: the event that it reports, or its kind."""
    report = body.get("report")
    return str(report["event"]) if isinstance(report, Mapping) else f"record.{kind}"


def _agent(directory: Path, arguments: list[str]) -> int:
    from node_agent import cli
    from node_agent.runtime.journal import FileJournal

    fate = Fate(directory)
    append, load = FileJournal._append, FileJournal._load

    def mortal_append(journal: FileJournal, kind: str, body: Mapping[str, object]) -> Any:
        names = [record_point(kind, body)]
        fate.pass_by(names)
        fate.strike(BEFORE, names)
        record = append(journal, kind, body)
        fate.strike(AFTER, names)
        return record

    def mortal_load(journal: FileJournal, installation_id: str) -> None:
        fresh = journal._path.stat().st_size == 0
        names = ["record.installation"] if fresh else []
        fate.strike(BEFORE, names)
        load(journal, installation_id)
        fate.strike(AFTER, names)

    FileJournal._append = mortal_append  # type: ignore[method-assign]
    FileJournal._load = mortal_load  # type: ignore[method-assign]
    _mortal_blackout(fate)
    return cli.main(arguments)


def _mortal_blackout(fate: Fate) -> None:
    """Its steps, where there is a jump to follow, and the end of a live update for RFC v2's kernel."""
    from node_agent.resume import blackout
    from node_agent.resume.parking import Parking
    from node_agent.runtime.broker_handover import HandoverKernel

    def mortal(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            fate.pass_by([name])
            fate.strike(BEFORE, [name])
            done = step(*given, **named)
            fate.strike(AFTER, [name])
            return done

        return call

    finish = HandoverKernel.finish

    async def mortal_finish(kernel: HandoverKernel) -> None:
        fate.strike(BEFORE, ["luo.finish"])
        await finish(kernel)
        fate.strike(AFTER, ["luo.finish"])

    for name in ("retrieve", "listen", "serve", "read_token"):
        setattr(blackout, name, mortal(f"blackout.{name}", getattr(blackout, name)))
    Parking.park = mortal("blackout.park", Parking.park)  # type: ignore[method-assign]
    HandoverKernel.finish = mortal_finish  # type: ignore[method-assign]


def _node(directory: Path, arguments: list[str]) -> int:
    from node_agent import cli

    execv = os.execv
    ours = {
        "node_agent.kernel.emulated.process": ("tests.integration.mortal", "kernel", str(directory)),
        "node_agent.cli": ("tests.integration.mortal", "agent", str(directory)),
    }

    def become(path: str, argv: list[str]) -> None:
        execv(path, [word for given in argv for word in ours.get(given, (given,))])

    os.execv = become  # type: ignore[assignment]
    return cli.main(arguments)


def _kernel(_directory: Path, arguments: list[str]) -> int:
    from node_agent.kernel.emulated import process, userspace

    userspace.BACKOFF_FIRST_S = userspace.BACKOFF_MAX_S = 0.05
    return process.main(arguments)


ROLES = {"orchestrator": _orchestrator, "agent": _agent, "node": _node, "kernel": _kernel}


if __name__ == "__main__":
    sys.exit(ROLES[sys.argv[1]](Path(sys.argv[2]), sys.argv[3:]))
