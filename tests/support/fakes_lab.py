"""Helpers for the lab's tests: a small boot server, and a private network for one function."""

from __future__ import annotations

import multiprocessing
import selectors
import socket
import threading
import traceback
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from multiprocessing.connection import Connection
from typing import Any, Self, TypeVar

from lab.network import BRIDGE, SERVER_INTERFACE, enter_private_network
from pxe.dhcp.vendor import PI_BOOT_OPTION_43
from pxe.dhcp.wire import DhcpMessage, MessageType, Op, Option, encode_seconds, parse_request
from pxe.tftp.wire import Ack, Data, Error, OptionAck, Request, parse_packet

Result = TypeVar("Result")
SERVER = SERVER_INTERFACE.ip


HELLO_THEN_OFF = 0x84000008
HELLO_THEN_RESET = 0x84000009
HELLO_THEN_STAY = 0x84000000
"""PSCI functions: SYSTEM_OFF, SYSTEM_RESET, and PSCI_VERSION, after which the kernel runs on for ever."""
_HEADER_BYTES = 64


def tiny_kernel(psci_function: int) -> bytes:
    """A position-independent AArch64 "kernel": prints "!" on the UART, then resets or powers off by PSCI.

    Layout of the header: 0 branch over it · 8 text offset · 16 image size · 24 flags · 56 magic "ARM\\x64"
    (Documentation/arch/arm64/booting.rst of the kernel).
    """
    code = b"".join(
        word.to_bytes(4, "little")
        for word in (
            0xD2A12001,  # mov x1, #0x09000000     the UART of -M virt
            0x52800420,  # mov w0, #'!'
            0x39000020,  # strb w0, [x1]
            0x52800140,  # mov w0, #'\n'
            0x39000020,  # strb w0, [x1]
            0x52800000 | (psci_function & 0xFFFF) << 5,  # movz w0, #low
            0x72A00000 | (psci_function >> 16) << 5,  # movk w0, #high, lsl #16
            0xD4000002,  # hvc #0
            0x14000000,  # b .
        )
    )
    header = bytearray(_HEADER_BYTES)
    header[0:4] = (0x14000000 | _HEADER_BYTES // 4).to_bytes(4, "little")
    header[16:24] = (4096).to_bytes(8, "little")
    header[24:32] = (0xA).to_bytes(8, "little")
    header[56:60] = b"ARM\x64"
    return bytes(header) + code


def in_private_network(function: Callable[..., Result], *args: Any, timeout_s: float = 180.0) -> Result:
    """Run a module-level function in a fresh process with a private network; its error fails the test."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_call_inside, args=(theirs, function, args))
    process.start()
    theirs.close()
    try:
        if not ours.poll(timeout_s):
            raise AssertionError(f"{function.__name__} did not end within {timeout_s:g} s")
        failed, value = ours.recv()
    finally:
        process.kill()
        process.join()
        ours.close()
    if failed:
        raise AssertionError(f"inside the private network:\n{value}")
    result: Result = value
    return result


def _call_inside(pipe: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        enter_private_network()
        pipe.send((False, function(*args)))
    except BaseException:
        pipe.send((True, traceback.format_exc()))


def dhcp_reply(
    request: DhcpMessage, kind: MessageType, address: IPv4Address, server: IPv4Address, *, boot: bool = True
) -> DhcpMessage:
    """What a DHCP server that knows Raspberry Pis answers."""
    options: tuple[tuple[int, bytes], ...] = (
        (Option.SERVER_ID, server.packed),
        (Option.LEASE_TIME, encode_seconds(600)),
        (Option.SUBNET_MASK, IPv4Address("255.255.255.0").packed),
    )
    if boot:
        options += (
            (Option.VENDOR_CLASS, b"PXEClient"),
            (Option.TFTP_SERVER, str(server).encode()),
            (Option.VENDOR_SPECIFIC, PI_BOOT_OPTION_43),
        )
    return DhcpMessage(
        op=Op.REPLY,
        message_type=kind,
        xid=request.xid,
        chaddr=request.chaddr,
        yiaddr=address,
        siaddr=server if boot else IPv4Address(0),
        options=options,
    )


class TinyBootServer:
    """DHCP and TFTP for one board at a time, on real sockets and a thread of its own.

    Attributes:
        requested: File names in the order in which they were asked for.
    """

    def __init__(self, files: Mapping[str, bytes], address: IPv4Address) -> None:
        self.requested: list[str] = []
        self._files = files
        self._address = address
        self._transfers: dict[socket.socket, tuple[bytes, int]] = {}
        self._selector = selectors.DefaultSelector()
        self._stop, self._stopped = socket.socketpair()
        self._dhcp = self._udp(67)
        self._dhcp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._dhcp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, BRIDGE.encode())
        self._tftp = self._udp(69)
        self._thread = threading.Thread(target=self._serve, name="tiny-boot-server")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.send(b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]  # only sockets are registered
        self._selector.close()
        self._stop.close()

    def _udp(self, port: int) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("0.0.0.0", port))
        self._selector.register(made, selectors.EVENT_READ)
        return made

    def _serve(self) -> None:
        self._selector.register(self._stopped, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._stopped:
                    return
                if key.fileobj is self._dhcp:
                    self._answer_dhcp()
                elif key.fileobj is self._tftp:
                    self._start_transfer()
                elif isinstance(key.fileobj, socket.socket):
                    self._go_on(key.fileobj)

    def _answer_dhcp(self) -> None:
        request = parse_request(self._dhcp.recv(2048))
        kind = MessageType.OFFER if request.message_type is MessageType.DISCOVER else MessageType.ACK
        reply = dhcp_reply(request, kind, self._address, SERVER)
        self._dhcp.sendto(reply.encode(300), ("255.255.255.255", 68))

    def _start_transfer(self) -> None:
        data, peer = self._tftp.recvfrom(2048)
        request = parse_packet(data)
        assert isinstance(request, Request)
        self.requested.append(request.filename)
        content = self._files.get(request.filename)
        if content is None:
            self._tftp.sendto(Error(1, "File not found").encode(), peer)
            return
        transfer = self._udp(0)
        transfer.connect(peer)
        blksize = request.option("blksize") or "512"
        self._transfers[transfer] = (content, int(blksize))
        transfer.send(OptionAck((("tsize", str(len(content))), ("blksize", blksize))).encode())

    def _go_on(self, transfer: socket.socket) -> None:
        content, blksize = self._transfers[transfer]
        packet = parse_packet(transfer.recv(2048))
        blocks = len(content) // blksize + 1
        if isinstance(packet, Ack) and packet.block < blocks:
            start = packet.block * blksize
            transfer.send(Data(packet.block + 1, content[start : start + blksize]).encode())
        else:
            self._selector.unregister(transfer)
            del self._transfers[transfer]
            transfer.close()
