"""What an artifact says of itself: its manifest, its kernel's boot header, its kernel config.

Rules:
- The digest of an artifact is the sha256 of its manifest's bytes, as they are.
- File names are plain names: no directory, no dot files, nothing that leaves the artifact.
- The release in the bzImage's header must be the manifest's, unless the manifest says
  `emulated: true`.
- `live_update`, the kernel's ABI strings, may be missing: then nobody has looked for them.

Pure but for reading the files it is given. Not here: fetching and keeping (artifacts.py).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from node_agent.errors import ArtifactError, Retry
from node_agent.ports import LiveUpdateAbi
from node_agent.runtime.artifacts_bzimage import RELEASE, BzImage, read_bzimage

MANIFEST = "manifest.json"
MANIFEST_MAX_BYTES = 1 << 20
"""A manifest is a few hundred bytes; beyond a MiB somebody serves us something else."""
ROLES = ("kernel", "initrd", "config")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ABI = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*-v[0-9]{1,6}")
"""An ABI string as Linux spells them: kho-v4, luo-v5, memfd-v2."""
_ABI_MAX = 47
"""LIVEUPDATE_HNDL_COMPAT_LENGTH less its NUL, the longest of them in the kernel."""
_HANDLER = re.compile(r"[a-z][a-z0-9-]{0,31}")
HANDLERS_MAX = 64


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of an artifact."""

    role: str
    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A parsed, checked manifest."""

    digest: str
    name: str
    release: str
    emulated: bool
    files: Mapping[str, ManifestFile]
    live_update: LiveUpdateAbi | None = None

    @property
    def total_bytes(self) -> int:
        """Of all files, without the manifest."""
        return sum(f.size for f in self.files.values())


def digest_of(data: bytes) -> str:
    """sha256, hex."""
    return hashlib.sha256(data).hexdigest()


def parse_manifest(data: bytes, *, where: str) -> Manifest:
    """Check a manifest's bytes.

    Args:
        where: path or URL, for the message.

    Raises:
        ArtifactError: MANIFEST_INVALID, naming the key.
    """
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _invalid(where, "is not JSON") from error
    if not isinstance(tree, dict):
        raise _invalid(where, "is not a JSON object")
    if tree.get("schema") != 1:
        raise _invalid(where, f"has schema {tree.get('schema')!r}, this agent knows 1")
    name, release, emulated = tree.get("name"), tree.get("release"), tree.get("emulated", False)
    if not isinstance(name, str) or not name:
        raise _invalid(where, "has no name")
    if not isinstance(release, str) or not RELEASE.fullmatch(release):
        raise _invalid(where, "has no usable release")
    if not isinstance(emulated, bool):
        raise _invalid(where, "says neither true nor false for emulated")
    entries = tree.get("files")
    if not isinstance(entries, dict) or "kernel" not in entries:
        raise _invalid(where, "lists no kernel")
    files = {role: _file(role, entry, where) for role, entry in entries.items()}
    if len({f.name for f in files.values()}) != len(files):
        raise _invalid(where, "lists one file name twice")
    abi = _live_update(tree["live_update"], where) if "live_update" in tree else None
    return Manifest(digest_of(data), name, release, emulated, files, abi)


def _file(role: str, entry: object, where: str) -> ManifestFile:
    if role not in ROLES:
        raise _invalid(where, f"lists {role!r}, which is none of {', '.join(ROLES)}")
    if not isinstance(entry, dict):
        raise _invalid(where, f"files.{role} is not an object")
    name, sha256, size = entry.get("name"), entry.get("sha256"), entry.get("size")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == MANIFEST:
        raise _invalid(where, f"files.{role}.name {name!r} is not a plain file name")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise _invalid(where, f"files.{role}.sha256 is not 64 hex digits")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise _invalid(where, f"files.{role}.size is not a number of bytes")
    return ManifestFile(role, name, sha256, size)


def _live_update(entry: object, where: str) -> LiveUpdateAbi:
    if not isinstance(entry, dict) or set(entry) - {"kho", "luo", "handlers"}:
        raise _invalid(where, "has a live_update that is not kho, luo and handlers")
    kho, luo, handlers = entry.get("kho"), entry.get("luo"), entry.get("handlers", {})
    if not _is_abi(kho) or not _is_abi(luo):
        raise _invalid(where, "has a live_update without the strings of kho and luo")
    if not isinstance(handlers, dict) or len(handlers) > HANDLERS_MAX:
        raise _invalid(where, "has live_update.handlers that are not names and strings")
    for handler, text in handlers.items():
        if not _HANDLER.fullmatch(handler) or not text or not _is_abi(text):
            raise _invalid(where, f"has live_update.handlers.{handler} that is not an ABI string")
    return LiveUpdateAbi(str(kho), str(luo), dict(handlers))


def _is_abi(value: object) -> bool:
    """An ABI string, or the empty one of a kernel that has none."""
    if not isinstance(value, str):
        return False
    return value == "" or (len(value) <= _ABI_MAX and _ABI.fullmatch(value) is not None)


def _invalid(where: str, problem: str) -> ArtifactError:
    return ArtifactError(
        f"manifest {where} {problem}",
        reason="MANIFEST_INVALID",
        retry=Retry.NEVER,
        remedy="build the artifact again with `liveroll artifact build` and publish that",
        file=where,
    )


def check_kernel(manifest: Manifest, kernel: Path) -> BzImage:
    """The kernel file's header, whose release is the one that the manifest names. Of an emulated
    kernel its size is what it takes to start.

    Raises:
        ArtifactError: RELEASE_MISMATCH or NOT_A_BZIMAGE.
    """
    if manifest.emulated:
        return BzImage(manifest.release, init_bytes=manifest.files["kernel"].size)
    found = read_bzimage(kernel)
    if found.release != manifest.release:
        raise ArtifactError(
            f"{kernel.name} is kernel {found.release}, the manifest says {manifest.release}",
            reason="RELEASE_MISMATCH",
            retry=Retry.NEVER,
            remedy="build the artifact again from the kernel that is meant",
            file=kernel.name,
            expected=manifest.release,
            got=found.release,
        )
    return found


def parse_config(text: str) -> dict[str, str]:
    """CONFIG_… → value; "is not set" becomes n."""
    config: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("CONFIG_") and "=" in line:
            key, _, value = line.partition("=")
            config[key] = value.strip()
        elif line.startswith("# CONFIG_") and line.endswith(" is not set"):
            config[line[2 : -len(" is not set")]] = "n"
    return config


def emulated_manifest(release: str, speaks: LiveUpdateAbi | None = None) -> tuple[bytes, bytes]:
    """Manifest and kernel of an artifact that stands for a running emulated kernel.

    The same release and strings give the same bytes, so the digest is a function of them.

    Args:
        speaks: its ABI strings, where the way back must say them.
    """
    kernel = f"emulated kernel {release}\n".encode()
    manifest: dict[str, object] = {
        "schema": 1,
        "name": f"running-{release}",
        "release": release,
        "emulated": True,
        "files": {"kernel": {"name": "vmlinuz", "sha256": digest_of(kernel), "size": len(kernel)}},
        "created": "1970-01-01T00:00:00Z",
    }
    if speaks is not None:
        manifest["live_update"] = {"kho": speaks.kho, "luo": speaks.luo, "handlers": dict(speaks.handlers)}
    return json.dumps(manifest, sort_keys=True).encode(), kernel
