"""Many seeds over all cores, with progress, what they reached, and whom they caught.

Every worker is a fresh interpreter under PYTHONHASHSEED=0, so that a seed fares the same here as alone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType

from tests.sim.counters import OFTEN, OFTEN_SHARE, unreached
from tests.sim.draw import brief, draw
from tests.sim.minimise import minimise
from tests.sim.world import Result, run_scenario

PROGRESS_S = 5.0
SEED_MOST_S = 300
"""Of the machine's time; a seed that takes longer hangs, which is a failure too."""


class Hangs(BaseException):
    """A seed does not end."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one seed; told is its failure, made smaller, with story and command."""

    seed: int
    seen: Counter[str]
    virtual_s: float
    invariant: str = ""
    told: str = ""


@dataclass(slots=True)
class Campaign:
    """All outcomes together."""

    seen: Counter[str] = field(default_factory=Counter)
    worlds: Counter[str] = field(default_factory=Counter)
    """In how many seeds each was seen."""
    failed: list[Outcome] = field(default_factory=list)
    done: int = 0
    virtual_s: float = 0.0
    took_s: float = 0.0

    def take(self, outcome: Outcome) -> None:
        self.seen.update(outcome.seen)
        self.worlds.update(set(outcome.seen))
        self.done += 1
        self.virtual_s += outcome.virtual_s
        if outcome.invariant:
            self.failed.append(outcome)

    def progress(self) -> str:
        took_s = max(self.took_s, 1e-3)
        return (
            f"{self.done} seeds, {len(self.failed)} failed, {self.done / took_s:.2f} seeds/s, "
            f"{self.virtual_s / 3600:.0f} h simulated ({self.virtual_s / 3600 / took_s:.2f} h/s)"
        )

    def share(self, name: str) -> float:
        """Of the seeds, 0 … 1."""
        return self.worlds[name] / max(self.done, 1)

    def seldom(self) -> list[str]:
        """What ought to be reached often, and was not."""
        return [name for name in OFTEN if self.share(name) < OFTEN_SHARE]

    def as_json(self) -> str:
        return json.dumps(
            {
                "seeds": self.done,
                "failed": {outcome.seed: outcome.invariant for outcome in self.failed},
                "simulated_h": round(self.virtual_s / 3600, 1),
                "took_s": round(self.took_s, 1),
                "unreached": unreached(self.seen),
                "seldom": {name: self.worlds[name] for name in self.seldom()},
                "reached": dict(sorted(self.seen.items())),
                "worlds": dict(sorted(self.worlds.items())),
            },
            indent=1,
        )


def run_one(seed: int, minimise_s: float, *, briefly: bool = False) -> Outcome:
    """In a worker. briefly: as `make test` runs it."""
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(SEED_MOST_S)
    try:
        result = run_scenario(brief(seed) if briefly else draw(seed))
    except Hangs:
        return Outcome(seed, Counter(), 0.0, "HANGS", f"seed {seed}: it has not ended after {SEED_MOST_S} s")
    finally:
        signal.alarm(0)
    if result.violation is None:
        return Outcome(seed, result.seen, result.virtual_s)
    return Outcome(
        seed, result.seen, result.virtual_s, result.violation.invariant, _told(result, minimise_s, briefly)
    )


def _told(result: Result, minimise_s: float, briefly: bool) -> str:
    word = " --brief" if briefly else ""
    whole = f"{result}\nreplay: python -m tests.sim{word} --seed {result.seed} --verbose\n"
    if not minimise_s or briefly:
        return whole
    signal.alarm(int(2 * minimise_s) + 60)
    try:
        return str(minimise(result, budget_s=minimise_s))
    except Hangs:
        return whole
    finally:
        signal.alarm(0)


def _hang(number: int, frame: FrameType | None) -> None:
    raise Hangs


def outcomes(seeds: Sequence[int], jobs: int, minimise_s: float, *, briefly: bool) -> Iterator[Outcome]:
    """As they come."""
    if jobs == 1:
        yield from (run_one(seed, minimise_s, briefly=briefly) for seed in seeds)
        return
    os.environ["PYTHONHASHSEED"] = "0"
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        work: Iterable[tuple[int, float, bool]] = ((seed, minimise_s, briefly) for seed in seeds)
        yield from pool.imap_unordered(_run_one, work, chunksize=1)


def _run_one(work: tuple[int, float, bool]) -> Outcome:
    seed, minimise_s, briefly = work
    return run_one(seed, minimise_s, briefly=briefly)


def run(
    seeds: Sequence[int],
    *,
    jobs: int,
    minimise_s: float,
    keep_going: int,
    quiet: bool,
    briefly: bool = False,
) -> Campaign:
    """Prints failures as they come, and how far it is."""
    campaign = Campaign()
    began_s = told_s = time.monotonic()
    for outcome in outcomes(seeds, jobs, minimise_s, briefly=briefly):
        campaign.take(outcome)
        campaign.took_s = time.monotonic() - began_s
        if outcome.invariant and not quiet:
            print(outcome.told, flush=True)
        if time.monotonic() - told_s >= PROGRESS_S and not quiet:
            told_s = time.monotonic()
            print(f"… {campaign.progress()}", flush=True)
        if len(campaign.failed) >= keep_going:
            break
    return campaign
