"""Where settings come from: the keys there are, and the file and environment that set them.

Unknown keys and malformed hooks become violations here; whether a value makes sense is judged
by settings_load.py.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from node_agent.settings import DEFAULT_CONFIG, ENV_PREFIX, HookCommand, Violation

HOOKS = ("drain", "undrain", "drain_workload", "health", "set_default_kernel")
SCALARS: Mapping[str, str] = MappingProxyType(
    {
        "node_id": "str",
        "state_dir": "path",
        "orchestrator": "str or list",
        "kernel": "str",
        "root": "path",
        "labels": "labels",
        "tls.ca": "path",
        "tls.certificate": "path",
        "tls.key": "path",
        "broker.socket": "path",
        "broker.group": "str",
        "broker.mode": "str",
        "broker.unpreservable": "str",
        "control.socket": "path",
        "metrics.listen": "str",
        "artifacts.running": "path",
        "artifacts.max_bytes": "int",
        "quiesce": "str",
        "clock.tsc": "str",
        "emulated.release": "str",
        "emulated.model": "str",
        "emulated.kexec_s": "number",
        "emulated.faults": "str",
        "emulated.services": "list",
        "emulated.command_line_append": "str",
        "emulated.luo_model": "str",
        "emulated.kho_debugfs": "str",
        "emulated.reserve_mem": "str",
        "emulated.auto_preserve": "list",
        "log.format": "str",
        "log.level": "str",
    }
)
"""Every key that may be set by file, environment (LIVEROLL_AGENT_…) and flag alike."""


def env_name(key: str) -> str:
    """The environment variable of a key: tls.ca → LIVEROLL_AGENT_TLS_CA."""
    return ENV_PREFIX + key.upper().replace(".", "_")


def read_file(config: Path | None, faults: list[Violation]) -> tuple[Mapping[str, object], str]:
    path = config if config is not None else DEFAULT_CONFIG
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), str(path)
    except FileNotFoundError:
        if config is not None:
            faults.append(
                Violation(str(path), "there is no such file", "name the file that exists with --config")
            )
    except (OSError, UnicodeDecodeError) as error:
        faults.append(
            Violation(str(path), f"cannot be read ({error})", "make it a UTF-8 file the agent may read")
        )
    except tomllib.TOMLDecodeError as error:
        faults.append(Violation(str(path), f"is not TOML ({error})", "mend the syntax at that place"))
    return {}, str(path)


def from_file(
    table: Mapping[str, object],
    source: str,
    values: dict[str, tuple[str, object]],
    faults: list[Violation],
) -> dict[str, HookCommand]:
    hooks: dict[str, HookCommand] = {}
    sections = {key.split(".")[0] for key in SCALARS if "." in key}
    for name, value in table.items():
        if name == "hooks" and isinstance(value, dict):
            hooks = _hooks(value, source, faults)
        elif name in SCALARS:
            values[name] = (f"{source}: {name}", value)
        elif name in sections and isinstance(value, dict):
            for inner, inner_value in value.items():
                key = f"{name}.{inner}"
                if key in SCALARS:
                    values[key] = (f"{source}: {key}", inner_value)
                else:
                    faults.append(_unknown(f"{source}: {key}", key))
        elif name in sections or name == "hooks":
            faults.append(Violation(f"{source}: {name}", "is not a table", f"write it as [{name}]"))
        else:
            faults.append(_unknown(f"{source}: {name}", name))
    return hooks


def _unknown(where: str, key: str) -> Violation:
    import difflib  # only ever needed on the way out

    near = difflib.get_close_matches(key, [*SCALARS, *(f"hooks.{h}" for h in HOOKS)], n=1)
    return Violation(where, "is not a setting", f"did you mean {near[0]}?" if near else "remove it")


def _hooks(table: Mapping[str, object], source: str, faults: list[Violation]) -> dict[str, HookCommand]:
    hooks: dict[str, HookCommand] = {}
    for name, value in table.items():
        where = f"{source}: hooks.{name}"
        if name not in HOOKS:
            faults.append(_unknown(where, f"hooks.{name}"))
            continue
        if not isinstance(value, dict) or set(value) - {"command", "timeout_s"}:
            faults.append(
                Violation(
                    where, "is not {command, timeout_s}", 'write command = ["/usr/bin/…"] and timeout_s = 60'
                )
            )
            continue
        argv = value.get("command")
        timeout = value.get("timeout_s", 60)
        if not isinstance(argv, list) or not argv or not all(isinstance(a, str) and a for a in argv):
            faults.append(
                Violation(
                    f"{where}.command",
                    "is not a list of words",
                    'write ["/usr/bin/tool", "--flag"]; there is no shell',
                )
            )
            continue
        if not argv[0].startswith("/"):
            faults.append(
                Violation(
                    f"{where}.command",
                    f"{argv[0]!r} is not an absolute path",
                    "name the program by its full path",
                )
            )
            continue
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= 86400:
            faults.append(
                Violation(
                    f"{where}.timeout_s",
                    f"{timeout!r} is not within 0 and 86400",
                    "give seconds, for instance 60",
                )
            )
            continue
        hooks[name] = HookCommand(tuple(argv), float(timeout))
    return hooks


def from_environment(
    environ: Mapping[str, str], values: dict[str, tuple[str, object]], faults: list[Violation]
) -> None:
    known = {env_name(key): key for key in SCALARS}
    known[ENV_PREFIX + "CONFIG"] = ""
    for name, text in environ.items():
        if not name.startswith(ENV_PREFIX):
            continue
        key = known.get(name)
        if key is None:
            faults.append(_unknown(name, name.removeprefix(ENV_PREFIX).lower()))
        elif key:
            values[key] = (name, text)
