"""Puts the dashboard together from the parts of a running server."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence

from bramble.dashboard.access import Sessions
from bramble.dashboard.alerts import ClusterGlances
from bramble.dashboard.cluster_page import EtcdGlance
from bramble.dashboard.door import make_context, serve_dashboard
from bramble.dashboard.feed import Feed
from bramble.dashboard.node_page import Boots
from bramble.dashboard.site import HERE, Assets, Images, Site, make_templates
from bramble.dashboard.vitals import Vitals
from fleet.controller import Controller
from fleet.trust.pki import ControlPki
from pxe.diagnosis.finding import Finding
from pxe.diagnosis.history import BoardHistory
from pxe.net.observer import Observer


class ObservedBoots:
    """What one boot server saw."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def find(self, key: str) -> BoardHistory | None:
        return self._observer.find(key)

    def findings(self, history: BoardHistory, now: float) -> Sequence[Finding]:
        return self._observer.doctor.findings(history, now)


def make_site(controller: Controller, boots: Boots, images: Images) -> Site:
    """The dashboard over a running controller."""
    assets = Assets(HERE / "static")
    clusters = ClusterGlances(
        lambda: controller.snapshots.health().problem, controller.faults, time.monotonic
    )
    feed = Feed(controller.store, controller.boots.flush, secrets.token_hex, clusters, time.monotonic)
    return Site(
        controller=controller,
        feed=feed,
        vitals=Vitals(controller.store),
        etcd=EtcdGlance(controller.etcd, time.time, feed.poke),
        boots=boots,
        images=images,
        sessions=Sessions(lambda: secrets.token_urlsafe(32)),
        clock=time.time,
        assets=assets,
        templates=make_templates(assets),
    )


@contextlib.asynccontextmanager
async def open_dashboard(
    controller: Controller, boots: Boots, images: Images, host: str, pki: ControlPki
) -> AsyncIterator[None]:
    """Serve the dashboard while the block runs, where the cluster has one.

    Raises:
        FleetError: Its port is taken, or its certificate cannot be used.
    """
    spec = controller.spec
    if not spec.network.ports.dashboard:
        yield
        return
    tls = make_context(pki, spec.control.dashboard)
    site = make_site(controller, boots, images)
    async with serve_dashboard(site, host, spec.network.ports.dashboard, tls) as port:
        controller.login_links.url = f"https://{host}:{port}"
        try:
            yield
        finally:
            controller.login_links.url = None
