"""`liveroll`, from its first instruction: Ctrl-C is a clean end even while the program is being imported."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point; exits the process."""
    try:
        from orchestrator.cli.main import main as command
    except KeyboardInterrupt:
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
