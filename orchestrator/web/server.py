"""The HTTP port: /metrics, /healthz, /readyz and /artifacts.

/healthz says that the process runs its loop; /readyz that it serves (the store answers and is
known as it stands), what its role is (planner or follower), and the reasons where it does not.
Artifacts are served with ranges, and only the files that a verified manifest names.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from orchestrator.artifacts.catalogue import DirectoryCatalogue
from orchestrator.errors import Blocked, NotFound, SettingsError
from orchestrator.settings import Listen

Ready = Callable[[], tuple[bool, tuple[str, ...]]]

REGISTRY = web.AppKey("registry", CollectorRegistry)
CATALOGUE = web.AppKey("catalogue", DirectoryCatalogue)
READY: web.AppKey[Ready] = web.AppKey("ready")
ROLE: web.AppKey[Callable[[], str]] = web.AppKey("role")
MAX_REQUEST_BYTES = 4096
"""No route takes a body."""


def make_app(
    registry: CollectorRegistry, catalogue: DirectoryCatalogue, ready: Ready, role: Callable[[], str]
) -> web.Application:
    """The routes. `ready` answers (serves, why not); role: Orchestrator.role."""
    app = web.Application(client_max_size=MAX_REQUEST_BYTES)
    app[REGISTRY] = registry
    app[CATALOGUE] = catalogue
    app[READY] = ready
    app[ROLE] = role
    app.add_routes(
        [
            web.get("/metrics", _metrics),
            web.get("/healthz", _healthz),
            web.get("/readyz", _readyz),
            web.get("/artifacts/{name}/{file}", _artifact_file),
        ]
    )
    return app


@asynccontextmanager
async def serving(app: web.Application, listen: Listen) -> AsyncIterator[tuple[str, int]]:
    """Serves until left; yields (host, port) as bound. SettingsError if the port cannot be had."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, listen.host, listen.port, ssl_context=_ssl_context(listen))
        try:
            await site.start()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise SettingsError(
                    f"http.address {listen.address} is in use",
                    reason="PORT_IN_USE",
                    remedy="stop what listens there (ss -ltnp shows it), or set another http.address",
                ) from error
            raise SettingsError(
                f"cannot listen on http.address {listen.address}: {error.strerror}",
                remedy="set an address of this machine",
            ) from error
        host, port = runner.addresses[0][:2]
        yield host, port
    finally:
        await runner.cleanup()


def _ssl_context(listen: Listen) -> ssl.SSLContext | None:
    if listen.tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=listen.tls.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(listen.tls.cert, listen.tls.key)
    if listen.tls.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def _metrics(request: web.Request) -> web.Response:
    body = generate_latest(request.app[REGISTRY])
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _healthz(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _readyz(request: web.Request) -> web.Response:
    ready, reasons = request.app[READY]()
    return web.json_response(
        {
            "status": "ready" if ready else "not ready",
            "role": request.app[ROLE](),
            "reasons": list(reasons),
        },
        status=200 if ready else 503,
    )


async def _artifact_file(request: web.Request) -> web.StreamResponse:
    catalogue = request.app[CATALOGUE]
    name, file = request.match_info["name"], request.match_info["file"]
    try:
        allowed = await catalogue.files(name)
    except NotFound as error:
        raise web.HTTPNotFound(text=f"no artifact {name!r}\n") from error
    except Blocked as error:
        raise web.HTTPConflict(text=f"artifact {name!r} has no valid manifest\n") from error
    if file not in allowed:
        raise web.HTTPNotFound(text=f"artifact {name!r} has no file {file!r}\n")
    return web.FileResponse(
        catalogue.directory / name / file, headers={"Content-Type": "application/octet-stream"}
    )
