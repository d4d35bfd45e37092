"""Replies that are larger than their client takes, relays with their options, and what relays decide."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from fakes_dhcp import POOL, Network
from fakes_pxe import client_message
from hypothesis import given
from hypothesis import strategies as st

from fleet.boards import MacAddress
from pxe.dhcp.replies import DISPENSABLE, SendReply
from pxe.dhcp.wire import (
    NO_ADDRESS,
    DhcpMessage,
    MessageType,
    Op,
    Option,
    parse_message,
    parse_reply,
)
from pxe.errors import WireError

RELAY = IPv4Address("192.0.2.1")
CLIENT = MacAddress.parse("52:54:00:12:34:56")
OPTIONS = st.dictionaries(
    st.integers(1, 254).filter(lambda code: code not in (1, 50, 51, 52, 53, 54, 57)),
    st.binary(max_size=600),
    max_size=12,
)


def reply(options: dict[int, bytes], *, file: bytes = b"", sname: bytes = b"") -> DhcpMessage:
    return DhcpMessage(
        op=Op.REPLY,
        message_type=MessageType.ACK,
        xid=1,
        chaddr=CLIENT.octets,
        file=file,
        sname=sname,
        options=tuple(options.items()),
    )


@given(OPTIONS, st.sampled_from([b"", b"boot"]), st.sampled_from([b"", b"name"]), st.integers(260, 1472))
def test_a_message_fits_its_receiver_and_says_the_same_or_is_an_error(
    options: dict[int, bytes], file: bytes, sname: bytes, limit: int
) -> None:
    message = reply(options, file=file, sname=sname)
    try:
        data = message.encode(maximum_bytes=limit)
    except WireError:
        return
    assert len(data) <= limit
    read = parse_message(data)
    assert dict(read.options) == options
    assert (read.file, read.sname) == (file, sname)


def test_options_overflow_into_the_empty_fields() -> None:
    message = reply({120: bytes(90), 121: bytes(100), 122: bytes(50), 123: bytes(200)})
    data = message.encode(maximum_bytes=548)
    assert len(data) <= 548
    assert data[44] != 0
    assert dict(parse_reply(data).options) == dict(message.options)
    with pytest.raises(WireError, match="548"):
        replace(message, file=b"taken", sname=b"taken").encode(maximum_bytes=548)


def test_what_a_client_can_do_without_is_left_out_before_the_relays_word() -> None:
    options: dict[int, bytes] = {code: bytes(4) if code in (58, 59) else b"x" * 60 for code in DISPENSABLE}
    message = reply({**options, 60: b"PXEClient", 82: bytes(250)}, file=b"name", sname=b"name")
    sent = parse_reply(SendReply(message, RELAY, 67, None, 548).encode())
    assert sent.option(82) == bytes(250)
    assert sent.option(60) == b"PXEClient"
    assert sent.option(Option.HOST_NAME) is None
    whole = parse_reply(SendReply(message, RELAY, 67, None, 1472).encode())
    assert dict(whole.options) == dict(message.options)


@pytest.mark.parametrize(
    ("said", "bytes_"),
    [(None, 548), (b"\x05\xdc", 1472), (b"\xff\xff", 1472), (b"\0\0", 548), (b"\x03\xe8", 972)],
)
def test_the_clients_limit_is_within_reason(said: bytes | None, bytes_: int) -> None:
    extra = ((Option.MAXIMUM_SIZE, said),) if said is not None else ()
    assert client_message(MessageType.DISCOVER, extra=extra).maximum_bytes == bytes_


def relayed(
    kind: MessageType,
    agent: bytes,
    *,
    giaddr: IPv4Address = RELAY,
    server: IPv4Address | None = None,
    requested: IPv4Address | None = None,
    extra: tuple[tuple[int, bytes], ...] = (),
) -> DhcpMessage:
    return client_message(
        kind,
        mac=CLIENT,
        giaddr=giaddr,
        server=server,
        requested=requested,
        extra=(*extra, (Option.RELAY_AGENT, agent)),
    )


LINK = b"\x05\x04" + IPv4Address("10.0.0.0").packed


def test_a_relay_says_which_network_its_client_is_on() -> None:
    site = Network()
    assert site.hear(relayed(MessageType.DISCOVER, b"\x01\x02ab")) is None
    reply = site.hear(relayed(MessageType.DISCOVER, b"\x01\x02ab" + LINK))
    assert reply is not None
    assert (reply.address, reply.port, reply.hardware) == (RELAY, 67, None)
    assert reply.message.yiaddr in POOL
    assert reply.message.options[-1] == (Option.RELAY_AGENT, b"\x01\x02ab" + LINK)


def test_a_client_may_select_its_network_too() -> None:
    chosen = ((Option.SUBNET_SELECTION, IPv4Address("10.0.0.0").packed),)
    assert Network().hear(relayed(MessageType.DISCOVER, b"", extra=chosen)) is not None
    foreign = b"\x05\x04" + RELAY.packed
    assert Network().hear(relayed(MessageType.DISCOVER, foreign, giaddr=IPv4Address("10.0.0.9"))) is None


def test_a_relay_may_stand_in_for_the_server() -> None:
    site = Network()
    agent = LINK + b"\x0b\x04" + RELAY.packed
    offer = site.hear(relayed(MessageType.DISCOVER, agent))
    assert offer is not None
    assert offer.message.server_id == RELAY
    ack = site.hear(relayed(MessageType.REQUEST, agent, server=RELAY, requested=offer.message.yiaddr))
    assert ack is not None
    assert ack.message.message_type is MessageType.ACK
    direct = client_message(MessageType.REQUEST, mac=CLIENT, server=RELAY, requested=offer.message.yiaddr)
    assert site.hear(direct) is None  # without the relay that is another server


@given(st.binary(max_size=255))
def test_any_option_82_is_echoed_and_none_is_a_fault(agent: bytes) -> None:
    reply = Network().hear(relayed(MessageType.DISCOVER, agent, giaddr=IPv4Address("10.0.0.9")))
    if reply is not None:
        assert reply.message.option(Option.RELAY_AGENT) == agent


def test_an_inform_from_elsewhere_is_answered_nowhere() -> None:
    site = Network()
    assert site.hear(client_message(MessageType.INFORM, ciaddr=IPv4Address("198.51.100.7"))) is None
    assert site.hear(client_message(MessageType.INFORM, ciaddr=NO_ADDRESS)) is None
    assert site.hear(client_message(MessageType.INFORM, ciaddr=IPv4Address("10.0.0.9"))) is not None
