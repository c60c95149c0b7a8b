"""An example workload: "guest memory" in a memfd that ticks and measures its own pause.

    python -m node_agent.workloads.example --socket /run/luod/liveupdate.sock --id vm-1 --mib 16

It asks the broker for its session first. If one crossed a kexec it takes its memory out of it, waits for
RESUME and ticks at once (early.py); then it imports what it is made of, compares every byte with
what must be there, and reports the pause from the last tick before to the first tick after. Otherwise it
starts afresh, and says so. It outlives restarts of the agent. One line on stdout for whatever happens.

LIVEROLL_NODE_ROOT says that this is an emulated node's userspace.
"""

from __future__ import annotations

import sys

from node_agent.workloads import early

ANSWER_S = 60.0
MEMORY_TOKEN = 1
_NUMBERS = {"--mib", "--tick-ms", "--answer-s"}


def plain(words: list[str]) -> dict[str, str]:
    """The options, if all are in their plain form and make sense. Help, mistakes and whatever else
    there is are example_life.py's to answer: empty."""
    if len(words) % 2:
        return {}
    options = dict(zip(words[::2], words[1::2], strict=True))
    for name, value in options.items():
        try:
            if name in _NUMBERS and not float(value) > 0:
                return {}
        except ValueError:
            return {}
    named = {"--socket", "--id"} <= set(options) <= {"--socket", "--id", *_NUMBERS}
    return options if named and options["--id"].isprintable() and '"' not in options["--id"] else {}


def main(words: list[str]) -> int:
    """Exit status."""
    options, back = plain(words), None
    if options:
        try:
            wait_s = float(options.get("--answer-s", ANSWER_S))
            back = early.come_back(options["--socket"], options["--id"], MEMORY_TOKEN, wait_s)
        except KeyboardInterrupt:
            return 0
        except OSError as error:
            print(f"{options['--id']}: {error}", file=sys.stderr)
            return 1
        if back is None:
            print(f"{options['--id']}: no broker answered at {options['--socket']}", file=sys.stderr)
            print("Is liveroll-agent running on this node, with this socket?", file=sys.stderr)
            return 1
    from node_agent.workloads import example_life

    return example_life.main(words, back)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
