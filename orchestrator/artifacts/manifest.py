"""The manifest of an artifact: the files that make one kernel bootable, and their digests.

An artifact is a directory with `manifest.json` and the files that it names. Its digest is the
sha256 of the manifest's bytes, so the manifest's digest vouches for every file. The agent
parses the same format on its own (node_agent/runtime/artifacts.py); a contract test keeps
the two readings equal.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.artifacts import live_update
from orchestrator.artifacts.live_update import LiveUpdate
from orchestrator.errors import Blocked

MANIFEST_NAME = "manifest.json"
SCHEMA = 1
MAX_MANIFEST_BYTES = 64 * 1024
"""A manifest names three files; beyond this it is not one."""
ROLES = ("kernel", "initrd", "config")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.+~_-]{0,126}[a-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """One file: its name within the directory, digest and size."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says. digest is of the bytes it was read from."""

    name: str
    release: str
    files: Mapping[str, ArtifactFile]
    digest: str
    emulated: bool = False
    """The kernel file is a placeholder for emulated nodes; its header is not read."""
    command_line_remove: tuple[str, ...] = ()
    command_line_append: tuple[str, ...] = ()
    live_update: LiveUpdate | None = None
    """The kernel's ABI strings; None if nobody has looked."""


def invalid(message: str, **fields: object) -> Blocked:
    """An artifact that must not be used."""
    return Blocked(
        message,
        reason="ARTIFACT_INVALID",
        remedy="build the artifact again with `liveroll artifact build`, or copy it again from its source",
        **fields,
    )


def render(
    *,
    name: str,
    release: str,
    files: Mapping[str, ArtifactFile],
    emulated: bool = False,
    command_line_remove: tuple[str, ...] = (),
    command_line_append: tuple[str, ...] = (),
    known: LiveUpdate | None = None,
) -> bytes:
    """The canonical bytes of a manifest: the same content always gives the same digest."""
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "name": name,
        "release": release,
        "files": {
            role: {"name": f.name, "sha256": f.sha256, "size": f.size} for role, f in sorted(files.items())
        },
        "command_line": {"remove": list(command_line_remove), "append": list(command_line_append)},
    }
    if emulated:
        body["emulated"] = True
    if known is not None:
        body["live_update"] = live_update.render(known)
    return (json.dumps(body, sort_keys=True, indent=2) + "\n").encode()


def parse(raw: bytes) -> Manifest:
    """A manifest from its bytes. Raises Blocked (ARTIFACT_INVALID) that names the first fault."""
    if len(raw) > MAX_MANIFEST_BYTES:
        raise invalid(f"the manifest is larger than {MAX_MANIFEST_BYTES} bytes", size=len(raw))
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise invalid("the manifest is not valid JSON") from error
    if not isinstance(body, dict) or body.get("schema") != SCHEMA:
        raise invalid(f"the manifest's schema is not {SCHEMA}")
    name, release = body.get("name"), body.get("release")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise invalid("the manifest's name is missing or has unsafe characters", name=name)
    if (
        not isinstance(release, str)
        or not 0 < len(release) < 65
        or not release.isprintable()
        or " " in release
    ):
        raise invalid("the manifest's release is missing or is no kernel release", release=release)
    entries = body.get("files")
    if not isinstance(entries, dict) or "kernel" not in entries or set(entries) - set(ROLES):
        raise invalid(f"the manifest's files must be a kernel and optionally {ROLES[1:]}")
    rules = body.get("command_line", {})
    if not isinstance(rules, dict):
        raise invalid("the manifest's command_line must have remove and append")
    return Manifest(
        name=name,
        release=release,
        files={role: _file(role, entry) for role, entry in entries.items()},
        digest=hashlib.sha256(raw).hexdigest(),
        emulated=body.get("emulated") is True,
        command_line_remove=_words(rules.get("remove", [])),
        command_line_append=_words(rules.get("append", [])),
        live_update=_live_update(body),
    )


def _live_update(body: Mapping[str, Any]) -> LiveUpdate | None:
    if "live_update" not in body:
        return None
    found = live_update.parse(body["live_update"])
    if found is None:
        raise invalid("the manifest's live_update must have kho, luo and handlers, each an ABI string")
    return found


def _file(role: str, entry: object) -> ArtifactFile:
    if not isinstance(entry, dict):
        raise invalid(f"the manifest's entry for {role} is no object")
    name, sha256, size = entry.get("name"), entry.get("sha256"), entry.get("size")
    if not isinstance(name, str) or not _SAFE_NAME.fullmatch(name) or name == MANIFEST_NAME:
        raise invalid(f"the manifest's file name for {role} is unsafe", name=name)
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise invalid(f"the manifest's sha256 for {role} is not 64 hexadecimal digits")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise invalid(f"the manifest's size for {role} is not a number of bytes")
    return ArtifactFile(name, sha256, size)


def _words(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(w, str) and w.split() == [w] for w in value):
        raise invalid("command-line rules must be lists of single words")
    return tuple(value)


def digest_file(path: Path) -> tuple[str, int]:
    """(sha256 hex, bytes) of a file. Blocking."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return digest.hexdigest(), file.tell()
