"""The orchestrator's settings: a TOML file, LIVEROLL_* variables, and flags over both.

Validated at the edge with every violation at once; frozen afterwards. Plaintext is for
loopback only: any other address without certificates is refused here, before a port opens.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from orchestrator.core.policy import FleetPolicy
from orchestrator.core.spec import Amount
from orchestrator.errors import SettingsError

ENV_PREFIX = "LIVEROLL_"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tls(_Model):
    """Certificate files of one port. With ca, clients must show a certificate it signed."""

    cert: Path
    key: Path
    ca: Path | None = None

    @model_validator(mode="after")
    def _files_exist(self) -> Tls:
        for name in ("cert", "key", "ca"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise ValueError(f"{name} file {path} does not exist")
        return self


class Listen(_Model):
    """One port. address is host:port; port 0 takes a free one."""

    address: str
    tls: Tls | None = None

    @field_validator("address")
    @classmethod
    def _host_port(cls, value: str) -> str:
        host, separator, port = value.rpartition(":")
        if not separator or not host or not port.isdigit() or int(port) > 65535:
            raise ValueError("must be host:port, for instance 127.0.0.1:7443")
        return value

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class Fleet(_Model):
    """Budgets above all rollouts, and the service's patience (core/policy.py says why)."""

    max_unavailable: str | int | None = None
    max_in_blackout: str | int | None = None
    max_staging: int = Field(50, ge=1, le=10_000)
    restart_grace_s: float = Field(60, ge=0, le=3600)
    silence_s: float = Field(30, ge=1, le=3600)
    active_heartbeat_s: float = Field(5, ge=0.05, le=60)
    idle_heartbeats_per_s: float = Field(50, gt=0, le=10_000)
    min_idle_heartbeat_s: float = Field(10, ge=0.05, le=600)
    stage_retry_s: float = Field(30, ge=0.1, le=3600)
    clock_slack_s: float = Field(2, ge=0, le=60)

    @field_validator("max_unavailable", "max_in_blackout")
    @classmethod
    def _amount(cls, value: str | int | None) -> str | int | None:
        if value is not None:
            _amount(value)
        return value

    def policy(self) -> FleetPolicy:
        return FleetPolicy(
            max_unavailable=None if self.max_unavailable is None else _amount(self.max_unavailable),
            max_in_blackout=None if self.max_in_blackout is None else _amount(self.max_in_blackout),
            max_staging=self.max_staging,
            restart_grace=timedelta(seconds=self.restart_grace_s),
            silence=timedelta(seconds=self.silence_s),
            active_heartbeat=timedelta(seconds=self.active_heartbeat_s),
            idle_heartbeat_rate=self.idle_heartbeats_per_s,
            min_idle_heartbeat=timedelta(seconds=self.min_idle_heartbeat_s),
            stage_retry=timedelta(seconds=self.stage_retry_s),
            clock_slack=timedelta(seconds=self.clock_slack_s),
        )


def _amount(value: str | int) -> Amount:
    """5 or "10%". Raises ValueError."""
    if isinstance(value, int):
        if value < 0:
            raise ValueError("must not be negative")
        return Amount(count=value)
    text = value.strip()
    if text.endswith("%"):
        percent = float(text[:-1])
        if not 0 < percent <= 100:
            raise ValueError("a percentage must be above 0 and at most 100")
        return Amount(percent=percent)
    return _amount(int(text))


class Settings(_Model):
    """Everything that can be set. Defaults run a whole service on loopback."""

    state_dir: Path = Path("/var/lib/liveroll")
    store: str = ""
    """postgresql://… (store/postgres_url.py) or sqlite:///…; empty: SQLite in state_dir."""
    artifacts_dir: Path | None = None
    """Default: artifacts/ in state_dir."""
    artifacts_url: str = ""
    """What agents are told; default: derived from the HTTP port."""
    operators: Listen = Listen(address="127.0.0.1:7443")
    agents: Listen = Listen(address="127.0.0.1:7444")
    http: Listen = Listen(address="127.0.0.1:7480")
    fleet: Fleet = Fleet()
    log_format: str = Field("console", pattern="^(console|json)$")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    events_keep_days: float = Field(90, gt=0)
    events_keep_count: int = Field(1_000_000, ge=1_000)

    @model_validator(mode="after")
    def _plaintext_only_on_loopback(self) -> Settings:
        for name in ("operators", "agents", "http"):
            listen: Listen = getattr(self, name)
            if listen.is_loopback():
                continue
            if listen.tls is None:
                raise ValueError(
                    f"{name}.address {listen.address} is not loopback and has no tls: "
                    f"give {name}.tls.cert and {name}.tls.key, or listen on 127.0.0.1"
                )
            if listen.tls.ca is None and name != "http":
                raise ValueError(
                    f"{name}.address {listen.address} is not loopback and would take anyone: "
                    f"give {name}.tls.ca, the authority that signs its clients' certificates"
                )
        return self

    @property
    def store_url(self) -> str:
        return self.store or f"sqlite+aiosqlite:///{self.state_dir / 'liveroll.db'}"

    @property
    def artifacts_path(self) -> Path:
        return self.artifacts_dir or self.state_dir / "artifacts"


def load(
    file: Path | None, overrides: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> Settings:
    """Settings from a TOML file, then LIVEROLL_* variables (`__` for a dot), then overrides (dotted keys).

    Raises SettingsError that lists every violation with its remedy.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text())
        except OSError as error:
            raise SettingsError(
                f"cannot read {file}: {error.strerror}", remedy="give the path of a readable settings file"
            ) from error
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(
                f"{file} is not valid TOML: {error}", remedy="mend the line it names"
            ) from error
    for name, text in environ.items():
        if (
            name.startswith(ENV_PREFIX)
            and name.removeprefix(ENV_PREFIX) == name.removeprefix(ENV_PREFIX).upper()
        ):
            dotted = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            if dotted.split(".")[0] in Settings.model_fields:
                _put(values, dotted, text)
    for dotted, value in overrides.items():
        if value is not None:
            _put(values, dotted, value)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(part) for part in fault['loc']) or 'settings'}: "
            f"{fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_url=False)
        ]
        raise SettingsError(
            "the settings cannot work: " + "; ".join(faults),
            remedy=f"correct {'them' if len(faults) > 1 else 'it'} in "
            f"{file or 'the flags or LIVEROLL_* variables'} and start again",
        ) from error


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    for part in path:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise SettingsError(
                f"{dotted} lies below {part}, which is not a table", remedy="mend the settings file"
            )
        values = inner
    values[last] = value
