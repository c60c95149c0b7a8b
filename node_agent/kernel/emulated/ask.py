"""Asks an emulated node's kernel process from a shell: what fails next, what a cold boot starts, debugfs.

`python -m node_agent.kernel.emulated.ask --root DIR WORD [ARGUMENT …]`; the words are control's.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence

from node_agent.kernel.emulated import syncclient
from node_agent.kernel.emulated.control import ARGUMENTS


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the answer. Exit status: 0, 1 the kernel refused, 2 wrong arguments, 6 it does not run."""
    words = "\n".join(f"  {word} {arguments}" for word, arguments in ARGUMENTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m node_agent.kernel.emulated.ask",
        description="Ask the kernel process of an emulated node.",
        epilog=f"words:\n{words}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", required=True, help="the node's root directory")
    parser.add_argument("word", choices=ARGUMENTS, metavar="WORD")
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENT")
    options = parser.parse_args(argv)
    try:
        asked = syncclient.ask_control(options.root, options.word, *options.arguments)
    except OSError:
        print(f"error: no kernel process runs in {options.root}", file=sys.stderr)
        return 6
    try:
        answer = syncclient.take_control(asked, options.word)
    except OSError as error:
        if error.errno == errno.ESHUTDOWN:
            return 0  # that boot is over: it did what it was asked
        # One number has two names, and Python knows the one that no kernel source uses.
        name = errno.errorcode.get(error.errno or 0, "EIO").replace("ENOTSUP", "EOPNOTSUPP")
        print(f"error: {options.word}: {name}{_usage(options.word, options.arguments)}", file=sys.stderr)
        return 1
    finally:
        asked.close()
    print(answer, end="" if answer.endswith("\n") or not answer else "\n")
    return 0


def _usage(word: str, arguments: Sequence[str]) -> str:
    """What the word takes, if it was given fewer or more; else the error is the kernel's own."""
    needed, _, optional = ARGUMENTS[word].partition("[")
    counts = {len(needed.split()), len(needed.split()) + len(optional.split())}
    return "" if len(arguments) in counts else f"; its arguments are: {ARGUMENTS[word] or 'none'}"


if __name__ == "__main__":
    sys.exit(main())
