from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from fleet.boards import BoardModel, MacAddress, Serial
from lab.bootloader.dhcp import CLIENT_PORT, DhcpExchange, discover, tftp_server_of
from lab.bootloader.profile import (
    PI4_2021,
    PI4_2023,
    PI5_2025,
    BoardIdentity,
    EepromProfile,
    default_profile,
)
from lab.events import EventKind
from pxe.dhcp.vendor import PI_BOOT_OPTION_43
from pxe.dhcp.wire import NO_ADDRESS, DhcpMessage, MessageType, Op, Option, parse_request

BOARD = BoardIdentity(
    model=BoardModel.PI4,
    serial=Serial.parse("1000000091cdf03d"),
    mac=MacAddress.parse("e4:5f:01:09:02:f7"),
    revision=0xD03114,
)
XID = 0x01020304
ROUTER, PROXY = IPv4Address("192.168.1.1"), IPv4Address("192.168.1.3")
ADDRESS = IPv4Address("192.168.1.17")

# The 82 bytes of options of a Pi 4, put together from published field listings; no public capture exists.
PI4_OPTIONS = bytes.fromhex(
    "350101370e01032b3c424380818283848586875d0200005e03010201611100346950521431d000010902f73df0cd913c20505845436c69656e743a417263683a30303030303a554e44493a303032303031ff"
)


def _reply(
    kind: MessageType = MessageType.OFFER,
    *,
    server: IPv4Address = ROUTER,
    yiaddr: IPv4Address = ADDRESS,
    siaddr: IPv4Address = NO_ADDRESS,
    options: tuple[tuple[int, bytes], ...] = (),
) -> DhcpMessage:
    return DhcpMessage(
        op=Op.REPLY,
        message_type=kind,
        xid=XID,
        chaddr=BOARD.mac.octets,
        yiaddr=yiaddr,
        siaddr=siaddr,
        options=((Option.SERVER_ID, server.packed), *options),
    )


CLASS = (Option.VENDOR_CLASS, b"PXEClient")
MENU = (Option.VENDOR_SPECIFIC, PI_BOOT_OPTION_43)
LAN = (
    (Option.SUBNET_MASK, IPv4Address("255.255.255.0").packed),
    (Option.ROUTER, ROUTER.packed),
)


def _exchange(profile: EepromProfile = PI4_2023) -> DhcpExchange:
    return DhcpExchange(BOARD, profile, xid=XID, now=0.0)


def test_discover_is_byte_for_byte_that_of_a_pi_4() -> None:
    data = discover(BOARD, PI4_2023, XID).encode()

    assert len(data) == 322  # 364 bytes on the wire, as two independent logs say
    assert data[:28] == bytes.fromhex("0101060001020304") + bytes(20)
    assert data[28:44] == BOARD.mac.octets + bytes(10)
    assert data[44:236] == bytes(192)
    assert data[240:] == PI4_OPTIONS
    assert len(PI4_OPTIONS) == 82


@pytest.mark.parametrize(
    ("profile", "fourcc"), [(PI4_2021, b"RPi4"), (PI4_2023, b"4iPR"), (PI5_2025, b"5iPR")]
)
def test_option_97_opens_with_the_fourcc_of_the_eeprom(profile: EepromProfile, fourcc: bytes) -> None:
    guid = discover(BOARD, profile, XID).option(Option.CLIENT_GUID)

    assert guid is not None
    assert guid[:5] == b"\0" + fourcc


def test_every_model_has_an_eeprom() -> None:
    for model in BoardModel:
        assert default_profile(model).soc is model.soc


@pytest.mark.parametrize(
    ("offer", "server"),
    [
        (_reply(options=(CLASS, MENU)), ROUTER),
        (_reply(siaddr=PROXY, options=(CLASS, (Option.VENDOR_SPECIFIC, b"Raspberry Pi Boot"))), PROXY),
        (_reply(options=((Option.TFTP_SERVER, b"192.168.1.3"),)), PROXY),
        (_reply(options=((Option.TFTP_SERVER, b"192.168.1.3\0"), CLASS, MENU)), PROXY),
        (_reply(options=((Option.TFTP_SERVER, b"boot.example.org"), CLASS, MENU)), ROUTER),
        (_reply(options=((Option.TFTP_SERVER, b"boot.example.org"),)), None),
        (_reply(options=(MENU,)), None),
        (_reply(options=(CLASS, (Option.VENDOR_SPECIFIC, b"\x09\x07\0\0\x04Pi 4\xff"))), None),
        (_reply(siaddr=PROXY), None),
    ],
    ids=[
        "menu",
        "bare-text",
        "option-66-only",
        "option-66-wins",
        "host-name-is-not-resolved",
        "host-name-alone",
        "menu-without-class",
        "another-menu",
        "siaddr-alone",
    ],
)
def test_what_makes_a_server_a_boot_server(offer: DhcpMessage, server: IPv4Address | None) -> None:
    assert tftp_server_of(offer) == server


def test_one_server_with_everything_is_asked_and_its_answer_holds() -> None:
    exchange = _exchange()
    exchange.to_send.clear()
    exchange.receive(_reply(options=(CLASS, MENU, *LAN)), 0.1)

    (request,) = exchange.to_send
    assert parse_request(request.encode()) == request
    assert request.xid == XID
    assert [code for code, _ in request.options] == [50, 54, 60]
    exchange.receive(_reply(MessageType.ACK, options=LAN), 0.2)
    assert exchange.binding is not None
    assert exchange.binding.address == ADDRESS
    assert exchange.binding.network == IPv4Network("192.168.1.0/24")
    assert exchange.binding.server == ROUTER


def test_a_request_of_an_eeprom_from_2020_names_no_class() -> None:
    exchange = _exchange(replace(PI4_2021, name="pi4-2020", request_has_class=False))
    exchange.receive(_reply(options=(CLASS, MENU)), 0.1)
    assert exchange.to_send[-1].vendor_class == b""


@pytest.mark.parametrize("proxy_first", [True, False])
def test_a_router_and_a_proxy_complete_each_other_in_any_order(proxy_first: bool) -> None:
    exchange = _exchange()
    proxy = _reply(server=PROXY, yiaddr=IPv4Address(0), options=(CLASS, MENU))
    router = _reply(options=LAN)
    first, second = (proxy, router) if proxy_first else (router, proxy)

    exchange.receive(first, 0.1)
    assert exchange.to_send[-1].message_type is MessageType.DISCOVER
    exchange.receive(second, 0.2)
    assert exchange.to_send[-1].server_id == ROUTER
    exchange.receive(_reply(MessageType.ACK, options=LAN), 0.3)
    assert exchange.binding is not None
    assert exchange.binding.server == PROXY
    assert exchange.binding.next_hop == PROXY


def test_a_boot_server_behind_the_router_is_reached_through_it() -> None:
    exchange = _exchange()
    far = (Option.TFTP_SERVER, b"10.1.2.3")
    exchange.receive(_reply(options=(far, *LAN)), 0.1)
    exchange.receive(_reply(MessageType.ACK, options=LAN), 0.2)
    assert exchange.binding is not None
    assert exchange.binding.next_hop == ROUTER


def test_discover_is_repeated_every_four_seconds_until_the_mode_fails_after_45() -> None:
    exchange = _exchange()
    now = 0.0
    while exchange.failed is None:
        assert exchange.next_timeout() > now
        now = exchange.next_timeout()
        exchange.handle_timeout(now)

    assert now == 45.0
    assert len(exchange.to_send) == 12
    assert "no offer within 45 s" in exchange.failed


def test_offers_without_boot_are_named_when_the_mode_fails() -> None:
    exchange = _exchange()
    exchange.receive(_reply(options=LAN), 1.0)
    exchange.handle_timeout(45.0)

    assert exchange.failed == "DHCP: offers only without option 66 or 43, from 192.168.1.1"
    assert any("neither option 66 nor 43" in notice.text for notice in exchange.notices)


def test_a_nak_starts_over() -> None:
    exchange = _exchange()
    exchange.receive(_reply(options=(CLASS, MENU)), 0.1)
    exchange.receive(_reply(MessageType.NAK), 0.2)
    assert exchange.to_send[-1].message_type is MessageType.DISCOVER
    exchange.receive(_reply(options=(CLASS, MENU)), 0.3)
    exchange.receive(_reply(MessageType.ACK), 0.4)
    assert exchange.binding is not None


def test_answers_to_others_are_not_ours() -> None:
    exchange = _exchange()
    exchange.receive(replace(_reply(options=(CLASS, MENU)), xid=XID + 1), 0.1)
    exchange.receive(replace(_reply(options=(CLASS, MENU)), chaddr=bytes(5) + b"\x01"), 0.1)
    exchange.receive(_reply(MessageType.ACK, options=(CLASS, MENU)), 0.1)
    assert exchange.binding is None
    assert [notice.kind for notice in exchange.notices] == [EventKind.DHCP_DISCOVER]
    assert CLIENT_PORT == 68
