"""Which orchestrator a node dials next, and after what wait: pure, and the same on a node and in simulation.

Rules:
- The addresses are tried in an order of the node's own, drawn once: links spread over the replicas,
  and those of a replica that is lost spread over all that are left.
- A node stays where its link works; every end of a link, and every dial that fails, moves it on.
- Whoever loses a link that was up dials again uniformly within `spread_s`, or longer in a large fleet: a
  lost replica's thousand links must not land as one herd.
- Within a round over the addresses the next one is tried almost at once; a round without success
  backs off exponentially with full jitter, up to `most_s` or what the caller puts up with.
- Refused by all of a round, for reasons that only a person mends, the node tries slowly; refused by
  some, it goes on as if those were away.

Not here: what counts as a refusal, and when a link has lasted (runtime/link.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Chance(Protocol):
    """What is needed of random.Random."""

    def uniform(self, a: float, b: float, /) -> float: ...


@dataclass(frozen=True, slots=True)
class DialPolicy:
    """Bounds of the waits, in seconds."""

    first_s: float = 0.5
    """Within a round, and the first step of the backoff over rounds."""
    most_s: float = 30.0
    spread_s: float = 3.0
    """Over so long the links of a lost replica come back: 3,000 of them make a thousand Hellos a
    second, which a store with group commit takes; a node in its attempt can wait so long."""
    slow_first_s: float = 60.0
    slow_most_s: float = 600.0


class Rota:
    """One node's turn over the orchestrator's addresses.

    Args:
        addresses: host:port each; without any there is one nameless address.
        chance: draws the order and the jitter; seeded in simulation.
    """

    def __init__(self, addresses: Sequence[str], chance: Chance, policy: DialPolicy | None = None) -> None:
        self._chance = chance
        self._policy = policy or DialPolicy()
        known = list(dict.fromkeys(addresses)) or [""]
        if len(known) > 1:
            known.sort(key=lambda _: chance.uniform(0.0, 1.0))
        self._addresses = tuple(known)
        self._at = 0
        self._tries = 0
        self._refused = 0
        self._slow = 0

    @property
    def address(self) -> str:
        """Where to dial now."""
        return self._addresses[self._at]

    @property
    def order(self) -> tuple[str, ...]:
        """All addresses, as this node tries them."""
        return self._addresses

    def lasted(self) -> None:
        """The link was a good one: what fails from now on backs off afresh."""
        self._tries = self._refused = self._slow = 0

    def failed(
        self,
        *,
        was_up: bool = False,
        refused: bool = False,
        most_s: float | None = None,
        spread_s: float = 0.0,
    ) -> float:
        """Move on; the seconds to wait before the next dial.

        Args:
            was_up: the link had been welcomed.
            refused: for a reason that only a person mends.
            most_s: the longest wait that the node can afford now, if that is less than the policy's.
            spread_s: over how long lost links are to come back, if that is longer than the policy's.
        """
        policy = self._policy
        self._at = (self._at + 1) % len(self._addresses)
        self._tries += 1
        self._refused += refused
        rounds, place = divmod(self._tries, len(self._addresses))
        window = policy.first_s
        if place == 0:
            all_refused, self._refused = self._refused == len(self._addresses), 0
            if all_refused:
                self._tries, self._slow = 0, self._slow + 1
                slow = min(policy.slow_first_s * 2.0 ** min(self._slow - 1, 16), policy.slow_most_s)
                return slow * self._chance.uniform(0.5, 1.0)
            self._slow = 0
            window = policy.first_s * 2.0 ** min(rounds - 1, 16)
        if was_up:
            window = max(window, policy.spread_s, spread_s)
        most_s = policy.most_s if most_s is None else min(policy.most_s, most_s)
        return self._chance.uniform(0.0, min(window, most_s))
