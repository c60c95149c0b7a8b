"""`python -m tests.sim`: search for a failing seed, or look at one."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter

PROGRESS_S = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--verbose", action="store_true", help="print the story as it happens")
    parser.add_argument("--counters", action="store_true", help="print what was reached")
    parser.add_argument("--keep-going", type=int, default=10, metavar="N", help="stop after N failures")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets must not matter; replays should not depend on finding out.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.sim", *sys.argv[1:]])
    from tests.sim.world import run_seed

    chosen = (
        [options.seed] if options.seed is not None else range(options.start, options.start + options.seeds)
    )
    began_s = told_s = time.monotonic()
    seen: Counter[str] = Counter()
    failed, hours, done = [], 0.0, 0
    for seed in chosen:
        result = run_seed(seed, verbose=options.verbose)
        seen.update(result.seen)
        hours += result.virtual_s / 3600
        done += 1
        if result.violation is not None:
            failed.append(result)
            print(result, f"\nreplay: python -m tests.sim --seed {seed} --verbose\n", flush=True)
            if len(failed) >= options.keep_going:
                break
        elif options.seed is not None:
            print(result, f"digest {result.digest}, {result.took_s:.2f} s")
        if time.monotonic() - told_s >= PROGRESS_S:
            told_s = time.monotonic()
            print(f"… {done} seeds, {len(failed)} failed, {hours:.0f} h simulated", flush=True)
    took_s = time.monotonic() - began_s
    if options.counters:
        for name, count in sorted(seen.items()):
            print(f"{count:8}  {name}")
    print(
        f"{done} seeds in {took_s:.1f} s ({done / took_s:.2f} seeds/s), {hours:.0f} h simulated, "
        f"{len(failed)} failed" + (f": {', '.join(str(r.seed) for r in failed)}" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
