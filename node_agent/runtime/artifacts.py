"""The node's artifact cache: fetched with resume, verified, kept for the way back.

An artifact is a directory: manifest.json and the files that it lists. Rules:
- Nothing is used that was not verified: manifest against the digest that was asked for, each
  file against the manifest, the kernel's header against the release; on fetch and on each get.
- Free space is looked at before a byte is fetched; sizes are bounded.
- Partial files survive and are resumed; a whole artifact appears by one rename, after fsync.
- Kept: what boots the running release, what boots the previous one, and the two newest
  others (one staged, one ahead of it). The rest goes after each successful stage.

Implements ports.Artifacts.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from node_agent.errors import ArtifactError, Retry
from node_agent.ports import ArtifactRef, LiveUpdateAbi, StagedArtifact
from node_agent.runtime.artifacts_download import (
    Download,
    altered,
    disk_error,
    free_bytes,
    no_space,
    sync_directory,
    write_synced,
)
from node_agent.runtime.artifacts_fetch import open_source
from node_agent.runtime.artifacts_manifest import (
    MANIFEST,
    Manifest,
    check_kernel,
    digest_of,
    emulated_manifest,
    parse_manifest,
)
from node_agent.runtime.artifacts_verify import verify_directory

if TYPE_CHECKING:
    import ssl

SPACE_MARGIN_BYTES = 1 << 20
"""Left free beside the artifact: the journal must never be the one that finds the disk full."""
KEEP_OTHERS = 2


class ArtifactCache:
    """One node's artifacts, below one directory.

    Args:
        directory: made if missing.
        running_release: `uname -r` of this boot.
        max_bytes: bound of one artifact.
        tls: for https URLs.
        on_bytes: told of bytes fetched, for metrics.
        retry_wait_s: first wait between tries; tests pass 0.
    """

    def __init__(
        self,
        directory: Path,
        *,
        running_release: str,
        max_bytes: int = 4 << 30,
        tls: ssl.SSLContext | None = None,
        on_bytes: Callable[[int], None] = lambda _count: None,
        retry_wait_s: float = 0.5,
    ) -> None:
        self._store = directory / "store"
        self._partial = directory / "partial"
        self._index_path = directory / "index.json"
        self._max_bytes = max_bytes
        self._tls = tls
        self._on_bytes = on_bytes
        self._retry_wait_s = retry_wait_s
        self._locks: dict[str, asyncio.Lock] = {}
        for made in (self._store, self._partial):
            # On a filesystem that a dead agent has left frozen, mkdir(2) waits even for one that is there;
            # this comes before the thaw.
            if not made.is_dir():
                made.mkdir(parents=True, exist_ok=True)
        self._running = running_release
        self._previous, self._order = self._read_index()

    # -- ports.Artifacts

    async def stage(self, ref: ArtifactRef) -> StagedArtifact:
        """See ports.Artifacts. Raises ArtifactError."""
        if not _is_digest(ref.digest):
            raise ArtifactError(
                f"{ref.digest!r} is not an artifact digest",
                reason="DIGEST_INVALID",
                retry=Retry.NEVER,
                remedy="give the sha256 of the artifact's manifest, 64 hex digits",
            )
        async with self._locks.setdefault(ref.digest, asyncio.Lock()):
            if (self._store / ref.digest).is_dir():
                try:
                    found = await asyncio.to_thread(verify_directory, self._store / ref.digest, ref.digest)
                except (ArtifactError, OSError):
                    # Altered on disk since it was staged: fetch it again below.
                    await asyncio.to_thread(shutil.rmtree, self._store / ref.digest, ignore_errors=True)
                else:
                    self._expect_release(found.release, ref)
                    self._touch(ref.digest)
                    return found
            try:
                staged = await self._fetch(ref)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    # What cannot be finished must not keep the disk full for the journal.
                    await asyncio.to_thread(shutil.rmtree, self._partial / ref.digest, ignore_errors=True)
                raise disk_error(error, str(self._partial)) from error
            self._touch(ref.digest)
            await self._collect_garbage()
            return staged

    async def get(self, digest: str) -> StagedArtifact:
        """See ports.Artifacts. Raises ArtifactError (ARTIFACT_NOT_STAGED, …)."""
        directory = self._store / digest
        if not _is_digest(digest) or not directory.is_dir():
            raise ArtifactError(
                f"artifact {digest[:12] or '(none)'} is not staged on this node",
                reason="ARTIFACT_NOT_STAGED",
                remedy="stage it first; the orchestrator does so ahead of a node's turn",
                digest=digest,
            )
        # Before the long look: what is about to be used must not be removed meanwhile.
        self._touch(digest)
        try:
            return await asyncio.to_thread(verify_directory, directory, digest)
        except OSError as error:
            raise disk_error(error, str(directory)) from error

    async def staged(self) -> Sequence[str]:
        """See ports.Artifacts. Newest first."""
        return tuple(d for d in self._order if (self._store / d).is_dir())

    async def rollback_artifact(self) -> str:
        """See ports.Artifacts."""
        return next(iter(self._of_release(self._running)), "")

    # -- enrolment

    async def capture_running(
        self, directory: Path | None, *, emulated: bool, speaks: LiveUpdateAbi | None = None
    ) -> str:
        """Keep an artifact of the running kernel, once; returns its digest, "" if there is none.

        Args:
            directory: an artifact directory of the running kernel (absolute), or None.
            emulated: make a synthetic one if none was given.
            speaks: what that one says of the running kernel's ABI strings.

        Raises:
            ArtifactError: what was given is invalid or of another release.
        """
        if known := await self.rollback_artifact():
            return known
        if directory is not None:
            try:
                data = await asyncio.to_thread((directory / MANIFEST).read_bytes)
            except OSError as error:
                raise ArtifactError(
                    f"{directory / MANIFEST}: {error.strerror}",
                    reason="ARTIFACT_NOT_FOUND",
                    remedy="name a directory that `liveroll artifact build` made",
                ) from error
            url = f"file://{quote(str(directory))}"
            ref = ArtifactRef("running", digest_of(data), url, self._running)
            return (await self.stage(ref)).digest
        if not emulated:
            return ""
        manifest, kernel = emulated_manifest(self._running, speaks)
        digest = digest_of(manifest)
        try:
            await asyncio.to_thread(self._write_emulated, digest, manifest, kernel)
        except OSError as error:
            raise disk_error(error, str(self._store)) from error
        self._touch(digest)
        return digest

    def _write_emulated(self, digest: str, manifest: bytes, kernel: bytes) -> None:
        work = self._partial / digest
        work.mkdir(exist_ok=True)
        (work / "vmlinuz").write_bytes(kernel)
        (work / MANIFEST).write_bytes(manifest)
        self._publish(work, digest)

    # -- fetching

    async def _fetch(self, ref: ArtifactRef) -> StagedArtifact:
        work = self._partial / ref.digest
        work.mkdir(exist_ok=True)
        async with open_source(ref.url, self._tls) as source:
            download = Download(source, on_bytes=self._on_bytes, retry_wait_s=self._retry_wait_s)
            data = await download.manifest()
            if digest_of(data) != ref.digest:
                raise altered(MANIFEST, "sha256", ref.digest, digest_of(data))
            manifest = parse_manifest(data, where=f"{ref.url}/{MANIFEST}")
            self._expect_release(manifest.release, ref)
            await self._check_room(manifest, work)
            for entry in manifest.files.values():
                await download.file(entry, work / entry.name)
        await asyncio.to_thread(write_synced, work / MANIFEST, data)
        await asyncio.to_thread(check_kernel, manifest, work / manifest.files["kernel"].name)
        await asyncio.to_thread(self._publish, work, ref.digest)
        return await asyncio.to_thread(verify_directory, self._store / ref.digest, ref.digest)

    async def _check_room(self, manifest: Manifest, work: Path) -> None:
        if manifest.total_bytes > self._max_bytes:
            raise ArtifactError(
                f"artifact {manifest.name} is {manifest.total_bytes} bytes, the bound is {self._max_bytes}",
                reason="ARTIFACT_TOO_LARGE",
                remedy="raise artifacts.max_bytes on the node, or publish a smaller artifact",
                expected=self._max_bytes,
                got=manifest.total_bytes,
            )
        have = await asyncio.to_thread(_bytes_in, work)
        need = max(manifest.total_bytes - have, 0) + SPACE_MARGIN_BYTES
        if free_bytes(self._partial) < need:
            await self._collect_garbage()
        free = free_bytes(self._partial)
        if free < need:
            raise no_space(str(self._partial), f"{need} bytes", f"{free} bytes")

    # -- verifying and keeping

    def _expect_release(self, release: str, ref: ArtifactRef) -> None:
        if ref.release and release != ref.release:
            raise ArtifactError(
                f"artifact {ref.digest[:12]} is of release {release}, not {ref.release}",
                reason="RELEASE_MISMATCH",
                retry=Retry.NEVER,
                remedy="give the rollout the artifact of the release that it names",
                expected=ref.release,
                got=release,
            )

    def _publish(self, work: Path, digest: str) -> None:
        """A whole artifact appears by one rename, after its directory is on disk."""
        wanted = {
            MANIFEST,
            *(f.name for f in parse_manifest((work / MANIFEST).read_bytes(), where=str(work)).files.values()),
        }
        for path in work.iterdir():
            if path.name not in wanted:
                path.unlink()
        sync_directory(work)
        work.rename(self._store / digest)
        sync_directory(self._store)

    def _of_release(self, release: str) -> list[str]:
        found = []
        for digest in self._order:
            with contextlib.suppress(OSError, ArtifactError):
                data = (self._store / digest / MANIFEST).read_bytes()
                if parse_manifest(data, where=digest).release == release:
                    found.append(digest)
        return found

    async def _collect_garbage(self) -> None:
        """Remove what is not kept. What is being staged meanwhile is left alone: it is published
        before it is in the order."""
        keep = {*self._of_release(self._running)[:1], *self._of_release(self._previous)[:1]}
        others = [d for d in self._order if d not in keep]
        keep.update(others[:KEEP_OTHERS])
        self._order = [d for d in self._order if d in keep]
        self._write_index()
        for directory in await asyncio.to_thread(lambda: [*self._store.iterdir(), *self._partial.iterdir()]):
            lock = self._locks.setdefault(directory.name, asyncio.Lock())
            if directory.name not in keep and not lock.locked():
                async with lock:
                    await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    def _touch(self, digest: str) -> None:
        if self._order[:1] == [digest]:
            return
        self._order = [digest, *(d for d in self._order if d != digest)]
        self._write_index()

    def _read_index(self) -> tuple[str, list[str]]:
        """(previous release, digests newest first). An unreadable index is only a lost order."""
        try:
            tree = json.loads(self._index_path.read_bytes())
            order = [d for d in tree["order"] if isinstance(d, str)]
            running, previous = str(tree["running"]), str(tree["previous"])
        except (OSError, ValueError, KeyError, TypeError):
            order, running, previous = [], self._running, ""
        order += sorted(d.name for d in self._store.iterdir() if d.name not in order and _is_digest(d.name))
        return (running if running != self._running else previous), order

    def _write_index(self) -> None:
        tree: Mapping[str, object] = {
            "running": self._running,
            "previous": self._previous,
            "order": self._order,
        }
        # Not synced: it holds an order, and _read_index does without it.
        temporary = self._index_path.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(tree))
            temporary.replace(self._index_path)


def _bytes_in(directory: Path) -> int:
    return sum(p.stat().st_size for p in directory.iterdir() if p.is_file())


def _is_digest(text: str) -> bool:
    return len(text) == 64 and all(c in "0123456789abcdef" for c in text)
