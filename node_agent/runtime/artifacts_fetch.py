"""Where an artifact's bytes come from: http(s) with Range, or a directory.

Rules:
- A source yields bytes and judges none of them: artifacts.py verifies.
- A resumed read says where it really starts; a server that ignores Range starts at 0.
- Transient failures (connection, timeout, 408, 429, 5xx) are Unreachable and may be tried
  again; everything else is an ArtifactError at once.

aiohttp is imported with the first http fetch, never at start-up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, unquote, urlsplit

from node_agent.errors import ArtifactError, Retry

if TYPE_CHECKING:
    import ssl

    import aiohttp

CHUNK_BYTES = 1 << 20
"""A MiB: large enough that a thread hop a chunk does not show, small enough to bound memory."""
HTTP_CHUNK_BYTES = 1 << 17
"""aiohttp buffers twice the chunk that is asked for, and drops what it has buffered when the
connection breaks: a bigger one would be fetched again after every cut."""
_CONNECT_S = 10.0
_STALL_S = 30.0
"""A server that sends nothing for this long is taken for gone; the next try resumes."""
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class Unreachable(ArtifactError):
    """The source did not answer, or stopped in the middle; trying again may help."""

    reason = "ARTIFACT_UNREACHABLE"
    retry = Retry.CALL


class Source(Protocol):
    """Files below one base."""

    def open(self, name: str, offset: int) -> AbstractAsyncContextManager[tuple[int, AsyncIterator[bytes]]]:
        """(the offset it really starts at, chunks). Raises ArtifactError, Unreachable."""
        ...


class DirectorySource:
    """A file:// URL's directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @asynccontextmanager
    async def open(self, name: str, offset: int) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """See Source."""
        path = self._directory / name
        try:
            file = await asyncio.to_thread(path.open, "rb")
        except OSError as error:
            raise _missing(str(path), error.strerror or "cannot be read") from error
        try:
            file.seek(offset)

            async def chunks() -> AsyncIterator[bytes]:
                while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    yield data

            yield offset, chunks()
        finally:
            file.close()


class HttpSource:
    """An http(s) base URL."""

    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self._base = base.rstrip("/")
        self._session = session

    @asynccontextmanager
    async def open(self, name: str, offset: int) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """See Source."""
        import aiohttp

        url = f"{self._base}/{quote(name)}"
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        try:
            async with self._session.get(url, headers=headers, max_redirects=3) as response:
                yield self._start(response, url, offset), response.content.iter_chunked(HTTP_CHUNK_BYTES)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise _unreachable(url, type(error).__name__) from error

    @staticmethod
    def _start(response: aiohttp.ClientResponse, url: str, offset: int) -> int:
        if response.status in _TRANSIENT:
            raise _unreachable(url, f"HTTP {response.status}")
        if response.status == 206:
            said = response.headers.get("Content-Range", "")
            if said.startswith(f"bytes {offset}-"):
                return offset
            raise _missing(url, f"answers another range than was asked for ({said or 'none'})")
        if response.status == 416:
            # Our partial file is as long as theirs, or longer: let the caller begin again.
            raise RangeRefused
        if response.status != 200:
            raise _missing(url, f"answers HTTP {response.status}")
        return 0


class RangeRefused(Exception):
    """The server has nothing at or beyond that offset. A signal to the download, never shown."""


def _unreachable(url: str, what: str) -> Unreachable:
    return Unreachable(
        f"cannot fetch {url}: {what}",
        remedy="see that the artifact server is up and reachable from here; the fetch will resume",
        file=url,
        got=what,
    )


def _missing(where: str, what: str) -> ArtifactError:
    return ArtifactError(
        f"{where} {what}",
        reason="ARTIFACT_NOT_FOUND",
        remedy="publish the artifact at that place, or correct its URL in the rollout",
        file=where,
        got=what,
    )


def _unsupported(url: str) -> ArtifactError:
    return ArtifactError(
        f"artifact URL {url!r} is none of http, https and file",
        reason="UNSUPPORTED_URL",
        retry=Retry.NEVER,
        remedy="publish the artifact over http(s), for instance below the orchestrator's /artifacts",
    )


@asynccontextmanager
async def open_source(url: str, tls: ssl.SSLContext | None) -> AsyncIterator[Source]:
    """The source at a base URL (http, https or file).

    Raises:
        ArtifactError: UNSUPPORTED_URL.
    """
    try:
        parts = urlsplit(url)
        path = unquote(parts.path)
        # What the resolver would refuse with an error of its own.
        (parts.hostname or "").encode("idna")
    except ValueError as error:
        raise _unsupported(url) from error
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and "\0" not in path:
        yield DirectorySource(Path(path))
        return
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise _unsupported(url)
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_STALL_S)
    async with contextlib.AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(ssl=tls if tls is not None else True, limit=4)
        session = aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False)
        await stack.enter_async_context(session)
        yield HttpSource(url, session)
