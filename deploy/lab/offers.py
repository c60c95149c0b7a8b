"""Which kernel sources are on offer, and which two of them the lab builds. Pure.

The newest becomes kernel `c`; the newest of the next lower series becomes `a`, `b` and the bad
ones, so that a → c is a real change of version. With one series on offer there is no `c`.
Release candidates count only where nothing else is on offer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from deploy.lab.errors import LabError

OLDEST = (6, 19)
"""Live update sessions were merged in this release."""

_VERSION = re.compile(r"(?:\d+:)?(\d+)\.(\d+)(?:\.(\d+))?(~rc\d+)?.*")


@dataclass(frozen=True, slots=True)
class Offer:
    """One version of one source package, as `apt-cache madison` lists it."""

    package: str
    version: str

    @property
    def series(self) -> tuple[int, int]:
        """Major and minor number."""
        return self._numbers[:2]

    @property
    def is_candidate(self) -> bool:
        """Is it a release candidate?"""
        found = _VERSION.fullmatch(self.version)
        return bool(found and found[4])

    @property
    def rank(self) -> tuple[tuple[int, int, int], bool, str]:
        """Higher is newer."""
        return self._numbers, not self.is_candidate, self.version

    @property
    def key(self) -> str:
        """A folder's name: make and the shell are at odds with some of a version's characters."""
        return re.sub(r"[^A-Za-z0-9.-]", "_", f"{self.package}_{self.version}")

    @property
    def _numbers(self) -> tuple[int, int, int]:
        found = _VERSION.fullmatch(self.version)
        if not found:
            return (0, 0, 0)
        return int(found[1]), int(found[2]), int(found[3] or 0)


@dataclass(frozen=True, slots=True)
class Choice:
    """What to build. newer: None if only one series is on offer."""

    base: Offer
    newer: Offer | None = None


def parse_madison(text: str) -> list[Offer]:
    """The offers in `apt-cache madison`'s lines; others are skipped."""
    offers = []
    for line in text.splitlines():
        words = [word.strip() for word in line.split("|")]
        if len(words) == 3 and re.fullmatch(r"linux-source-\d+\.\d+", words[0]):
            offers.append(Offer(words[0], words[1]))
    return offers


def choose(offers: Iterable[Offer]) -> Choice:
    """Raises LabError (NO_SOURCE) if nothing is new enough."""
    fit = [offer for offer in offers if offer.series >= OLDEST]
    fit = [offer for offer in fit if not offer.is_candidate] or fit
    if not fit:
        raise LabError(
            "no linux-source package from 6.19 on is on offer",
            reason="NO_SOURCE",
            remedy="The machine's Debian mirror must carry sid or the newest release's backports.",
        )
    newest = max(fit, key=lambda offer: offer.rank)
    older = [offer for offer in fit if offer.series < newest.series]
    if not older:
        return Choice(newest)
    return Choice(max(older, key=lambda offer: offer.rank), newest)
