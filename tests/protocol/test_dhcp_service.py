"""The DHCP service under hostile datagrams: none of them ends it, and whoever comes next is answered."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from fakes_pxe import PI_CLASS, client_message, pi_discover, pi_guid
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.boards import MacAddress, Serial
from fleet.spec.model import AddressPool
from pxe.boot.table import BootTable, NodeBootState
from pxe.dhcp.core import Responder
from pxe.dhcp.leases import LeaseTable
from pxe.dhcp.proxy import ProxyResponder
from pxe.dhcp.replies import Action, DhcpSettings, Probe, SendReply
from pxe.dhcp.wire import DhcpMessage, MessageType, Option, parse_reply
from pxe.errors import WireError
from pxe.net.dhcp import PROBES_PER_S, ConflictListener, DhcpResponder, DhcpService
from pxe.net.link import Link

SERVER = IPv4Address("10.0.0.1")
CLIENT = IPv4Address("10.0.0.50")
SETTINGS = DhcpSettings(
    server=SERVER, subnet=IPv4Network("10.0.0.0/24"), dns=(SERVER,), domain="attic.internal"
)
TABLE = BootTable((NodeBootState(name="pi4-worker-1", serial=Serial.parse("91cdf03d"), install_intent=1),))
LARGEST_VALUE = 64_700  # with it a DISCOVER just fits into a datagram, and a reply that repeats it does not
LAST_XID = 0xFEEDBEEF
LAST = client_message(MessageType.INFORM, xid=LAST_XID, ciaddr=CLIENT)
WAIT_S = 30


class RecordingSocket(socket.socket):
    """Receives from its other end, and keeps what is sent."""

    sent: list[DhcpMessage]

    def sendmsg(self, buffers: Any, *_where: Any) -> int:
        data = b"".join(buffers)
        self.sent.append(parse_reply(data))
        return len(data)


def full_responder() -> tuple[DhcpResponder, LeaseTable]:
    leases = LeaseTable(AddressPool(IPv4Address("10.0.0.100"), IPv4Address("10.0.0.101")), [SERVER])
    return Responder(SETTINGS, leases, lambda: TABLE), leases


async def serve(
    datagrams: Sequence[bytes],
    responder: DhcpResponder,
    is_over: Callable[[DhcpService, list[DhcpMessage]], bool],
    *,
    link: Link | None = None,
    on_conflict: ConflictListener | None = None,
) -> tuple[DhcpService, list[DhcpMessage]]:
    """Run a service on these datagrams until the condition holds; the service and its replies."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with theirs:
        sock = RecordingSocket(fileno=ours.detach())
        sock.sent = []
        sock.setblocking(False)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024 * 1024)
        service = DhcpService(
            sock,
            SERVER,
            responder,
            leases=None,
            store=None,
            on_event=lambda _event: None,
            on_learn=lambda _learnt: None,
            link=link,
            on_conflict=on_conflict,
        )
        task = asyncio.create_task(service.run())
        async with asyncio.timeout(WAIT_S):
            for datagram in datagrams:
                theirs.send(datagram)
            while not task.done() and not is_over(service, sock.sent):  # noqa: ASYNC110  # sockets have no event
                await asyncio.sleep(0)
        if task.done():
            task.result()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return service, sock.sent


def last_is_answered(_service: DhcpService, sent: list[DhcpMessage]) -> bool:
    return any(reply.xid == LAST_XID for reply in sent)


def serve_before_last(*datagrams: bytes) -> tuple[DhcpService, list[DhcpMessage]]:
    responder, _leases = full_responder()
    return asyncio.run(serve((*datagrams, LAST.encode()), responder, last_is_answered))


class FakeResponder:
    """Meets a fault on every message, but answers `LAST`; `oversized` has it answer with too much instead."""

    def __init__(self, *, oversized: bool = False) -> None:
        self._oversized = oversized

    def respond(self, message: DhcpMessage, now: float) -> list[Action]:
        if message.xid == LAST_XID:
            return full_responder()[0].respond(message, now)
        if self._oversized:
            extra = ((Option.RELAY_AGENT, bytes(70_000)),)
            return [SendReply(client_message(MessageType.ACK, extra=extra), CLIENT, 68)]
        raise ZeroDivisionError("a fault of the program")


def mutated(packet: bytes, changes: list[tuple[int, int]], size: int | None) -> bytes:
    data = bytearray(packet)
    for position, value in changes:
        data[position % len(data)] = value
    return bytes(data if size is None else data[:size])


PACKETS = st.sampled_from(
    [
        pi_discover().encode(),
        client_message(MessageType.REQUEST, requested=CLIENT, server=SERVER, vendor_class=PI_CLASS).encode(),
        client_message(MessageType.REQUEST, ciaddr=CLIENT, extra=((Option.RELAY_AGENT, b"\1\2ab"),)).encode(),
        client_message(MessageType.DECLINE, requested=CLIENT, server=SERVER).encode(),
        client_message(MessageType.RELEASE, ciaddr=CLIENT, server=SERVER).encode(),
        client_message(MessageType.DISCOVER, giaddr=CLIENT, vendor_class=PI_CLASS).encode(),
    ]
)
MUTATED = st.builds(
    mutated,
    PACKETS,
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=6),
    st.one_of(st.none(), st.integers(0, 400)),
)


@settings(max_examples=60)
@given(st.lists(st.one_of(st.binary(max_size=700), MUTATED), max_size=20))
def test_no_datagram_is_a_fault_and_the_next_client_is_answered(datagrams: list[bytes]) -> None:
    service, _sent = serve_before_last(*datagrams)
    assert (service.faults, service.unsent) == (0, 0)


@settings(max_examples=60)
@given(st.lists(MUTATED, max_size=8))
def test_no_datagram_is_a_fault_in_proxy_mode(datagrams: list[bytes]) -> None:
    responder = ProxyResponder(SETTINGS, lambda: TABLE)
    last = pi_discover(xid=LAST_XID).encode()
    service, _sent = asyncio.run(serve((*datagrams, last), responder, last_is_answered))
    assert (service.faults, service.unsent) == (0, 0)


@pytest.mark.parametrize("code", [Option.RELAY_AGENT, Option.CLIENT_GUID])
def test_an_option_that_fills_the_datagram_is_not_echoed(code: Option) -> None:
    discover = client_message(
        MessageType.DISCOVER, vendor_class=PI_CLASS, extra=((code, bytes(LARGEST_VALUE)),)
    )
    service, sent = serve_before_last(discover.encode())
    assert (service.faults, service.unsent) == (0, 0)
    assert sent[0].message_type is MessageType.OFFER
    assert sent[0].option(code) is None


def test_options_of_their_proper_size_are_echoed() -> None:
    relay, guid = bytes(255), pi_guid()
    discover = client_message(
        MessageType.DISCOVER,
        vendor_class=PI_CLASS,
        extra=((Option.RELAY_AGENT, relay), (Option.CLIENT_GUID, guid)),
    )
    _service, sent = serve_before_last(discover.encode())
    assert sent[0].option(Option.RELAY_AGENT) == relay
    assert sent[0].option(Option.CLIENT_GUID) == guid


def test_a_reply_that_fits_no_datagram_is_counted_as_unsent() -> None:
    with pytest.raises(WireError):
        client_message(MessageType.ACK, extra=((Option.RELAY_AGENT, bytes(70_000)),)).encode()
    datagrams = (pi_discover().encode(), LAST.encode())
    service, sent = asyncio.run(serve(datagrams, FakeResponder(oversized=True), last_is_answered))
    assert (service.unsent, service.faults, len(sent)) == (1, 0, 1)


def test_a_fault_is_counted_each_time_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    datagrams = (*[pi_discover().encode()] * 5, LAST.encode())
    with caplog.at_level(logging.ERROR, logger="pxe.net.dhcp"):
        service, sent = asyncio.run(serve(datagrams, FakeResponder(), last_is_answered))
    assert (service.faults, len(sent)) == (5, 1)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


class FakeLink(Link):
    """A cable that nobody says anything on. It takes so many questions."""

    def __init__(self, takes: int) -> None:
        ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        super().__init__("eth0", 68, (ours, ours, ours))
        self._takes = takes
        self.asked: list[IPv4Address] = []

    def close(self) -> None:
        super().close()
        self._theirs.close()

    def probe(self, address: IPv4Address) -> None:
        if len(self.asked) == self._takes:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        self.asked.append(address)


class Asking:
    """Wants so many addresses to be asked for, and hears which were not."""

    def __init__(self, count: int) -> None:
        self.addresses = [CLIENT + number for number in range(count)]
        self.not_asked_for: list[IPv4Address] = []

    def respond(self, message: DhcpMessage, now: float) -> list[Action]:
        if message.xid == LAST_XID:
            return FakeResponder().respond(message, now)
        return [Probe(address, MacAddress(message.chaddr)) for address in self.addresses]

    def conflict(self, address: IPv4Address, holder: MacAddress, now: float) -> list[Action]:
        raise AssertionError(f"{holder} said nothing about {address} at {now}")

    def not_asked(self, address: IPv4Address, _now: float) -> None:
        self.not_asked_for.append(address)


@pytest.mark.parametrize("takes", [PROBES_PER_S, 10], ids=["too many at once", "the kernel has no room"])
def test_the_core_is_told_which_addresses_the_cable_was_not_asked_for(takes: int) -> None:
    asking, link = Asking(PROBES_PER_S + 6), FakeLink(takes)
    datagrams = (pi_discover().encode(), LAST.encode())
    service, _sent = asyncio.run(serve(datagrams, asking, last_is_answered, link=link, on_conflict=asking))
    assert service.faults == 0
    assert link.asked == asking.addresses[:takes]
    assert asking.not_asked_for == asking.addresses[takes:]
