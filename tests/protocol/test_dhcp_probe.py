"""The question to all DHCP servers, and what their offers tell; BPDUs of switches."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxe.dhcp.probe import make_discover, read_offer
from pxe.dhcp.vendor import PI_BOOT_OPTION_43
from pxe.dhcp.wire import FLAG_BROADCAST, DhcpMessage, MessageType, Op, Option, parse_message, parse_request
from pxe.net.spanning_tree import GROUP, LLC, Bpdu, parse_bpdu

SERVER, OFFERED = IPv4Address("10.0.0.254"), IPv4Address("10.0.0.77")


def offer(kind: MessageType = MessageType.OFFER, *options: tuple[int, bytes]) -> DhcpMessage:
    return DhcpMessage(
        op=Op.REPLY,
        message_type=kind,
        xid=1,
        chaddr=b"\2\0\0\0\0\1",
        yiaddr=OFFERED,
        options=((Option.SERVER_ID, SERVER.packed), *options),
    )


@pytest.mark.parametrize("is_pxe", [True, False])
def test_the_question_is_a_valid_discover_that_is_answered_by_broadcast(is_pxe: bool) -> None:
    question = parse_request(make_discover(b"\2\0\0\0\0\1", 7, is_pxe=is_pxe).encode())
    assert question.message_type is MessageType.DISCOVER
    assert question.flags == FLAG_BROADCAST
    assert question.vendor_class.startswith(b"PXEClient") is is_pxe


def test_an_offer_tells_server_address_and_boot_server() -> None:
    heard = read_offer(offer(MessageType.OFFER, (Option.TFTP_SERVER, b"10.0.0.9\0")), SERVER, 0.3)
    assert heard is not None
    assert heard.describe() == "10.0.0.254 offers 10.0.0.77 after 0.3 s, names the boot server 10.0.0.9"


def test_a_boot_menu_names_the_server_itself() -> None:
    heard = read_offer(offer(MessageType.OFFER, (Option.VENDOR_SPECIFIC, PI_BOOT_OPTION_43)), SERVER, 0.3)
    assert heard is not None
    assert heard.boot_server == str(SERVER)


def test_hostile_text_in_an_offer_is_made_printable() -> None:
    heard = read_offer(offer(MessageType.OFFER, (Option.BOOT_FILE, b"\x1b[2J\n" + b"x" * 200)), SERVER, 0.3)
    assert heard is not None
    assert heard.describe().isprintable()
    assert len(heard.boot_file) <= 80


@pytest.mark.parametrize("kind", [MessageType.ACK, MessageType.NAK])
def test_other_replies_are_no_offers(kind: MessageType) -> None:
    assert read_offer(parse_message(offer(kind).encode()), SERVER, 0.1) is None


def frame(version: int = 0, delay_s: float = 15.0) -> bytes:
    head = GROUP + b"\2\0\0\0\0\1" + b"\0\x26" + LLC
    timers = struct.pack("!HHHH", 0, 20 * 256, 2 * 256, int(delay_s * 256))
    return head + bytes((0, 0, version, 0, 0)) + bytes(22) + timers


@pytest.mark.parametrize("version", [0, 2, 3])
def test_a_switch_tells_its_kind_and_its_delay(version: int) -> None:
    assert parse_bpdu(frame(version)) == Bpdu(version, 15.0)
    assert Bpdu(version, 15.0).wait_s == 30.0


def test_a_padded_frame_is_read_as_well() -> None:
    assert parse_bpdu(frame() + bytes(8)) == Bpdu(0, 15.0)


@given(st.binary(max_size=80))
def test_any_frame_is_read_or_left(data: bytes) -> None:
    for candidate in (data, GROUP + data, frame()[:17] + data):
        bpdu = parse_bpdu(candidate)
        assert bpdu is None or bpdu.wait_s >= 0
