"""One artifact's directory, every file of it read and compared with what its manifest says. Blocking."""

from __future__ import annotations

from pathlib import Path

from node_agent.ports import StagedArtifact
from node_agent.runtime.artifacts_download import altered, sha256_of, size_of
from node_agent.runtime.artifacts_manifest import (
    MANIFEST,
    check_kernel,
    digest_of,
    parse_config,
    parse_manifest,
)


def verify_directory(directory: Path, digest: str = "") -> StagedArtifact:
    """The artifact in `directory`.

    Args:
        digest: that its manifest must have; "" takes any.

    Raises:
        ArtifactError: it is not what it says, or not what was asked for.
        OSError: it cannot be read.
    """
    data = (directory / MANIFEST).read_bytes()
    found = digest_of(data)
    if digest not in ("", found):
        raise altered(MANIFEST, "sha256", digest, found)
    manifest = parse_manifest(data, where=str(directory / MANIFEST))
    for entry in manifest.files.values():
        path = directory / entry.name
        size = size_of(path)
        if size != entry.size:
            raise altered(entry.name, "size", str(entry.size), str(size) if size >= 0 else "no file")
        if (got := sha256_of(path)) != entry.sha256:
            raise altered(entry.name, "sha256", entry.sha256, got)
    kernel = directory / manifest.files["kernel"].name
    header = check_kernel(manifest, kernel)
    initrd, config = manifest.files.get("initrd"), manifest.files.get("config")
    return StagedArtifact(
        digest=found,
        release=manifest.release,
        kernel_path=str(kernel),
        initrd_path=str(directory / initrd.name) if initrd else "",
        kernel_config=parse_config((directory / config.name).read_text("utf-8", "replace")) if config else {},
        live_update=manifest.live_update,
        init_bytes=header.init_bytes,
        initrd_bytes=initrd.size if initrd else 0,
        command_line_max=header.command_line_max,
    )
