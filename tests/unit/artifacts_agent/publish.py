"""Artifacts to fetch: directories made for a test, and a server that misbehaves on demand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from node_agent.ports import ArtifactRef


def bzimage(release: str, *, size: int = 4096, version: int = 0x20F) -> bytes:
    """A file that looks like an x86 bzImage of that release, and boots nothing."""
    data = bytearray(size)
    data[0x1FE:0x200] = b"\x55\xaa"
    data[0x202:0x206] = b"HdrS"
    data[0x206:0x208] = version.to_bytes(2, "little")
    data[0x20E:0x210] = (0x600).to_bytes(2, "little")
    text = f"{release} (builder@host) #1 SMP\0".encode()
    data[0x800 : 0x800 + len(text)] = text
    return bytes(data)


def publish(
    directory: Path,
    release: str = "7.3.4",
    *,
    kernel: bytes | None = None,
    initrd: bytes | None = b"initrd" * 100,
    config: bytes | None = b"CONFIG_KEXEC_HANDOVER=y\n# CONFIG_FOO is not set\n",
    **changes: object,
) -> ArtifactRef:
    """Write an artifact; changes go into the manifest as they are."""
    directory.mkdir(parents=True, exist_ok=True)
    contents = {"kernel": kernel or bzimage(release), "initrd": initrd, "config": config}
    names = {"kernel": "vmlinuz", "initrd": "initrd.img", "config": "config"}
    files = {}
    for role, data in contents.items():
        if data is not None:
            (directory / names[role]).write_bytes(data)
            sha256 = hashlib.sha256(data).hexdigest()
            files[role] = {"name": names[role], "sha256": sha256, "size": len(data)}
    manifest = {
        "schema": 1,
        "name": "k",
        "release": release,
        "files": files,
        "created": "2026-01-01T00:00:00Z",
        **changes,
    }
    data = json.dumps(manifest).encode()
    (directory / "manifest.json").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return ArtifactRef("k", digest, directory.as_uri(), release)


@dataclass
class Server:
    """Serves a directory with Range, and what the test scripts.

    fail: statuses for the next requests of a name. cut: bytes after which the next answer for a
    name is cut. no_range: ignore Range. requests: (name, Range header).
    """

    directory: Path
    base: str = ""
    fail: dict[str, list[int]] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)
    no_range: bool = False
    requests: list[tuple[str, str]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        wanted = request.headers.get("Range", "")
        self.requests.append((name, wanted))
        if self.fail.get(name):
            return web.Response(status=self.fail[name].pop(0))
        path = self.directory / name
        if not path.is_file():
            return web.Response(status=404)
        data, start, status = path.read_bytes(), 0, 200
        if wanted and not self.no_range:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                return web.Response(status=416)
            status = 206
        response = web.StreamResponse(status=status)
        response.content_length = len(data) - start
        if status == 206:
            response.headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        await response.prepare(request)
        body = data[start:]
        if self.cut.get(name):
            await response.write(body[: self.cut[name].pop(0)])
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(body)
        return response


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[Server]:
    """The directory over http on loopback."""
    server = Server(directory)
    app = web.Application()
    app.router.add_get("/k/{name}", server.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.base = f"http://127.0.0.1:{runner.addresses[0][1]}/k"
    try:
        yield server
    finally:
        await runner.cleanup()
