"""A journal over another one, for whoever wants to see, or to disturb, what goes through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from node_agent.ports import Journal, JournalRecord


class JournalOver:
    """ports.Journal: all of it is the other journal's, but for what a subclass does.

    Args:
        journal: the other one.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def installation_id(self) -> str:
        """See ports.Journal."""
        return self._journal.installation_id

    @property
    def records(self) -> Sequence[JournalRecord]:
        """See ports.Journal."""
        return self._journal.records

    async def append(self, kind: str, body: Mapping[str, object]) -> JournalRecord:
        """See ports.Journal."""
        return await self._journal.append(kind, body)

    def number_from(self, seq: int) -> None:
        """See ports.Journal."""
        self._journal.number_from(seq)

    async def ensure_room(self) -> None:
        """See ports.Journal."""
        await self._journal.ensure_room()

    async def close(self) -> None:
        """See ports.Journal."""
        await self._journal.close()
