"""Peers of the netboot server: packets as Raspberry Pi bootloaders send them, and a server run for a test."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from fleet.boards import MacAddress, Serial
from fleet.spec.model import DhcpMode
from pxe.boot.table import BootTable, BootTree, NodeBootState
from pxe.dhcp.wire import NO_ADDRESS, DhcpMessage, MessageType, Op, Option
from pxe.events import BoardEvent
from pxe.server import PxeConfig, PxeServer

LOOPBACK = IPv4Address("127.0.0.1")
PI4_MAC = MacAddress.parse("e4:5f:01:09:02:f7")
PI4_SERIAL_LOW = 0x91CDF03D
PI4_REVISION = 0xD03114
PI_CLASS = b"PXEClient:Arch:00000:UNDI:002001"
PARAMETERS = bytes.fromhex("01032b3c42438081828384858687")


def pi_guid(
    fourcc: bytes = b"4iPR",
    *,
    mac: MacAddress = PI4_MAC,
    serial_low: int = PI4_SERIAL_LOW,
    revision: int = PI4_REVISION,
) -> bytes:
    """Option 97 of a Raspberry Pi 4 or later."""
    return b"\0" + fourcc + revision.to_bytes(4, "little") + mac.octets[2:] + serial_low.to_bytes(4, "little")


def pi_discover(
    *,
    mac: MacAddress = PI4_MAC,
    guid: bytes | None = None,
    xid: int = 0x01020304,
    flags: int = 0,
    giaddr: IPv4Address = NO_ADDRESS,
) -> DhcpMessage:
    """The DISCOVER of a bootloader."""
    return DhcpMessage(
        op=Op.REQUEST,
        message_type=MessageType.DISCOVER,
        xid=xid,
        chaddr=mac.octets,
        flags=flags,
        giaddr=giaddr,
        options=(
            (Option.PARAMETER_LIST, PARAMETERS),
            (Option.CLIENT_ARCH, b"\0\0"),
            (Option.CLIENT_NDI, b"\x01\x02\x01"),
            (Option.CLIENT_GUID, pi_guid(mac=mac) if guid is None else guid),
            (Option.VENDOR_CLASS, PI_CLASS),
        ),
    )


def client_message(
    message_type: MessageType,
    *,
    mac: MacAddress = PI4_MAC,
    xid: int = 0x01020304,
    ciaddr: IPv4Address = NO_ADDRESS,
    giaddr: IPv4Address = NO_ADDRESS,
    requested: IPv4Address | None = None,
    server: IPv4Address | None = None,
    vendor_class: bytes = b"",
    extra: tuple[tuple[int, bytes], ...] = (),
) -> DhcpMessage:
    """Any other message of a client, without option 97, as bootloaders and operating systems send them."""
    options: list[tuple[int, bytes]] = []
    if requested is not None:
        options.append((Option.REQUESTED_ADDRESS, requested.packed))
    if server is not None:
        options.append((Option.SERVER_ID, server.packed))
    if vendor_class:
        options.append((Option.VENDOR_CLASS, vendor_class))
    return DhcpMessage(
        op=Op.REQUEST,
        message_type=message_type,
        xid=xid,
        chaddr=mac.octets,
        ciaddr=ciaddr,
        giaddr=giaddr,
        options=(*options, *extra),
    )


def installing_node(tree: BootTree, *, name: str = "pi4-worker-1", serial: str = "91cdf03d") -> NodeBootState:
    """A node with an open permission to install."""
    return NodeBootState(name=name, serial=Serial.parse(serial), install_intent=1, tree=tree)


@contextlib.asynccontextmanager
async def running(server: PxeServer) -> AsyncIterator[PxeServer]:
    """A server from when it is ready to its end; what keeps it from starting is raised."""
    task = asyncio.create_task(server.run())
    ready = asyncio.create_task(server.ready.wait())
    try:
        async with asyncio.timeout(60):
            await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield server
    finally:
        ready.cancel()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def running_server(
    table: BootTable,
    state_dir: Path,
    on_event: Callable[[BoardEvent], None] = lambda _event: None,
    *,
    mtu: int = 1500,
    tftp_workers: int = 1,
    tftp_single_port: bool = False,
) -> AsyncIterator[PxeServer]:
    """A server on free ports of the loopback interface, without DHCP (broadcasts need a network of their
    own)."""
    config = PxeConfig(
        server_address=LOOPBACK,
        subnet=IPv4Network("127.0.0.0/8"),
        dhcp=DhcpMode.OFF,
        state_dir=state_dir,
        mtu=mtu,
        tftp_workers=tftp_workers,
        tftp_single_port=tftp_single_port,
        tftp_port=0,
        http_port=0,
        grace_s=1.0,
    )
    async with running(PxeServer(config, on_event, table)) as server:
        yield server


def udp_socket(client: int = 0) -> socket.socket:
    """A client's socket on loopback, with a deadline on every wait; each client has an address of its own."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((str(LOOPBACK + client), 0))
    sock.settimeout(30)
    return sock
