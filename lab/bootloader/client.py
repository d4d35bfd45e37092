"""One attempt of a network mode as one state machine: Ethernet frames in, Ethernet frames out, `BootFiles` at
the end.

DHCP (or a fixed address), then ARP for the server or the router to it, then one download after the other as
the loader of the board's family asks for them; in the HTTP mode two requests over TCP. From the address on it
answers ARP for it, also while a transfer runs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Final

from fleet.boards import BootMode
from lab.bootloader.console import binding_line, expected_name, render_console_line, reply_lines
from lab.bootloader.dhcp import CLIENT_PORT, SERVER_PORT, Binding, DhcpExchange, static_binding
from lab.bootloader.files import (
    BoardResetError,
    BoardStuckError,
    Boot,
    BootFiles,
    FileRequest,
    FoundFile,
    ModeFailedError,
)
from lab.bootloader.filters import Circumstances
from lab.bootloader.http import HttpBoot, Origin, find_origin
from lab.bootloader.loader import load
from lab.bootloader.profile import AnyBoard, BoardIdentity, EepromProfile
from lab.bootloader.signature import RsaPublicKey
from lab.bootloader.tcp import TcpConnection
from lab.bootloader.tftp import Download, Link, Outcome
from lab.events import EventKind, Notice
from lab.frames import (
    BROADCAST_IP,
    BROADCAST_MAC,
    Arp,
    FrameError,
    Tcp,
    Udp,
    parse_frame,
    render_arp,
    render_udp,
)
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

NetworkOutcome = BootFiles | ModeFailedError | BoardStuckError | BoardResetError


def make_boot(
    board: AnyBoard,
    profile: EepromProfile,
    mode: BootMode,
    *,
    circumstances: Circumstances | None = None,
    public_key: RsaPublicKey | None = None,
    eeprom_timestamp: int = 0,
) -> Boot:
    """A boot with the circumstances of a plain power-on where none are given."""
    model = board.model if isinstance(board, BoardIdentity) else None
    return Boot(
        board=board,
        source=mode,
        profile=profile,
        circumstances=circumstances or Circumstances(model=model, serial=board.serial),
        public_key=public_key,
        eeprom_timestamp=eeprom_timestamp,
    )


class NetworkBoot:
    """One attempt of the NETWORK or the HTTP mode.

    Args:
        board: Who boots.
        profile: With which EEPROM.
        xid: Random transaction id, 32 bits; also the first TCP sequence number.
        first_port: UDP or TCP port of the first download; each further one takes the next.
        now: Seconds, monotonic. The link is up.
        boot: Mode, circumstances and key; None for the NETWORK mode after a plain power-on.

    Attributes:
        outcome: None while it runs; then the files, or why there are none.
        console: The firmware's text; the owner empties it. NETCONSOLE sends it as well.
    """

    def __init__(
        self,
        board: AnyBoard,
        profile: EepromProfile,
        *,
        xid: int,
        first_port: int,
        now: float,
        boot: Boot | None = None,
    ) -> None:
        if not FIRST_PORT <= first_port <= LAST_PORT:
            raise ValueError(f"port {first_port} is not between {FIRST_PORT} and {LAST_PORT}")
        self.outcome: NetworkOutcome | None = None
        self.console: list[str] = []
        self._boot = boot or make_boot(board, profile, BootMode.NETWORK)
        self._profile = profile
        self._settings = profile.settings
        self._port = first_port
        self._sequence = xid
        self._mac = (profile.settings.mac_address or board.mac).octets
        self._frames: list[bytes] = []
        self._notices: list[Notice] = []
        self._binding: Binding | None = None
        self._arp_resend_at = self._arp_deadline = 0.0
        self._link: Link | None = None
        self._loader = load(self._boot)
        self._download: Download | None = None
        self._http: HttpBoot | None = None
        self._tcp: TcpConnection | None = None
        self._http_deadline = 0.0
        self._dhcp: DhcpExchange | None = None
        self._origin: Origin | None = None
        if self._boot.source is BootMode.HTTP:
            try:
                self._origin = find_origin(self._boot)
            except ModeFailedError as error:
                self.outcome = error
                return
        server = self._origin.host if self._origin else None
        if (binding := static_binding(profile)) is not None:
            self._bind(binding, now)
            return
        self._dhcp = DhcpExchange(board, profile, xid=xid, now=now, server=server)
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
            if self._dhcp is not None:
                self._dhcp.handle_timeout(now)
                self._collect_dhcp(now)
        elif self._link is None:
            if now >= self._arp_deadline:
                self._end(ModeFailedError(f"{self._binding.next_hop} does not answer ARP"))
            elif now >= self._arp_resend_at:
                self._ask_arp(self._binding, now)
        elif self._download is not None:
            self._download.handle_timeout(now)
            if self._download.outcome is not None:
                self._finish_download(self._download, now)
        elif self._tcp is not None and self._http is not None:
            if now >= self._http_deadline:
                silent_s = self._settings.tftp_file_timeout_s
                self._tcp.abort()
                self._end(ModeFailedError(f"{self._http.file_name}: no answer within {silent_s:g} s"))
            else:
                self._tcp.handle_timeout(now)

    def next_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called."""
        if self.outcome is not None:
            return None
        if self._download is not None:
            return self._download.next_timeout()
        if self._tcp is not None:
            resend_at = self._tcp.next_timeout()
            return self._http_deadline if resend_at is None else min(resend_at, self._http_deadline)
        if self._binding is None:
            return self._dhcp.next_timeout() if self._dhcp is not None else None
        return min(self._arp_deadline, self._arp_resend_at)

    def frames_to_send(self) -> Sequence[bytes]:
        """Frames for the wire, oldest first; each is given out once."""
        for busy in (self._download, self._tcp):
            if busy is not None and busy.to_send:
                self._frames += busy.to_send
                busy.to_send.clear()
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
                self._receive_dhcp(packet, now)
            case Udp(target_port=port) if self._download is not None and port == self._download.port:
                if self._link is not None and packet.source_ip == self._link.server:
                    self._download.receive(packet.payload, packet.source_port, now)
                    if self._download.outcome is not None:
                        self._finish_download(self._download, now)
            case Tcp(target_port=port) if self._tcp is not None and port == self._tcp.port:
                if self._link is not None and packet.source_ip == self._link.server:
                    self._receive_tcp(self._tcp, packet, now)
            case _:
                pass

    def _receive_dhcp(self, packet: Udp, now: float) -> None:
        if self._dhcp is None:
            return
        try:
            reply = parse_reply(packet.payload)
        except WireError:
            return
        if reply.chaddr == self._mac:
            expected = expected_name(self._dhcp.is_requesting)
            self._say(*reply_lines(reply, packet.source_mac, packet.source_ip, expected))
        self._dhcp.receive(reply, now)
        self._collect_dhcp(now)

    def _collect_dhcp(self, now: float) -> None:
        dhcp = self._dhcp
        if dhcp is None:
            return
        for message in dhcp.to_send:
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
        dhcp.to_send.clear()
        self._notices += dhcp.notices
        dhcp.notices.clear()
        if dhcp.failed:
            self._say("NETBOOT init failed")
            self._end(ModeFailedError(dhcp.failed))
        elif dhcp.binding and self._binding is None:
            self._bind(dhcp.binding, now)

    def _bind(self, binding: Binding, now: float) -> None:
        self._binding = binding
        self._say(binding_line(binding))
        self._arp_deadline = now + self._settings.tftp_file_timeout_s
        self._ask_arp(binding, now)

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
            self._say(f"ARP {arp.sender_ip} {arp.sender_mac.hex(':')}")
            self._link = Link(
                mac=self._mac,
                address=binding.address,
                next_hop_mac=arp.sender_mac,
                server=binding.server,
            )
            if self._origin is not None:
                self._http = HttpBoot(self._boot, self._origin)
                self._go_on_http(self._http, self._origin, self._link, now)
            else:
                self._run_loader(None, now, first=True)

    # --- TFTP

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
                self._say(download.reason)
                self._run_loader(None, now)
            case _:
                error = f"{request.name}: no answer within {self._settings.tftp_file_timeout_s:g} s"
                self._end(BoardStuckError(error) if request.stuck_on_timeout else ModeFailedError(error))

    def _run_loader(self, answer: FoundFile | None, now: float, *, first: bool = False) -> None:
        try:
            request = next(self._loader) if first else self._loader.send(answer)
        except StopIteration as stop:
            self._end(stop.value)
        except (ModeFailedError, BoardStuckError, BoardResetError) as error:
            self._end(error)
        else:
            self._start_download(request, now)

    def _start_download(self, request: FileRequest, now: float) -> None:
        if self._link is None:
            raise RuntimeError("a download starts after ARP")
        self._download = Download(request, self._link, self._profile, port=self._take_port(), now=now)

    # --- HTTP

    def _go_on_http(self, http: HttpBoot, origin: Origin, link: Link, now: float) -> None:
        """Start the next request, if there is one, and tell what has happened."""
        self._say(*http.console)
        http.console.clear()
        for name, size in http.fetched:
            self._note(EventKind.FILE_FETCHED, f"{name} ({size:,} bytes)")
        http.fetched.clear()
        for name, reason in http.missing:
            self._note(EventKind.FILE_MISSING, f"{name}: {reason}")
        http.missing.clear()
        if http.outcome is not None:
            self._drop_connection()
            self._end(http.outcome)
        elif http.request is not None:
            request, http.request = http.request, None
            self._drop_connection()
            self._sequence = (self._sequence + 0x1_0000) % 2**32
            self._http_deadline = now + self._settings.tftp_file_timeout_s
            self._tcp = TcpConnection(
                link,
                port=self._take_port(),
                server_port=origin.port,
                sequence=self._sequence,
                request=request,
                now=now,
            )

    def _receive_tcp(self, tcp: TcpConnection, segment: Tcp, now: float) -> None:
        http, origin, link = self._http, self._origin, self._link
        if http is None or origin is None or link is None:
            return
        tcp.receive(segment, now)
        if tcp.received:
            self._http_deadline = now + self._settings.tftp_file_timeout_s
            data = bytes(tcp.received)
            tcp.received.clear()
            http.receive(data)
        if tcp.refused:
            http.handle_refused()
        elif tcp.closed:
            http.handle_close()
        self._go_on_http(http, origin, link, now)

    def _drop_connection(self) -> None:
        if self._tcp is not None:
            if not self._tcp.closed:
                self._tcp.abort()
            self._frames += self._tcp.to_send
            self._tcp = None

    # --- small things

    def _take_port(self) -> int:
        port = self._port
        self._port = port + 1 if port < LAST_PORT else FIRST_PORT
        return port

    def _end(self, outcome: NetworkOutcome) -> None:
        self.outcome = outcome

    def _say(self, *lines: str) -> None:
        self.console += lines
        if (target := self._settings.netconsole) is not None:
            self._frames += [render_console_line(line, target, self._mac) for line in lines]

    def _note(self, kind: EventKind, text: str) -> None:
        self._notices.append(Notice(kind, text))
