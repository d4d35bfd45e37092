"""The whole network boot mode as one state machine: Ethernet frames in, Ethernet frames out, `BootFiles` at
the end.

DHCP, then ARP for the server (or the router to it), then one download after the other as the loader of the
board's family asks for them. From the ACK on it answers ARP for its own address, also while a transfer runs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Final

from fleet.boards import BootMode
from lab.bootloader.dhcp import CLIENT_PORT, SERVER_PORT, Binding, DhcpExchange
from lab.bootloader.files import (
    BoardStuckError,
    BootFiles,
    FileRequest,
    FoundFile,
    ModeFailedError,
    load_files,
)
from lab.bootloader.profile import BoardIdentity, EepromProfile
from lab.bootloader.tftp import Download, Link, Outcome
from lab.events import EventKind, Notice
from lab.frames import BROADCAST_IP, BROADCAST_MAC, Arp, FrameError, Udp, parse_frame, render_arp, render_udp
from pxe.dhcp.wire import parse_reply
from pxe.errors import WireError

ARP_RESEND_S: Final = 1.0
FIRST_PORT: Final = 49152
LAST_PORT: Final = 65535
_NO_ADDRESS: Final = IPv4Address(0)
_IPV4_WITHOUT_OPTIONS: Final = b"\x08\x00\x45"
_DATA_OPCODE: Final = 3
_DATA_FIELDS: Final = struct.Struct("!H2xHH")
"""Bytes 38–45 of a frame: UDP length, (checksum), TFTP opcode, block."""


class NetworkBoot:
    """One attempt of the network boot mode.

    Args:
        board: Who boots.
        profile: With which EEPROM.
        xid: Random transaction id, 32 bits.
        first_port: UDP port of the first download; each further one takes the next.
        now: Seconds, monotonic. The link is up.

    Attributes:
        outcome: None while it runs; then the files, or why there are none.
    """

    def __init__(
        self, board: BoardIdentity, profile: EepromProfile, *, xid: int, first_port: int, now: float
    ) -> None:
        if not FIRST_PORT <= first_port <= LAST_PORT:
            raise ValueError(f"port {first_port} is not between {FIRST_PORT} and {LAST_PORT}")
        self.outcome: BootFiles | ModeFailedError | BoardStuckError | None = None
        self._board = board
        self._profile = profile
        self._port = first_port
        self._mac = board.mac.octets
        self._frames: list[bytes] = []
        self._notices: list[Notice] = []
        self._dhcp = DhcpExchange(board, profile, xid=xid, now=now)
        self._binding: Binding | None = None
        self._arp_resend_at = self._arp_deadline = 0.0
        self._link: Link | None = None
        self._loader = load_files(board, BootMode.NETWORK)
        self._download: Download | None = None
        self._collect_dhcp(now)

    # --- the five methods of a session

    def receive_frame(self, frame: bytes, now: float) -> None:
        """Take one Ethernet frame from the wire."""
        download = self._download
        if (
            download is not None
            and frame[26:38] == download.flow
            and frame[12:15] == _IPV4_WITHOUT_OPTIONS
            and len(frame) >= 46
        ):
            udp_bytes, opcode, block = _DATA_FIELDS.unpack_from(frame, 38)
            if opcode == _DATA_OPCODE and 12 <= udp_bytes <= len(frame) - 34:
                download.receive_data(block, frame[46 : 34 + udp_bytes], now)
                if download.outcome is not None:
                    self._finish_download(download, now)
                return
        self._receive_other(frame, now)

    def handle_timeout(self, now: float) -> None:
        if self.outcome is not None:
            return
        if self._binding is None:
            self._dhcp.handle_timeout(now)
            self._collect_dhcp(now)
        elif self._link is None:
            if now >= self._arp_deadline:
                self.outcome = ModeFailedError(f"{self._binding.next_hop} does not answer ARP")
            elif now >= self._arp_resend_at:
                self._ask_arp(self._binding, now)
        elif self._download is not None:
            self._download.handle_timeout(now)
            if self._download.outcome is not None:
                self._finish_download(self._download, now)

    def next_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called."""
        if self.outcome is not None:
            return None
        if self._download is not None:
            return self._download.next_timeout()
        if self._binding is None:
            return self._dhcp.next_timeout()
        return min(self._arp_deadline, self._arp_resend_at)

    def frames_to_send(self) -> Sequence[bytes]:
        """Frames for the wire, oldest first; each is given out once."""
        download = self._download
        if download is not None and download.to_send:
            self._frames += download.to_send
            download.to_send.clear()
        if not self._frames:
            return ()
        frames, self._frames = self._frames, []
        return frames

    def next_notice(self) -> Notice | None:
        return self._notices.pop(0) if self._notices else None

    # --- inside

    def _receive_other(self, frame: bytes, now: float) -> None:
        if frame[0:6] not in (self._mac, BROADCAST_MAC):
            return
        try:
            packet = parse_frame(frame)
        except FrameError:
            return
        match packet:
            case Arp():
                self._receive_arp(packet, now)
            case Udp(target_port=68) if self._binding is None:
                self._receive_dhcp(packet.payload, now)
            case Udp(target_port=port) if self._download is not None and port == self._download.port:
                if self._link is not None and packet.source_ip == self._link.server:
                    self._download.receive(packet.payload, packet.source_port, now)
                    if self._download.outcome is not None:
                        self._finish_download(self._download, now)
            case _:
                pass

    def _receive_dhcp(self, payload: bytes, now: float) -> None:
        try:
            reply = parse_reply(payload)
        except WireError:
            return
        self._dhcp.receive(reply, now)
        self._collect_dhcp(now)

    def _collect_dhcp(self, now: float) -> None:
        for message in self._dhcp.to_send:
            self._frames.append(
                render_udp(
                    Udp(
                        source_mac=self._mac,
                        target_mac=BROADCAST_MAC,
                        source_ip=_NO_ADDRESS,
                        target_ip=BROADCAST_IP,
                        source_port=CLIENT_PORT,
                        target_port=SERVER_PORT,
                        payload=message.encode(),
                    )
                )
            )
        self._dhcp.to_send.clear()
        self._notices += self._dhcp.notices
        self._dhcp.notices.clear()
        if self._dhcp.failed:
            self.outcome = ModeFailedError(self._dhcp.failed)
        elif self._dhcp.binding and self._binding is None:
            self._binding = self._dhcp.binding
            self._arp_deadline = now + self._profile.tftp_file_timeout_s
            self._ask_arp(self._binding, now)

    def _ask_arp(self, binding: Binding, now: float) -> None:
        self._arp_resend_at = now + ARP_RESEND_S
        self._frames.append(
            render_arp(
                Arp(
                    operation=Arp.REQUEST,
                    sender_mac=self._mac,
                    sender_ip=binding.address,
                    target_mac=bytes(6),
                    target_ip=binding.next_hop,
                )
            )
        )

    def _receive_arp(self, arp: Arp, now: float) -> None:
        binding = self._binding
        if binding is None:
            return
        if arp.operation == Arp.REQUEST and arp.target_ip == binding.address:
            self._frames.append(
                render_arp(
                    Arp(
                        operation=Arp.REPLY,
                        sender_mac=self._mac,
                        sender_ip=binding.address,
                        target_mac=arp.sender_mac,
                        target_ip=arp.sender_ip,
                    )
                )
            )
        elif arp.operation == Arp.REPLY and arp.sender_ip == binding.next_hop and self._link is None:
            self._link = Link(
                mac=self._mac,
                address=binding.address,
                next_hop_mac=arp.sender_mac,
                server=binding.tftp_server,
            )
            self._run_loader(None, now, first=True)

    def _finish_download(self, download: Download, now: float) -> None:
        self._frames += download.to_send
        download.to_send.clear()
        self._download = None
        request = download.request
        match download.outcome:
            case Outcome.FOUND:
                found = download.found
                if not request.probe:
                    self._note(EventKind.FILE_FETCHED, f"{request.name} ({found.size_bytes:,} bytes)")
                self._run_loader(found, now)
            case Outcome.REFUSED:
                self._note(EventKind.FILE_MISSING, f"{request.name}: {download.reason}")
                self._run_loader(None, now)
            case _:
                error = f"{request.name}: no answer within {self._profile.tftp_file_timeout_s:g} s"
                self.outcome = BoardStuckError(error) if request.stuck_on_timeout else ModeFailedError(error)

    def _run_loader(self, answer: FoundFile | None, now: float, *, first: bool = False) -> None:
        try:
            request = next(self._loader) if first else self._loader.send(answer)
        except StopIteration as stop:
            self.outcome = stop.value
        except (ModeFailedError, BoardStuckError) as error:
            self.outcome = error
        else:
            self._start_download(request, now)

    def _start_download(self, request: FileRequest, now: float) -> None:
        if self._link is None:
            raise RuntimeError("a download starts after ARP")
        self._download = Download(request, self._link, self._profile, port=self._port, now=now)
        self._port = self._port + 1 if self._port < LAST_PORT else FIRST_PORT

    def _note(self, kind: EventKind, text: str) -> None:
        self._notices.append(Notice(kind, text))
