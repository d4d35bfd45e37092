"""The netboot server: DHCP, TFTP and HTTP content as one service with one boot table.

The composition root gives it a `BootTable` with every change and gets `BoardEvent`s back. All sockets are
bound before it says that it is ready; when one of its services ends, all end.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Final, Self

from fleet.spec.model import AddressPool, DhcpMode, NetworkSpec
from pxe.boot.clients import ClientBook, Learn
from pxe.boot.table import BootTable
from pxe.dhcp.replies import BOOT_SERVER_PORT, CLIENT_PORT, SERVER_PORT, DhcpSettings
from pxe.diagnosis.engine import Diagnostician
from pxe.diagnosis.scene import Setting
from pxe.dns.core import NameSettings
from pxe.errors import PxeError
from pxe.events import BoardEvent
from pxe.net.descriptors import raise_descriptor_limit
from pxe.net.dhcp import DhcpService
from pxe.net.dhcp_site import DhcpSite, make_dhcp_service
from pxe.net.dns import DNS_PORT, DnsService, DnsSockets
from pxe.net.interfaces import require_interface
from pxe.net.lease_store import LeaseStore
from pxe.net.netconsole import ConsoleService, bind_console
from pxe.net.observer import Observer
from pxe.net.ports import bind_tcp, bind_udp
from pxe.net.tftp import TftpService
from pxe.net.watch import InterfaceState, InterfaceWatch, bind_again
from pxe.tftp.reports import TftpCounters
from pxe.tftp.settings import WorkerSettings, default_workers, worker_settings
from pxe.web.content import ContentServer

log = logging.getLogger(__name__)

TFTP_PORT: Final = 69
HTTP_PORT: Final = 7080
ANY: Final = IPv4Address("0.0.0.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class PxeConfig:
    """Where and how the server listens.

    Args:
        server_address: its own address, which boards are told.
        subnet: the network of the boards.
        dhcp: whether it gives addresses (full), only says where to boot (proxy), or neither.
        interface: hear only this one; None for all (tests on loopback).
        gateway, dns, domain: what DHCP clients are told.
        pool: addresses for boards without a declared one; None for none.
        state_dir: where the lease file is.
        mtu: of the interface, bytes; bounds the TFTP block size.
        tftp_workers: processes.
        tftp_single_port: answer from the listening port, for boards behind NAT.
        grace_s: how long transfers may go on after a stop.
        names: what the DNS server answers; None for no DNS server.
        dhcp_port, dhcp_client_port, boot_server_port, tftp_port, http_port, dns_port: 0 for any free one
            (tests).
        lease_s: how long an address is given for.
        netconsole_port: where bootloaders' consoles are heard; None for nowhere.
        metrics_from: networks whose machines may read the metrics, beside this one.
    """

    server_address: IPv4Address
    subnet: IPv4Network
    dhcp: DhcpMode
    state_dir: Path
    interface: str | None = None
    gateway: IPv4Address | None = None
    dns: tuple[IPv4Address, ...] = ()
    domain: str = ""
    pool: AddressPool | None = None
    mtu: int = 1500
    tftp_workers: int = 1
    tftp_single_port: bool = False
    grace_s: float = 5.0
    lease_s: int = 12 * 3600
    dhcp_port: int = SERVER_PORT
    dhcp_client_port: int = CLIENT_PORT
    boot_server_port: int = BOOT_SERVER_PORT
    tftp_port: int = TFTP_PORT
    http_port: int = HTTP_PORT
    names: NameSettings | None = None
    dns_port: int = DNS_PORT
    netconsole_port: int | None = None
    metrics_from: tuple[IPv4Network, ...] = ()

    @classmethod
    def from_spec(cls, network: NetworkSpec, domain: str, state_dir: Path, *, boards: int) -> Self:
        """The configuration of a declared cluster with so many boards on this machine.

        Raises:
            PxeError: the interface is not there, has no address, or has one of another network.
        """
        interface = require_interface(network.interface)
        address = network.server_address or interface.address
        if address not in network.subnet:
            raise PxeError(
                f"interface {interface.name} has the address {address}, network.subnet is {network.subnet}",
                "The server has to be on the boards' network: correct network.subnet or network.interface, "
                "or set network.server_address where the interface has several addresses.",
            )
        return cls(
            server_address=address,
            subnet=network.subnet,
            dhcp=network.dhcp,
            state_dir=state_dir,
            interface=interface.name,
            gateway=network.gateway,
            dns=network.dns,
            domain=domain,
            pool=network.pool,
            mtu=interface.mtu,
            http_port=network.ports.http,
            netconsole_port=network.ports.netconsole or None,
            metrics_from=network.metrics_from,
            tftp_workers=network.tftp.workers or default_workers(boards),
            tftp_single_port=network.tftp.single_port,
        )


@dataclass(slots=True)
class _Sockets:
    """Everything bound, before anything runs."""

    dhcp: socket.socket | None
    boot_server: socket.socket | None
    tftp: list[socket.socket]
    http: socket.socket
    dns: DnsSockets | None
    console: socket.socket | None

    def close(self) -> None:
        if self.dns is not None:
            self.dns.close()
        for sock in (self.dhcp, self.boot_server, *self.tftp, self.http, self.console):
            if sock is not None:
                sock.close()


@dataclass(frozen=True, slots=True)
class BoundPorts:
    """The ports that the server listens on; `dhcp` and `dns` are None where they are off."""

    dhcp: int | None
    tftp: int
    http: int
    dns: int | None = None
    console: int | None = None


class PxeServer:
    """One netboot server.

    Args:
        config: where and how it listens.
        on_event: gets what happens to boards, in the event loop; must not block.
        table: what nodes may boot at the start; later ones come by `update`.

    Attributes:
        ready: set when every service listens.
        observer: sees every event of every board.
        metrics: renders the page that ``/metrics`` answers with; None for no page.
        is_ready: whether everything behind this server works; ``/readyz`` tells it.
        dhcp, console: the services, once they run, for their counters.
    """

    def __init__(
        self,
        config: PxeConfig,
        on_event: Callable[[BoardEvent], None],
        table: BootTable | None = None,
    ) -> None:
        self._config = config
        self._table = table or BootTable()
        self._clients = ClientBook()
        doctor = Diagnostician(Setting(config.dhcp, config.server_address))
        self.observer = Observer(doctor, on_event)
        self.metrics: Callable[[], bytes] | None = None
        self.is_ready: Callable[[], bool] = lambda: True
        self.dhcp: DhcpService | None = None
        self.console: ConsoleService | None = None
        self.names: DnsService | None = None
        self._sockets: _Sockets | None = None
        self._tftp: TftpService | None = None
        self._ports: BoundPorts | None = None
        self.ready = asyncio.Event()

    @property
    def ports(self) -> BoundPorts:
        """The bound ports; only after `bind`."""
        if self._ports is None:
            raise RuntimeError("the server is not bound yet")
        return self._ports

    def update(self, table: BootTable) -> None:
        """Use another snapshot from now on. Transfers under way end with the content that they began with."""
        self._table = table
        if self._tftp is not None:
            self._tftp.send(table)

    def update_names(self, settings: NameSettings | None) -> None:
        """Answer DNS from another zone from now on, where DNS is answered."""
        if self.names is not None and settings is not None:
            self.names.update(settings)

    def bind(self) -> None:
        """Bind every socket; a privileged caller may drop its rights afterwards.

        Raises:
            PxeError: a port is taken or not allowed; nothing stays bound then.
        """
        if self._sockets is not None:
            return
        config = self._config
        sockets: list[socket.socket] = []
        try:
            dhcp = None
            if config.dhcp is not DhcpMode.OFF:
                dhcp = bind_udp(ANY, config.dhcp_port, "DHCP", interface=config.interface)
                sockets.append(dhcp)
            boot_server = None
            if config.dhcp is DhcpMode.PROXY:
                boot_server = bind_udp(
                    ANY, config.boot_server_port, "PXE boot server", interface=config.interface
                )
                sockets.append(boot_server)
            # On an interface also requests to its broadcast address are heard; without one, only our address.
            address = ANY if config.interface is not None else config.server_address
            tftp: list[socket.socket] = []
            port = config.tftp_port
            for _ in range(config.tftp_workers):
                tftp.append(bind_udp(address, port, "TFTP", interface=config.interface, shared=True))
                sockets.append(tftp[-1])
                port = tftp[-1].getsockname()[1]
            http = bind_tcp(config.server_address, config.http_port, "HTTP content")
            sockets.append(http)
            dns = DnsSockets(config.server_address, config.dns_port) if config.names is not None else None
        except PxeError:
            for sock in sockets:
                sock.close()
            raise
        console = bind_console(config.interface, config.netconsole_port)
        self._sockets = _Sockets(dhcp, boot_server, tftp, http, dns, console)
        self._ports = BoundPorts(
            dhcp=dhcp.getsockname()[1] if dhcp else None,
            tftp=port,
            http=http.getsockname()[1],
            dns=dns.port if dns else None,
            console=console.getsockname()[1] if console else None,
        )

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            PxeError: a socket can not be bound, the lease file can not be used, or a service has ended.
        """
        self.bind()
        if self._sockets is None:
            raise RuntimeError("the server can run only once")
        raise_descriptor_limit()  # many boards at once read over HTTP, with three for each
        sockets = self._sockets
        store: LeaseStore | None = None
        try:
            tftp = TftpService(sockets.tftp, self._worker_settings(), self.observer.report)
            store = LeaseStore(self._config.state_dir / "leases.jsonl") if self._gives_addresses else None
            try:
                await tftp.start(self._table)
                self._tftp = tftp
                tftp.send(self._table)  # an update may have come while the workers started
                await self._run_services(sockets, tftp, store)
            finally:
                self._tftp = None
                await tftp.stop()
        finally:
            sockets.close()
            if store is not None:
                store.close()

    @property
    def _gives_addresses(self) -> bool:
        return self._config.dhcp is DhcpMode.FULL

    def _worker_settings(self) -> WorkerSettings:
        config = self._config
        return worker_settings(
            mtu=config.mtu,
            workers=config.tftp_workers,
            single_port=config.tftp_single_port,
            subnet=config.subnet,
            grace_s=config.grace_s,
        )

    async def _run_services(self, sockets: _Sockets, tftp: TftpService, store: LeaseStore | None) -> None:
        failure: PxeError | None = None
        try:
            async with asyncio.TaskGroup() as services:
                services.create_task(_never_ends("TFTP", tftp.run()))
                services.create_task(_never_ends("diagnosis", self.observer.run()))
                report, metrics = self.observer.report, self._metrics_for
                ready = self._ready_now
                content = ContentServer(lambda: self._table, self._clients, report, metrics, ready)
                services.create_task(
                    _never_ends("HTTP content", content.run(sockets.http, self._config.grace_s))
                )
                if sockets.dhcp is not None:
                    self.dhcp = self._make_dhcp(sockets.dhcp, sockets.boot_server, store)
                    services.create_task(_never_ends("DHCP", self.dhcp.run()))
                if self._config.interface is not None:
                    watch = InterfaceWatch(
                        self._config.interface, self._config.server_address, self._follow_interface
                    )
                    services.create_task(_never_ends("interface watch", watch.run()))
                if sockets.console is not None:
                    self.console = ConsoleService(
                        sockets.console, self._clients, lambda: self._table, self.observer.report
                    )
                    services.create_task(_never_ends("network console", self.console.run()))
                if sockets.dns is not None and self._config.names is not None:
                    self.names = DnsService(sockets.dns, self._config.names)
                    services.create_task(_never_ends("DNS", self.names.run()))
                self.ready.set()
        except* PxeError as group:
            failure = _first(group)
        if failure is not None:
            raise failure

    def _make_dhcp(
        self, sock: socket.socket, boot_server: socket.socket | None, store: LeaseStore | None
    ) -> DhcpService:
        config = self._config
        settings = DhcpSettings(
            server=config.server_address,
            subnet=config.subnet,
            gateway=config.gateway,
            dns=config.dns,
            domain=config.domain,
            lease_s=config.lease_s,
            http_port=self.ports.http,
            server_port=config.dhcp_port or SERVER_PORT,
            client_port=config.dhcp_client_port,
        )
        site = DhcpSite(
            sock=sock,
            boot_server=boot_server,
            settings=settings,
            pool=config.pool,
            store=store,
            interface=config.interface,
        )
        return make_dhcp_service(site, lambda: self._table, self.observer.report, self._learn)

    @property
    def tftp_counters(self) -> TftpCounters:
        """What the TFTP workers did; zeros while they do not run."""
        return self._tftp.counters if self._tftp is not None else TftpCounters()

    @property
    def tftp_restarts(self) -> int:
        """How often a TFTP worker had ended by itself and was started again."""
        return self._tftp.restarts if self._tftp is not None else 0

    def _ready_now(self) -> bool:
        return self.is_ready()

    def _metrics_for(self, reader: str) -> bytes | None:
        """The metrics, for this machine and for the networks of the configuration."""
        if self.metrics is None:
            return None
        try:
            address = IPv4Address(reader)
        except ValueError:
            return None
        own = address.is_loopback or address == self._config.server_address
        allowed = own or any(address in network for network in self._config.metrics_from)
        return self.metrics() if allowed else None

    def _follow_interface(self, after: InterfaceState) -> None:
        """The interface went, came back, or has lost or regained this server's address."""
        name, address = self._config.interface or "", self._config.server_address
        if self.dhcp is not None:
            self.dhcp.paused = not after.usable
        if not after.usable:
            log.warning(
                "the interface or its address is away: boards are not answered until it is back",
                extra={"interface": name, "address": str(address), "there": after.index is not None},
            )
            return
        if self._sockets is not None:
            found = self._sockets
            bound = (found.dhcp, found.boot_server, *found.tftp, found.console)
            refused = bind_again([sock for sock in bound if sock is not None], name)
            if self.dhcp is not None:
                self.dhcp.attach_link()
            if refused is not None:
                log.error(
                    "the interface came back as another device: start 'bramble serve' again, or give it "
                    "cap_net_raw",
                    extra={"interface": name, "error": refused},
                )
                return
        log.warning("the interface is back", extra={"interface": name, "address": str(address)})

    def _learn(self, binding: Learn) -> None:
        self._clients.learn(binding.address, binding.board)
        if self._tftp is not None:
            self._tftp.send(binding)


async def _never_ends(service: str, work: Coroutine[Any, Any, None]) -> None:
    """Run a service; its end is an error, unless somebody cancelled it."""
    await work
    raise PxeError(f"the {service} service has ended", "The log says why. Start the server again.")


def _first(group: ExceptionGroup[PxeError]) -> PxeError:
    """The first error of a group."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
