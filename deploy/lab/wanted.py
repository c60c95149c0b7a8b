"""What a lab is to consist of, and the files that make a guest root one of its nodes. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from deploy.lab.disk import GuestFile
from deploy.lab.errors import LabError
from deploy.lab.machine import DEFAULT_MEMORY_MIB, METRICS_PORT, MIN_MEMORY_MIB

MAX_NODES = 16
"""Each takes half a GiB and most of a core while it boots."""
ZONES = ("a", "b", "c")
RUNNING = "/etc/liveroll/artifact"
BROKER = "/run/luod/liveupdate.sock"
WORKER = 1000
"""uid of the guest's user `worker`."""
_SET_DEFAULT = "/usr/lib/liveroll/guest/set-default"


def example_workload(name: str = "vm-1", mib: int = 64, uid: int = WORKER) -> str:
    """A line of the workloads file: the example workload as an ordinary user.

    By its path, because busybox' shell prefers an applet of its own, which has other options.
    """
    return (
        f"/usr/bin/setpriv --reuid={uid} --regid={uid} --clear-groups env PYTHONPATH=/usr/lib/liveroll "
        f"python3 -S -m node_agent.workloads.example --socket {BROKER} --id {name} --mib {mib}"
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """A lab's nodes.

    kernel: name of the one that they boot. models: hardware models, in turn. workloads: lines of
    /etc/liveroll/workloads. words: appended to the command line. settings: more of agent.toml, in TOML.
    files: more files of the guest, absolute path → content. labels: beside zone and pool.
    """

    nodes: int = 3
    kernel: str = "a"
    memory_mib: int = DEFAULT_MEMORY_MIB
    models: Sequence[str] = ("lab-q35",)
    workloads: Sequence[str] = (example_workload(),)
    words: Sequence[str] = ()
    settings: str = ""
    files: Mapping[str, GuestFile] = field(default_factory=lambda: MappingProxyType({}))
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({"pool": "lab"}))
    prefix: str = "node"

    def checked(self) -> Wanted:
        """Itself. Raises LabError (WANTED_INVALID)."""
        problem = ""
        if not 1 <= self.nodes <= MAX_NODES:
            problem = f"{self.nodes} nodes are not within 1 and {MAX_NODES}"
        elif self.memory_mib < MIN_MEMORY_MIB:
            problem = f"{self.memory_mib} MiB are too few for a guest, {MIN_MEMORY_MIB} is the least"
        elif not self.models:
            problem = "there is no hardware model"
        if problem:
            raise LabError(problem, reason="WANTED_INVALID", remedy="Give another number.")
        return self

    def names(self) -> list[str]:
        """node-01, node-02 …"""
        return [f"{self.prefix}-{number:02}" for number in range(1, self.nodes + 1)]


@dataclass(frozen=True, slots=True)
class Link:
    """How a node's agent reaches its orchestrator, and the PEM files that it needs for it."""

    orchestrator: str
    ca: bytes
    certificate: bytes
    key: bytes


def agent_toml(
    name: str, labels: Mapping[str, str], link: Link | None, *, artifact: bool, more: str = ""
) -> str:
    """/etc/liveroll/agent.toml. `more` goes last; a table of ours that it opens, too, is left to it."""

    def text(value: str) -> str:
        return json.dumps(value, ensure_ascii=False)  # a JSON string is a TOML string

    head = [f"node_id = {text(name)}", 'kernel = "real"']
    tables = {
        "labels": [f"{text(key)} = {text(value)}" for key, value in labels.items()],
        # Every user of a lab node may take part; whose memory is whose is the broker's business.
        "broker": [f"socket = {text(BROKER)}", 'mode = "0666"'],
        "metrics": [f'listen = "0.0.0.0:{METRICS_PORT}"'],
        "hooks.set_default_kernel": [f"command = [{text(_SET_DEFAULT)}]", "timeout_s = 30"],
    }
    if artifact:
        tables["artifacts"] = [f"running = {text(RUNNING)}"]
    if link is not None:
        head.append(f"orchestrator = {text(link.orchestrator)}")
        tables["tls"] = [f'{key} = "/etc/liveroll/tls/{file}"' for key, file in _TLS.items()]
    lines = more.splitlines()
    own = [line for line in lines[: _first_table(lines)] if line.strip()]
    told = [*head, *own]
    for table, entries in tables.items():
        if f"[{table}]" not in lines:
            told += [f"[{table}]", *entries]
    return "\n".join([*told, *lines[_first_table(lines) :]]) + "\n"


def _first_table(lines: Sequence[str]) -> int:
    return next((i for i, line in enumerate(lines) if line.startswith("[")), len(lines))


_TLS = {"ca": "ca.pem", "certificate": "agent.pem", "key": "agent.key"}


def node_files(
    wanted: Wanted,
    index: int,
    link: Link | None,
    artifact: Mapping[str, bytes],
    set_default: bytes,
) -> dict[str, GuestFile]:
    """The files that make a copy of the guest root the node with that index.

    Args:
        artifact: file name → content of the running kernel's artifact; may be empty.
        set_default: the hook's program.
    """
    name = wanted.names()[index]
    labels = {
        "zone": ZONES[index % len(ZONES)],
        "hardware_model": wanted.models[index % len(wanted.models)],
        **wanted.labels,
    }
    toml = agent_toml(name, labels, link, artifact=bool(artifact), more=wanted.settings)
    files = {
        "/etc/hostname": GuestFile(f"{name}\n".encode()),
        "/etc/liveroll/agent.toml": GuestFile(toml.encode()),
        "/etc/liveroll/workloads": GuestFile("".join(f"{line}\n" for line in wanted.workloads).encode()),
        _SET_DEFAULT: GuestFile(set_default, 0o755),
        **{f"{RUNNING}/{file}": GuestFile(data) for file, data in artifact.items()},
    }
    if link is not None:
        pem = {"ca": link.ca, "certificate": link.certificate, "key": link.key}
        for key, file in _TLS.items():
            files[f"/etc/liveroll/tls/{file}"] = GuestFile(pem[key], 0o600 if key == "key" else 0o644)
    return {**files, **wanted.files}
