"""What `liveroll-agent simulate` was asked for: checked as a whole, every violation at once."""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from node_agent.kernel.emulated.phases import PhaseTimes
from node_agent.kernel.faults import FaultPlan, FaultSyntax
from node_agent.settings import (
    LABEL_KEY,
    LABEL_VALUE_MAX,
    NODE_ID,
    InvalidSettings,
    TlsFiles,
    Violation,
    is_loopback,
    split_address,
)
from node_agent.simulate_kernels import Kernels, read_kernels, read_models

NODES_MAX = 10_000
"""Beyond it one event loop is what is measured, not the orchestrator."""
_RELEASE = re.compile(r"[!-~]{1,64}")
_Fault = Callable[[str, str, str], None]


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One emulated node."""

    node_id: str
    release: str
    model: str
    labels: Mapping[str, str]
    faults: FaultPlan
    luo_model: str
    """A word of simulate_kernels.MODELS."""


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """A whole simulated fleet of one process."""

    nodes: tuple[NodeSpec, ...]
    orchestrator: tuple[str, ...]
    tls: TlsFiles | None
    kernels: Kernels
    workloads: int
    devices: int
    """PCI devices of each node; the n-th is the n-th workload's, where the kernel is RFC v2's."""
    memory_bytes: int
    seed: int
    phases: PhaseTimes
    drain_s: float
    state_dir: Path | None
    metrics_listen: str
    log_format: str
    log_level: str


def read_options(args: argparse.Namespace) -> SimulateOptions:
    """Check the arguments of `simulate`.

    Raises:
        InvalidSettings: with every violation.
    """
    faults: list[Violation] = []

    def fault(where: str, problem: str, remedy: str) -> None:
        faults.append(Violation(where, problem, remedy))

    def within(name: str, low: float, high: float) -> None:
        value = getattr(args, name.lstrip("-").replace("-", "_"))
        if not low <= value <= high:
            fault(name, f"{value} is not within {low:g} and {high:g}", "choose a number in that range")

    within("--nodes", 1, NODES_MAX)
    within("--zones", 1, 1000)
    within("--workloads", 0, 64)
    within("--devices", 0, 64)
    within("--mib", 0.004, 4096)
    within("--kexec-s", 0, 3600)
    within("--drain-s", 0, 3600)
    if not NODE_ID.fullmatch(f"{args.prefix}-1"):
        fault("--prefix", f"{args.prefix!r} gives no node ids", "use lower-case letters, digits and - . _")
    releases = _words("--releases", args.releases, fault)
    for release in releases:
        if not _RELEASE.fullmatch(release):
            fault("--releases", f"{release!r} is not a kernel release", "for instance 7.2.13")
    models = _words("--models", args.models, fault)
    labels = _labels(args.labels, fault)
    kernels = read_kernels(args.image, fault)
    luo_models = read_models(_words("--luo-model", args.luo_model, fault), fault)
    tls = _tls(args, fault)
    orchestrator = _orchestrators(args.orchestrator or "", fault, plaintext=tls is None)
    names = [f"{args.prefix}-{i:02d}" for i in range(1, max(args.nodes, 0) + 1)]
    plans = _faults(args.faults, names, fault)
    if faults:
        raise InvalidSettings(tuple(faults))
    kinds = list(itertools.product(luo_models, models, releases))
    return SimulateOptions(
        nodes=tuple(
            NodeSpec(
                node_id=name,
                release=release,
                model=model,
                labels={
                    "zone": _zone(i % args.zones),
                    "luo_model": kernels.of(luo_model).named(release).model,
                    **labels,
                },
                faults=plans.get(name, FaultPlan()),
                luo_model=luo_model,
            )
            for i, (name, (luo_model, model, release)) in enumerate(
                zip(names, itertools.cycle(kinds), strict=False)
            )
        ),
        orchestrator=orchestrator,
        tls=tls,
        kernels=kernels,
        workloads=args.workloads,
        devices=args.devices,
        memory_bytes=max(int(args.mib * 1024 * 1024) // 4096, 1) * 4096,
        seed=args.seed,
        # Shares of a bare kexec as they were measured: purgatory's checksum and decompression
        # about a quarter, the kernel's boot the rest.
        phases=PhaseTimes(
            shutdown_s=args.kexec_s * 0.05, purgatory_s=args.kexec_s * 0.25, boot_s=args.kexec_s * 0.7
        ),
        drain_s=args.drain_s,
        state_dir=Path(args.state_dir).absolute() if args.state_dir else None,
        metrics_listen=getattr(args, "metrics.listen") or "",
        log_format=getattr(args, "log.format") or "console",
        log_level=getattr(args, "log.level") or "info",
    )


def _orchestrators(text: str, fault: _Fault, *, plaintext: bool) -> tuple[str, ...]:
    where = "--orchestrator"
    addresses = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not addresses:
        fault(where, "is missing", "name the orchestrator, for instance 127.0.0.1:7444")
    for address in addresses:
        try:
            split_address(address)
        except ValueError:
            fault(where, f"{address!r} is not host:port", "for instance 127.0.0.1:7444")
            continue
        if plaintext and not is_loopback(address):
            fault(
                where,
                f"{address} is not on loopback and there is no TLS",
                "give --tls-ca, --tls-certificate and --tls-key; plaintext is for loopback only",
            )
    return addresses


def _zone(index: int) -> str:
    return chr(ord("a") + index) if index < 26 else f"z{index}"


def _words(where: str, text: str, fault: _Fault) -> list[str]:
    words = [w.strip() for w in text.split(",") if w.strip()]
    if not words:
        fault(where, "names nothing", "give one or more, with commas")
        return ["unnamed"]
    return words


def _labels(pairs: list[str], fault: _Fault) -> dict[str, str]:
    labels: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not LABEL_KEY.fullmatch(key) or len(value) > LABEL_VALUE_MAX:
            fault("--label", f"{pair!r} is not key=value", "for instance rack=r1")
        labels[key] = value
    return labels


def _faults(specs: list[str], names: list[str], fault: _Fault) -> dict[str, FaultPlan]:
    plans: dict[str, FaultPlan] = {}
    for spec in specs:
        node, equals, text = spec.partition("=")
        if not equals or (node != "*" and node not in names):
            shown = f"{names[0]} … {names[-1]}" if names else "none"
            fault("--faults", f"{spec!r} names no node of this process", f"write NODE=SPEC, nodes: {shown}")
            continue
        try:
            plan = FaultPlan.parse(text)
        except FaultSyntax as error:
            fault("--faults", str(error), "see liveroll-agent simulate --help")
            continue
        for name in names if node == "*" else [node]:
            plans[name] = FaultPlan(plans.get(name, FaultPlan()).faults + plan.faults)
    return plans


def _tls(args: argparse.Namespace, fault: _Fault) -> TlsFiles | None:
    given = {key: getattr(args, f"tls.{key}") for key in ("ca", "certificate", "key")}
    if not any(given.values()):
        return None
    for key, value in given.items():
        if not value:
            fault(f"--tls-{key}", "is missing", "TLS needs ca, certificate and key together")
    return TlsFiles(*(Path(given[key] or "") for key in ("ca", "certificate", "key")))
