"""The dashboard's own door: HTTPS, with the control server's certificate or one of the user's own."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from bramble.dashboard import doing, pages, recover, stream, upkeep
from bramble.dashboard.guard import MAX_FORM_BYTES, add_headers, admit, show_errors
from bramble.dashboard.login import LoginPages
from bramble.dashboard.logs import LogPages
from bramble.dashboard.site import SITE, Site
from fleet.api.connections import Connections
from fleet.api.doors import PortTakenError
from fleet.api.guard import number_requests
from fleet.api.silence import Silence
from fleet.errors import FleetError
from fleet.spec.model import DashboardCertificate
from fleet.trust.pki import ControlPki

SHUTDOWN_GRACE_S: Final = 1.0
YEAR_S: Final = 365 * 86400


async def asset(request: web.Request) -> web.Response:
    """A file of style or script; its address holds its digest, so it never changes."""
    found = request.app[SITE].assets.find(request.match_info["address"])
    if found is None:
        raise web.HTTPNotFound
    is_packed = "gzip" in request.headers.get("Accept-Encoding", "")
    headers = {"Cache-Control": f"public, max-age={YEAR_S}, immutable", "Vary": "Accept-Encoding"}
    if is_packed:
        headers["Content-Encoding"] = "gzip"
    body = found.packed if is_packed else found.body
    return web.Response(body=body, content_type=found.type, headers=headers)


def make_app(site: Site, *, silence: Silence | None = None) -> web.Application:
    """All pages."""
    middlewares = [silence.middleware] if silence is not None else []
    app = web.Application(
        middlewares=[*middlewares, number_requests, add_headers, show_errors, admit],
        client_max_size=MAX_FORM_BYTES,
    )
    app[SITE] = site
    app.on_shutdown.append(stream.end_all)
    login, logs = LoginPages(), LogPages()
    app.router.add_routes(
        [
            web.get("/", pages.rack),
            web.get("/nodes", pages.nodes),
            web.get("/nodes/{name}", pages.subject),
            web.get("/nodes/{name}/confirm/{action}", doing.confirm),
            web.post("/nodes/{name}/do/{action}", doing.do),
            web.get("/nodes/{name}/log", logs.show),
            web.post("/nodes/{name}/log", logs.ask),
            web.post("/cluster/snapshot", doing.take_snapshot),
            web.get("/cluster/recover", recover.plan),
            web.post("/cluster/recover", recover.begin),
            web.get("/cluster/recover/cancel", recover.confirm_cancel),
            web.post("/cluster/recover/cancel", recover.cancel),
            web.get("/upkeep", upkeep.show),
            web.get("/upkeep/rollout", upkeep.plan_rollout),
            web.post("/upkeep/rollout", upkeep.begin_rollout),
            web.get("/upkeep/confirm/{word}", upkeep.confirm),
            web.post("/upkeep/do/{word}", upkeep.do),
            web.get("/images", pages.images),
            web.get("/cluster", pages.cluster),
            web.get("/events", pages.events),
            web.get("/settings", pages.settings),
            web.get("/audit", pages.audit),
            web.get("/live", stream.serve),
            web.get("/login", login.show),
            web.post("/login", login.log_in),
            web.get("/enter/{code}", login.show_link),
            web.post("/enter/{code}", login.follow_link),
            web.post("/logout", login.log_out),
            web.post("/theme", login.choose_theme),
            web.get("/static/{address:.+}", asset),
        ]
    )
    return app


def make_context(pki: ControlPki, own: DashboardCertificate | None) -> ssl.SSLContext:
    """TLS for browsers; no certificate is asked of them.

    Raises:
        FleetError: The user's files are not a certificate and its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if own is None:
        context.load_cert_chain(pki.server_certificate_path, pki.server_key_path)
        return context
    try:
        context.load_cert_chain(own.certificate, own.key)
    except (OSError, ssl.SSLError) as error:
        raise FleetError(
            f"the dashboard's certificate {own.certificate} and key {own.key} cannot be used: {error}",
            "Both are PEM files; the key has no passphrase and belongs to the first certificate. Or leave "
            "cluster.control.dashboard out, and the control server's certificate is shown.",
        ) from error
    return context


@contextlib.asynccontextmanager
async def serve_dashboard(site: Site, host: str, port: int, tls: ssl.SSLContext) -> AsyncIterator[int]:
    """Listen while the block runs; gives the port (for `port=0`: the one that was free).

    Raises:
        PortTakenError: The address cannot be bound.
    """
    silence = Silence()
    runner = web.AppRunner(
        make_app(site, silence=silence), access_log=None, shutdown_timeout=SHUTDOWN_GRACE_S
    )
    await runner.setup()
    connections = Connections(runner)
    try:
        try:
            bound = await connections.listen(host, port, tls)
        except OSError as error:
            raise PortTakenError(
                f"the dashboard cannot listen on {host} port {port}: {error.strerror}",
                "Give it another port with network.ports.dashboard in cluster.yaml; 0 is none.",
            ) from error
        assert runner.server is not None  # set up above
        async with contextlib.AsyncExitStack() as stack:
            for work in (silence.run(runner.server), site.feed.run(), site.vitals.run()):
                task = asyncio.create_task(work)
                stack.push_async_callback(_end, task)
            stack.push_async_callback(site.etcd.close)
            yield bound
    finally:
        await connections.end()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
