"""The DHCP server of `dhcp: full`: messages and the time in, replies with their destinations out.

Declared nodes get their declared address, everybody else one of the pool. What boot firmware is told beside
that stands in `boot_options`; a Pi that may not install is answered as well, for TFTP tells it so within
milliseconds.

Nothing waits for a look at the cable. An address that is new to a client is probed when it is offered, and
the answer of a machine that has it comes back as `conflict`, usually before the client's REQUEST: that is
refused then, and the client begins again with another address. The exception is a node's own address that a
lease of another machine holds: `pxe.dhcp.takeover`.

Source of the client's states: RFC 2131 §4.3.2, table 4.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from fleet.boards import MacAddress
from pxe.boot.clients import Learn
from pxe.boot.decision import Stage, decide
from pxe.boot.identity import BoardIdentity, Firmware, identify_client
from pxe.boot.programs import explain_answer, find_program, missing_program
from pxe.boot.table import BootTable, NodeBootState
from pxe.dhcp.boot_options import boot_words
from pxe.dhcp.leases import LeaseState, LeaseTable, is_host
from pxe.dhcp.replies import (
    Action,
    ClientMemory,
    DhcpSettings,
    Probe,
    Report,
    SendReply,
    build_reply,
    link_of,
    server_id,
)
from pxe.dhcp.takeover import Claim, Takeovers, explain_held
from pxe.dhcp.wire import NO_ADDRESS, DhcpMessage, MessageType, Option
from pxe.events import (
    AddressConflict,
    AddressDeclined,
    AddressReleased,
    DhcpAck,
    DhcpDiscover,
    DhcpNak,
    DhcpOffer,
    ForeignServerChosen,
    NoAddressLeft,
    NoProgram,
)

PROBES_PENDING: Final = 1024
"""Addresses that were asked for on the cable and not heard of; then the oldest question is forgotten."""
CLAIMS_BELIEVED: Final = 4
"""A machine that answers for so many addresses does proxy ARP."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One message of a client: what is asked, by whom, and when.

    Args:
        message: the request, already valid.
        mac: the client's hardware address, which leases go by.
        board: all that is known of the client.
        node: the node that it is; None for a stranger.
        now: UTC seconds.
    """

    message: DhcpMessage
    mac: MacAddress
    board: BoardIdentity
    node: NodeBootState | None
    now: float

    @property
    def node_name(self) -> str | None:
        return self.node.name if self.node is not None else None

    @property
    def matters(self) -> bool:
        """Whether what the client does belongs into a timeline: a board's does, a phone's does not."""
        if self.node is not None or self.board.firmware not in (Firmware.NONE, Firmware.FOREIGN):
            return True
        return self.mac.is_raspberry_pi


class Responder:
    """Answers clients from the lease table and the boot table.

    Args:
        settings: what this server says about the network.
        leases: the lease table; its changes are to be stored before the replies are sent.
        table: the boot table as it is now.

    Attributes:
        clients: what each client has said about itself.
    """

    def __init__(self, settings: DhcpSettings, leases: LeaseTable, table: Callable[[], BootTable]) -> None:
        self._settings = settings
        self._leases = leases
        self._table = table
        self.clients = ClientMemory()
        self._network_options = settings.network_options()
        self._probed: OrderedDict[IPv4Address, BoardIdentity] = OrderedDict()
        self._claimed: OrderedDict[MacAddress, tuple[IPv4Address, ...]] = OrderedDict()
        self._takeovers = Takeovers()

    def respond(self, message: DhcpMessage, now: float) -> list[Action]:
        """What to do about one message of a client.

        Args:
            message: a request, already valid.
            now: UTC seconds.
        """
        said = identify_client(message)
        if said is None or said.mac is None or not self._is_local(message):
            return []
        board = self.clients.recognise(message, said)
        asked = _Asked(message, said.mac, board, self._table().find(board), now)
        match message.message_type:
            case MessageType.DISCOVER:
                return self._discover(asked)
            case MessageType.REQUEST:
                return self._request(asked)
            case MessageType.INFORM:
                return self._inform(asked)
            case MessageType.DECLINE:
                return self._decline(asked)
            case MessageType.RELEASE:
                return self._release(asked)
            case MessageType.OFFER | MessageType.ACK | MessageType.NAK:
                return []  # a server's words with a client's op

    def _is_local(self, message: DhcpMessage) -> bool:
        """Whether the client is on the network that this server has addresses for."""
        link = link_of(message)
        return link == NO_ADDRESS or link in self._settings.subnet

    def conflict(self, address: IPv4Address, holder: MacAddress, now: float) -> list[Action]:
        """A machine says that it has an address that was asked for; what that means for the client."""
        probed = self._probed.pop(address, None)
        lease = self._leases.at(address)
        claimant = self._takeovers.wanted_by(lease)
        board = claimant or probed
        if board is None or board.mac is None or board.mac == holder:
            return []
        lessee = lease.mac if lease is not None and lease.is_taken(now) else None
        if holder != lessee and self._does_proxy_arp(holder, address):
            return []  # its word says nothing about an address
        if lease is not None and claimant is not None:
            self._takeovers.heard(lease, now)
            self._leases.withdraw(address)
        elif lessee in (None, board.mac):
            self._leases.set_aside(board.mac, address, now)
        else:
            return []  # somebody else has got it since it was asked for
        node = self._table().find(board)
        name = node.name if node is not None else None
        event = AddressConflict(at=now, board=board, node=name, address=address, holder=holder)
        return [Report(event)]

    def not_asked(self, address: IPv4Address, now: float) -> None:
        """An address was to be asked for on the cable just now, and was not: silence means nothing."""
        self._takeovers.not_asked(address, now)

    def _does_proxy_arp(self, holder: MacAddress, address: IPv4Address) -> bool:
        """Whether it is a router that answers ARP for everybody."""
        claimed = self._claimed.pop(holder, ())
        claimed = self._claimed[holder] = tuple({*claimed, address})[:CLAIMS_BELIEVED]
        while len(self._claimed) > PROBES_PENDING:
            self._claimed.popitem(last=False)
        return len(claimed) == CLAIMS_BELIEVED

    def _probe(self, asked: _Asked, address: IPv4Address) -> list[Action]:
        """Look whether somebody else has the address, unless this client had it until now."""
        lease = self._leases.find(asked.mac)
        if lease is not None and lease.address == address and lease.is_taken(asked.now):
            return []
        self._probed[address] = asked.board
        self._probed.move_to_end(address)
        while len(self._probed) > PROBES_PENDING:
            self._probed.popitem(last=False)
        return [Probe(address, asked.mac)]

    def _discover(self, asked: _Asked) -> list[Action]:
        board, node, name, now = asked.board, asked.node, asked.node_name, asked.now
        seen = [Report(DhcpDiscover(at=now, board=board, node=name))] if asked.matters else []
        claim = self._claim(asked)
        if claim is Claim.WAIT:
            return [*seen]
        if claim is Claim.ASK and node is not None and node.address is not None:
            return [*seen, Probe(node.address, asked.mac)]
        address = self._choose(asked, claim)
        if address is None:
            return [*seen, self._no_address(asked, claim)]
        probe = self._probe(asked, address)
        self._leases.offer(asked.mac, address, now)
        reply = self._reply(asked, MessageType.OFFER, address, self._lease_s(asked, address))
        if not seen:
            return [*probe, reply]
        answer = decide(board, node, Stage.DHCP, now)
        explained = explain_answer(board, node, answer)
        offer = DhcpOffer(at=now, board=board, node=name, address=address, answer=explained)
        actions = [*seen, *probe, reply, Report(offer)]
        if (missing := missing_program(board, node, answer)) is not None:
            actions.append(Report(NoProgram(at=now, board=board, node=name, program=missing)))
        return actions

    def _request(self, asked: _Asked) -> list[Action]:
        message, mac, board, name = asked.message, asked.mac, asked.board, asked.node_name
        server, wanted = message.server_id, message.requested_address
        if server is not None and server not in self._names(message):
            self._leases.drop_offer(mac)
            return [
                Report(
                    ForeignServerChosen(at=asked.now, board=board, node=name, server=server, expected=False)
                )
            ]
        address = message.ciaddr if wanted is None else wanted
        if address == NO_ADDRESS:
            return []  # asks for nothing
        selecting, rebooting = server is not None, server is None and wanted is not None
        refusal = self._refusal(asked, address)
        if refusal is not None:
            return self._nak(asked, refusal)
        if selecting and not self._was_promised(asked, address):
            return self._nak(asked, f"{address} was not offered to it")
        if rebooting and not self._was_promised(asked, address):
            return []  # another server's client, for all that is known here (RFC 2131 §4.3.2)
        lease_s = self._lease_s(asked, address)
        before = self._leases.at(address)
        self._leases.bind(mac, address, asked.now + lease_s)
        reply = self._reply(asked, MessageType.ACK, address, lease_s)
        # An operating system without a node is no business of TFTP's and HTTP's, but they must not take it
        # for the board that had the address before.
        known = asked.node is not None or board.firmware not in (Firmware.NONE, Firmware.FOREIGN)
        changed = before is not None and before.mac != mac
        learnt = [Learn(address, board)] if known or changed else []
        if not asked.matters:
            return [*learnt, reply]
        boots = board.is_pi or board.firmware.takes_programs
        event = DhcpAck(at=asked.now, board=board, node=name, address=address, lease_s=lease_s, boots=boots)
        return [*learnt, reply, Report(event)]

    def _inform(self, asked: _Asked) -> list[Action]:
        """The client has an address of its own and asks for the rest: no lease in the answer."""
        message = asked.message
        if not is_host(message.ciaddr, self._settings.subnet):
            return []  # the answer goes to that address
        words = boot_words(message, asked.board, None, self._settings)
        return [
            build_reply(
                message,
                MessageType.ACK,
                self._settings,
                siaddr=self._settings.server if words.names_server else NO_ADDRESS,
                options=self._network_options + words.options,
            )
        ]

    def _decline(self, asked: _Asked) -> list[Action]:
        message, address = asked.message, asked.message.requested_address
        if address is None or message.server_id not in self._names(message):
            return []
        if not self._leases.decline(asked.mac, address, asked.now):
            return []
        event = AddressDeclined(at=asked.now, board=asked.board, node=asked.node_name, address=address)
        return [Report(event)]

    def _release(self, asked: _Asked) -> list[Action]:
        message, address = asked.message, asked.message.ciaddr
        if message.server_id is not None and message.server_id not in self._names(message):
            return []
        if not self._leases.release(asked.mac, address, asked.now):
            return []
        event = AddressReleased(at=asked.now, board=asked.board, node=asked.node_name, address=address)
        return [Report(event)]

    def _names(self, message: DhcpMessage) -> tuple[IPv4Address, IPv4Address]:
        """What this server is called in option 54 by such a client."""
        return self._settings.server, server_id(message, self._settings)

    def _lease_s(self, asked: _Asked, address: IPv4Address) -> int:
        """Strangers get a short lease while the pool is scarce: what a flood of them took comes back soon."""
        stranger = asked.node is None and not asked.board.is_pi
        if stranger and self._leases.is_scarce(asked.now) and address not in self._table().reserved:
            return min(self._settings.short_lease_s, self._settings.lease_s)
        return self._settings.lease_s

    def _choose(self, asked: _Asked, claim: Claim | None) -> IPv4Address | None:
        """The declared address; one of the pool where there is none, or while somebody else has it still."""
        if asked.node is not None and claim is Claim.FREE:
            return asked.node.address
        urgent = asked.node is not None or asked.board.is_pi
        reserved = self._table().reserved
        return self._leases.choose(
            asked.mac, asked.message.requested_address, reserved, asked.now, urgent=urgent
        )

    def _claim(self, asked: _Asked) -> Claim | None:
        """Whether a node's board gets the node's address, of which another machine may have a lease.

        None where it has none, and where that machine has it by the node's own declaration.
        """
        node = asked.node
        if node is None or node.address is None:
            return None
        if self._leases.is_free(node.address, asked.mac, asked.now):
            return Claim.FREE
        lease = self._leases.at(node.address)
        if lease is None or lease.state is not LeaseState.BOUND or not lease.is_taken(asked.now):
            return None
        if lease.mac == node.mac:
            return None
        if asked.message.giaddr != NO_ADDRESS:
            return Claim.UNKNOWN
        return self._takeovers.claim(lease, asked.board, asked.now)

    def _no_address(self, asked: _Asked, claim: Claim | None) -> Report:
        reason, node, now = "no address of the pool is free", asked.node, asked.now
        lease = self._leases.at(node.address) if node is not None and node.address is not None else None
        if lease is None or not lease.is_taken(now):
            lease, reason = None, f"{reason}. Make the pool larger, or the lease time shorter"
        else:
            reason = f"{reason}, and {explain_held(lease, claim)}"
        own = lease.address if lease is not None else None
        event = NoAddressLeft(at=now, board=asked.board, node=asked.node_name, reason=reason, own=own)
        return Report(event)

    def _refusal(self, asked: _Asked, address: IPv4Address) -> str | None:
        """Why a client can not have an address; None where nothing speaks against it."""
        node, mac, now = asked.node, asked.mac, asked.now
        if not is_host(address, self._settings.subnet):
            return f"{address} is no address of a machine in {self._settings.subnet}"
        owner = self._table().reserved.get(address)
        if owner is not None and owner.name != asked.node_name:
            return f"{address} belongs to node {owner.name}"
        if address in (self._settings.server, self._settings.gateway):
            return f"{address} is in use by this network's own machines"
        # It is offered while another has it only where that one did not answer (`_claim`).
        if not self._leases.is_free(address, mac, now) and self._leases.offered(mac, now) != address:
            return f"{address} is in use by another machine"
        if node is None or node.address in (None, address):
            return None
        if self._leases.is_free(node.address, mac, now):
            return f"node {node.name} is to have {node.address} now"
        return None

    def _was_promised(self, asked: _Asked, address: IPv4Address) -> bool:
        """Whether an address is the client's by declaration, by an offer, or by an earlier lease."""
        lease = self._leases.find(asked.mac)
        return (
            (asked.node is not None and asked.node.address == address)
            or self._leases.offered(asked.mac, asked.now) == address
            or (lease is not None and lease.address == address)
        )

    def _nak(self, asked: _Asked, reason: str) -> list[Action]:
        reply = build_reply(
            asked.message,
            MessageType.NAK,
            self._settings,
            options=((Option.MESSAGE, reason.encode("ascii", "replace")[:255]),),
        )
        event = DhcpNak(at=asked.now, board=asked.board, node=asked.node_name, reason=reason)
        return [reply, Report(event)]

    def _reply(self, asked: _Asked, reply_type: MessageType, address: IPv4Address, lease_s: int) -> SendReply:
        """An OFFER or an ACK with everything that the client can use."""
        board, node = asked.board, asked.node
        options = self._settings.lease_options(lease_s) + self._network_options
        if node is not None:
            options += ((Option.HOST_NAME, node.name.encode("ascii", "replace")),)
        program = None
        if board.firmware.takes_programs:
            program = find_program(board, node, decide(board, node, Stage.DHCP, asked.now))
        words = boot_words(asked.message, board, program, self._settings)
        return build_reply(
            asked.message,
            reply_type,
            self._settings,
            yiaddr=address,
            siaddr=self._settings.server if words.names_server else NO_ADDRESS,
            file=words.file,
            options=options + words.options,
        )
