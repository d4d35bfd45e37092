"""DHCP wire format: the published Pi 4 DISCOVER, the RFCs' corner cases, and any bytes at all."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxe.dhcp.vendor import BOOT_MENU, PI_BOOT_OPTION_43, encode_sub_options, parse_sub_options
from pxe.dhcp.wire import (
    FIXED_SIZES,
    HEADER,
    MINIMUM_REPLY_BYTES,
    DhcpMessage,
    MessageType,
    Op,
    Option,
    parse_message,
    parse_reply,
    parse_request,
)
from pxe.errors import WireError

# Rebuilt from published field listings of a Pi 4's request (not a capture); the transaction id is invented.
PI4_DISCOVER = (
    bytes.fromhex("0101060001020304" + "00" * 20 + "e45f010902f7")
    + bytes(10 + 64 + 128)
    + bytes.fromhex(
        "63825363350101370e0103 2b3c4243 80818283 848586875d0200005e030102016111 00 34695052 1431d000 "
        "010902f7 3df0cd913c20 505845436c69656e743a417263683a30303030303a554e44493a303032303031ff"
    )
)

OPTION_CODES = st.integers(1, 254).filter(lambda code: code not in (Option.OVERLOAD, Option.MESSAGE_TYPE))
ADDRESSES = st.integers(0, 2**32 - 1).map(IPv4Address)


@st.composite
def option_lists(draw: st.DrawFn) -> tuple[tuple[int, bytes], ...]:
    codes = draw(st.lists(OPTION_CODES, unique=True, max_size=8))
    sizes = {int(code): size for code, size in FIXED_SIZES.items()}
    return tuple(
        (
            code,
            draw(
                st.binary(min_size=sizes[code], max_size=sizes[code])
                if code in sizes
                else st.binary(max_size=600)
            ),
        )
        for code in codes
    )


MESSAGES = st.builds(
    DhcpMessage,
    op=st.sampled_from(Op),
    message_type=st.sampled_from(MessageType),
    xid=st.integers(0, 2**32 - 1),
    chaddr=st.binary(min_size=6, max_size=6),
    hops=st.integers(0, 255),
    secs=st.integers(0, 65535),
    flags=st.integers(0, 65535),
    ciaddr=ADDRESSES,
    yiaddr=ADDRESSES,
    siaddr=ADDRESSES,
    giaddr=ADDRESSES,
    sname=st.binary(max_size=64).map(lambda data: data.replace(b"\0", b"")),
    file=st.binary(max_size=128).map(lambda data: data.replace(b"\0", b"")),
    options=option_lists(),
)


def with_options(options: str, *, sname: bytes = b"", file: bytes = b"") -> bytes:
    """A DISCOVER with the given option bytes behind the cookie."""
    return (
        PI4_DISCOVER[:44]
        + sname.ljust(64, b"\0")
        + file.ljust(128, b"\0")
        + b"\x63\x82\x53\x63"
        + bytes.fromhex(options)
    )


def test_the_discover_of_a_pi_4_is_read() -> None:
    message = parse_request(PI4_DISCOVER)
    assert message.message_type is MessageType.DISCOVER
    assert message.xid == 0x01020304
    assert message.chaddr == bytes.fromhex("e45f010902f7")
    assert not message.broadcast
    assert [code for code, _value in message.options] == [55, 93, 94, 97, 60]
    assert message.vendor_class == b"PXEClient:Arch:00000:UNDI:002001"
    assert message.option(Option.CLIENT_GUID) == bytes.fromhex("0034695052 1431d000 010902f7 3df0cd91")


def test_the_discover_of_a_pi_4_is_written_byte_for_byte() -> None:
    assert len(PI4_DISCOVER) == 322
    assert parse_request(PI4_DISCOVER).encode() == PI4_DISCOVER


def test_every_truncation_is_refused() -> None:
    for size in range(len(PI4_DISCOVER)):
        with pytest.raises(WireError):
            parse_message(PI4_DISCOVER[:size])


def test_what_follows_the_end_mark_is_ignored() -> None:
    assert parse_message(PI4_DISCOVER + b"\x35\xff\x01") == parse_message(PI4_DISCOVER)


def test_pads_are_skipped() -> None:
    assert parse_message(with_options("00 00 350101 00 0c0161 00 ff")).options == ((12, b"a"),)


def test_split_options_are_joined_in_order() -> None:
    assert parse_message(with_options("0c0161 350101 0c026263 ff")).option(Option.HOST_NAME) == b"abc"


def test_long_values_are_split_and_joined() -> None:
    message = DhcpMessage(
        op=Op.REPLY,
        message_type=MessageType.OFFER,
        xid=1,
        chaddr=bytes(6),
        options=((43, bytes(range(256)) * 2),),
    )
    assert parse_message(message.encode()) == message


@pytest.mark.parametrize(
    ("overload", "expected"),
    [
        (1, ((12, b"AB"), (15, b"f"))),
        (2, ((12, b"AC"), (15, b"s"))),
        (3, ((12, b"ABC"), (15, b"fs"))),
    ],
    ids=["file", "sname", "both"],
)
def test_overloaded_fields_hold_options(overload: int, expected: tuple[tuple[int, bytes], ...]) -> None:
    data = with_options(
        f"350101 0c0141 3401{overload:02x} ff",
        file=bytes.fromhex("0c0142 0f0166 ff"),
        sname=bytes.fromhex("0c0143 0f0173 ff"),
    )
    message = parse_message(data)
    assert message.options == expected
    assert parse_message(message.encode()) == message


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x03" + PI4_DISCOVER[1:], id="op"),
        pytest.param(PI4_DISCOVER[:1] + b"\x06" + PI4_DISCOVER[2:], id="htype"),
        pytest.param(PI4_DISCOVER[:2] + b"\x10" + PI4_DISCOVER[3:], id="hlen"),
        pytest.param(PI4_DISCOVER[:236] + bytes(4) + PI4_DISCOVER[240:], id="cookie"),
        pytest.param(with_options("0c0161 ff"), id="bootp"),
        pytest.param(with_options("35020101 ff"), id="message type of two bytes"),
        pytest.param(with_options("35010d ff"), id="unknown message type"),
        pytest.param(with_options("350101 3203010203 ff"), id="address of three bytes"),
        pytest.param(with_options("350101 340104 ff"), id="overload 4"),
        pytest.param(
            with_options("350101 340101 ff", file=bytes.fromhex("340101 ff")), id="overload inside overload"
        ),
        pytest.param(with_options("350101 0cff61 ff"), id="length past the end"),
    ],
)
def test_broken_messages_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        parse_message(data)


def test_each_side_refuses_its_own_messages() -> None:
    reply = DhcpMessage(op=Op.REPLY, message_type=MessageType.ACK, xid=7, chaddr=bytes(6)).encode(
        MINIMUM_REPLY_BYTES
    )
    assert len(reply) == MINIMUM_REPLY_BYTES
    assert parse_reply(reply).message_type is MessageType.ACK
    with pytest.raises(WireError):
        parse_request(reply)
    with pytest.raises(WireError):
        parse_reply(PI4_DISCOVER)


@pytest.mark.parametrize(
    "change",
    [
        {"xid": 2**32},
        {"chaddr": bytes(7)},
        {"sname": b"a\0b"},
        {"file": bytes(129)},
        {"options": ((0, b""),)},
        {"options": ((53, b"\x01"),)},
        {"options": ((12, b"a"), (12, b"b"))},
        {"options": ((54, b"abc"),)},
    ],
    ids=str,
)
def test_invalid_messages_can_not_be_made(change: dict[str, object]) -> None:
    fields: dict[str, object] = {
        "op": Op.REPLY,
        "message_type": MessageType.ACK,
        "xid": 1,
        "chaddr": bytes(6),
    }
    with pytest.raises(WireError):
        DhcpMessage(**{**fields, **change})  # type: ignore[arg-type]  # wrong on purpose


def test_option_43_is_what_the_bootloader_accepts() -> None:
    published = (
        "06 01 03 0a 04 00 50 58 45 09 14 00 00 11 52 61 73 70 62 65 72 72 79 20 50 69 20 42 6f 6f 74 ff"
    )
    assert bytes.fromhex(published) == PI_BOOT_OPTION_43
    assert dict(parse_sub_options(PI_BOOT_OPTION_43))[BOOT_MENU].endswith(b"Raspberry Pi Boot")


def test_a_bare_text_in_option_43_is_no_list() -> None:
    with pytest.raises(WireError):
        parse_sub_options(b"Raspberry Pi Boot")


@given(st.binary(max_size=700))
def test_any_bytes_parse_or_raise_wire_error(data: bytes) -> None:
    try:
        message = parse_message(data)
    except WireError:
        return
    assert parse_message(message.encode()) == message


@given(st.binary(max_size=400), st.binary(max_size=128), st.binary(max_size=64))
def test_any_options_parse_or_raise_wire_error(options: bytes, file: bytes, sname: bytes) -> None:
    try:
        message = parse_message(with_options("350101" + options.hex() + "ff", file=file, sname=sname))
    except WireError:
        return
    assert parse_message(message.encode()) == message


@given(MESSAGES)
def test_messages_survive_a_round_trip(message: DhcpMessage) -> None:
    assert parse_message(message.encode()) == message
    assert len(message.encode()) > HEADER.size


@given(st.binary(max_size=64))
def test_any_sub_options_parse_or_raise_wire_error(data: bytes) -> None:
    try:
        options = parse_sub_options(data)
    except WireError:
        return
    assert parse_sub_options(encode_sub_options(options)) == options
