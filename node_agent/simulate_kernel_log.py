"""kernel.log of an emulated node of RFC v2: its kernels' messages, with the agent's phases between them.

Rules
1. Written with --state-dir only, appended to over all boots; a phase's line is there before its effect.
2. A line of the kernel is as the kernel wrote it. One of the agent is `agent: PHASE (luo STATE, kho final)`,
   which is how things stand when the phase begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from node_agent.kernel.emulated.model import LuoModel
from node_agent.ports import Journal, JournalRecord
from node_agent.runtime.journal_over import JournalOver

NAME = "kernel.log"


class KernelLog:
    """One node's, over all its boots.

    Args:
        directory: the node's.
    """

    def __init__(self, directory: Path, model: LuoModel) -> None:
        self._path = directory / NAME
        self._model = model
        self._lines: list[str] = []
        """Of the boot that was read last; the kernel may still add to it."""
        self._read = 0

    def catch_up(self) -> None:
        """Write what the kernel has said since: the last words of a boot that is over, then this one's."""
        lines = self._lines[self._read :]
        if self._model.log is not self._lines:
            self._lines = self._model.log
            lines += self._lines
        self._read = len(self._lines)
        self._write(lines)

    def phase(self, phase: str) -> None:
        """The agent's attempt comes into this phase."""
        self.catch_up()
        facts = self._model.facts()
        final = "final" if facts.kho_finalized else "not final"
        self._write([f"agent: {phase} (luo {facts.luo_state or 'off'}, kho {final})"])

    def _write(self, lines: Sequence[str]) -> None:
        if lines:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)


class ToldJournal(JournalOver):
    """Each record's phase is told to the log."""

    def __init__(self, journal: Journal, log: KernelLog) -> None:
        super().__init__(journal)
        self._log = log

    async def append(self, kind: str, body: Mapping[str, object]) -> JournalRecord:
        """See ports.Journal."""
        record = await super().append(kind, body)
        node = body.get("node")
        attempt = node.get("attempt") if isinstance(node, Mapping) else None
        if isinstance(attempt, Mapping):
            self._log.phase(str(attempt.get("phase")))
        return record

    async def close(self) -> None:
        """See ports.Journal."""
        self._log.catch_up()
        await super().close()
