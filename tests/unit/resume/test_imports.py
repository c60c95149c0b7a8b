"""The blackout path's imports are pinned: each one is time in which workloads stand still."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from node_agent.resume import bundle

REPOSITORY = Path(__file__).resolve().parents[3]

PINNED = {
    "__future__",
    "_json",
    "_socket",
    "_struct",
    "errno",
    "fcntl",
    "node_agent",
    "node_agent.kernel",
    "node_agent.kernel.abi",
    "node_agent.kernel.emulated",
    "node_agent.kernel.emulated.syncclient",
    "node_agent.resume",
    "node_agent.resume.blackout",
    "node_agent.resume.claims",
    "node_agent.resume.fdpass",
    "node_agent.resume.handover",
    "node_agent.resume.identity",
    "node_agent.resume.journal_tail",
    "node_agent.resume.keeper",
    "node_agent.resume.parking",
    "node_agent.resume.words",
    "select",
    "zlib",
}

OF_TOKENS = {
    "node_agent.kernel.emulated.synctokens",
    "node_agent.kernel.rfc2_abi",
    "node_agent.resume.tokens",
}
"""What nodes of RFC v2 import beside it, and no others."""

SESSIONS = """
from node_agent.resume.blackout import resume
resume(root="/no/such/node", journal_path="/no/such/journal", socket_path="/no/such/socket")
"""
TOKENS = f"""
{SESSIONS}
from node_agent.resume.tokens import start
try:
    start("/no/such/node", {{"lr.7-a.vm": {{0: 5}}}})
except FileNotFoundError:
    pass
"""


def imported(code: str) -> set[str]:
    """What this takes of a fresh interpreter."""
    before = "import sys\nsys.path.insert(0, sys.argv[1])\nbefore = set(sys.modules)\n"
    after = "print('\\n'.join(sorted(set(sys.modules) - before)))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"{before}{code}{after}", str(REPOSITORY)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return set(done.stdout.split())


def test_nothing_is_imported_but_the_pinned_list() -> None:
    assert imported(SESSIONS) == PINNED


def test_nor_where_sessions_are_made_of_tokens() -> None:
    assert imported(TOKENS) == PINNED | OF_TOKENS


def test_the_early_inits_bundle_has_both() -> None:
    ours = {name for name in PINNED | OF_TOKENS if name.startswith("node_agent.")} - set(bundle.PACKAGES)
    assert ours <= set(bundle.closure(bundle.ENTRY))
