"""Gets the files of an artifact from a source to disk: resumed, bounded, checked, synced.

Rules:
- A partial file is resumed; if the whole then differs, it is fetched once more from the
  start before the server is blamed.
- Never more bytes than the manifest says; every file is fsync'd.
- Unreachable is retried with jittered exponential waits, nothing else is.

Not here: what is kept, and for how long (artifacts.py).
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO, TypeVar

from node_agent.errors import ArtifactError
from node_agent.runtime.artifacts_fetch import RangeRefused, Source, Unreachable
from node_agent.runtime.artifacts_manifest import MANIFEST, MANIFEST_MAX_BYTES, ManifestFile

FETCH_TRIES = 5
RETRY_MAX_S = 10.0
_T = TypeVar("_T")


class Download:
    """One source, until its files are here.

    Args:
        on_bytes: told of bytes fetched, for metrics.
        retry_wait_s: scale of the waits between tries; tests pass 0.
    """

    def __init__(self, source: Source, *, on_bytes: Callable[[int], None], retry_wait_s: float) -> None:
        self._source = source
        self._on_bytes = on_bytes
        self._retry_wait_s = retry_wait_s

    async def manifest(self) -> bytes:
        """The manifest's bytes, unjudged. Raises ArtifactError."""
        return await self._retry(self._read_manifest)

    async def file(self, entry: ManifestFile, path: Path) -> None:
        """One file, verified and synced. Raises ArtifactError, OSError."""
        await self._retry(lambda: self._attempt(entry, path))
        if await asyncio.to_thread(sha256_of, path) == entry.sha256:
            return
        # A stale partial file spoils an honest one; only a whole fresh copy convicts the server.
        await asyncio.to_thread(path.unlink)
        await self._retry(lambda: self._attempt(entry, path))
        got = await asyncio.to_thread(sha256_of, path)
        if got != entry.sha256:
            await asyncio.to_thread(path.unlink)
            raise altered(entry.name, "sha256", entry.sha256, got)

    async def _retry(self, call: Callable[[], Awaitable[_T]]) -> _T:
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
        from tenacity.wait import wait_random_exponential

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Unreachable),
            stop=stop_after_attempt(FETCH_TRIES),
            wait=wait_random_exponential(multiplier=self._retry_wait_s, max=RETRY_MAX_S),
            reraise=True,
        )

        async def once() -> _T:
            # tenacity awaits what is a coroutine function by its looks; a lambda is none.
            return await call()

        return await retrying(once)

    async def _read_manifest(self) -> bytes:
        data = bytearray()
        async with self._source.open(MANIFEST, 0) as (_, chunks):
            async for chunk in chunks:
                data += chunk
                if len(data) > MANIFEST_MAX_BYTES:
                    raise altered(MANIFEST, "size", f"at most {MANIFEST_MAX_BYTES}", "more")
        return bytes(data)

    async def _attempt(self, entry: ManifestFile, path: Path) -> None:
        have = await asyncio.to_thread(size_of, path)
        if have == entry.size:
            return
        have = max(have, 0) if have < entry.size else 0
        try:
            async with self._source.open(entry.name, have) as (start, chunks):
                file = await asyncio.to_thread(path.open, "r+b" if start else "wb")
                with file:
                    file.seek(start)
                    written = start
                    async for chunk in chunks:
                        written += len(chunk)
                        if written > entry.size:
                            raise altered(entry.name, "size", str(entry.size), f"more than {entry.size}")
                        await asyncio.to_thread(file.write, chunk)
                        self._on_bytes(len(chunk))
                    await asyncio.to_thread(_sync, file)
        except RangeRefused as error:
            raise altered(entry.name, "size", str(entry.size), f"{have} or less") from error
        if written < entry.size:
            raise altered(entry.name, "size", str(entry.size), str(written))


def sha256_of(path: Path) -> str:
    """Of a file's content, hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(path: Path) -> int:
    """Bytes; -1 if there is no such file."""
    return path.stat().st_size if path.is_file() else -1


def write_synced(path: Path, data: bytes) -> None:
    """On disk when it returns. Raises OSError."""
    with path.open("wb") as file:
        file.write(data)
        _sync(file)


def sync_directory(path: Path) -> None:
    """The directory's entries are on disk when it returns. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def free_bytes(path: Path) -> int:
    """Of the file system that holds path, for this user."""
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def altered(name: str, what: str, expected: str, got: str) -> ArtifactError:
    """A file that is not what the manifest says: by sha256 or by size."""
    return ArtifactError(
        f"{name} is not what the artifact says: {what} is {got}, expected {expected}",
        reason="ARTIFACT_ALTERED" if what == "sha256" else "ARTIFACT_TRUNCATED",
        remedy="publish the artifact again, whole; nothing of it is used on this node",
        file=name,
        expected=expected,
        got=got,
    )


def no_space(where: str, need: str, free: str) -> ArtifactError:
    """The disk cannot take the artifact."""
    return ArtifactError(
        f"not enough room below {where}: need {need}, free {free}",
        reason="NO_SPACE",
        remedy="free disk space on the node; staged artifacts that are not needed go by themselves",
        file=where,
        expected=need,
        got=free,
    )


def disk_error(error: OSError, where: str) -> ArtifactError:
    """What an OSError below the cache means."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_space(where, "more", "none")
    return ArtifactError(
        f"cannot keep an artifact below {where}: {error.strerror}",
        reason="ARTIFACT_STORE_FAILED",
        remedy="see that the state directory is there, writable and on a healthy disk",
        file=where,
        errno=errno.errorcode.get(error.errno or 0, str(error.errno)),
    )


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
