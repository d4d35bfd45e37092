"""The core of the full DHCP server with a network around it: what was said to it, and what it did."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from fakes_pxe import client_message

from fleet.boards import MacAddress, Serial
from fleet.spec.model import AddressPool
from pxe.boot.table import BootTable, NodeBootState
from pxe.dhcp.core import Responder
from pxe.dhcp.leases import Lease, LeaseTable
from pxe.dhcp.replies import Action, DhcpSettings, Probe, Report, SendReply
from pxe.dhcp.wire import DhcpMessage, MessageType, Op, parse_reply
from pxe.events import BoardEvent
from pxe.net.lease_store import encode_lease, parse_lease

NOW = 1_800_000_000.0
SERVER = IPv4Address("10.0.0.1")
RESERVED = IPv4Address("10.0.0.21")
FIRST = IPv4Address("10.0.0.100")
LAST = IPv4Address("10.0.0.101")
POOL = AddressPool(FIRST, LAST)
LEASE_S = 3600
SETTINGS = DhcpSettings(
    server=SERVER,
    subnet=IPv4Network("10.0.0.0/24"),
    gateway=IPv4Address("10.0.0.254"),
    dns=(SERVER,),
    domain="attic.internal",
    lease_s=LEASE_S,
)
NODE = NodeBootState(name="pi4-worker-1", serial=Serial.parse("91cdf03d"), address=RESERVED, install_intent=1)


class Network:
    """A responder and what came out of it last."""

    def __init__(
        self, *nodes: NodeBootState, pool: AddressPool | None = POOL, settings: DhcpSettings = SETTINGS
    ) -> None:
        self.table = BootTable(nodes)
        self.actions: list[Action] = []
        self._pool = pool
        self._settings = settings
        self._stored: list[Lease] = []
        self.restart()

    def restart(self) -> None:
        """Begin anew with what stands in the lease file."""
        leases = [lease for line in map(encode_lease, self._stored) if (lease := parse_lease(line))]
        self.leases = LeaseTable(self._pool, [SERVER], leases)
        self.responder = Responder(self._settings, self.leases, lambda: self.table)

    def hear(self, message: DhcpMessage, now: float = NOW) -> SendReply | None:
        self.actions = self.responder.respond(message, now)
        self._stored += self.leases.drain_changes()
        return next((action for action in self.actions if isinstance(action, SendReply)), None)

    def must_answer(self, message: DhcpMessage, now: float = NOW) -> SendReply:
        reply = self.hear(message, now)
        assert reply is not None
        assert reply.message.op is Op.REPLY
        assert parse_reply(reply.message.encode(300)) == reply.message
        return reply

    @property
    def events(self) -> list[BoardEvent]:
        return [action.event for action in self.actions if isinstance(action, Report)]

    @property
    def probed(self) -> list[IPv4Address]:
        """The addresses that the cable is asked about."""
        return [action.address for action in self.actions if isinstance(action, Probe)]

    def dora(self, mac: MacAddress, now: float = NOW) -> IPv4Address:
        """A whole exchange of an ordinary client."""
        offered = self.must_answer(client_message(MessageType.DISCOVER, mac=mac), now).message.yiaddr
        self.must_answer(client_message(MessageType.REQUEST, mac=mac, requested=offered, server=SERVER), now)
        return offered
