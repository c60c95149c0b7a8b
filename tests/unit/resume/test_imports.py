"""The blackout path's imports are pinned: each one is time in which workloads stand still."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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

CODE = """
import sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
from node_agent.resume.blackout import resume
resume(root="/no/such/node", journal_path="/no/such/journal", socket_path="/no/such/socket")
print("\\n".join(sorted(set(sys.modules) - before)))
"""


def test_nothing_is_imported_but_the_pinned_list() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", CODE, str(REPOSITORY)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert set(done.stdout.split()) == PINNED
