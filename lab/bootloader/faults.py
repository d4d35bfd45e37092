"""Faults between a board and its server: packets that are lost, doubled or damaged, silence, a pulled plug.

A fault is written `ACTION:KIND:WHEN`:

    lose:ack:3         the third ACK does not arrive
    double:data:every2 every second DATA arrives twice
    corrupt:oack:1     the first OACK says something that was not asked for
    refuse:oack:2      the second file is answered "not found" instead
    silence:any:40     from the 40th packet on nothing gets through, in either direction
    cut:ack:100        the plug is pulled when the 100th ACK would be sent

Kinds are dhcp, arp, rrq, oack, ack, data, error, tcp and any; WHEN is a number, or `every` and a number.
Pure: packets in, packets out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from lab.frames import Arp, FrameError, Tcp, Udp, parse_frame, render_udp
from pxe.tftp.wire import Error, OptionAck


class Action(StrEnum):
    """What happens to a packet."""

    LOSE = "lose"
    DOUBLE = "double"
    CORRUPT = "corrupt"
    REFUSE = "refuse"
    SILENCE = "silence"
    CUT = "cut"


class Kind(StrEnum):
    """What a packet is."""

    DHCP = "dhcp"
    ARP = "arp"
    RRQ = "rrq"
    OACK = "oack"
    ACK = "ack"
    DATA = "data"
    ERROR = "error"
    TCP = "tcp"
    ANY = "any"


_OPCODES: Final = {1: Kind.RRQ, 3: Kind.DATA, 4: Kind.ACK, 5: Kind.ERROR, 6: Kind.OACK}
_DHCP_PORTS: Final = (67, 68)
_BAD_OACK: Final = OptionAck((("blksize", "65464"), ("windowsize", "64"))).encode()
_NOT_FOUND: Final = Error(1, "File not found").encode()


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: the `number`-th packet of a kind, or every `number`-th."""

    action: Action
    kind: Kind
    number: int
    repeats: bool = False

    def hits(self, count: int) -> bool:
        """Whether it is this one's turn."""
        if self.action in (Action.SILENCE, Action.CUT):
            return count >= self.number
        return count % self.number == 0 if self.repeats else count == self.number


def parse_fault(text: str) -> Fault:
    """Read `ACTION:KIND:WHEN`.

    Raises:
        ValueError: It is not of that form; the text says what is possible.
    """
    match = re.fullmatch(r"([a-z]+):([a-z]+):(every)?([1-9][0-9]{0,8})", text)
    if match is None or match[1] not in set(Action) or match[2] not in set(Kind):
        raise ValueError(
            f"{text!r} is no fault; write ACTION:KIND:NUMBER or ACTION:KIND:everyNUMBER with an action of "
            f"{', '.join(Action)} and a kind of {', '.join(Kind)}"
        )
    return Fault(Action(match[1]), Kind(match[2]), int(match[4]), match[3] is not None)


@dataclass(slots=True)
class FaultyWire:
    """Stands between a machine and its wire.

    Attributes:
        is_cut: The plug was pulled; the owner ends the board.
        is_silent: Nothing gets through any more.
    """

    faults: Sequence[Fault]
    is_cut: bool = False
    is_silent: bool = False
    _counts: dict[Kind, int] = field(default_factory=dict)

    def pass_frame(self, frame: bytes) -> list[bytes]:
        """What becomes of an Ethernet frame, of either direction."""
        if not self.faults:
            return [frame]
        try:
            packet = parse_frame(frame)
        except FrameError:
            return [frame]
        action = self._meet(_kind_of(packet))
        match action:
            case Action.CORRUPT | Action.REFUSE if isinstance(packet, Udp):
                return [_replace_payload(packet, _BAD_OACK if action is Action.CORRUPT else _NOT_FOUND)]
            case _:
                return self._apply(action, frame)

    def pass_payload(self, payload: bytes) -> list[bytes]:
        """What becomes of a TFTP packet, where the wire is a socket."""
        if not self.faults:
            return [payload]
        action = self._meet(_OPCODES.get(int.from_bytes(payload[:2], "big"), Kind.ANY))
        match action:
            case Action.CORRUPT:
                return [_BAD_OACK]
            case Action.REFUSE:
                return [_NOT_FOUND]
            case _:
                return self._apply(action, payload)

    def _meet(self, kind: Kind) -> Action | None:
        """Count a packet; the first fault whose turn it is."""
        for counted in {kind, Kind.ANY}:
            self._counts[counted] = self._counts.get(counted, 0) + 1
        for fault in self.faults:
            if fault.kind in (kind, Kind.ANY) and fault.hits(self._counts[fault.kind]):
                return fault.action
        return None

    def _apply(self, action: Action | None, packet: bytes) -> list[bytes]:
        self.is_cut = self.is_cut or action is Action.CUT
        self.is_silent = self.is_silent or action is Action.SILENCE
        if self.is_cut or self.is_silent or action is Action.LOSE:
            return []
        return [packet, packet] if action is Action.DOUBLE else [packet]


def _kind_of(packet: Arp | Udp | Tcp | None) -> Kind:
    match packet:
        case Arp():
            return Kind.ARP
        case Tcp():
            return Kind.TCP
        case Udp(source_port=source, target_port=target) if source in _DHCP_PORTS or target in _DHCP_PORTS:
            return Kind.DHCP
        case Udp(payload=payload):
            return _OPCODES.get(int.from_bytes(payload[:2], "big"), Kind.ANY)
        case _:
            return Kind.ANY


def _replace_payload(packet: Udp, payload: bytes) -> bytes:
    return render_udp(
        Udp(
            source_mac=packet.source_mac,
            target_mac=packet.target_mac,
            source_ip=packet.source_ip,
            target_ip=packet.target_ip,
            source_port=packet.source_port,
            target_port=packet.target_port,
            payload=payload,
        )
    )
