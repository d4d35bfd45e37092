"""A boot server as a pure model: Ethernet frames in, Ethernet frames out, on a virtual clock.

It speaks DHCP, ARP and TFTP like a real server does, resends what is not acknowledged, and notes what it was
asked for.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from fakes_lab import dhcp_reply

from lab.bootloader.client import NetworkBoot
from lab.bootloader.machine import Bootrom
from lab.frames import BROADCAST_IP, BROADCAST_MAC, Arp, Udp, parse_frame, render_arp, render_udp
from pxe.dhcp.wire import MessageType, Option, parse_request
from pxe.tftp.wire import Ack, Data, Error, OptionAck, Request, parse_packet

SERVER_MAC = bytes.fromhex("525400000001")
SERVER_IP = IPv4Address("10.77.0.1")
BOARD_IP = IPv4Address("10.77.0.50")
RESEND_S = 1.5
LATENCY_S = 0.001
MAX_RESENDS = 8


@dataclass
class _Transfer:
    filename: str
    content: bytes
    blksize: int
    last: bytes
    block: int = 0
    resends: int = 0
    is_heard: bool = False


class ModelServer:
    """Serves `files` to one board.

    Attributes:
        requested: File names in the order of the read requests.
        offers_boot: Whether DHCP answers carry option 43 and 66.
        names_server: Whether they carry option 66.
        menu_spaces: What stands behind the text in option 43.
        silent_about: File names that get no answer at all.
        dhcp_discovers, dhcp_requests: How many came.
        now: Virtual seconds, told by `run_boot` before each call.
    """

    def __init__(self, files: Mapping[str, bytes], *, offers_boot: bool = True) -> None:
        self.files = dict(files)
        self.requested: list[str] = []
        self.offers_boot = offers_boot
        self.silent_about: set[str] = set()
        self.ignores_options = False
        self.names_server = True
        self.menu_spaces = ""
        self.dhcp_discovers = self.dhcp_requests = 0
        self.now = 0.0
        self._transfers: dict[tuple[int, int], _Transfer] = {}
        self._ports = itertools.count(40000)

    def receive(self, frame: bytes) -> list[bytes]:
        """Answer one frame of the board."""
        packet = parse_frame(frame)
        match packet:
            case Arp(operation=Arp.REQUEST, target_ip=target) if target == SERVER_IP:
                reply = Arp(
                    operation=Arp.REPLY,
                    sender_mac=SERVER_MAC,
                    sender_ip=SERVER_IP,
                    target_mac=packet.sender_mac,
                    target_ip=packet.sender_ip,
                )
                return [render_arp(reply)]
            case Udp(target_port=67):
                return [self._dhcp(packet)]
            case Udp(target_port=69):
                return self._request(packet)
            case Udp():
                return self._transfer(packet)
            case _:
                return []

    def find_file(self, name: str) -> bytes | None:
        """What is served under a name over TFTP; None for "not found"."""
        return self.files.get(name)

    def resend(self) -> list[bytes]:
        """What a server sends when its timers run out; it gives a transfer up after some tries."""
        frames = []
        for key, transfer in list(self._transfers.items()):
            transfer.resends += 1
            if transfer.resends > MAX_RESENDS:
                del self._transfers[key]
            else:
                frames.append(transfer.last)
        return frames

    def _dhcp(self, packet: Udp) -> bytes:
        request = parse_request(packet.payload)
        kind = MessageType.OFFER if request.message_type is MessageType.DISCOVER else MessageType.ACK
        self.dhcp_discovers += kind is MessageType.OFFER
        self.dhcp_requests += kind is MessageType.ACK
        assert kind is MessageType.OFFER or request.option(Option.REQUESTED_ADDRESS) == BOARD_IP.packed
        reply = dhcp_reply(request, kind, BOARD_IP, SERVER_IP, boot=self.offers_boot)
        options = dict(reply.options)
        if not self.names_server:
            options.pop(Option.TFTP_SERVER, None)
        if self.offers_boot and self.menu_spaces:
            text = f"Raspberry Pi Boot{self.menu_spaces}".encode()
            menu = b"\0\0" + bytes((len(text),)) + text
            options[Option.VENDOR_SPECIFIC] = b"\x09" + bytes((len(menu),)) + menu + b"\xff"
        reply = replace(reply, options=tuple(options.items()))
        return render_udp(
            Udp(
                source_mac=SERVER_MAC,
                target_mac=BROADCAST_MAC,
                source_ip=SERVER_IP,
                target_ip=BROADCAST_IP,
                source_port=67,
                target_port=68,
                payload=reply.encode(300),
            )
        )

    def _request(self, packet: Udp) -> list[bytes]:
        request = parse_packet(packet.payload)
        assert isinstance(request, Request)
        content = self.find_file(request.filename)
        for key in [key for key in self._transfers if key[0] == packet.source_port]:
            old = self._transfers[key]
            if not old.is_heard and (old.filename, old.content) == (request.filename, content):
                return []  # a repeated request: the timer answers
            del self._transfers[key]  # a board that had lost its power begins anew
        self.requested.append(request.filename)
        if request.filename in self.silent_about:
            return []
        port = next(self._ports)
        if content is None:
            return [self._udp(packet, port, Error(1, "File not found").encode())]
        if self.ignores_options:
            first = self._udp(packet, port, Data(1, content[:512]).encode())
            transfer = _Transfer(request.filename, content, 512, first, block=1)
        else:
            blksize = int(request.option("blksize") or 512)
            options = (("blksize", str(blksize)), ("tsize", str(len(content))))
            first = self._udp(packet, port, OptionAck(options).encode())
            transfer = _Transfer(request.filename, content, blksize, first)
        self._transfers[packet.source_port, port] = transfer
        return [transfer.last]

    def _transfer(self, packet: Udp) -> list[bytes]:
        key = (packet.source_port, packet.target_port)
        transfer = self._transfers.get(key)
        answer = parse_packet(packet.payload)
        if transfer is None:
            return []
        transfer.is_heard = True
        if not isinstance(answer, Ack):
            del self._transfers[key]
            return []
        if answer.block != transfer.block % 65536:
            return []
        start = transfer.block * transfer.blksize
        if transfer.block and start > len(transfer.content):
            del self._transfers[key]
            return []
        transfer.block += 1
        transfer.resends = 0
        block = transfer.content[start : start + transfer.blksize]
        transfer.last = self._udp(packet, packet.target_port, Data(transfer.block % 65536, block).encode())
        return [transfer.last]

    @staticmethod
    def _udp(packet: Udp, port: int, payload: bytes) -> bytes:
        return render_udp(
            Udp(
                source_mac=SERVER_MAC,
                target_mac=packet.source_mac,
                source_ip=SERVER_IP,
                target_ip=packet.source_ip,
                source_port=port,
                target_port=packet.source_port,
                payload=payload,
            )
        )


def run_boot(
    boot: NetworkBoot | Bootrom,
    server: ModelServer,
    copies: Callable[[], int] = lambda: 1,
    until_s: float = 600.0,
) -> float:
    """Let a board and a server talk until the boot has an outcome.

    Args:
        boot: Made with `now=0`.
        server: Its peer.
        copies: Asked for every frame: how many of it arrive; 0 loses it.
        until_s: Virtual time after which the test is wrong.

    Returns:
        Virtual seconds that it took.
    """
    order = itertools.count()
    wire: list[tuple[float, int, bool, bytes]] = []
    now, next_resend = 0.0, RESEND_S

    def send(frames: Iterator[bytes] | list[bytes], *, to_server: bool) -> None:
        for frame in frames:
            for _ in range(copies()):
                heapq.heappush(wire, (now + LATENCY_S, next(order), to_server, frame))

    send(list(boot.frames_to_send()), to_server=True)
    while boot.outcome is None:
        timeout = boot.next_timeout()
        assert timeout is not None, "the board waits for nothing"
        now = max(now, min(timeout, next_resend, wire[0][0] if wire else timeout))
        assert now < until_s, "the boot never ends"
        server.now = now
        if wire and wire[0][0] <= now:
            _, _, to_server, frame = heapq.heappop(wire)
            if to_server:
                send(server.receive(frame), to_server=False)
            else:
                boot.receive_frame(frame, now)
        elif next_resend <= now:
            next_resend = now + RESEND_S
            send(server.resend(), to_server=False)
        else:
            boot.handle_timeout(now)
        send(list(boot.frames_to_send()), to_server=True)
    return now
