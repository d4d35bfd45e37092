"""One function for each parser: bytes in, nothing out. Whatever it raises is a finding.

Each goes on from the parser to the pure core behind it, and checks what must hold whatever came in: no answer
larger than allowed, no control character in a text, no path outside of the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

from fleet.boards import Serial
from fleet.spec.model import AddressPool
from pxe.boot.content import BytesContent
from pxe.boot.routes import explain_missing, locate, route, split_name
from pxe.boot.table import BootTable, BootTree, NodeBootState
from pxe.dhcp.core import Responder
from pxe.dhcp.leases import LeaseTable
from pxe.dhcp.proxy import ProxyResponder
from pxe.dhcp.replies import DhcpSettings, Report, SendReply
from pxe.dhcp.wire import MINIMUM_REPLY_BYTES, parse_request
from pxe.dns.core import NameSettings, Reply, Rest, respond
from pxe.dns.wire import parse_query
from pxe.dns.zone import Zone
from pxe.errors import WireError
from pxe.tftp.frames import FrameStore
from pxe.tftp.options import SessionLimits
from pxe.tftp.session import ReadSession
from pxe.tftp.wire import Request, TftpWireError, parse_packet

SERVER: Final = IPv4Address("10.0.0.1")
SUBNET: Final = IPv4Network("10.0.0.0/24")
SETTINGS: Final = DhcpSettings(server=SERVER, subnet=SUBNET, dns=(SERVER,), domain="attic.internal")
ROOT: Final = Path("/srv/boot")
TREE: Final = BootTree(root=ROOT, rendered={"config.txt": b"[all]\n", "cmdline.txt": b"quiet\n"})
TABLE: Final = BootTable(
    (NodeBootState(name="pi4-1", serial=Serial.parse("91cdf03d"), install_intent=1, tree=TREE),)
)
NAMES: Final = NameSettings(
    zone=Zone(
        domain="attic.internal",
        server=SERVER,
        hosts={"pi5-1": (IPv4Address("10.0.0.33"),), "control": (SERVER,)},
        subnet=SUBNET,
        owns_reverse=True,
    ),
    rest=Rest.FORWARD,
    upstreams=(SERVER,),
    clients=(SUBNET,),
)
CONTENT: Final = BytesContent(bytes(range(256)) * 40)
PEER: Final = ("10.0.0.50", 2070)
NOW: Final = 1_800_000_000.0
MAXIMUM_DATAGRAM: Final = 65_507


def dhcp(data: bytes) -> None:
    """A client's datagram through both responders, and their replies onto the wire."""
    try:
        message = parse_request(data)
    except WireError:
        return
    pool = AddressPool(IPv4Address("10.0.0.100"), IPv4Address("10.0.0.101"))
    full = Responder(SETTINGS, LeaseTable(pool, [SERVER]), lambda: TABLE)
    for responder in (full, ProxyResponder(SETTINGS, lambda: TABLE)):
        for action in responder.respond(message, NOW):
            if isinstance(action, SendReply):
                try:
                    encoded = action.message.encode(MINIMUM_REPLY_BYTES)
                except WireError:
                    continue  # the shell counts it: larger than a datagram
                assert len(encoded) <= MAXIMUM_DATAGRAM
            elif isinstance(action, Report):
                assert action.event.describe().isprintable()


def tftp(data: bytes) -> None:
    """A first datagram, and what follows it from the client; each is preceded by its length in one byte."""
    try:
        packet = parse_packet(data)
    except TftpWireError:
        return
    if not isinstance(packet, Request):
        return
    session: ReadSession | None = None
    try:
        session = ReadSession(packet, PEER, CONTENT, SessionLimits(), FrameStore(), 0.0)
    except TftpWireError:
        return
    rest, now = data[::-1], 0.0
    for _ in range(8):
        _drain(session)
        size = rest[0] % 16 if rest else 0
        session.receive_datagram(rest[1 : 1 + size], PEER, now)
        rest = rest[1 + size :]
        if (deadline := session.next_timeout()) is not None and size % 2:
            now = deadline
            session.handle_timeout(now)
    _drain(session)


def _drain(session: ReadSession) -> None:
    limits = SessionLimits()
    for _peer, packets, size in session.datagrams_to_send():
        assert 0 < size <= limits.max_blksize + 4
        assert len(packets) <= size * limits.max_windowsize
    session.next_event()


def dns(data: bytes) -> None:
    """A query to an answer, which is one and is small."""
    try:
        query = parse_query(data)
    except WireError:
        return
    answer = respond(query, PEER_ADDRESS, NAMES)
    if isinstance(answer, Reply):
        assert answer.data[:2] == data[:2]
        assert len(answer.data) <= len(data) + 120


def http(data: bytes) -> None:
    """A requested name, over HTTP or TFTP, to the file that it means."""
    name = data.decode("utf-8", "surrogateescape")
    parts = split_name(name)
    found = route(name, None, TABLE, NOW)
    assert found.name.isprintable()
    assert explain_missing(found).isprintable()
    if parts is None:
        return
    assert not {"", ".", ".."} & set(parts)
    location = locate(TREE, found.parts)
    if location is not None and not isinstance(location, tuple):
        assert ROOT in (ROOT / "/".join(location.parts)).parents


PEER_ADDRESS: Final = IPv4Address(PEER[0])
TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {"dhcp": dhcp, "tftp": tftp, "dns": dns, "http": http}
