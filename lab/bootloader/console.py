"""What the firmware writes on its serial line and, with NETCONSOLE, to the network: the same text.

Only lines whose wording is published are written; nothing is made up to fill the gaps.

Source: UART logs in rpi-eeprom#376 and #687; format strings in published EEPROM images.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from fleet.boards import BootMode
from lab.bootloader.dhcp import Binding
from lab.bootloader.settings import NetConsole
from lab.frames import Udp, render_udp
from pxe.dhcp.wire import DhcpMessage, MessageType, Option

MAX_LINE_BYTES = 1024
"""A datagram holds no more of one line."""

_MODE_NAMES = {
    BootMode.SD: "SD",
    BootMode.NETWORK: "NETWORK",
    BootMode.RPIBOOT: "RPIBOOT",
    BootMode.USB_MSD: "USB-MSD",
    BootMode.BCM_USB_MSD: "BCM-USB-MSD",
    BootMode.NVME: "NVME",
    BootMode.HTTP: "HTTP",
    BootMode.STOP: "STOP",
    BootMode.RESTART: "RESTART",
}
_ADDRESS_OPTIONS = frozenset((Option.SUBNET_MASK, Option.ROUTER, Option.SERVER_ID))
_PXE_END = 255


def mode_line(mode: BootMode, rest: int) -> str:
    """`Boot mode: NETWORK (02) order f1`: the mode, and the order that is left after it."""
    return f"Boot mode: {_MODE_NAMES[mode]} ({mode.value:02x}) order {rest:x}"


def reply_lines(reply: DhcpMessage, source_mac: bytes, source_ip: IPv4Address, expected: str) -> list[str]:
    """A DHCP server's answer as it is dumped: addresses, then every option."""
    zero = IPv4Address(0)
    lines = [f"DHCP src: {source_mac.hex(':')} {source_ip}"]
    lines += [f"YI_ADDR {reply.yiaddr}"] if reply.yiaddr != zero else []
    lines += [f"SI_ADDR {reply.siaddr}"] if reply.siaddr != zero else []
    if name := reply.option(Option.TFTP_SERVER):
        lines.append(f"[66]: {name.decode('ascii', 'replace')}")
    lines.append("OPTIONS:-")
    kind = reply.message_type
    lines.append(f"\top: 53 len:   1 DHCP recv {kind.name} ({kind.value}) expect {expected}")
    for code, value in reply.options:
        text = str(IPv4Address(value[:4])) if code in _ADDRESS_OPTIONS and len(value) >= 4 else ""
        lines.append(f"\top: {code:2d} len: {len(value):3d} {text}".rstrip())
        if code == Option.VENDOR_SPECIFIC:
            lines += _menu_lines(value)
    return lines


def _menu_lines(value: bytes) -> list[str]:
    lines = []
    position = 0
    while position + 1 < len(value) and value[position] != _PXE_END:
        code, size = value[position], value[position + 1]
        lines.append(f"\t\tPXE op: {code:2d} len: {size:3d}")
        position += 2 + size
    return lines


def binding_line(binding: Binding) -> str:
    """`NET 192.168.1.17 255.255.255.0 gw 0.0.0.0 tftp 192.168.1.3`; the gateway is the chosen next hop."""
    gateway = binding.next_hop if binding.next_hop != binding.server else IPv4Address(0)
    return f"NET {binding.address} {binding.network.netmask} gw {gateway} tftp {binding.server}"


def expected_name(requesting: bool) -> str:
    """What the dump of a DHCP answer says that it waits for."""
    return MessageType.ACK.name if requesting else MessageType.OFFER.name


def render_console_line(line: str, console: NetConsole, mac: bytes) -> bytes:
    """The Ethernet frame that carries one line."""
    return render_udp(
        Udp(
            source_mac=mac,
            target_mac=console.target_mac,
            source_ip=console.source_ip,
            target_ip=console.target_ip,
            source_port=console.source_port,
            target_port=console.target_port,
            payload=line.encode("utf-8", "replace")[:MAX_LINE_BYTES] + b"\r\n",
        )
    )
