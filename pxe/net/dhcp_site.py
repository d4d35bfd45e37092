"""Puts the DHCP service of one site together: the core for the mode, the leases, and the cable below IP."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address

from fleet.spec.model import AddressPool
from pxe.boot.clients import Learn
from pxe.boot.identity import BoardIdentity, IdentifiedBy
from pxe.boot.table import BootTable
from pxe.dhcp.core import Responder
from pxe.dhcp.foreign import hear_reply
from pxe.dhcp.leases import LeaseState, LeaseTable, plausible_leases
from pxe.dhcp.proxy import ProxyResponder
from pxe.dhcp.replies import DhcpSettings
from pxe.dhcp.wire import DhcpMessage
from pxe.events import BoardEvent
from pxe.net.dhcp import DhcpService
from pxe.net.lease_store import LeaseStore
from pxe.net.link import Link

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpSite:
    """What the service is made of; it takes the sockets over.

    Args:
        sock: bound to port 67.
        boot_server: bound to port 4011; None outside proxy mode.
        settings: what clients are told.
        pool: addresses for clients without a declared one.
        store: the lease file in full mode; None in proxy mode.
        interface: for raw access; None for none (tests on loopback).
    """

    sock: socket.socket
    boot_server: socket.socket | None
    settings: DhcpSettings
    pool: AddressPool | None
    store: LeaseStore | None
    interface: str | None


def make_dhcp_service(
    site: DhcpSite,
    table: Callable[[], BootTable],
    on_event: Callable[[BoardEvent], None],
    on_learn: Callable[[Learn], None],
) -> DhcpService:
    """The service, ready to run. Boards that were in the middle of their boot are learnt from the leases.

    Args:
        site: what it is made of.
        table: the boot table as it is now.
        on_event: gets what happened.
        on_learn: gets which board is behind which address.
    """
    settings = site.settings
    link = Link.open(site.interface, settings.client_port) if site.interface is not None else None
    if link is None and site.interface is not None:
        log.warning(
            "no right to raw sockets (cap_net_raw): replies to clients without an address are broadcast, and "
            "other DHCP servers are not heard"
        )
    leases = None if site.store is None else _restore(site.store, site.pool, settings, on_learn)
    responder: Responder | ProxyResponder
    boot_server = None
    if leases is not None:
        responder = Responder(settings, leases, table)
    else:
        responder = ProxyResponder(settings, table)
        if site.boot_server is not None:
            boot_server = (site.boot_server, responder.respond_boot_server)

    def hear(reply: DhcpMessage, source: IPv4Address) -> None:
        known = responder.clients.find(reply.chaddr)
        event = hear_reply(
            reply,
            source,
            ours=settings.server,
            known=known,
            table=table(),
            expected=leases is None,
            now=time.time(),
        )
        if event is not None:
            on_event(event)

    return DhcpService(
        site.sock,
        settings.server,
        responder,
        leases=leases,
        store=site.store,
        on_event=on_event,
        on_learn=on_learn,
        boot_server=boot_server,
        link=link,
        on_conflict=responder if isinstance(responder, Responder) and site.interface is not None else None,
        on_foreign=hear,
    )


def _restore(
    store: LeaseStore, pool: AddressPool | None, settings: DhcpSettings, on_learn: Callable[[Learn], None]
) -> LeaseTable:
    """The lease table as the file has it, without what can not be true."""
    excluded = [address for address in (settings.server, settings.gateway) if address is not None]
    latest = time.time() + settings.lease_s
    kept = plausible_leases(store.leases, settings.subnet, excluded, latest)
    if store.corrupt_lines or len(kept) < len(store.leases):
        left_out = store.corrupt_lines + len(store.leases) - len(kept)
        log.warning("lines of the lease file are no leases of this network", extra={"count": left_out})
    table = LeaseTable(pool, excluded, kept)
    for lease in table:
        if lease.state is LeaseState.BOUND:
            on_learn(Learn(lease.address, BoardIdentity(mac=lease.mac, how=IdentifiedBy.MAC)))
    return table
