"""What a node of the lab consists of, as `node.json` in its directory. Pure but for its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from deploy.lab.errors import LabError
from deploy.lab.machine import EXEC_PORT, METRICS_PORT, Machine


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """Where things are in a node's directory."""

    directory: Path

    @property
    def description(self) -> Path:
        return self.directory / "node.json"

    @property
    def disk(self) -> Path:
        return self.directory / "disk.img"

    @property
    def console(self) -> Path:
        return self.directory / "console.log"

    @property
    def log(self) -> Path:
        """Of the supervisor."""
        return self.directory / "supervisor.log"

    @property
    def mark(self) -> Path:
        """Of the supervisor's process."""
        return self.directory / "supervisor.pid"

    @property
    def firmware(self) -> Path:
        return self.directory / "firmware.json"

    @property
    def control(self) -> Path:
        return self.directory / "control.sock"


@dataclass(frozen=True, slots=True)
class Description:
    """One node.

    kernels: release → bzImage, what its firmware can start; kernel: the release it came with.
    command_line: of every cold boot. exec_port, metrics_port: on 127.0.0.1.
    """

    name: str
    kernel: str
    kernels: Mapping[str, Path]
    command_line: str
    accel: str
    memory_mib: int
    model: str
    exec_port: int
    metrics_port: int

    def machine(self, files: NodeFiles) -> Machine:
        """The hardware."""
        return Machine(
            name=self.name,
            disk=files.disk,
            console=files.console,
            accel=self.accel,
            memory_mib=self.memory_mib,
            model=self.model,
            forwards=MappingProxyType({EXEC_PORT: self.exec_port, METRICS_PORT: self.metrics_port}),
        )


def save(path: Path, described: Description) -> None:
    """Write it."""
    words = {
        "name": described.name,
        "kernel": described.kernel,
        "kernels": {release: str(image) for release, image in described.kernels.items()},
        "command_line": described.command_line,
        "accel": described.accel,
        "memory_mib": described.memory_mib,
        "model": described.model,
        "exec_port": described.exec_port,
        "metrics_port": described.metrics_port,
    }
    path.write_text(json.dumps(words, indent=2) + "\n")


def load(path: Path) -> Description:
    """Raises LabError (NODE_UNREADABLE)."""
    try:
        words = json.loads(path.read_text())
        return Description(
            name=str(words["name"]),
            kernel=str(words["kernel"]),
            kernels={str(release): Path(image) for release, image in words["kernels"].items()},
            command_line=str(words["command_line"]),
            accel=str(words["accel"]),
            memory_mib=int(words["memory_mib"]),
            model=str(words["model"]),
            exec_port=int(words["exec_port"]),
            metrics_port=int(words["metrics_port"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabError(
            f"cannot read {path}",
            reason="NODE_UNREADABLE",
            remedy="`liveroll lab down` removes what is left of the lab.",
        ) from error
