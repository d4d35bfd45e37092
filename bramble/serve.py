"""`bramble serve`: one process tree that boots, installs, enrols and joins the nodes of one cluster.

The composition root of the server. It makes the store, the keys, the controller, the control API and the boot
server, passes values between them, and ends them together: when one service ends, all end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from agent.notify import ServiceManager
from bramble.agent_release import pack_release
from bramble.boot_images import allow_bootloader_updates, fingerprint
from bramble.boot_table import ControlAddress, to_report
from bramble.dashboard.compose import ObservedBoots, open_dashboard
from bramble.images import ClusterImages, ContentAddress, ImageStore, make_table
from bramble.metrics import make_metrics
from bramble.paths import StateLayout, make_private
from bramble.request_log import ignore_bad_requests
from fleet.api.doors import serve_admin, serve_control
from fleet.boots import NodeBoot
from fleet.collector import settle_collector
from fleet.controller import Controller
from fleet.errors import FleetError
from fleet.installs import ControlInfo
from fleet.k3s.material import open_k3s
from fleet.notify.desk import NotifyDesk
from fleet.spec.model import ClusterSpec
from fleet.store.database import Store
from fleet.trust.pki import ControlPki, open_pki
from imagebuilder.build import Image
from pxe.boot.identity import BoardIdentity
from pxe.boot.table import BootTable
from pxe.dns.settings import make_name_settings
from pxe.errors import PxeError
from pxe.events import BoardEvent, RestartExpected
from pxe.server import PxeConfig, PxeServer

log = logging.getLogger(__name__)

REFRESH_RETRY_S: Final = 2.0
BOOT_IMAGES_EVERY_S: Final = 2.0
STORE_EVERY_S: Final = 1.0


class Server:
    """Everything that `bramble serve` runs, for one cluster.

    Args:
        image: The cluster's.
        others: Where images are that re-images and rollouts name.
        environ: Where passwords of power devices may stand, and what power commands see of.

    Raises:
        PxeError, FleetError: from the constructor, when a port is taken, a capability is missing, or the
        state can not be used.
    """

    def __init__(
        self,
        spec: ClusterSpec,
        image: Image,
        state: StateLayout,
        others: ImageStore,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        ignore_bad_requests()
        make_private(state.directory)
        config = PxeConfig.from_spec(spec.network, spec.domain, state.directory, boards=len(spec.nodes))
        self.config = replace(config, names=make_name_settings(spec, config.server_address))
        self._spec = spec
        self._state = state
        self._pxe = PxeServer(self.config, self._record)
        self._pxe.bind()  # before anything is written: a second server must not touch the first one's state
        pki = self._open_pki()
        self.control = ControlAddress(
            address=self.config.server_address, port=spec.network.ports.control, pin=pki.server_pin()
        )
        self._pki = pki
        self._store = Store.open(state.database)
        content = ContentAddress(self.config.server_address, spec.network.ports.http)
        self._images = ClusterImages(spec, image, content, others)
        self._controller = Controller(
            self._store,
            spec,
            pki,
            open_k3s(state.k3s, spec.name, time.time()),
            self._images,
            ControlInfo(urls=(self.control.url,), ca_pem=pki.ca_pem),
        )
        self._controller.updates.set_source(pack_release)
        self._controller.power.environ = environ or {}
        self._refresh_is_due = False
        self._installing: set[str] = set()
        self._notify = NotifyDesk(
            self._store,
            lambda: self._controller.spec,
            secrets.token_hex(8),
            findings=self._controller.findings,
        )
        metrics = make_metrics(self._store, self._pxe, self._controller, self._notify)
        self._pxe.observer.count, self._pxe.metrics = metrics.pxe.count, metrics.render
        self._pxe.is_ready = self._is_ready

    def _is_ready(self) -> bool:
        """Whether the record can be read: without it no board is told what to boot, and no node let in."""
        try:
            with self._store.read() as reader:
                reader.value("")
        except FleetError as error:
            log.warning("not ready: %s", error.message)
            return False
        return True

    def _open_pki(self) -> ControlPki:
        now = time.time()
        pki = open_pki(self._state.directory, self._spec.name, now)
        pki.ensure_server_certificate([self.config.server_address], [f"control.{self._spec.domain}"], now)
        return pki

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until cancelled; `on_ready` is called when every service listens."""
        self._controller.set_boot_listener(self._schedule_refresh)
        self._controller.set_declare_listener(self._take_declared)
        self._pxe.update(self._boot_table())
        try:
            async with contextlib.AsyncExitStack() as stack:
                context = self._pki.server_context()
                host = str(self.control.address)
                await stack.enter_async_context(
                    serve_control(self._controller, host, self.control.port, context)
                )
                await stack.enter_async_context(serve_admin(self._controller, self._state.socket))
                boots = ObservedBoots(self._pxe.observer)
                await stack.enter_async_context(
                    open_dashboard(self._controller, boots, self._images.shown, host, self._pki)
                )
                await self._run_services(on_ready)
        finally:
            self._store.close()

    async def _run_services(self, on_ready: Callable[[], None]) -> None:
        """All services together; the error that ended one is raised as itself, so that it can explain."""
        failure: Exception | None = None
        try:
            async with asyncio.TaskGroup() as services:
                services.create_task(self._pxe.run(), name="pxe")
                services.create_task(self._controller.run(), name="controller")
                services.create_task(self._controller.power.run(), name="power")
                services.create_task(self._controller.snapshots.run(), name="snapshots")
                services.create_task(self._controller.etcd_watch.run(), name="etcd watch")
                services.create_task(self._watch_boot_images(), name="boot images")
                services.create_task(self._notify.run(), name="notify")
                if self._store.is_shared:
                    services.create_task(self._watch_store(), name="store")
                await self._pxe.ready.wait()
                settle_collector()
                on_ready()
        except* (PxeError, FleetError) as group:
            failure = _first_leaf(group)
        if failure is not None:
            raise failure

    def _record(self, event: BoardEvent) -> None:
        if event.for_timeline:
            fields = {"board": event.board.key, "node": event.node, "event": event.kind}
            log.info("%s", event.describe(), extra=fields)
        self._controller.record_boot_event(to_report(event))

    def _boot_table(self) -> BootTable:
        states = self._controller.boot_states()
        self._tell_restarts(states)
        table = make_table(states, self._images.find, self.control, self._state.boot_images)
        return allow_bootloader_updates(table) if self._spec.network.bootloader_updates else table

    def _tell_restarts(self, states: list[NodeBoot]) -> None:
        """A node whose intent was closed by its installation restarts now: the diagnosis watches how long the
        network then takes."""
        installing = {state.name for state in states if state.install_intent is not None}
        for state in states:
            if state.name in self._installing - installing and state.serial is not None and not state.hold:
                board = BoardIdentity(mac=state.mac, serial_low=state.serial.low, is_pi=True)
                self._pxe.observer.report(RestartExpected(at=time.time(), board=board, node=state.name))
        self._installing = installing

    async def _watch_boot_images(self) -> None:
        """'bramble boot-image' works beside the server: what it makes is served from the next look on."""
        directory = self._state.boot_images
        seen = await asyncio.to_thread(fingerprint, directory)
        while True:
            await asyncio.sleep(BOOT_IMAGES_EVERY_S)
            found = await asyncio.to_thread(fingerprint, directory)
            if found != seen:
                seen = found
                self._schedule_refresh()

    async def _watch_store(self) -> None:
        """What other servers of this cluster wrote: an intent that one closed is closed for all, and a board
        that took another's place is the node for all.
        """
        seen = ""
        while True:
            try:
                found = await asyncio.to_thread(self._store.change_mark)
                if found != seen:
                    self._controller.take_replaced()
                    await self._controller.following.look()
                    seen = found
                    self._schedule_refresh()
            except FleetError as error:
                log.error("other servers' changes cannot be seen: %s", error)
            await asyncio.sleep(STORE_EVERY_S)

    def _take_declared(self, spec: ClusterSpec) -> None:
        """Another cluster.yaml is in force: nodes came, left or changed, or the image did; the network is
        the same."""
        self._spec = spec
        self._images.declare(spec)
        self._pxe.update_names(make_name_settings(spec, self.config.server_address))

    def _schedule_refresh(self) -> None:
        """Several changes in one turn of the loop become one new snapshot."""
        if not self._refresh_is_due:
            self._refresh_is_due = True
            asyncio.get_running_loop().call_soon(self._refresh)

    def _refresh(self) -> None:
        self._refresh_is_due = False
        try:
            self._pxe.update(self._boot_table())
        except (FleetError, OSError):
            # The old snapshot stays in force, and the controller's next change asks again.
            log.exception("what nodes may boot could not be read")
            asyncio.get_running_loop().call_later(REFRESH_RETRY_S, self._schedule_refresh)


def _first_leaf(group: BaseExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    return _first_leaf(error) if isinstance(error, BaseExceptionGroup) else error


async def serve_until_signal(
    server: Server, on_ready: Callable[[], None], manager: ServiceManager | None = None
) -> None:
    """Run the server; SIGINT and SIGTERM end it cleanly. `manager` is told while it lives."""
    task = asyncio.create_task(server.run(on_ready))
    pings = asyncio.create_task(_ping(manager)) if manager is not None else None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        if pings is not None:
            pings.cancel()


async def _ping(manager: ServiceManager) -> None:
    """Tell that the loop turns: one that stands still is restarted by systemd."""
    while manager.ping_interval_s is not None:
        manager.tell("WATCHDOG=1")
        await asyncio.sleep(manager.ping_interval_s)
