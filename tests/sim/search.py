"""`python -m tests.sim.search`: search a killing seed for every mutant, on all cores; the recorded one first.

Exits with 1 if one survives, or if the true code fails where it was to be compared.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.killing import Hunt


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.search", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MUTANT", help="only these; part of a name will do")
    parser.add_argument("--seeds", type=int, default=60, help="how many each, the recorded one left aside")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--record", action="store_true", help="write the killing seeds down")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.sim.search", *sys.argv[1:]])
    from tests.sim.killing import record, recorded
    from tests.sim.mutants import MUTANTS

    chosen = [name for name in MUTANTS if not options.names or any(part in name for part in options.names)]
    began_s, hunts = time.monotonic(), {}
    known = recorded()
    with ProcessPoolExecutor(options.jobs) as pool:
        waiting = {}
        for name in chosen:
            seeds = list(range(options.start, options.start + options.seeds))
            if name in known:
                seeds.insert(0, known[name].seed)
            waiting[pool.submit(_hunt, name, seeds)] = name
        for done in as_completed(waiting):
            name = waiting[done]
            found = hunts[name] = done.result()
            print(f"… {len(hunts)} of {len(chosen)}: {_told(found)}", flush=True)
            if options.record and found.kill is not None:
                known[name] = found.kill
                record({each: known[each] for each in MUTANTS if each in known})
    _table([hunts[name] for name in chosen])
    survivors = [name for name in chosen if hunts[name].kill is None]
    impure = [f"{name} seed {text}" for name in chosen for text in hunts[name].impure]
    took_s = time.monotonic() - began_s
    print(
        f"{len(chosen)} mutants in {took_s:.0f} s, {len(survivors)} survive: {', '.join(survivors) or 'none'}"
    )
    for text in impure:
        print(f"the true code fails, too: {text}")
    return 1 if survivors or impure else 0


def _hunt(name: str, seeds: list[int]) -> Hunt:
    from tests.sim.killing import hunt
    from tests.sim.mutants import MUTANTS

    return hunt(MUTANTS[name], seeds)


def _told(found: Hunt) -> str:
    others = ", ".join(f"{name} ×{count}" for name, count in found.others.most_common())
    if found.kill is None:
        return f"{found.name} SURVIVES {found.tried} seeds; others: {others or 'none'}"
    line = found.message.splitlines()[0][:90]
    kill = found.kill
    return f"{found.name} {kill.invariant} on seed {kill.seed} ({kill.virtual_s:.0f} s): {line}"


def _table(hunts: list[Hunt]) -> None:
    """Markdown."""
    from tests.sim.mutants import MUTANTS

    print("\n| mutant | broken rule | predicted | seed | tried | other promises first |")
    print("|---|---|---|---|---|---|")
    for found in hunts:
        of = MUTANTS[found.name]
        seed = str(found.kill.seed) if found.kill is not None else "**survives**"
        others = ", ".join(f"{name} ×{count}" for name, count in found.others.most_common())
        cells = (found.name, f"{of.side}: {of.rule}", of.promise, seed, str(found.tried), others or "–")
        print("| " + " | ".join(cells) + " |")
    print()


if __name__ == "__main__":
    sys.exit(main())
