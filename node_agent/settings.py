"""The agent's configuration as one frozen value, and what a mistake in it looks like.

Standard library only: this is imported before the first Hello. Not here: reading it
(settings_load.py), and what a setting does.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from node_agent.errors import SettingsError

ENV_PREFIX = "LIVEROLL_AGENT_"
DEFAULT_CONFIG = Path("/etc/liveroll/agent.toml")
NODE_ID = re.compile(r"[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?")
"""A host name or a name of that form; it becomes part of LUO session names and of file names."""
LABEL_KEY = re.compile(r"[a-z0-9A-Z]([-a-z0-9A-Z_./]{0,61}[a-z0-9A-Z])?")
LABEL_VALUE_MAX = 63
"""The orchestrator's limit of a label's value; longer ones would be refused with the Hello."""
SOCKET_PATH_MAX = 107
"""sizeof(sockaddr_un.sun_path) less the NUL; bind fails beyond it."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong: where it was said, what is wrong, how to mend it."""

    where: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}; {self.remedy}"


class InvalidSettings(SettingsError):
    """Every violation of one configuration, at once."""

    def __init__(self, violations: tuple[Violation, ...]) -> None:
        many = "s" if len(violations) != 1 else ""
        super().__init__(
            f"the configuration has {len(violations)} violation{many}",
            remedy="mend what is listed and start the agent again; nothing was started",
        )
        self.violations = violations
        self.fields = {f"violation_{i}": str(v) for i, v in enumerate(violations)}


@dataclass(frozen=True, slots=True)
class HookCommand:
    """A command of this node: argv, never a shell line, killed after timeout_s."""

    argv: tuple[str, ...]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the orchestrator's authority, this node's certificate and its key."""

    ca: Path
    certificate: Path
    key: Path


LUO_MODELS = ("sessions", "rfc-v2", "rfc-v2/luo-driven", "rfc-v2/notifier")
"""LUO as merged, or as RFC v2 had it in one of its two couplings with KHO; without a word the first."""


@dataclass(frozen=True, slots=True)
class EmulatedKernel:
    """What the emulated kernel of a node is like. Timings are emulated."""

    release: str = "7.2.13"
    model: str = "emulated"
    kexec_s: float = 0.6
    faults: str = ""
    services: tuple[str, ...] = ()
    """Commands that each boot starts beside the agent."""
    command_line_append: str = ""
    """Words on a cold boot's command line beside the usual ones."""
    luo_model: str = "sessions"
    """One of LUO_MODELS: of the first kernel, and of those whose image does not say."""
    kho_debugfs: str = "on"
    """Of rfc-v2: can KHO be finalized by hand, on or off."""
    reserve_mem: str = "luo"
    """Of rfc-v2: which carries reserve_mem's regions, luo or kho."""
    auto_preserve: tuple[str, ...] = ()
    """Of rfc-v2: subsystems that every kexec carries."""


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """One node's configuration, checked."""

    node_id: str
    state_dir: Path
    orchestrator: tuple[str, ...] = ()
    """host:port of each replica, any of which takes the link; empty: no link (luoctl works alone)."""
    tls: TlsFiles | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    kernel: str = "emulated"
    root: Path | None = None
    """Root directory of the emulated node; below the state directory if it was not said."""
    emulated: EmulatedKernel = EmulatedKernel()
    broker_socket: Path = Path("/run/luod/liveupdate.sock")
    broker_mode: int = 0o660
    """Permission bits of the broker's socket; to connect takes write permission."""
    broker_gid: int = -1
    """Group of the broker's socket; -1: the agent's own."""
    unpreservable: str = "refuse"
    """What becomes of a workload that cannot be preserved: refuse (the attempt is unwound) or drain
    (hooks.drain_workload, and the update goes on without it)."""
    control_socket: Path = Path("/run/liveroll-agent/control.sock")
    metrics_listen: str = ""
    """host:port of /metrics, empty: none."""
    running_artifact: Path | None = None
    """Directory of the running kernel's artifact, registered for rollback at the first start."""
    artifacts_max_bytes: int = 4 * 1024**3
    """Bound of one artifact; a manifest that says more is refused before a byte is fetched."""
    hooks: Mapping[str, HookCommand] = field(default_factory=lambda: MappingProxyType({}))
    """drain, undrain, health, set_default_kernel."""
    quiesce: str = "freeze"
    """How filesystems are made quiet before a kexec: freeze, or sync alone."""
    clock_tsc: str = "auto"
    """Whether the TSC measures across a kexec: auto, trust or off."""
    log_format: str = "console"
    log_level: str = "info"

    @property
    def artifacts_dir(self) -> Path:
        """Where the artifact cache lies."""
        return self.state_dir / "artifacts"

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.state_dir / "journal"

    @property
    def frozen_note(self) -> Path:
        """Where a real node notes what its jump has frozen; the sockets' directory is on a tmpfs."""
        return self.control_socket.parent / "frozen"

    @property
    def resume_conf(self) -> Path:
        """What the blackout path of a real node reads instead of settings."""
        return self.state_dir / "resume.conf"


def split_address(address: str) -> tuple[str, int]:
    """host and port of host:port or [v6]:port. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(address)
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        raise ValueError(address)
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """Whether host:port cannot leave this machine. A name other than localhost may."""
    try:
        host, _ = split_address(address)
    except ValueError:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
