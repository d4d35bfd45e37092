"""The installer's DHCP client: a conversation by hand, and whatever bytes a network may bring."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dhcp import MAX_REQUESTS, DhcpClient, Lease, MessageType, parse_reply

MAC = bytes.fromhex("2ccf67123456")
XID = 0x1234ABCD
OFFERED = IPv4Address("10.77.0.50")
SERVER = IPv4Address("10.77.0.1")


def make_reply(
    kind: int,
    *,
    xid: int = XID,
    mac: bytes = MAC,
    address: IPv4Address = OFFERED,
    options: bytes | None = None,
    op: int = 2,
    file: bytes = b"",
) -> bytes:
    header = struct.pack("!BBBBIHH", op, 1, 6, 0, xid, 0, 0x8000) + bytes(4) + address.packed + bytes(8)
    if options is None:
        options = (
            b"\x36\x04" + SERVER.packed + b"\x01\x04\xff\xff\xff\x00\x03\x04" + SERVER.packed
            + b"\x33\x04" + struct.pack("!I", 600)
        )  # fmt: skip
    return (
        header
        + mac.ljust(16, b"\0")
        + bytes(64)
        + file.ljust(128, b"\0")
        + b"\x63\x82\x53\x63\x35\x01"
        + bytes([kind])
        + options
        + b"\xff"
    )


def parse_request(packet: bytes) -> dict[int, bytes]:
    """Options of a request, as a server reads them."""
    assert packet[0] == 1
    assert packet[236:240] == b"\x63\x82\x53\x63"
    options = {}
    position = 240
    while packet[position] != 255:
        length = packet[position + 1]
        options[packet[position]] = packet[position + 2 : position + 2 + length]
        position += 2 + length
    return options


@pytest.fixture
def client() -> DhcpClient:
    client = DhcpClient(MAC, XID)
    client.start(100.0)
    return client


def test_four_messages_make_a_lease(client: DhcpClient) -> None:
    (discover,) = client.datagrams_to_send()
    options = parse_request(discover)
    assert options[53] == bytes([MessageType.DISCOVER])
    assert options[60] == b"bramble-installer"
    assert options[61] == b"\x01" + MAC
    assert struct.unpack_from("!H", discover, 10) == (0x8000,)
    assert len(discover) >= 300
    client.receive_datagram(make_reply(MessageType.OFFER), 100.1)
    (request,) = client.datagrams_to_send()
    options = parse_request(request)
    assert options[53] == bytes([MessageType.REQUEST])
    assert options[50] == OFFERED.packed
    assert options[54] == SERVER.packed
    client.receive_datagram(make_reply(MessageType.ACK), 100.2)
    assert client.lease == Lease(
        address=OFFERED, netmask=IPv4Address("255.255.255.0"), router=SERVER, server=SERVER, lease_s=600
    )
    assert client.lease.renew_after_s == 300
    assert client.next_timeout() is None


def test_lost_datagrams_are_repeated_with_growing_pauses(client: DhcpClient) -> None:
    now, pauses = 100.0, []
    client.datagrams_to_send()
    for _ in range(6):
        due = client.next_timeout()
        assert due is not None
        client.handle_timeout(due - 0.01)
        assert client.datagrams_to_send() == []
        client.handle_timeout(due)
        assert len(client.datagrams_to_send()) == 1
        pauses.append(due - now)
        now = due
    assert pauses == [1, 2, 4, 8, 8, 8]


def test_server_that_falls_silent_after_its_offer_is_left(client: DhcpClient) -> None:
    client.datagrams_to_send()
    client.receive_datagram(make_reply(MessageType.OFFER), 100.1)
    kinds = []
    for _ in range(MAX_REQUESTS + 1):
        kinds += [parse_request(packet)[53][0] for packet in client.datagrams_to_send()]
        due = client.next_timeout()
        assert due is not None
        client.handle_timeout(due)
    assert kinds == [MessageType.REQUEST] * MAX_REQUESTS + [MessageType.DISCOVER]
    client.receive_datagram(make_reply(MessageType.ACK), 200.0)
    assert client.lease is None  # an answer to the search that was given up


def test_refusal_starts_a_new_search(client: DhcpClient) -> None:
    client.receive_datagram(make_reply(MessageType.OFFER), 100.1)
    client.datagrams_to_send()
    client.receive_datagram(make_reply(MessageType.NAK), 100.2)
    (discover,) = client.datagrams_to_send()
    assert parse_request(discover)[53] == bytes([MessageType.DISCOVER])
    assert struct.unpack_from("!I", discover, 4) == (XID + 1,)
    assert client.refusals == 1


@pytest.mark.parametrize(
    "stranger",
    [
        make_reply(MessageType.OFFER, xid=XID + 1),
        make_reply(MessageType.OFFER, mac=bytes(6)),
        make_reply(MessageType.OFFER, address=IPv4Address(0)),
        make_reply(MessageType.OFFER, options=b""),
        make_reply(MessageType.OFFER, op=1),
        make_reply(MessageType.ACK),
        make_reply(MessageType.NAK),
    ],
    ids=["other-xid", "other-mac", "proxy-offer", "no-server-id", "a-request", "early-ack", "early-nak"],
)
def test_what_is_not_an_offer_for_us_is_ignored(client: DhcpClient, stranger: bytes) -> None:
    client.datagrams_to_send()
    client.receive_datagram(stranger, 100.1)
    assert client.datagrams_to_send() == []
    assert client.lease is None


def test_options_continue_in_the_file_field_and_in_pieces() -> None:
    reply = parse_reply(
        make_reply(
            MessageType.OFFER,
            options=b"\x34\x01\x01\x06\x04\x01\x01\x01\x01\x00\x06\x04\x08\x08\x08\x08",
            file=b"\x36\x04" + SERVER.packed + b"\xff",
        )
    )
    assert reply is not None
    assert reply.options[6] == b"\x01\x01\x01\x01\x08\x08\x08\x08"
    assert reply.options[54] == SERVER.packed


def test_missing_mask_falls_back_to_the_class(client: DhcpClient) -> None:
    client.receive_datagram(make_reply(MessageType.OFFER), 100.1)
    bare = b"\x36\x04" + SERVER.packed
    client.receive_datagram(make_reply(MessageType.ACK, options=bare), 100.2)
    assert client.lease is not None
    assert client.lease.netmask == IPv4Address("255.0.0.0")
    assert client.lease.router is None


@given(st.binary(max_size=400))
def test_any_bytes_are_a_reply_or_nothing(data: bytes) -> None:
    client = DhcpClient(MAC, XID)
    client.start(0.0)
    client.receive_datagram(data, 0.1)
    assert client.lease is None


@given(st.integers(0, 300), st.binary(max_size=40))
def test_a_valid_reply_cut_or_changed_anywhere_never_raises(place: int, junk: bytes) -> None:
    reply = make_reply(MessageType.OFFER)
    parse_reply(reply[:place])
    parse_reply(reply[:place] + junk + reply[place + len(junk) :])
