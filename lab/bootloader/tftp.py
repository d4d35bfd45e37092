"""The bootloader's TFTP client: one file, lock-step, as a state machine. What it sends is made by its link:
whole Ethernet frames for a virtual board on a wire, UDP payloads for a client on sockets.

A probe is a read that ends with ERROR 0 "Early terminate" as soon as the size is known. An answer that is an
ERROR ends the file at once, whatever its code.

Sources: RFC 1350, 2347, 2348, 2349; the format of the request is visible in published EEPROM images;
rpi-eeprom#74, #375, #720. The interval after which the client repeats itself is nowhere published; one second
is ours.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address
from typing import Final, Protocol

from lab.bootloader.files import FileRequest, FoundFile
from lab.bootloader.profile import EepromProfile, TftpOptions
from lab.frames import UDP_PAYLOAD_OFFSET, Udp, checksum, render_udp
from pxe.errors import WireError
from pxe.tftp.wire import DEFAULT_BLKSIZE, Ack, Data, Error, OptionAck, Request, parse_packet

TFTP_PORT: Final = 69
RESEND_S: Final = 1.0
EARLY_TERMINATE: Final = Error(0, "Early terminate").encode()
ACK_OPCODE: Final = 4
LAST_BLOCK: Final = 0xFFFF
_UDP_CHECKSUM_OFFSET: Final = UDP_PAYLOAD_OFFSET - 2
_ACK_TAIL: Final = struct.Struct("!HHH")
_ACK_PAYLOAD: Final = struct.Struct("!HH")


class Carrier(Protocol):
    """What is below the client: it turns payloads into what the owner sends."""

    def datagram(self, payload: bytes, *, source_port: int, target_port: int) -> bytes:
        """A payload to the server, ready to be sent."""

    def acks(self, *, source_port: int, target_port: int) -> Callable[[int], bytes]:
        """A maker of ACKs between two ports: block → bytes ready to be sent. It is called for every block."""

    def flow(self, *, source_port: int, target_port: int) -> bytes:
        """How the owner knows a transfer's packets without parsing them; empty where it has no need to."""


class PayloadCarrier:
    """For an owner with sockets: payloads stay payloads. `Download.server_port` says where they go."""

    def datagram(self, payload: bytes, *, source_port: int, target_port: int) -> bytes:
        return payload

    def acks(self, *, source_port: int, target_port: int) -> Callable[[int], bytes]:
        return _ack_payload

    def flow(self, *, source_port: int, target_port: int) -> bytes:
        return b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Both ends of a transfer below UDP: our addresses, the MAC of the next hop and the server's address."""

    mac: bytes
    address: IPv4Address
    next_hop_mac: bytes
    server: IPv4Address

    def datagram(self, payload: bytes, *, source_port: int, target_port: int) -> bytes:
        """An Ethernet frame to the server."""
        return render_udp(
            Udp(
                source_mac=self.mac,
                target_mac=self.next_hop_mac,
                source_ip=self.address,
                target_ip=self.server,
                source_port=source_port,
                target_port=target_port,
                payload=payload,
            )
        )

    def acks(self, *, source_port: int, target_port: int) -> Callable[[int], bytes]:
        """Frames made from a template: another block only changes its number and the checksum."""
        template = self.datagram(Ack(0).encode(), source_port=source_port, target_port=target_port)
        head = template[:_UDP_CHECKSUM_OFFSET]
        # Sum of everything that the checksum covers for block 0; another block only adds its number.
        ports = struct.pack("!HHHHHHHH", 17, 12, source_port, target_port, 12, 0, ACK_OPCODE, 0)
        base = ~checksum(self.address.packed + self.server.packed + ports) & 0xFFFF

        def frame(block: int) -> bytes:
            total = base + block
            total = (total & 0xFFFF) + (total >> 16)
            return head + _ACK_TAIL.pack(~total & 0xFFFF or 0xFFFF, ACK_OPCODE, block)

        return frame

    def flow(self, *, source_port: int, target_port: int) -> bytes:
        """Bytes 26–37 of a frame from the server: both addresses, both ports."""
        return self.server.packed + self.address.packed + struct.pack("!HH", target_port, source_port)


def _ack_payload(block: int) -> bytes:
    return _ACK_PAYLOAD.pack(ACK_OPCODE, block)


class Outcome(Enum):
    """How a download ended."""

    FOUND = auto()
    REFUSED = auto()
    """The server sent an ERROR, or an answer that the client can not use."""
    TIMED_OUT = auto()


class Download:
    """One read of one file.

    Args:
        request: Which file, and why.
        carrier: What is below.
        profile: How this firmware reads.
        port: Our UDP port.
        now: Seconds, monotonic.
        keeps_content: False where nobody looks into what is received, as in a boot storm: it is only counted.

    Attributes:
        to_send: What the carrier made of the packets; the owner empties it.
        flow: The carrier's mark of the running transfer; empty until the server has chosen its port. The
            owner of a wire uses it to hand over DATA without parsing the whole frame.
        server_port: Where the next packet goes; None: the request, to port 69.
        received_bytes: Content so far.
        outcome: None while it runs.
        reason: Why it was refused.
    """

    def __init__(
        self,
        request: FileRequest,
        carrier: Carrier,
        profile: EepromProfile,
        *,
        port: int,
        now: float,
        keeps_content: bool = True,
    ) -> None:
        self.request = request
        self.to_send: list[bytes] = []
        self.flow = b""
        self.outcome: Outcome | None = None
        self.reason = ""
        self.port = port
        self.server_port: int | None = None
        self.received_bytes = 0
        self._carrier = carrier
        self._profile = profile
        self._keeps_content = keeps_content
        self._blksize = DEFAULT_BLKSIZE
        self._size_bytes: int | None = None
        self._blocks: list[bytes] = []
        self._next_block = 1
        self._has_block = False
        self._ack: Callable[[int], bytes] = _ack_payload
        self._last_sent = b""
        self._deadline = now + profile.settings.tftp_file_timeout_s
        self._resend_at = 0.0
        options: tuple[tuple[str, str], ...] = ()
        if profile.tftp_options is not TftpOptions.NONE:
            options += (("tsize", "0"),)
        if profile.tftp_options is TftpOptions.TSIZE_BLKSIZE:
            options += (("blksize", str(profile.blksize)),)
        payload = Request(request.name, options).encode()
        self._send(carrier.datagram(payload, source_port=port, target_port=TFTP_PORT), now)

    @property
    def found(self) -> FoundFile:
        """The result of a download whose outcome is FOUND."""
        if self.request.probe:
            return FoundFile(self._size_bytes or 0)
        return FoundFile(self.received_bytes, b"".join(self._blocks))

    def next_timeout(self) -> float:
        return min(self._deadline, self._resend_at)

    def handle_timeout(self, now: float) -> None:
        if self.outcome is not None:
            return
        if now >= self._deadline:
            self.outcome = Outcome.TIMED_OUT
        elif now >= self._resend_at:
            self._send(self._last_sent, now)

    def receive(self, payload: bytes, source_port: int, now: float) -> None:
        """Take one UDP payload that came to our port; a stranger's is not ours (RFC 1350 §4)."""
        if self.outcome is not None or self.server_port not in (None, source_port):
            return
        try:
            packet = parse_packet(payload)
        except WireError:
            return
        match packet:
            case Error(code=code, text=text):
                self._refuse(f"TFTP {code}: {text}")
            case OptionAck():
                self._take_options(packet, source_port, now)
            case Data(block=block, payload=data):
                if self.server_port is None:
                    self._learn_port(source_port)
                self.receive_data(block, data, now)
            case _:
                pass

    def receive_data(self, block: int, data: bytes, now: float) -> None:
        """Take one block. This is the hot path: one call per 1468 bytes."""
        if block == self._next_block:
            if self.request.probe:
                self._size_bytes = len(data)
                self._terminate()
                return
            size = len(data)
            self.received_bytes += size
            self._has_block = True
            if self._keeps_content:
                self._blocks.append(data)
            self._next_block = block + 1
            if block == LAST_BLOCK and self._profile.wraps_block_numbers:
                self._next_block = 0
            self._send(self._ack(block), now)
            if size < self._blksize:
                self.outcome = Outcome.FOUND
        elif (
            block == (self._next_block - 1) & LAST_BLOCK and self._profile.acks_duplicates and self._has_block
        ):
            self.to_send.append(self._ack(block))

    def _take_options(self, oack: OptionAck, source_port: int, now: float) -> None:
        if self.server_port is not None:
            if not self._has_block:
                self.to_send.append(self._ack(0))  # our ACK of the first OACK was lost
            return
        accepted = {name.lower(): value for name, value in oack.options}
        blksize, tsize = accepted.pop("blksize", None), accepted.pop("tsize", None)
        numbers = [text for text in (blksize, tsize) if text is not None]
        if accepted or not all(text.isascii() and text.isdecimal() for text in numbers):
            self._refuse("BAD OACK")
            return
        if blksize is not None:
            self._blksize = int(blksize)
            if not 8 <= self._blksize <= self._profile.blksize:
                self._refuse("BAD OACK")
                return
        self._learn_port(source_port)
        self._size_bytes = int(tsize) if tsize is not None else None
        if self.request.probe and tsize is not None:
            self._terminate()
        else:
            self._send(self._ack(0), now)

    def _learn_port(self, source_port: int) -> None:
        self.server_port = source_port
        self.flow = self._carrier.flow(source_port=self.port, target_port=source_port)
        self._ack = self._carrier.acks(source_port=self.port, target_port=source_port)

    def _send(self, ready: bytes, now: float) -> None:
        self._last_sent = ready
        self._resend_at = now + RESEND_S
        self.to_send.append(ready)

    def _terminate(self) -> None:
        if self.server_port is not None:
            self.to_send.append(
                self._carrier.datagram(EARLY_TERMINATE, source_port=self.port, target_port=self.server_port)
            )
        self.outcome = Outcome.FOUND

    def _refuse(self, reason: str) -> None:
        self.reason = reason
        self.outcome = Outcome.REFUSED
