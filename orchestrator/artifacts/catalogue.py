"""The directory of artifacts that this orchestrator serves, as ports.ArtifactCatalogue.

Every file of an artifact is verified when a rollout resolves it; the result is kept as long as
the files' sizes and times stand still, so that a resolve of a large artifact is cheap the
second time.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Sequence
from pathlib import Path

from orchestrator.artifacts.build import verify
from orchestrator.artifacts.manifest import MANIFEST_NAME, Manifest, invalid, parse
from orchestrator.core.model import Artifact
from orchestrator.errors import LiverollError, NotFound

Stat = tuple[tuple[str, int, int], ...]


class DirectoryCatalogue:
    """Artifacts below one directory, a folder each.

    Args:
        directory: where they lie; it need not exist yet.
        base_url: where agents fetch them, without the trailing slash; the artifact's folder name is appended.
    """

    def __init__(self, directory: Path, base_url: str) -> None:
        self._directory = directory
        self.base_url = base_url
        self._verified: dict[Path, tuple[Stat, Manifest]] = {}

    @property
    def directory(self) -> Path:
        return self._directory

    async def resolve(self, name_or_digest: str) -> Artifact:
        """The artifact by name or digest (or a unique prefix of at least 8 digits of it)."""
        return await asyncio.to_thread(self._resolve, name_or_digest)

    async def names(self) -> Sequence[str]:
        return await asyncio.to_thread(lambda: [p.name for p in self._folders()])

    async def files(self, name: str) -> frozenset[str]:
        """Names of an artifact's files as its manifest gives them, the manifest's own included.

        NotFound if there is no such artifact, Blocked (ARTIFACT_INVALID) for a malformed manifest.
        """
        return await asyncio.to_thread(self._files, name)

    def _files(self, name: str) -> frozenset[str]:
        folder = next((f for f in self._folders() if f.name == name), None)
        if folder is None:
            raise NotFound(f"no artifact {name!r}", reason="ARTIFACT_NOT_FOUND")
        try:
            manifest = parse((folder / MANIFEST_NAME).read_bytes())
        except OSError as error:
            raise invalid("the manifest cannot be read", path=folder) from error
        return frozenset({MANIFEST_NAME, *(file.name for file in manifest.files.values())})

    def _folders(self) -> list[Path]:
        if not self._directory.is_dir():
            return []
        return sorted(p for p in self._directory.iterdir() if (p / MANIFEST_NAME).is_file())

    def _resolve(self, wanted: str) -> Artifact:
        folders = self._folders()
        for folder in folders:
            if folder.name == wanted:
                return self._artifact(folder)
        if len(wanted) >= 8 and set(wanted) <= set("0123456789abcdef"):
            found = [f for f in folders if self._digest_of(f).startswith(wanted)]
            if len(found) == 1:
                return self._artifact(found[0])
        near = difflib.get_close_matches(wanted, [f.name for f in folders], n=3)
        raise NotFound(
            f"no artifact {wanted!r} in {self._directory}",
            reason="ARTIFACT_NOT_FOUND",
            remedy=(
                f"did you mean {' or '.join(near)}?"
                if near
                else "build one with `liveroll artifact build --out` into that directory"
            ),
        )

    def _digest_of(self, folder: Path) -> str:
        try:
            return self._manifest(folder).digest
        except LiverollError:
            return ""

    def _artifact(self, folder: Path) -> Artifact:
        manifest = self._manifest(folder)
        return Artifact(
            name=folder.name,
            digest=manifest.digest,
            release=manifest.release,
            url=f"{self.base_url.rstrip('/')}/{folder.name}",
            emulated=manifest.emulated,
            luo=manifest.live_update.luo if manifest.live_update is not None else "",
            command_line_remove=manifest.command_line_remove,
            command_line_append=manifest.command_line_append,
        )

    def _manifest(self, folder: Path) -> Manifest:
        stat = tuple(
            (p.name, s.st_size, s.st_mtime_ns) for p in sorted(folder.iterdir()) for s in (p.stat(),)
        )
        known = self._verified.get(folder)
        if known is not None and known[0] == stat:
            return known[1]
        manifest = verify(folder)
        self._verified[folder] = (stat, manifest)
        return manifest
