"""Worlds that bring certain mistakes to light: a drawn scenario with one thing made likely.

Each changes a Scenario and nothing else, and every promise holds in what comes out: the true code
passes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import time, timedelta

from node_agent.core.model import AttemptRef
from node_agent.kernel.emulated.image import SESSIONS
from node_agent.kernel.faults import FaultPlan
from node_agent.workloads.protocol import session_name
from orchestrator.core.spec import (
    Amount,
    Bake,
    Canary,
    DomainBudget,
    Embargo,
    FailureBudget,
    HealthGate,
    OnFail,
    Promotion,
    RollbackPolicy,
    RolloutSpec,
    Schedule,
    WaveSpec,
    Window,
)
from orchestrator.runtime.retention import Retention
from orchestrator.store.memory import Disk
from tests.sim.draw import NEW, Rates, Scenario, seconds
from tests.sim.virtual import EPOCH

ANY_FAILURE = FailureBudget(Amount(percent=100), frozenset())
TWO_WAVES = (WaveSpec("some", Amount(percent=50)), WaveSpec("rest"))


def specs(scenario: Scenario, change: Callable[[RolloutSpec], RolloutSpec]) -> Scenario:
    """Every rollout of it changed."""
    return replace(scenario, rollouts=tuple((at, change(spec)) for at, spec in scenario.rollouts))


def kernel_faults(scenario: Scenario, *plans: str) -> Scenario:
    """The nodes take the plans in turn."""
    nodes = zip(scenario.nodes, itertools.cycle(plans), strict=False)
    return replace(scenario, nodes=tuple(replace(node, faults=FaultPlan.parse(plan)) for node, plan in nodes))


def undisturbed(scenario: Scenario) -> Scenario:
    """The calm world as it is."""
    return scenario


# --- what the network and the store do -----------------------------------------------------


def stale_commands(scenario: Scenario) -> Scenario:
    """Old commands are delivered again and again, also to nodes that have gone back since."""
    rates = replace(scenario.rates, stale=1.0, duplicates=0.5, latency_s=1.0, unhealthy=0.8)
    return replace(scenario, rates=rates)


def late_proceeds(scenario: Scenario) -> Scenario:
    """Leases hardly longer than the way to the node."""
    short = specs(scenario, lambda spec: replace(spec, proceed_lease=seconds(5), schedule=Schedule()))
    return replace(short, rates=replace(scenario.rates, latency_s=4.0))


def contended_store(scenario: Scenario) -> Scenario:
    """One commit in ten loses to another."""
    return replace(scenario, rates=replace(scenario.rates, store_conflicts=0.1))


def contended(scenario: Scenario) -> Scenario:
    """People, reports and plans of three replicas want the same rows, and each lags behind the others."""
    busy = busy_replicas(scenario)
    return replace(busy, rates=replace(busy.rates, operator_s=10.0, relapse_s=20.0))


def short_memory(scenario: Scenario) -> Scenario:
    """Hardly any event is kept that need not be."""
    rules = Retention(age=seconds(60), count=20, every=seconds(20))
    return replace(scenario, retention=rules)


def slow_disks(scenario: Scenario) -> Scenario:
    """An fsync in four takes seconds, and leases are short."""
    short = specs(scenario, lambda spec: replace(_patient(spec), proceed_lease=seconds(8)))
    return replace(short, rates=replace(scenario.rates, sync_slow=0.25, latency_s=2.0))


def restarts(scenario: Scenario) -> Scenario:
    """The orchestrator dies twice a minute, and boots take their time."""
    slow = specs(
        kernel_faults(scenario, "slow_boot=45@1,slow_boot=45@2"),
        lambda spec: replace(_patient(spec), silence_lease=seconds(60)),
    )
    return replace(slow, rates=replace(scenario.rates, orchestrator_restart_s=25.0, latency_s=0.5))


# --- replicas, and a database that goes back -----------------------------------------------


def busy_replicas(scenario: Scenario) -> Scenario:
    """Three replicas, late hints, health that comes and goes, and hardly any room."""
    rates = replace(_quiet(scenario.rates), relapse_s=60.0, hint_s=8.0, hints_lost=0.7, link_cut_s=60.0)
    alike = replace(scenario.nodes[0], faults=FaultPlan(), workloads=1)
    nodes = tuple(replace(alike, node_id=f"n{number}", joins_at_s=0.5 * number) for number in range(9))
    calm = specs(replace(scenario, nodes=nodes, rollouts=scenario.rollouts[:1], chaos_s=900.0), _patient)
    return replace(_tight(calm), replicas=3, same_holder=False, rates=rates)


def sleeping_planners(scenario: Scenario) -> Scenario:
    """Planners are stopped again and again, often beyond their lease."""
    rates = replace(scenario.rates, stopped_s=8.0, store_slow=0.5)
    return replace(specs(scenario, _patient), replicas=3, same_holder=False, rates=rates)


def cut_off_replicas(scenario: Scenario) -> Scenario:
    """Replicas lose the database for long, and keep their nodes."""
    rates = replace(_quiet(scenario.rates), store_cut_s=40.0)
    calm = replace(scenario, rollouts=scenario.rollouts[:1], chaos_s=600.0)
    return replace(specs(calm, _patient), replicas=2, same_holder=False, rates=rates)


def roaming_nodes(scenario: Scenario) -> Scenario:
    """Links break on one side first, and what was under way arrives late, elsewhere."""
    rates = replace(_quiet(scenario.rates), link_cut_s=4.0, latency_s=4.0, hint_s=8.0, hints_lost=0.7)
    calm = replace(scenario, rollouts=scenario.rollouts[:1], chaos_s=600.0)
    return replace(specs(calm, _patient), replicas=3, same_holder=False, rates=rates)


def restored_store(scenario: Scenario) -> Scenario:
    """Backups are restored in the middle of everything."""
    rates = replace(_quiet(scenario.rates), restore_s=150.0, latency_s=0.5)
    return replace(specs(replace(scenario, chaos_s=900.0), _patient), rates=rates)


def restored_on_the_way_back(scenario: Scenario) -> Scenario:
    """A gate turns everybody back, and in the middle of it a backup is restored, again and again."""
    turned = turned_back(replace(scenario, rollouts=scenario.rollouts[:1], chaos_s=900.0))
    return replace(turned, rates=replace(_quiet(turned.rates), restore_back_s=10.0, latency_s=0.5))


# --- what happens to nodes -----------------------------------------------------------------


def bad_kernels(scenario: Scenario) -> Scenario:
    """Every node's first kexecs go wrong in one of two ways."""
    return kernel_faults(scenario, "wrong_kernel=6.0.0-wrong@1,wrong_kernel=6.0.0-wrong@2", "refuse_freeze@1")


def lost_nodes(scenario: Scenario) -> Scenario:
    """Every other node never comes back by itself, and no failure halts."""
    lossy = kernel_faults(scenario, "never_back@1,never_back@2", "")
    return _tight(specs(lossy, lambda spec: replace(spec, schedule=Schedule())))


def slow_kernels(scenario: Scenario) -> Scenario:
    """Boots that outlast every lease, in a fleet where one node at a time may be in its blackout."""
    slow = kernel_faults(scenario, "slow_boot=25@1,slow_boot=25@2")
    return specs(
        slow,
        lambda spec: replace(
            spec,
            budgets=replace(
                spec.budgets,
                max_in_blackout=Amount(count=1),
                max_unavailable=Amount(percent=100),
                max_uncommitted=Amount(percent=100),
                domain=None,
                failures=ANY_FAILURE,
            ),
            proceed_lease=seconds(8),
            silence_lease=seconds(120),
            schedule=Schedule(),
        ),
    )


def refused_freezes(scenario: Scenario) -> Scenario:
    """Kernels refuse to jump."""
    plan = "refuse_freeze@1,refuse_freeze@2,refuse_freeze@3"
    return specs(kernel_faults(scenario, plan), _patient)


def lost_sessions(scenario: Scenario) -> Scenario:
    """Of what crosses, one workload's session is lost."""
    names = [AttemptRef("", number, Disk().incarnation).id for number in (1, 2, 3)]
    plan = ",".join(
        f"session_lost={session_name(name, 'vm-0')}@{number}" for number, name in enumerate(names, 1)
    )
    return specs(kernel_faults(scenario, plan, ""), _patient)


def dying_agents(scenario: Scenario) -> Scenario:
    """Agents are killed again and again."""
    rates = replace(scenario.rates, agent_crash=0.03, power_loss=0.0)
    return replace(specs(scenario, _patient), rates=rates)


def power_cuts(scenario: Scenario) -> Scenario:
    """Power fails again and again, also in the middle of a write."""
    return replace(specs(scenario, _patient), rates=replace(scenario.rates, power_loss=0.01))


def flipped_bits(scenario: Scenario) -> Scenario:
    """A bit of some journal turns over every few seconds, and its agent starts anew."""
    return replace(specs(scenario, _patient), rates=replace(scenario.rates, bit_flip_s=12.0))


def held_reboots(scenario: Scenario) -> Scenario:
    """Kernels take their time to jump, and agents are killed meanwhile."""
    return replace(specs(scenario, _patient), rates=replace(scenario.rates, reboot_slow=0.7))


def sick_kernels(scenario: Scenario) -> Scenario:
    """New kernels make most nodes unhealthy: they are finished, and rolled back."""
    rates = replace(scenario.rates, unhealthy=0.7)
    return replace(specs(scenario, _patient), rates=rates)


def moody_nodes(scenario: Scenario) -> Scenario:
    """Health comes and goes, and must hold for long."""
    rates = replace(scenario.rates, relapse_s=15.0)
    patient = specs(scenario, lambda spec: replace(_patient(spec), health_hold=seconds(10)))
    return replace(patient, rates=rates)


def spoilt_memory(scenario: Scenario) -> Scenario:
    """Bits flip while memory crosses."""
    return replace(specs(scenario, _patient), rates=replace(scenario.rates, memory_spoilt=0.5))


def lasting_conflict(scenario: Scenario) -> Scenario:
    """Two rollouts want the same nodes at the same time."""
    at, first = scenario.rollouts[0]
    other = replace(first, name="second", target=replace(first.target, artifact=NEW[1]))
    both = replace(scenario, rollouts=((at, first), (at + 5, other)))
    return specs(both, _patient)


# --- what people do, and when things may be done -------------------------------------------


def impatient_people(scenario: Scenario) -> Scenario:
    """Somebody presses a button every three seconds, and preserving takes its time."""
    return replace(scenario, rates=replace(scenario.rates, operator_s=3.0, latency_s=4.0))


def turned_back(scenario: Scenario) -> Scenario:
    """One kernel panics late, a gate turns everybody back, and the way back is narrow."""
    nodes = tuple(replace(node, release=scenario.nodes[0].release, model="m1") for node in scenario.nodes)

    def back(spec: RolloutSpec) -> RolloutSpec:
        free = replace(
            _patient(spec).budgets,
            max_unavailable=Amount(percent=100),
            max_uncommitted=Amount(percent=100),
            domain=None,
        )
        return replace(
            _patient(spec),
            budgets=free,
            rollback=RollbackPolicy(False, Amount(count=1), Amount(percent=100)),
            gates=(HealthGate(100.0, OnFail.ROLL_BACK),),
            selection=replace(spec.selection, selector=""),
            waves=TWO_WAVES,
        )

    return _unbounded(specs(kernel_faults(replace(scenario, nodes=nodes), "", "", "", "panic@1"), back))


def stopped_on_the_way_back(scenario: Scenario) -> Scenario:
    """The same, while somebody presses buttons, the red one among them, all the time."""
    turned = turned_back(scenario)
    return replace(turned, rates=replace(turned.rates, operator_s=4.0, latency_s=2.0))


def cancelled_bakes(scenario: Scenario) -> Scenario:
    """Everybody bakes for long, and somebody presses buttons, cancel among them, all the time."""
    long = specs(
        scenario,
        lambda spec: replace(
            _patient(spec),
            bake=Bake(seconds(90), seconds(0)),
            budgets=replace(_patient(spec).budgets, max_uncommitted=Amount(percent=100)),
        ),
    )
    return replace(long, rates=replace(_quiet(scenario.rates), operator_s=4.0))


def crowded(scenario: Scenario) -> Scenario:
    """One node at a time, and a fleet that would rather go all at once."""
    return _tight(specs(scenario, _patient))


def short_windows(scenario: Scenario) -> Scenario:
    """Windows of half a minute, half a minute apart: many close over a node that waits for its PROCEED."""
    windows = tuple(Window(frozenset(), _clock(start), _clock(start + 30)) for start in range(0, 3600, 60))
    windows = (*windows, Window(frozenset(), _clock(3600), _clock(23 * 3600 - 1)))
    slow = specs(scenario, lambda spec: replace(_patient(spec), schedule=Schedule(windows, ())))
    return replace(slow, rates=replace(scenario.rates, latency_s=4.0))


def early_cancels(scenario: Scenario) -> Scenario:
    """Somebody presses buttons, cancel among them, all the time; nodes wait for as long as it takes."""
    waiting = specs(
        scenario,
        lambda spec: replace(_patient(spec), timeouts=replace(spec.timeouts, preserved=seconds(300))),
    )
    return replace(waiting, rates=replace(_quiet(scenario.rates), operator_s=3.0, latency_s=4.0))


def long_closings(scenario: Scenario) -> Scenario:
    """Windows of half a minute, two minutes apart, and nodes that wait for as long as it takes."""
    windows = tuple(Window(frozenset(), _clock(start), _clock(start + 30)) for start in range(0, 3600, 150))
    windows = (*windows, Window(frozenset(), _clock(3600), _clock(23 * 3600 - 1)))
    waiting = specs(
        scenario,
        lambda spec: replace(
            _patient(spec),
            schedule=Schedule(windows, ()),
            timeouts=replace(spec.timeouts, preserved=seconds(300)),
        ),
    )
    return replace(waiting, rates=replace(_quiet(scenario.rates), latency_s=4.0))


def embargoes(scenario: Scenario) -> Scenario:
    """A dozen embargoes of a minute each."""
    dated = tuple(
        Embargo(EPOCH + seconds(60 + 120 * n), EPOCH + seconds(120 + 120 * n), "audit") for n in range(12)
    )
    slow = specs(scenario, lambda spec: replace(_patient(spec), schedule=Schedule((), dated)))
    return replace(slow, rates=replace(scenario.rates, latency_s=2.0))


def approvals(scenario: Scenario) -> Scenario:
    """Every wave waits for a person."""
    return specs(
        scenario, lambda spec: replace(_patient(spec), promotion=Promotion.MANUAL, waves=TWO_WAVES, gates=())
    )


def many_kinds(scenario: Scenario) -> Scenario:
    """More kernel pairs than canaries may be under way; nobody is held up by anything else."""
    return specs(scenario, lambda spec: replace(_patient(spec), canary=Canary(max_nodes=1), gates=()))


def one_a_zone(scenario: Scenario) -> Scenario:
    """A domain's cap is all that holds anybody back."""
    nodes = tuple(
        replace(node, zone="ab"[number % 2], release=scenario.nodes[0].release, model="m1")
        for number, node in enumerate(scenario.nodes)
    )
    return specs(
        replace(scenario, nodes=nodes),
        lambda spec: replace(
            _patient(spec),
            budgets=replace(
                _patient(spec).budgets,
                max_unavailable=Amount(percent=100),
                domain=DomainBudget("zone", Amount(count=1)),
            ),
            selection=replace(spec.selection, selector=""),
            waves=(WaveSpec("all"),),
        ),
    )


def odd_percentages(scenario: Scenario) -> Scenario:
    """Two fifths of a fleet that five does not divide, and nothing else in the way."""
    nodes = tuple(replace(node, release=scenario.nodes[0].release, model="m1") for node in scenario.nodes)

    def odd(spec: RolloutSpec) -> RolloutSpec:
        budgets = replace(
            _patient(spec).budgets,
            max_unavailable=Amount(percent=40),
            max_uncommitted=Amount(percent=100),
            domain=None,
        )
        selection = replace(spec.selection, selector="")
        return replace(_patient(spec), budgets=budgets, selection=selection, waves=(WaveSpec("all"),))

    return _unbounded(specs(replace(scenario, nodes=nodes), odd))


def hasty_bakes(scenario: Scenario) -> Scenario:
    """One node at a time may bake, and baking takes a while."""
    return specs(
        scenario,
        lambda spec: replace(
            _patient(spec),
            bake=Bake(seconds(60), seconds(0)),
            budgets=replace(
                _patient(spec).budgets, max_uncommitted=Amount(count=1), max_unavailable=Amount(percent=100)
            ),
        ),
    )


def failing_fleet(scenario: Scenario) -> Scenario:
    """Kernels panic, and one failure is one too many."""
    plan = kernel_faults(scenario, "", "", "panic@1,panic@2")

    def strict(spec: RolloutSpec) -> RolloutSpec:
        budgets = replace(
            _patient(spec).budgets,
            failures=FailureBudget(Amount(count=0), frozenset()),
            max_unavailable=Amount(count=2),
            max_uncommitted=Amount(percent=100),
            domain=None,
        )
        return replace(_patient(spec), budgets=budgets, waves=(WaveSpec("all"),), gates=())

    return _unbounded(specs(replace(plan, rates=replace(scenario.rates, latency_s=2.0)), strict))


def calm(scenario: Scenario) -> Scenario:
    """The fleet and its rollouts, and no fault at all; one orchestrator does it all. LUO is as merged."""
    nodes = tuple(replace(node, faults=FaultPlan(), luo=SESSIONS) for node in scenario.nodes)
    quiet = _quiet(scenario.rates)
    return replace(scenario, nodes=nodes, rates=quiet, replicas=1, fair_after_s=0.0, patient=False, only={})


def _quiet(rates: Rates) -> Rates:
    """Nothing goes wrong but what is asked for."""
    nothing = Rates(**{**dict.fromkeys(Rates.__dataclass_fields__, 0.0), "skews_s": (0.0,)})  # type: ignore[arg-type]
    return replace(nothing, latency_s=rates.latency_s, hint_s=rates.hint_s)


def _unbounded(scenario: Scenario) -> Scenario:
    """The fleet as a whole holds nobody up."""
    return replace(scenario, policy=replace(scenario.policy, max_unavailable=None, max_in_blackout=None))


def _patient(spec: RolloutSpec) -> RolloutSpec:
    """Always open, hard to halt."""
    budgets = replace(spec.budgets, failures=ANY_FAILURE, max_in_blackout=Amount(percent=100))
    return replace(spec, schedule=Schedule(), budgets=budgets)


def _tight(scenario: Scenario) -> Scenario:
    """One unavailable node at a time, and nothing else in the way."""
    return specs(
        _unbounded(scenario),
        lambda spec: replace(
            spec,
            budgets=replace(
                spec.budgets,
                max_unavailable=Amount(count=1),
                max_in_blackout=Amount(percent=100),
                max_uncommitted=Amount(percent=100),
                domain=None,
                failures=ANY_FAILURE,
            ),
            gates=(),
        ),
    )


def _clock(seconds_after: int) -> time:
    return (EPOCH + timedelta(seconds=seconds_after)).time()
