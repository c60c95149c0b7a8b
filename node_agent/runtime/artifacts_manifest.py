"""What an artifact says of itself: its manifest, its kernel's boot header, its kernel config.

Rules:
- The digest of an artifact is the sha256 of its manifest's bytes, as they are.
- File names are plain names: no directory, no dot files, nothing that leaves the artifact.
- The release in the bzImage's header must be the manifest's, unless the manifest says
  `emulated: true`.

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

MANIFEST = "manifest.json"
MANIFEST_MAX_BYTES = 1 << 20
"""A manifest is a few hundred bytes; beyond a MiB somebody serves us something else."""
ROLES = ("kernel", "initrd", "config")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~-]{0,199}")
_RELEASE = re.compile(r"[!-~]{1,64}")
"""UTS release: 64 printable characters (struct new_utsname, __NEW_UTS_LEN)."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEADER_BYTES = 0x10000
"""The version string lies within the setup sectors, at most 64 of 512 bytes above 0x200."""


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
    if not isinstance(release, str) or not _RELEASE.fullmatch(release):
        raise _invalid(where, "has no usable release")
    if not isinstance(emulated, bool):
        raise _invalid(where, "says neither true nor false for emulated")
    entries = tree.get("files")
    if not isinstance(entries, dict) or "kernel" not in entries:
        raise _invalid(where, "lists no kernel")
    files = {role: _file(role, entry, where) for role, entry in entries.items()}
    if len({f.name for f in files.values()}) != len(files):
        raise _invalid(where, "lists one file name twice")
    return Manifest(digest_of(data), name, release, emulated, files)


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


def _invalid(where: str, problem: str) -> ArtifactError:
    return ArtifactError(
        f"manifest {where} {problem}",
        reason="MANIFEST_INVALID",
        retry=Retry.NEVER,
        remedy="build the artifact again with `liveroll artifact build` and publish that",
        file=where,
    )


def bzimage_release(path: Path) -> str:
    """The release in an x86 bzImage's header.

    Raises:
        ArtifactError: NOT_A_BZIMAGE.
        OSError: the file cannot be read.

    Source: Documentation/arch/x86/boot.rst: magic "HdrS" at 0x202, kernel_version at 0x20e
    (protocol ≥ 2.00), a pointer less 0x200 to a NUL-terminated string that begins with the
    release.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    pointer = int.from_bytes(head[0x20E:0x210], "little")
    if head[0x202:0x206] != b"HdrS" or int.from_bytes(head[0x206:0x208], "little") < 0x200 or not pointer:
        raise _not_bzimage(path)
    text = head[pointer + 0x200 :].split(b"\0", 1)[0]
    release = text.decode("ascii", "replace").partition(" ")[0]
    if not _RELEASE.fullmatch(release):
        raise _not_bzimage(path)
    return release


def _not_bzimage(path: Path) -> ArtifactError:
    return ArtifactError(
        f"{path.name} has no x86 bzImage header with a kernel version",
        reason="NOT_A_BZIMAGE",
        retry=Retry.NEVER,
        remedy="publish a bzImage (vmlinuz), or mark the artifact emulated if it is one",
        file=path.name,
    )


def check_release(manifest: Manifest, kernel: Path) -> None:
    """The kernel file is of the release that the manifest names.

    Raises:
        ArtifactError: RELEASE_MISMATCH or NOT_A_BZIMAGE.
    """
    if manifest.emulated:
        return
    found = bzimage_release(kernel)
    if found != manifest.release:
        raise ArtifactError(
            f"{kernel.name} is kernel {found}, the manifest says {manifest.release}",
            reason="RELEASE_MISMATCH",
            retry=Retry.NEVER,
            remedy="build the artifact again from the kernel that is meant",
            file=kernel.name,
            expected=manifest.release,
            got=found,
        )


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


def emulated_manifest(release: str) -> tuple[bytes, bytes]:
    """Manifest and kernel of an artifact that stands for a running emulated kernel.

    The same release gives the same bytes, so the digest is a function of the release.
    """
    kernel = f"emulated kernel {release}\n".encode()
    manifest = {
        "schema": 1,
        "name": f"running-{release}",
        "release": release,
        "emulated": True,
        "files": {"kernel": {"name": "vmlinuz", "sha256": digest_of(kernel), "size": len(kernel)}},
        "created": "1970-01-01T00:00:00Z",
    }
    return json.dumps(manifest, sort_keys=True).encode(), kernel
