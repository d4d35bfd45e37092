"""A boot server on a virtual wire that is made of the product's own cores, with the diagnosis watching.

DHCP messages go through the responder (or the proxy beside a router), read requests through the route and a
transfer's state machine, and each event to the rules, which look every 1.5 virtual seconds. Only ARP and the
router are the model's.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from fakes_boot_server import SERVER_IP, SERVER_MAC, ModelServer

from fleet.spec.model import DhcpMode
from lab.frames import BROADCAST_IP, BROADCAST_MAC, Udp, parse_frame, render_udp
from pxe.boot.clients import ClientBook, Learn
from pxe.boot.content import open_content
from pxe.boot.decision import Install
from pxe.boot.routes import Route, locate, route
from pxe.boot.table import BootTable
from pxe.dhcp.core import Responder
from pxe.dhcp.foreign import hear_reply
from pxe.dhcp.leases import LeaseTable
from pxe.dhcp.proxy import ProxyResponder
from pxe.dhcp.replies import DhcpSettings, Report, SendReply
from pxe.dhcp.wire import parse_reply, parse_request
from pxe.diagnosis.engine import Diagnostician
from pxe.diagnosis.finding import Diagnosis
from pxe.diagnosis.scene import Setting
from pxe.events import BoardEvent
from pxe.tftp.frames import FrameStore
from pxe.tftp.options import SessionLimits
from pxe.tftp.reports import missing_event, outcome_event, progress_event
from pxe.tftp.session import ReadSession
from pxe.tftp.wire import Error, ErrorCode, Request, parse_packet

START = 1_800_000_000.0
ROUTER_IP = IPv4Address("10.77.0.254")
SUBNET = IPv4Network("10.77.0.0/24")


class _Running(NamedTuple):
    """One transfer: `request` has the server's port for it as its target."""

    session: ReadSession
    found: Route
    request: Udp
    began: float
    size_bytes: int


class UnpluggedError(Exception):
    """The board was switched off."""


class CoreServer(ModelServer):
    """One server for one board after the other.

    Attributes:
        table: what boards may boot; may be replaced between two boots.
        began_at: UTC seconds of the power-on that is under way; `now` counts from there.
        unplugged_at: `now` from which on a board that sends something is off.
        said: every diagnosis.
        events: everything that was reported.
    """

    def __init__(self, table: BootTable, mode: DhcpMode) -> None:
        super().__init__({}, offers_boot=False)
        self.table = table
        self.began_at = START
        self.unplugged_at = math.inf
        self.said: list[Diagnosis] = []
        self.events: list[BoardEvent] = []
        self._is_proxy = mode is DhcpMode.PROXY
        self._doctor = Diagnostician(Setting(mode, SERVER_IP))
        self._clients = ClientBook()
        settings = DhcpSettings(
            server=SERVER_IP,
            subnet=SUBNET,
            gateway=None,
            dns=(),
            domain="attic.internal",
            lease_s=3600,
        )
        self._responder: Responder | ProxyResponder
        if self._is_proxy:
            self._responder = ProxyResponder(settings, lambda: self.table)
        else:
            self._responder = Responder(settings, LeaseTable(None, [SERVER_IP]), lambda: self.table)
        self._running: dict[tuple[int, int], _Running] = {}
        self._own_ports = itertools.count(50000)

    @property
    def utc(self) -> float:
        return self.began_at + self.now

    def pass_time(self, seconds: float) -> None:
        """The board is off, or busy with itself; the next power-on begins after that."""
        end = self.utc + seconds
        while self.utc < end:
            self.now += 1.0
            self.said += self._doctor.tick(self.utc)
        self.began_at, self.now = self.utc, 0.0
        self._running.clear()

    def see(self, event: BoardEvent) -> None:
        self.events.append(event)
        self._doctor.observe(event)

    def receive(self, frame: bytes) -> list[bytes]:
        if self.now >= self.unplugged_at:
            raise UnpluggedError
        packet = parse_frame(frame)
        match packet:
            case Udp(target_port=67):
                return self._answer_dhcp(packet)
            case Udp(target_port=69):
                return self._answer_request(packet)
            case Udp():
                return self._go_on(packet)
            case _:
                return super().receive(frame)

    def resend(self) -> list[bytes]:
        frames = []
        for running in list(self._running.values()):
            running.session.handle_timeout(self.now)
            told = progress_event(running.found, running.session.acknowledged_bytes, running.size_bytes)
            self.see(replace(told, at=self.utc))
            frames += self._drain(running)
        self.said += self._doctor.tick(self.utc)
        return frames

    def _answer_dhcp(self, packet: Udp) -> list[bytes]:
        message = parse_request(packet.payload)
        frames = []
        for action in self._responder.respond(message, self.utc):
            match action:
                case SendReply():
                    frames.append(_broadcast(SERVER_IP, SERVER_MAC, action.encode()))
                case Report(event):
                    self.see(event)
                case Learn(address, board):
                    self._clients.learn(address, board)
        if self._is_proxy:
            frames.append(self._ask_router(packet))
        return frames

    def _ask_router(self, packet: Udp) -> bytes:
        """The router's answer, which this server hears as well."""
        answer = parse_frame(self._dhcp(packet))
        assert isinstance(answer, Udp)
        payload = answer.payload.replace(SERVER_IP.packed, ROUTER_IP.packed)
        reply = parse_reply(payload)
        heard = hear_reply(
            reply,
            ROUTER_IP,
            ours=SERVER_IP,
            known=self._responder.clients.find(reply.chaddr),
            table=self.table,
            expected=True,
            now=self.utc,
        )
        if heard is not None:
            self.see(heard)
        return _broadcast(ROUTER_IP, bytes.fromhex("525400000099"), payload)

    def _answer_request(self, packet: Udp) -> list[bytes]:
        request = parse_packet(packet.payload)
        assert isinstance(request, Request)
        self.requested.append(request.filename)
        for running in self._running.values():
            if running.request.source_port == packet.source_port:  # it repeats its request
                running.session.receive_datagram(packet.payload, _peer(packet), self.now)
                return self._drain(running)
        found = route(request.filename, self._clients.find(packet.source_ip), self.table, self.utc)
        content = None
        if isinstance(found.answer, Install) and found.node is not None:
            location = locate(found.node.tree, found.parts)
            content = open_content(location) if location is not None else None
        port = next(self._own_ports)
        packet = replace(packet, target_port=port)
        if content is None:
            self.see(replace(missing_event(found), at=self.utc))
            return [self._udp(packet, port, Error(ErrorCode.FILE_NOT_FOUND, "file not found").encode())]
        session = ReadSession(request, _peer(packet), content, SessionLimits(), FrameStore(), self.now)
        running = _Running(session, found, packet, self.now, content.size)
        self._running[packet.source_port, port] = running
        return self._drain(running)

    def _go_on(self, packet: Udp) -> list[bytes]:
        running = self._running.get((packet.source_port, packet.target_port))
        if running is None:
            return []
        running.session.receive_datagram(packet.payload, _peer(packet), self.now)
        return self._drain(running)

    def _drain(self, running: _Running) -> list[bytes]:
        """What a transfer has to send; its end is reported."""
        session, request = running.session, running.request
        frames = []
        for batch in session.datagrams_to_send():
            data = bytes(batch.packets)
            frames += [
                self._udp(request, request.target_port, data[at : at + batch.size])
                for at in range(0, len(data), batch.size)
            ]
        outcome = session.next_event()
        if outcome is not None:
            event = outcome_event(running.found, outcome, self.now - running.began, session.statistics(0.0))
            self.see(replace(event, at=self.utc))
            del self._running[request.source_port, request.target_port]
        return frames


def _peer(packet: Udp) -> tuple[str, int]:
    return str(packet.source_ip), packet.source_port


def _broadcast(source: IPv4Address, source_mac: bytes, payload: bytes) -> bytes:
    return render_udp(
        Udp(
            source_mac=source_mac,
            target_mac=BROADCAST_MAC,
            source_ip=source,
            target_ip=BROADCAST_IP,
            source_port=67,
            target_port=68,
            payload=payload,
        )
    )
