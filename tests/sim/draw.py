"""Everything that a seed decides before its world begins: fleet, faults, rollouts, operators.

Nothing here is random but by the seed. Ranges are small on purpose: short waits and tight
budgets make more happen in an hour of virtual time.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from node_agent.kernel.emulated.image import RFC2, SESSIONS
from node_agent.kernel.emulated.phases import PhaseTimes
from node_agent.kernel.faults import Fault, FaultKind, FaultPlan
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.spec import Amount, RolloutSpec
from orchestrator.runtime.retention import Retention
from tests.sim import draw_luo
from tests.sim.draw_spec import rollout_spec, seconds

OLD = ("6.12.1", "6.12.9")
NEW = ("6.19.1", "6.19.2")
ZONES = ("a", "b", "c")
MODELS = ("m1", "m2")

KERNEL_FAULTS = (
    FaultKind.REFUSE_FREEZE,
    FaultKind.PANIC,
    FaultKind.POWER_LOSS,
    FaultKind.NEVER_BACK,
    FaultKind.WRONG_KERNEL,
    FaultKind.SESSION_LOST,
    FaultKind.POISON,
    FaultKind.RETRIEVE_ERROR,
    FaultKind.BUSY,
    FaultKind.SLOW_BOOT,
    FaultKind.SLOW_SHUTDOWN,
    FaultKind.HANG,
)
KEXECS = 6
"""reboot calls of a node for which faults are drawn; few nodes make more before the healing."""


@dataclass(frozen=True, slots=True)
class NodeDraw:
    """One node."""

    node_id: str
    release: str
    model: str
    zone: str
    faults: FaultPlan
    workloads: int
    joins_at_s: float
    """When it is first powered on."""
    luo: str = SESSIONS
    """Of which model its kernels are."""
    devices: int = 0
    """Of its first workloads, where the kernel takes devices."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How often things go wrong while faults last: probabilities a chance, or mean intervals."""

    agent_crash: float
    """At each point that an agent passes (port calls, journal writes)."""
    power_loss: float
    """As above."""
    orchestrator_crash: float
    """At each batch of the store, before or after it is written."""
    orchestrator_restart_s: float
    """Mean time between crashes at any moment; 0 never."""
    store_refuses: float
    store_conflicts: float
    store_in_doubt: float
    store_spell_s: float
    """Mean time between spells without a store; 0 never."""
    link_cut_s: float
    """Mean time between cuts of a node's link; 0 never."""
    partition_s: float
    """Mean time between partitions; 0 never."""
    latency_s: float
    """Most that a message takes."""
    duplicates: float
    stale: float
    """An old command of the node is delivered once more."""
    hooks_fail: float
    hooks_slow: float
    unhealthy: float
    """A node is unhealthy for good on a new kernel."""
    relapse_s: float
    """Mean time between spells of ill health; 0 never."""
    staging_fails: float
    disk_full_s: float
    sync_fails: float
    workloads_fail: float
    memory_spoilt: float
    operator_s: float
    """Mean time between an operator's random calls; 0 never."""
    store_slow: float = 0.0
    """A commit takes many seconds."""
    hints_lost: float = 0.0
    hint_s: float = 0.001
    """Most that a hint of another's commit takes."""
    failover_s: float = 0.0
    """Mean time between fail-overs to a copy that lags; 0 never."""
    restore_s: float = 0.0
    """Mean time between restores of a backup; 0 never."""
    restore_back_s: float = 0.0
    """The same, while some node is on its way back; 0 never."""
    store_cut_s: float = 0.0
    """Mean time between partitions of one replica from the database; 0 never."""
    replica_cut_s: float = 0.0
    """Mean time between partitions of one replica from all nodes; 0 never."""
    stopped_s: float = 0.0
    """Mean time between stops (SIGSTOP) of a replica; 0 never."""
    skews_s: tuple[float, ...] = (0.0,)
    """How wrong the wall clock of an orchestrator's machine may be."""
    clock_set_s: float = 0.0
    """Mean time between settings of some wall clock; 0 never."""
    agent_stopped_s: float = 0.0
    """Mean time between stops (SIGSTOP) of an agent; 0 never."""
    bit_flip_s: float = 0.0
    """Mean time between a journal's bit flips; 0 never."""
    foreign_s: float = 0.0
    """Mean time between somebody else's kexecs; 0 never."""
    clone_s: float = 0.0
    """Mean time between appearances of a node's double; 0 never."""
    ambush_s: float = 0.0
    """Mean time between ambushes laid; 0 never."""
    ambush_nodes: float = 0.0
    """Whether they strike nodes."""
    ambush_others: float = 0.0
    """Whether they strike the orchestrator, and have operators call."""
    luo_by_hand_s: float = 0.0
    """Mean time between uses of LUO by hand on some node of RFC v2; 0 never."""
    luo_driven_s: float = 0.0
    """Mean time between people who wait to drive LUO past the agent (chaos_hands.py); 0 never."""
    luoctl_s: float = 0.0
    """Mean time between calls of LUO's own verbs of luoctl; 0 never."""
    callbacks_refuse: float = 0.0
    """A participant of LUO or KHO refuses a callback (participants.py)."""
    step_s: float = 0.0
    """Most that an agent's call of a port takes."""
    relabel_s: float = 0.0
    """Mean time between changes of a node's labels; 0 never."""
    reboot_slow: float = 0.0
    """A reboot call takes many seconds in the kernel. Not drawn: provocations ask for it."""
    sync_slow: float = 0.0
    """An fsync of a node's journal takes seconds. Not drawn: provocations ask for it."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One seed's world."""

    seed: int
    nodes: tuple[NodeDraw, ...]
    policy: FleetPolicy
    rates: Rates
    rollouts: tuple[tuple[float, RolloutSpec], ...]
    """(when, what)"""
    phases: PhaseTimes
    chaos_s: float
    """When everything is mended."""
    same_holder: bool
    """A restarted orchestrator calls itself by the same name."""
    replicas: int = 1
    retention: Retention = field(default_factory=Retention)
    fair_after_s: float = 0.0
    """After the healing, how long nobody answers what blocks."""
    couplings: Mapping[str, str] = field(default_factory=dict)
    """Release → coupling of LUO and KHO, where it is of RFC v2's model."""
    patient: bool = False
    """Rollouts go on, however many nodes fail: where much is done to LUO, few come far."""
    only: Mapping[str, str] = field(default_factory=dict)
    """Release → the one model that it is there for; any other is there for both."""


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    rng = random.Random(f"scenario {seed}")
    profile = rng.choice(("calm", "nodes", "links", "orchestrator", "operators", "storm", "storm", "storm"))
    zones = ZONES[: rng.randint(1, 3)]
    models = MODELS[: rng.randint(1, 2)]
    releases = OLD[: rng.randint(1, 2)]
    count = rng.choice((3, 3, 4, 4, 5, 5, 6, 7, 8, 12))
    nodes = tuple(
        NodeDraw(
            node_id=f"n{number}",
            release=rng.choice(releases),
            model=rng.choice(models),
            zone=rng.choice(zones),
            faults=_faults(rng, profile),
            workloads=rng.randint(1, 2),
            joins_at_s=rng.uniform(200, 900) if rng.random() < 0.05 else rng.uniform(0, 5),
        )
        for number in range(count)
    )
    zones = tuple(sorted({node.zone for node in nodes}))
    more = random.Random(f"replicas {seed}")
    replicas = more.choice((1, 1, 2, 3)) if profile in ("orchestrator", "storm") else 1
    rollouts = [(rng.uniform(20, 60), rollout_spec(rng, "first", NEW[0], zones, count))]
    if rng.random() < 0.4:
        rollouts.append((rng.uniform(60, 900), rollout_spec(rng, "second", rng.choice(NEW), zones, count)))
    luo = random.Random(f"{seed}/luo-model")
    of_nodes = draw_luo.models(luo, count)
    nodes = tuple(
        replace(node, luo=model, faults=FaultPlan(node.faults.faults + more_faults.faults))
        for node, model in zip(nodes, of_nodes, strict=True)
        for more_faults in (draw_luo.faults(luo, model, likely=profile in ("nodes", "storm")),)
    )
    policy, rates = _policy(rng), _more_rates(more, profile, _rates(rng, profile), replicas)
    rates = replace(rates, luo_by_hand_s=draw_luo.by_hand_s(luo, likely=profile in ("nodes", "storm")))
    worse = draw_luo.later(random.Random(f"{seed}/luo-later"), profile)
    rates = replace(rates, **worse)
    rates = replace(rates, restore_back_s=_restore_back_s(random.Random(f"{seed}/restore-back"), profile))
    couplings = draw_luo.couplings(luo, (*OLD, *NEW))
    only = draw_luo.of_one_model(luo, rollouts[-1][1].target.artifact, of_nodes)
    return Scenario(
        seed=seed,
        nodes=tuple(replace(node, devices=luo.choice((0, 0, 1))) for node in nodes),
        policy=policy,
        rates=rates,
        rollouts=tuple(rollouts),
        phases=PhaseTimes(
            shutdown_s=0.3, purgatory_s=0.2, boot_s=rng.uniform(0.5, 5), panic_s=5, firmware_s=40
        ),
        chaos_s=rng.uniform(900, 2400),
        same_holder=rng.random() < 0.5 and replicas == 1,
        replicas=replicas,
        fair_after_s=more.choice((0.0, 0.0, 0.0, 1200.0)),
        couplings=couplings,
        patient=bool(worse) and RFC2 in of_nodes,
        only=only,
    )


def brief(seed: int) -> Scenario:
    """The scenario of a seed, mended sooner: for tests that run many."""
    whole = draw(seed)
    return replace(whole, chaos_s=whole.chaos_s / 3, fair_after_s=min(whole.fair_after_s, 300.0))


def _faults(rng: random.Random, profile: str) -> FaultPlan:
    if profile not in ("nodes", "storm"):
        return FaultPlan()
    rate = rng.choice((0.0, 0.03, 0.06, 0.1))
    faults = []
    for at in range(1, KEXECS + 1):
        for kind in KERNEL_FAULTS:
            if rng.random() >= rate * (0.3 if kind is FaultKind.HANG else 1.0):
                continue
            value = ""
            if kind in (FaultKind.SLOW_BOOT, FaultKind.SLOW_SHUTDOWN):
                value = f"{rng.choice((5, 40, 150, 400))}"
            elif kind is FaultKind.HANG:
                value = rng.choice(("reboot", "create_session", "retrieve_session", "load", "finish"))
            elif kind is FaultKind.WRONG_KERNEL:
                value = rng.choice(("6.0.0-wrong", OLD[0]))
            elif kind is FaultKind.BUSY:
                value = str(rng.choice((1, 3, 60)))
            faults.append(Fault(kind, at, value))
    return FaultPlan(tuple(faults))


def _policy(rng: random.Random) -> FleetPolicy:
    return FleetPolicy(
        max_unavailable=rng.choice((None, None, Amount(count=2), Amount(percent=50))),
        max_in_blackout=rng.choice((None, None, Amount(count=1), Amount(count=2))),
        max_staging=rng.choice((1, 2, 50)),
        restart_grace=seconds(rng.choice((15, 30, 60))),
        silence=seconds(rng.choice((15, 30))),
        active_heartbeat=seconds(5),
        min_idle_heartbeat=seconds(30),
        stage_retry=seconds(rng.choice((5, 30))),
    )


def _rates(rng: random.Random, profile: str) -> Rates:
    storm = profile == "storm"

    def some(on: str, *values: float) -> float:
        """0 unless the profile has such faults; then one of the values, or 0 as often as not."""
        if profile != on and not storm:
            return 0.0
        return rng.choice(values) if rng.random() < (0.8 if profile == on else 0.45) else 0.0

    return Rates(
        agent_crash=some("nodes", 0.003, 0.01, 0.03),
        power_loss=some("nodes", 0.001, 0.005),
        orchestrator_crash=some("orchestrator", 0.003, 0.01, 0.03),
        orchestrator_restart_s=some("orchestrator", 60, 200, 500),
        store_refuses=some("orchestrator", 0.01, 0.05),
        store_conflicts=some("orchestrator", 0.01, 0.05),
        store_in_doubt=some("orchestrator", 0.003, 0.01),
        store_spell_s=some("orchestrator", 200, 500),
        link_cut_s=some("links", 60, 200),
        partition_s=some("links", 150, 400),
        latency_s=rng.choice((0.001, 0.02)) if profile == "calm" else rng.choice((0.001, 0.02, 0.5, 3.0)),
        duplicates=some("links", 0.05, 0.3),
        stale=some("links", 0.05, 0.3),
        hooks_fail=some("nodes", 0.01, 0.05),
        hooks_slow=some("nodes", 0.01, 0.05),
        unhealthy=some("nodes", 0.1, 0.4),
        relapse_s=some("nodes", 150, 600),
        staging_fails=some("nodes", 0.05, 0.3),
        disk_full_s=some("nodes", 200, 600),
        sync_fails=some("nodes", 0.001, 0.005),
        workloads_fail=some("nodes", 0.02, 0.1),
        memory_spoilt=some("nodes", 0.05, 0.2),
        operator_s=some("operators", 30, 90, 200),
    )


def _restore_back_s(rng: random.Random, profile: str) -> float:
    often = {"orchestrator": 0.4, "operators": 0.4, "storm": 0.1}.get(profile, 0.0)
    return rng.choice((15.0, 60.0)) if rng.random() < often else 0.0


def _more_rates(rng: random.Random, profile: str, rates: Rates, replicas: int) -> Rates:
    """What came later: drawn apart, so that older seeds' worlds stay what they were otherwise."""
    storm = profile == "storm"

    def some(on: str, *values: float, often: float = 0.3) -> float:
        if profile != on and not storm:
            return 0.0
        return rng.choice(values) if rng.random() < (0.8 if profile == on else often) else 0.0

    several = replicas > 1
    return replace(
        rates,
        store_slow=some("orchestrator", 0.003, 0.02),
        hints_lost=rng.choice((0.0, 0.1, 0.9)) if several else 0.0,
        hint_s=rng.choice((0.001, 0.3, 4.0)) if several else 0.001,
        failover_s=some("orchestrator", 300, 900, often=0.15),
        restore_s=some("orchestrator", 600, 1200, often=0.1),
        store_cut_s=some("orchestrator", 100, 300),
        replica_cut_s=some("orchestrator", 100, 300) if several else 0.0,
        stopped_s=some("orchestrator", 60, 200),
        clock_set_s=some("orchestrator", 200, 600, often=0.2),
        agent_stopped_s=some("nodes", 100, 300),
        bit_flip_s=some("nodes", 300, 900, often=0.2),
        foreign_s=some("nodes", 200, 600),
        clone_s=some("nodes", 300, 900, often=0.15),
        relabel_s=some("operators", 100, 300),
        ambush_s=rng.choice((0.0, 20, 60)) if profile not in ("calm", "links") else 0.0,
        ambush_nodes=float(profile in ("nodes", "storm")),
        ambush_others=float(profile != "nodes"),
        step_s=rng.choice((0.0, 0.0, 0.3, 1.5)),
    )
