"""What may be spent and what is spent: the budgets of a rollout, of a domain and of the fleet.

Rules
1. A slot is taken when PREPARE is committed, and with it the blackout slot.
2. A start on a node that is counted unavailable already takes no new unavailable slot.
3. Percentages are of the members fixed at the start, less those in maintenance or written off;
   a domain's are of the members that carry its value; the fleet's of all counted nodes.
4. A rollback spends its own budgets, counted above the baseline when it began; a domain's cap
   then counts the rollback's own attempts. Nodes of the baseline that have recovered make no room:
   no available node starts while as many attempts are open. The fleet's budgets hold for both.
5. max_uncommitted counts baking nodes and those that will bake: the attempts under way.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from orchestrator.core.fleet import Fleet
from orchestrator.core.index import RolloutIndex
from orchestrator.core.phases import Goal, Outcome
from orchestrator.core.spec import Amount
from orchestrator.core.standing import Bucket, Lane


@dataclass(frozen=True, slots=True)
class Use:
    """One budget: max_unavailable, max_in_blackout, max_uncommitted, failures, domain:<key>=<value>,
    fleet_max_unavailable or fleet_max_in_blackout."""

    budget: str
    limit: int
    used: int

    @property
    def full(self) -> bool:
        return self.used >= self.limit


def failure_limit(index: RolloutIndex) -> int:
    """Failed nodes that the rollout may have; one more halts it."""
    return index.row.spec.budgets.failures.max.of(index.row.members)


def failures(index: RolloutIndex) -> int:
    """Failed nodes that no operator has forgiven."""
    return max(0, index.failed - index.row.failures_forgiven)


def unavailable(index: RolloutIndex) -> Use:
    """max_unavailable under the rollout's goal (rule 4)."""
    row = index.row
    if row.goal is Goal.BACK:
        limit = row.spec.rollback.max_unavailable.of(index.denominator())
        above = max(0, index.unavailable - row.rollback_baseline)
        return Use("max_unavailable", limit, max(above, index.count(Outcome.OPEN)))
    limit = row.spec.budgets.max_unavailable.of(index.denominator())
    return Use("max_unavailable", limit, index.unavailable)


def blackout(index: RolloutIndex) -> Use:
    """max_in_blackout under the rollout's goal."""
    row = index.row
    amount = row.spec.rollback if row.goal is Goal.BACK else row.spec.budgets
    return Use("max_in_blackout", amount.max_in_blackout.of(index.denominator()), index.blackout)


def uncommitted(index: RolloutIndex) -> Use:
    """Rule 5."""
    limit = index.row.spec.budgets.max_uncommitted.of(index.denominator())
    return Use("max_uncommitted", limit, index.uncommitted + index.count(Outcome.OPEN))


def domain(index: RolloutIndex, value: str) -> Use | None:
    """The cap of one domain value; None if the rollout has no domain budget."""
    budget = index.row.spec.budgets.domain
    if budget is None:
        return None
    limit = budget.max_unavailable.of(index.domain_members[value])
    counts = index.domain_returning if index.row.goal is Goal.BACK else index.domain_unavailable
    return Use(f"domain:{budget.key}={value}", limit, counts[value])


def fleet_use(fleet: Fleet, name: str, amount: Amount | None, used: int) -> Use | None:
    if amount is None:
        return None
    return Use(name, amount.of(max(0, len(fleet.nodes) - fleet.uncounted)), used)


def uses(fleet: Fleet, rollout_id: str) -> tuple[Use, ...]:
    """All budgets of a rollout as they stand, for people to read."""
    index = fleet.indexes[rollout_id]
    found = [unavailable(index), blackout(index), uncommitted(index)]
    found.append(Use("failures", failure_limit(index), failures(index)))
    found += [use for value in sorted(index.domain_members) if (use := domain(index, value)) is not None]
    policy = fleet.policy
    for use in (
        fleet_use(fleet, "fleet_max_unavailable", policy.max_unavailable, fleet.unavailable),
        fleet_use(fleet, "fleet_max_in_blackout", policy.max_in_blackout, fleet.blackout),
    ):
        if use is not None:
            found.append(use)
    return tuple(found)


class Purse:
    """The budgets during one plan: what is spent in the fleet, and what the plan takes on top."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._unavailable: Counter[str] = Counter()
        self._blackout: Counter[str] = Counter()
        self._open: Counter[str] = Counter()
        self._domain: Counter[tuple[str, str]] = Counter()
        self._fleet_unavailable = 0

    def refusal(self, index: RolloutIndex, lane: Lane) -> Use | None:
        """The budget that stops every start of the rollout in this lane, whatever node."""
        policy, key = self._fleet.policy, index.row.rollout_id
        used = self._fleet.blackout + self._blackout.total()
        shared = fleet_use(self._fleet, "fleet_max_in_blackout", policy.max_in_blackout, used)
        if shared is not None and shared.full:
            return shared
        slots = _plus(blackout(index), self._blackout[key])
        if slots.full:
            return slots
        if lane is Lane.FORWARD:
            baking = _plus(uncommitted(index), self._open[key])
            if baking.full:
                return baking
        return None

    def slot_refusal(self, index: RolloutIndex) -> Use | None:
        """The budget that stops a start on a node that is available now."""
        policy = self._fleet.policy
        used = self._fleet.unavailable + self._fleet_unavailable
        shared = fleet_use(self._fleet, "fleet_max_unavailable", policy.max_unavailable, used)
        if shared is not None and shared.full:
            return shared
        slots = _plus(unavailable(index), self._unavailable[index.row.rollout_id])
        return slots if slots.full else None

    def domain_refusal(self, index: RolloutIndex, bucket: Bucket) -> Use | None:
        """The domain cap that stops a start on an available node with this value."""
        use = domain(index, bucket[0])
        if use is None:
            return None
        use = _plus(use, self._domain[index.row.rollout_id, bucket[0]])
        return use if use.full else None

    def take(self, index: RolloutIndex, node_id: str, *, new_slot: bool) -> None:
        """Spend what one start spends. The node becomes unavailable to every rollout that it is in."""
        key = index.row.rollout_id
        self._blackout[key] += 1
        self._open[key] += 1
        if new_slot:
            self._fleet_unavailable += 1
            for rollout_id in self._fleet.rollouts_of(node_id):
                self._unavailable[rollout_id] += 1
                self._domain[rollout_id, self._fleet.indexes[rollout_id].standings[node_id].value] += 1


def _plus(use: Use, more: int) -> Use:
    return Use(use.budget, use.limit, use.used + more) if more else use
