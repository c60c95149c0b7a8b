"""`python -m tests.sim`: search for a failing seed, or look at one."""

from __future__ import annotations

import argparse
import os
import sys


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--without", default="", help="what that one's world lacks (see edits.py)")
    parser.add_argument("--brief", action="store_true", help="as make test runs them, mended sooner")
    parser.add_argument("--verbose", action="store_true", help="print the story as it happens")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="workers; default: all cores")
    parser.add_argument(
        "--counters",
        action="store_true",
        help="print what was reached, how often, and in how many of the seeds",
    )
    parser.add_argument("--minimise", type=float, default=60.0, metavar="S", help="at most so long a failure")
    parser.add_argument("--keep-going", type=int, default=10, metavar="N", help="stop after N failures")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets must not matter; replays should not depend on finding out.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.sim", *sys.argv[1:]])
    return _show(options) if options.seed is not None else _search(options)


def _show(options: argparse.Namespace) -> int:
    from tests.sim.draw import brief, draw
    from tests.sim.edits import without
    from tests.sim.world import run_scenario

    edits = [edit for edit in options.without.split(",") if edit]
    whole = brief(options.seed) if options.brief else draw(options.seed)
    result = run_scenario(without(whole, edits), verbose=options.verbose)
    print(result, f"digest {result.digest}, {result.took_s:.2f} s")
    if options.counters:
        for name, count in sorted(result.seen.items()):
            print(f"{count:8}  {name}")
    return 0 if result.violation is None else 1


def _search(options: argparse.Namespace) -> int:
    from tests.sim.campaign import run
    from tests.sim.counters import DECLARED, OFTEN, OFTEN_SHARE, unreached

    as_json = options.output == "json"
    campaign = run(
        range(options.start, options.start + options.seeds),
        jobs=max(1, options.jobs),
        minimise_s=options.minimise,
        keep_going=options.keep_going,
        quiet=as_json,
        briefly=options.brief,
    )
    if as_json:
        print(campaign.as_json())
        return 1 if campaign.failed else 0
    if options.counters:
        for name, count in sorted(campaign.seen.items()):
            print(f"{count:8} {campaign.share(name):7.1%}  {name}")
    missing = unreached(campaign.seen)
    print(f"reached {len(DECLARED) - len(missing)} of {len(DECLARED)} declared places; not reached:")
    for name in missing:
        print(f"          {name}")
    if seldom := campaign.seldom():
        print(f"in fewer than {OFTEN_SHARE:.0%} of the seeds, and ought to be in more:")
        for name in seldom:
            print(f"{campaign.share(name):9.1%} {name}")
    else:
        print(f"each of the {len(OFTEN)} that ought to be often is in {OFTEN_SHARE:.0%} of the seeds or more")
    print(campaign.progress())
    for outcome in sorted(campaign.failed, key=lambda o: o.seed):
        print(f"failed: seed {outcome.seed} {outcome.invariant}")
    return 1 if campaign.failed else 0


if __name__ == "__main__":
    sys.exit(main())
