"""How pytest-xdist hands out the tests: those of real processes in two lanes, all others one by one.

Tests of real processes wait on clocks of their own, and more of them at a time than two make each
other late. xdist's groups (`--dist loadgroup`) would say so, but it puts a group's name on an
attribute of a test that pytest 9.2 does not read any more, and nothing warns of it; so the lanes are
made here, from the tests' paths. The lanes are the largest pieces and go first, so that on a machine
of two cores no simulation runs beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from xdist.scheduler import LoadScopeScheduling

PROCESSES = "tests/integration/"
LANES = 2


def lanes(collection: Iterable[str]) -> Mapping[str, str]:
    """Module → lane, for those of real processes: modules stay whole, and lanes alike in tests."""
    modules = Counter(test.partition("::")[0] for test in collection if test.startswith(PROCESSES))
    lengths = dict.fromkeys((f"lane-{number}" for number in range(LANES)), 0)
    found: dict[str, str] = {}
    for module, tests in sorted(modules.items(), key=lambda item: (-item[1], item[0])):
        found[module] = min(lengths, key=lambda lane: (lengths[lane], lane))
        lengths[found[module]] += tests
    return found


class Turns(LoadScopeScheduling):
    """See the module."""

    _lanes: Mapping[str, str] | None = None

    def _split_scope(self, nodeid: str) -> str:
        if self._lanes is None:
            self._lanes = lanes(next(iter(self.registered_collections.values())))
        return self._lanes.get(nodeid.partition("::")[0], nodeid)
