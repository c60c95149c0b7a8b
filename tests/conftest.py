"""What holds for every test: golden files, how much hypothesis tries, and nothing left behind.

Hypothesis profiles (HYPOTHESIS_PROFILE): `ci` tries the same examples every time and does not
shrink, so that its cost is bounded; `shrink` finds ci's failures again and makes them small;
`deep` searches for long, elsewhere each time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests import postgres as postgresql

_SLOW = [HealthCheck.too_slow]
settings.register_profile(
    "ci",
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    phases=(Phase.explicit, Phase.generate, Phase.target),
    suppress_health_check=_SLOW,
)
settings.register_profile(
    "shrink", derandomize=True, database=None, deadline=None, suppress_health_check=_SLOW
)
settings.register_profile("deep", max_examples=2000, deadline=None, suppress_health_check=_SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite", action="store_true", help="write golden files anew instead of comparing; review the diff"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--rewrite"):
        os.environ["LIVEROLL_REWRITE"] = "1"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what runs in the background so, and all children inherit it: tests send them Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Tests of real processes take turns (turns.py); any other way to distribute is xdist's own."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from tests.turns import Turns

    return Turns(config, log)


def pytest_unconfigure() -> None:
    postgresql.end_shared()


@pytest.fixture
def postgres() -> postgresql.Postgres:
    """The server of this test process. Whoever stops it starts another one, of its own."""
    return postgresql.shared()


@pytest.fixture
def postgres_url(postgres: postgresql.Postgres) -> Iterator[str]:
    """Of an empty database."""
    with postgresql.database(postgres) as name:
        yield postgres.url(name)


def children() -> set[int]:
    """Processes that this one has started and that are there still, zombies included."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(int(pid) for pid in (task / "children").read_text().split())
        except FileNotFoundError:
            continue
    return found


def threads() -> set[threading.Thread]:
    """Threads that would keep this process from ending."""
    return {thread for thread in threading.enumerate() if not thread.daemon}


@pytest.fixture(scope="module", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """A module's tests leave neither a process nor a thread that would outlive them."""
    before_children, before_threads = children(), threads()
    yield
    multiprocessing.active_children()  # reaps what has ended
    left = children() - before_children - {postgresql.shared_pid()}  # that one ends with the session
    told = [_command_line(pid) for pid in left]
    assert not left, f"processes left behind: {told}"
    still = threads() - before_threads
    for thread in still:
        thread.join(timeout=5)
    assert not [t for t in still if t.is_alive()], f"threads left behind: {still}"


def _command_line(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        words = ""
    return f"{pid} {words or '(ended, not waited for)'}"
