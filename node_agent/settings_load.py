"""Reads the agent's settings: a TOML file, the environment and flags become AgentSettings.

Rules:
- A flag beats the environment, the environment beats the file, the file beats the default.
- Every violation is reported at once, each with where it was said and how to mend it.
- Hooks are argv lists, never shell lines, and come from this node's own file only: nothing
  that travels over the link can name a command.
- Plaintext is for loopback; anything else needs [tls].
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from node_agent.settings import (
    LUO_MODELS,
    NODE_ID,
    SOCKET_PATH_MAX,
    AgentSettings,
    EmulatedKernel,
    HookCommand,
    InvalidSettings,
    TlsFiles,
    Violation,
    is_loopback,
    split_address,
)
from node_agent.settings_reader import Reader, flag_name
from node_agent.settings_sources import from_environment, from_file, read_file


def load(
    *,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    names_in: Callable[[Path], frozenset[str]] | None = None,
) -> AgentSettings:
    """Read and check everything.

    Args:
        config: the TOML file; None reads DEFAULT_CONFIG if it exists.
        environ: os.environ if omitted.
        flags: key → value as given on the command line; None values are absent.
        names_in: the identities in a certificate file, for tests.

    Raises:
        InvalidSettings: with every violation.
    """
    environ = os.environ if environ is None else environ
    faults: list[Violation] = []
    table, source = read_file(config, faults)
    values: dict[str, tuple[str, object]] = {}
    hooks = from_file(table, source, values, faults)
    from_environment(environ, values, faults)
    for key, value in (flags or {}).items():
        if value is not None:
            values[key] = (flag_name(key), value)
    settings = _build(Reader(values, faults), hooks)
    if settings is not None and settings.tls is not None:
        _check_certificate(settings, names_in or certificate_names, faults)
    if faults or settings is None:
        raise InvalidSettings(tuple(faults))
    return settings


def _build(read: Reader, hooks: Mapping[str, HookCommand]) -> AgentSettings | None:
    node_id = read.text("node_id", os.uname().nodename.lower())
    if not NODE_ID.fullmatch(node_id):
        read.fault(
            "node_id",
            f"{node_id!r} is not a node id",
            "use lower-case letters, digits and - . _, as a host name has them",
        )
    tls = _tls(read)
    orchestrator = _orchestrators(read, plaintext=tls is None)
    metrics = read.text("metrics.listen", "")
    if metrics:
        _check_address(read, "metrics.listen", metrics)
    state_dir = read.path("state_dir") or Path("/var/lib/liveroll-agent")
    kernel = read.choice("kernel", "emulated", ("emulated", "real"))
    # An emulated node is no part of this machine: it must not take the machine's own sockets.
    run_dir = state_dir if kernel == "emulated" else None
    broker = read.path("broker.socket") or (run_dir or Path("/run/luod")) / "liveupdate.sock"
    control = read.path("control.socket") or (run_dir or Path("/run/liveroll-agent")) / "control.sock"
    for key, path in (("broker.socket", broker), ("control.socket", control)):
        if len(os.fsencode(path)) > SOCKET_PATH_MAX:
            read.fault(
                key,
                f"is longer than {SOCKET_PATH_MAX} bytes",
                "a Unix socket's path cannot be; choose a shorter directory",
            )
    running = read.path("artifacts.running")
    if running is not None and not (running / "manifest.json").is_file():
        read.fault(
            "artifacts.running",
            f"{running} holds no manifest.json",
            "name a directory that `liveroll artifact build` made",
        )
    return AgentSettings(
        node_id=node_id,
        state_dir=state_dir,
        orchestrator=orchestrator,
        tls=tls,
        labels=read.labels(),
        kernel=kernel,
        root=(read.path("root") or state_dir / "root") if kernel == "emulated" else None,
        emulated=_emulated(read),
        broker_socket=broker,
        broker_mode=_socket_mode(read),
        broker_gid=_socket_group(read),
        unpreservable=_unpreservable(read, hooks),
        control_socket=control,
        metrics_listen=metrics,
        running_artifact=running,
        artifacts_max_bytes=read.positive("artifacts.max_bytes", 4 * 1024**3),
        hooks=MappingProxyType(dict(hooks)),
        quiesce=read.choice("quiesce", "freeze", ("freeze", "sync")),
        clock_tsc=read.choice("clock.tsc", "auto", ("auto", "trust", "off")),
        log_format=read.choice("log.format", "console", ("console", "json")),
        log_level=read.choice("log.level", "info", ("debug", "info", "warning", "error")),
    )


def _orchestrators(read: Reader, *, plaintext: bool) -> tuple[str, ...]:
    key = "orchestrator"
    addresses = read.listed(key, "addresses", '["host1:7444", "host2:7444"]')
    for address in addresses:
        _check_address(read, key, address)
        if plaintext and not is_loopback(address):
            read.fault(
                key,
                f"{address} is not on loopback and there is no [tls]",
                "set tls.ca, tls.certificate and tls.key; plaintext is for loopback only",
            )
    return addresses


_MODE = re.compile(r"0?[0-7]{3}")


def _socket_mode(read: Reader) -> int:
    key = "broker.mode"
    text = read.text(key, "0660")
    mode = int(text, 8) if _MODE.fullmatch(text) else -1
    if mode < 0 or mode & ~0o666 or mode & 0o600 != 0o600:
        read.fault(
            key,
            f"{text!r} is not the mode of a socket that its owner reads and writes",
            'write it in octal and in quotes: "0600", "0660" (owner and group) or "0666" (everybody)',
        )
        return 0o660
    return mode


def _unpreservable(read: Reader, hooks: Mapping[str, HookCommand]) -> str:
    key = "broker.unpreservable"
    policy = read.choice(key, "refuse", ("refuse", "drain"))
    if policy == "drain" and "drain_workload" not in hooks:
        read.fault(
            key,
            "'drain' needs a command that drains one workload",
            "set hooks.drain_workload; it finds the workload's id in LIVEROLL_WORKLOAD",
        )
    return policy


def _socket_group(read: Reader) -> int:
    key = "broker.group"
    name = read.text(key, "")
    if not name:
        return -1
    import grp  # only where a group is set

    try:
        return (
            grp.getgrgid(int(name)).gr_gid if name.isascii() and name.isdigit() else grp.getgrnam(name).gr_gid
        )
    except KeyError:
        read.fault(key, f"there is no group {name}", "name one of /etc/group, for instance kvm, or make it")
        return -1


def _emulated(read: Reader) -> EmulatedKernel:
    default = EmulatedKernel()
    faults = read.text("emulated.faults", "")
    if faults:
        from node_agent.kernel.faults import FaultPlan, FaultSyntax

        try:
            FaultPlan.parse(faults)
        except FaultSyntax as error:
            read.fault("emulated.faults", str(error), "for instance refuse_freeze@1")
    luo_model = read.choice("emulated.luo_model", default.luo_model, LUO_MODELS)
    for key in ("emulated.kho_debugfs", "emulated.reserve_mem", "emulated.auto_preserve"):
        if luo_model == default.luo_model and read.said(key):
            remedy = 'remove it, or set emulated.luo_model = "rfc-v2"'
            read.fault(key, f"the model {luo_model} has none", remedy)
    return EmulatedKernel(
        release=read.text("emulated.release", default.release),
        model=read.text("emulated.model", default.model),
        kexec_s=read.number("emulated.kexec_s", default.kexec_s, 3600.0),
        faults=faults,
        services=read.words("emulated.services"),
        command_line_append=read.text("emulated.command_line_append", ""),
        luo_model=luo_model,
        kho_debugfs=read.choice("emulated.kho_debugfs", default.kho_debugfs, ("on", "off")),
        reserve_mem=read.choice("emulated.reserve_mem", default.reserve_mem, ("luo", "kho")),
        auto_preserve=read.listed("emulated.auto_preserve", "names", '["reserve_mem"]'),
    )


def _tls(read: Reader) -> TlsFiles | None:
    keys = ("tls.ca", "tls.certificate", "tls.key")
    paths = {key: read.path(key) for key in keys}
    if not any(paths.values()):
        return None
    for key, path in paths.items():
        if path is None:
            read.fault(key, "is missing", "TLS needs ca, certificate and key together")
        elif not os.access(path, os.R_OK):
            read.fault(key, f"{path} cannot be read", "name a PEM file that this user may read")
    ca, certificate, private = (paths[k] for k in keys)
    if ca is None or certificate is None or private is None:
        return None
    return TlsFiles(ca, certificate, private)


def _check_address(read: Reader, key: str, address: str) -> None:
    try:
        split_address(address)
    except ValueError:
        read.fault(key, f"{address!r} is not host:port", "for instance 127.0.0.1:7444 or [::1]:7444")


def certificate_names(path: Path) -> frozenset[str]:
    """The identities in a PEM certificate: CN, DNS names, last segment of URIs.

    Raises OSError or ValueError if it cannot be read.
    """
    import ssl  # only where TLS is set; costs milliseconds otherwise

    # The standard library offers no public reader of a certificate on disk; this one has been
    # there since Python 2.6 and spares the node a dependency on cryptography.
    decode = ssl._ssl._test_decode_cert  # type: ignore[attr-defined]
    try:
        fields: dict[str, tuple[Any, ...]] = decode(str(path))
    except ssl.SSLError as error:
        raise ValueError("not a PEM certificate") from error
    names: set[str] = set()
    for group in fields.get("subject", ()):
        for name, value in group:
            if name == "commonName":
                names.add(value)
    for kind, value in fields.get("subjectAltName", ()):
        if kind == "DNS":
            names.add(str(value))
        elif kind == "URI":
            names.add(str(value).rstrip("/").rpartition("/")[2])
    return frozenset(names)


def _check_certificate(
    settings: AgentSettings, names_of: Callable[[Path], frozenset[str]], faults: list[Violation]
) -> None:
    assert settings.tls is not None
    path = settings.tls.certificate
    try:
        names = names_of(path)
    except (OSError, ValueError):
        if os.access(path, os.R_OK):  # an unreadable one is already on the list
            faults.append(
                Violation(
                    f"tls.certificate: {path}", "is not a PEM certificate", "name the node's certificate file"
                )
            )
        return
    if settings.node_id not in names:
        said = ", ".join(sorted(names)) or "nobody"
        faults.append(
            Violation(
                "node_id",
                f"{settings.node_id} is not whom {path} names ({said})",
                "set node_id to the certificate's name, or issue a certificate for this node",
            )
        )
