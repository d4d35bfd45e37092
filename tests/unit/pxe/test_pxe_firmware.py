"""Every firmware is told what it can boot, and nobody else is told anything."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

import pytest
from fakes_pxe import PI4_MAC, PI_CLASS, client_message, pi_discover, pi_guid

from fleet.boards import MacAddress
from fleet.spec.model import DhcpMode
from pxe.boot.clients import Learn
from pxe.boot.identity import Firmware, identify_client
from pxe.boot.programs import EFI_PROGRAM, IPXE_SCRIPT, U_BOOT_MARK
from pxe.boot.table import BootTable, BootTree, NodeBootState
from pxe.dhcp.core import Responder
from pxe.dhcp.leases import LeaseTable
from pxe.dhcp.proxy import ProxyResponder
from pxe.dhcp.replies import Action, DhcpSettings, Report, SendReply
from pxe.dhcp.vendor import NAMED_FILE_OPTION_43
from pxe.dhcp.wire import NO_ADDRESS, DhcpMessage, MessageType, Option
from pxe.diagnosis.engine import Diagnostician
from pxe.diagnosis.scene import Setting
from pxe.events import NoProgram

NOW = 1_800_000_000.0
SERVER = IPv4Address("10.0.0.1")
ROUTER = IPv4Address("10.0.0.254")
ADDRESS = IPv4Address("10.0.0.77")
VIRTUAL = MacAddress.parse("52:54:00:12:34:56")
SETTINGS = DhcpSettings(server=SERVER, subnet=IPv4Network("10.0.0.0/24"), http_port=7080)
URL = b"http://10.0.0.1:7080/boot/52-54-00-12-34-56/"
TREE = BootTree(rendered={IPXE_SCRIPT: b"#!ipxe\n", U_BOOT_MARK: b"mark"}, extra={EFI_PROGRAM: (b"MZ",)})
NODE = NodeBootState(name="virt-1", mac=VIRTUAL, address=ADDRESS, install_intent=7, tree=TREE)
INSTALLED = NodeBootState(name="virt-1", mac=VIRTUAL, address=ADDRESS, reason="installed")

ARM64_PXE = b"PXEClient:Arch:00011:UNDI:003000"
ARM64_HTTP = b"HTTPClient:Arch:00019:UNDI:003000"


def asks(
    vendor: bytes,
    arch: bytes | None = None,
    *,
    mac: MacAddress = VIRTUAL,
    user: bytes = b"",
    guid: bytes | None = None,
    kind: MessageType = MessageType.DISCOVER,
    ciaddr: IPv4Address = NO_ADDRESS,
) -> DhcpMessage:
    extra: list[tuple[int, bytes]] = []
    if arch is not None:
        extra.append((Option.CLIENT_ARCH, arch))
    if guid is not None:
        extra.append((Option.CLIENT_GUID, guid))
    if user:
        extra.append((Option.USER_CLASS, user))
    return client_message(kind, mac=mac, vendor_class=vendor, extra=tuple(extra), ciaddr=ciaddr)


UEFI_PXE = asks(ARM64_PXE, b"\0\x0b")
UEFI_HTTP = asks(ARM64_HTTP, b"\0\x13")
IPXE = asks(ARM64_PXE, b"\0\x0b", user=b"iPXE")
U_BOOT = asks(b"U-Boot.armv8", b"\0\x16")
PC_BIOS = asks(b"PXEClient:Arch:00000:UNDI:002001", b"\0\0")
PC_UEFI = asks(b"PXEClient:Arch:00007:UNDI:003016", b"\0\x07")
PC_HTTP = asks(b"HTTPClient:Arch:00016:UNDI:003016", b"\0\x10")
PHONE = asks(b"android-dhcp-14")
LAPTOP = asks(b"MSFT 5.0")
BARE = asks(b"")


@pytest.mark.parametrize(
    ("message", "firmware"),
    [
        (UEFI_PXE, Firmware.UEFI_PXE),
        (UEFI_HTTP, Firmware.UEFI_HTTP),
        (IPXE, Firmware.IPXE),
        (asks(ARM64_PXE, b"\0\x0b", user=b"\x04iPXE"), Firmware.IPXE),
        (U_BOOT, Firmware.U_BOOT),
        (asks(b"PXEClient", b"\0\x16"), Firmware.U_BOOT),
        (PC_BIOS, Firmware.FOREIGN),
        (PC_UEFI, Firmware.FOREIGN),
        (PC_HTTP, Firmware.FOREIGN),
        (PHONE, Firmware.NONE),
        (LAPTOP, Firmware.NONE),
        (BARE, Firmware.NONE),
        (asks(PI_CLASS, b"\0\0", mac=PI4_MAC), Firmware.PI),
        (asks(b"PXEClient", mac=PI4_MAC), Firmware.PI),
        (asks(PI_CLASS, b"\0\x29", mac=PI4_MAC), Firmware.PI),
        (pi_discover(), Firmware.PI),
        (asks(PI_CLASS, b"\0\0", guid=pi_guid(b"RPi5", mac=VIRTUAL)), Firmware.PI),
        # The UEFI of a Pi: architecture only in option 60, or a Pi's GUID in both stages.
        (asks(ARM64_PXE, mac=PI4_MAC), Firmware.UEFI_PXE),
        (asks(ARM64_PXE, b"\0\0", mac=PI4_MAC), Firmware.UEFI_PXE),
        (asks(ARM64_PXE, b"\0\x0b", mac=PI4_MAC, guid=pi_guid()), Firmware.UEFI_PXE),
        (asks(ARM64_PXE, b"\x0b", mac=PI4_MAC), Firmware.UEFI_PXE),
    ],
)
def test_firmware_is_told_apart(message: DhcpMessage, firmware: Firmware) -> None:
    board = identify_client(message)
    assert board is not None
    assert board.firmware is firmware
    assert board.is_pi == (firmware is Firmware.PI)


def full(node: NodeBootState) -> Responder:
    return Responder(SETTINGS, LeaseTable(None), lambda: BootTable((node,)))


def proxy(node: NodeBootState) -> ProxyResponder:
    return ProxyResponder(SETTINGS, lambda: BootTable((node,)))


def replies(actions: list[Action]) -> list[DhcpMessage]:
    return [action.message for action in actions if isinstance(action, SendReply)]


NAME = b"52-54-00-12-34-56/bramble.efi"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (UEFI_PXE, {60: b"PXEClient", 43: NAMED_FILE_OPTION_43, 66: b"10.0.0.1", 67: NAME}),
        (UEFI_HTTP, {60: b"HTTPClient", 43: None, 66: None, 67: URL + b"bramble.efi"}),
        (IPXE, {60: b"PXEClient", 175: b"\xb0\x01\x01", 67: URL + b"boot.ipxe"}),
        (U_BOOT, {60: None, 66: b"10.0.0.1", 67: b"52-54-00-12-34-56/u-boot.txt"}),
    ],
    ids=["pxe", "http", "ipxe", "u-boot"],
)
def test_a_node_that_may_install_is_told_its_program(
    message: DhcpMessage, told: dict[int, bytes | None]
) -> None:
    for responder in (full(NODE), proxy(NODE)):
        (offer,) = replies(responder.respond(message, NOW))
        assert {code: offer.option(code) for code in told} == told


@pytest.mark.parametrize(
    "message", [UEFI_PXE, UEFI_HTTP, IPXE, U_BOOT], ids=["pxe", "http", "ipxe", "u-boot"]
)
def test_an_installed_node_gets_a_lease_and_not_a_word_about_booting(message: DhcpMessage) -> None:
    (offer,) = replies(full(INSTALLED).respond(message, NOW))
    assert offer.yiaddr == ADDRESS
    assert not {43, 60, 66, 67, 97, 175} & {code for code, _value in offer.options}
    assert (offer.file, offer.siaddr) == (b"", IPv4Address(0))
    assert replies(proxy(INSTALLED).respond(message, NOW)) == []


@pytest.mark.parametrize(
    "message",
    [PC_BIOS, PC_UEFI, PC_HTTP, PHONE, LAPTOP, BARE],
    ids=["pc", "pc-uefi", "pc-http", "phone", "laptop", "bare"],
)
def test_the_proxy_never_answers_who_is_no_board(message: DhcpMessage) -> None:
    assert proxy(NODE).respond(message, NOW) == []


def test_the_second_stage_of_a_pi_gets_a_program_and_no_option_of_the_first() -> None:
    tree = BootTree(extra={EFI_PROGRAM: (b"MZ",)})
    node = NodeBootState(name="pi4", mac=PI4_MAC, address=ADDRESS, install_intent=1, tree=tree)
    responder = full(node)
    first, second = pi_discover(), asks(ARM64_PXE, mac=PI4_MAC)
    assert b"Raspberry Pi Boot" in (replies(responder.respond(first, NOW))[0].option(43) or b"")
    (offer,) = replies(responder.respond(second, NOW))
    assert offer.option(43) == NAMED_FILE_OPTION_43
    assert offer.option(67) == PI4_MAC.dashed.encode() + b"/bramble.efi"


@pytest.mark.parametrize("message", [UEFI_PXE, UEFI_HTTP], ids=["pxe", "http"])
@pytest.mark.parametrize("kind", [full, proxy], ids=["full", "proxy"])
def test_a_missing_program_is_told_and_explained(
    kind: Callable[[NodeBootState], Responder | ProxyResponder], message: DhcpMessage
) -> None:
    node = NodeBootState(name="virt-1", mac=VIRTUAL, address=ADDRESS, install_intent=7)
    doctor = Diagnostician(Setting(DhcpMode.FULL, SERVER))
    actions = kind(node).respond(message, NOW)
    for action in actions:
        if isinstance(action, Report):
            doctor.observe(action.event)
    assert all(reply.option(67) is None for reply in replies(actions))
    (said,) = doctor.tick(NOW + 5)
    assert said.finding.rule == "no-program"
    assert "systemd-boot-efi" in said.finding.mend
    assert "no bramble.efi for UEFI" in said.finding.evidence[0].text


def test_who_has_a_program_or_may_not_install_is_not_told_of_a_missing_one() -> None:
    for responder in (full(NODE), proxy(NODE), full(INSTALLED), proxy(INSTALLED)):
        actions = responder.respond(UEFI_PXE, NOW)
        assert not [a for a in actions if isinstance(a, Report) and isinstance(a.event, NoProgram)]


def test_port_4011_answers_uefi_and_never_a_pi() -> None:
    responder = proxy(NODE)
    request = asks(ARM64_PXE, b"\0\x0b", kind=MessageType.REQUEST, ciaddr=ADDRESS)
    actions = responder.respond_boot_server(request, NOW)
    (ack,) = replies(actions)
    assert (ack.message_type, ack.option(67), ack.yiaddr) == (MessageType.ACK, NAME, IPv4Address(0))
    assert [a.address for a in actions if isinstance(a, SendReply)] == [ADDRESS]
    assert [a.address for a in actions if isinstance(a, Learn)] == [ADDRESS]
    for nobody in (
        asks(PI_CLASS, b"\0\0", mac=PI4_MAC, kind=MessageType.REQUEST, ciaddr=ADDRESS),
        asks(ARM64_PXE, b"\0\x0b", kind=MessageType.REQUEST),
        asks(ARM64_PXE, b"\0\x0b", kind=MessageType.DISCOVER, ciaddr=ADDRESS),
        asks(b"PXEClient:Arch:00007", b"\0\x07", kind=MessageType.REQUEST, ciaddr=ADDRESS),
    ):
        assert responder.respond_boot_server(nobody, NOW) == []


def test_what_the_discover_said_holds_for_the_request() -> None:
    responder = full(NODE)
    (offer,) = replies(responder.respond(UEFI_PXE, NOW))
    request = client_message(
        MessageType.REQUEST, mac=VIRTUAL, requested=offer.yiaddr, server=SERVER, vendor_class=b""
    )
    (ack,) = replies(responder.respond(request, NOW))
    assert ack.option(67) == NAME
    later = client_message(MessageType.DISCOVER, mac=VIRTUAL, xid=9)
    assert replies(responder.respond(later, NOW))[0].option(67) is None
