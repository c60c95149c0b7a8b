"""`liveroll`, from its first instruction: Ctrl-C is a clean end even while the program is being imported."""

from __future__ import annotations

import signal
import sys

HELD_BACK = frozenset({signal.SIGINT})


def main() -> None:
    """Entry point; exits the process.

    SIGINT waits until the program is there: an import that it interrupts may swallow it (a callback
    of a weak reference prints a traceback and goes on). Who starts us may have it held back from
    before our first instruction, as the demo does.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        from orchestrator.cli.main import main as command

        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
        command()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
