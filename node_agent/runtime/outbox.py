"""Reports that the orchestrator has not acknowledged yet, in journal order.

They are replayed from the first on every new link. An acknowledgement is made durable with the
next record that is written anyway: losing it costs a duplicate, which is harmless.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from node_agent.core.report import Report


class Outbox:
    """The unacknowledged reports.

    Args:
        reports: from the journal.
        acked: reports up to here are committed at the orchestrator.
        keep: False on a node without an orchestrator: nothing is kept for one.
    """

    def __init__(self, reports: Iterable[Report], acked: int, *, keep: bool = True) -> None:
        self._reports = list(reports) if keep else []
        self._acked = acked
        self._keep = keep

    @property
    def acked(self) -> int:
        """Reports up to here need not be replayed."""
        return self._acked

    def add(self, report: Report) -> None:
        """A report that the journal holds."""
        if self._keep:
            self._reports.append(report)
        else:
            self._acked = report.seq

    def acknowledge(self, seq: int) -> None:
        """Drop everything up to seq. Going back is harmless and does nothing."""
        self._acked = max(self._acked, seq)
        self._reports = [report for report in self._reports if report.seq > self._acked]

    def after(self, seq: int = 0) -> Sequence[Report]:
        """What is to be sent after seq, oldest first."""
        return tuple(report for report in self._reports if report.seq > seq)

    def __len__(self) -> int:
        return len(self._reports)
