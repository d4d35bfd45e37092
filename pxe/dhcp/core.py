"""The DHCP server of `dhcp: full`: messages and the time in, replies with their destinations out.

Declared nodes get their declared address, everybody else one of the pool. A bootloader of a Raspberry Pi is
told in three ways that this is its boot server (options 43 and 66, and siaddr), because EEPROM versions
differ in which one they read; a board that may not install as well, for TFTP tells it so within milliseconds.

Source of the client's states: RFC 2131 §4.3.2, table 4.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Final

from fleet.boards import MacAddress
from pxe.boot.clients import Learn
from pxe.boot.decision import Stage, decide
from pxe.boot.identity import BoardIdentity, identify_client
from pxe.boot.table import BootTable, NodeBootState
from pxe.dhcp.leases import LeaseTable
from pxe.dhcp.replies import (
    Action,
    ClientMemory,
    DhcpSettings,
    Report,
    SendReply,
    build_reply,
    echoed_guid,
)
from pxe.dhcp.vendor import PI_BOOT_OPTION_43
from pxe.dhcp.wire import NO_ADDRESS, DhcpMessage, MessageType, Option
from pxe.events import (
    AddressDeclined,
    AddressReleased,
    DhcpAck,
    DhcpDiscover,
    DhcpNak,
    DhcpOffer,
    ForeignServerChosen,
    NoAddressLeft,
)

PXE_CLASS: Final = b"PXEClient"


class Responder:
    """Answers clients from the lease table and the boot table.

    Args:
        settings: what this server says about the network.
        leases: the lease table; its changes are to be stored before the replies are sent.
        table: the boot table as it is now.
    """

    def __init__(self, settings: DhcpSettings, leases: LeaseTable, table: Callable[[], BootTable]) -> None:
        self._settings = settings
        self._leases = leases
        self._table = table
        self._memory = ClientMemory()

    def respond(self, message: DhcpMessage, now: float) -> list[Action]:
        """What to do about one message of a client.

        Args:
            message: a request, already valid.
            now: UTC seconds.
        """
        said = identify_client(message)
        if said is None or said.mac is None or not self._is_local(message):
            return []
        board = self._memory.recognise(message, said)
        node = self._table().find(board)
        match message.message_type:
            case MessageType.DISCOVER:
                return self._discover(message, said.mac, board, node, now)
            case MessageType.REQUEST:
                return self._request(message, said.mac, board, node, now)
            case MessageType.INFORM:
                return self._inform(message, board, node)
            case MessageType.DECLINE:
                return self._decline(message, said.mac, board, node, now)
            case MessageType.RELEASE:
                return self._release(message, said.mac, board, node, now)
            case MessageType.OFFER | MessageType.ACK | MessageType.NAK:
                return []  # a server's words with a client's op

    def _is_local(self, message: DhcpMessage) -> bool:
        """Whether the client is on the network that this server has addresses for."""
        return message.giaddr == NO_ADDRESS or message.giaddr in self._settings.subnet

    def _discover(
        self,
        message: DhcpMessage,
        mac: MacAddress,
        board: BoardIdentity,
        node: NodeBootState | None,
        now: float,
    ) -> list[Action]:
        name = node.name if node else None
        seen = Report(DhcpDiscover(at=now, board=board, node=name))
        address = self._choose(message, mac, node, now)
        if address is None:
            reason = "no address of the pool is free. Make the pool larger, or the lease time shorter"
            return [seen, Report(NoAddressLeft(at=now, board=board, node=name, reason=reason))]
        self._leases.offer(mac, address, now)
        answer = decide(board, node, Stage.DHCP, now).describe() if board.is_pi else ""
        return [
            seen,
            self._reply(message, MessageType.OFFER, board, node, address),
            Report(DhcpOffer(at=now, board=board, node=name, address=address, answer=answer)),
        ]

    def _request(
        self,
        message: DhcpMessage,
        mac: MacAddress,
        board: BoardIdentity,
        node: NodeBootState | None,
        now: float,
    ) -> list[Action]:
        server, wanted = message.server_id, message.requested_address
        if server is not None and server != self._settings.server:
            self._leases.drop_offer(mac)
            name = node.name if node else None
            return [
                Report(ForeignServerChosen(at=now, board=board, node=name, server=server, expected=False))
            ]
        address = message.ciaddr if wanted is None else wanted
        if address == NO_ADDRESS:
            return []  # asks for nothing
        selecting, rebooting = server is not None, server is None and wanted is not None
        refusal = self._refusal(address, mac, node, now)
        if refusal is not None:
            return self._nak(message, board, node, refusal, now)
        if selecting and not self._was_promised(address, mac, node, now):
            return self._nak(message, board, node, f"{address} was not offered to it", now)
        if rebooting and not self._was_promised(address, mac, node, now):
            return []  # another server's client, for all that is known here (RFC 2131 §4.3.2)
        self._leases.bind(mac, address, now + self._settings.lease_s)
        name = node.name if node else None
        return [
            Learn(address, board),
            self._reply(message, MessageType.ACK, board, node, address),
            Report(
                DhcpAck(
                    at=now,
                    board=board,
                    node=name,
                    address=address,
                    lease_s=self._settings.lease_s,
                    boots=board.is_pi,
                )
            ),
        ]

    def _inform(self, message: DhcpMessage, board: BoardIdentity, node: NodeBootState | None) -> list[Action]:
        """The client has an address of its own and asks for the rest: no lease in the answer."""
        if message.ciaddr == NO_ADDRESS:
            return []
        options = self._settings.network_options() + self._boot_options(message, board)
        return [
            build_reply(message, MessageType.ACK, self._settings, siaddr=self._siaddr(board), options=options)
        ]

    def _decline(
        self,
        message: DhcpMessage,
        mac: MacAddress,
        board: BoardIdentity,
        node: NodeBootState | None,
        now: float,
    ) -> list[Action]:
        address = message.requested_address
        if address is None or message.server_id != self._settings.server:
            return []
        if not self._leases.decline(mac, address, now):
            return []
        return [
            Report(AddressDeclined(at=now, board=board, node=node.name if node else None, address=address))
        ]

    def _release(
        self,
        message: DhcpMessage,
        mac: MacAddress,
        board: BoardIdentity,
        node: NodeBootState | None,
        now: float,
    ) -> list[Action]:
        if message.server_id not in (None, self._settings.server):
            return []
        if not self._leases.release(mac, message.ciaddr, now):
            return []
        return [
            Report(
                AddressReleased(at=now, board=board, node=node.name if node else None, address=message.ciaddr)
            )
        ]

    def _choose(
        self, message: DhcpMessage, mac: MacAddress, node: NodeBootState | None, now: float
    ) -> IPv4Address | None:
        """The declared address; one of the pool where there is none, or while somebody else has it still."""
        if node is not None and node.address is not None and self._leases.is_free(node.address, mac, now):
            return node.address
        return self._leases.choose(mac, message.requested_address, self._table().reserved, now)

    def _refusal(
        self, address: IPv4Address, mac: MacAddress, node: NodeBootState | None, now: float
    ) -> str | None:
        """Why a client can not have an address; None where nothing speaks against it."""
        if address not in self._settings.subnet:
            return f"{address} is not in {self._settings.subnet}"
        owner = self._table().reserved.get(address)
        if owner is not None and (node is None or owner.name != node.name):
            return f"{address} belongs to node {owner.name}"
        if address in (self._settings.server, self._settings.gateway):
            return f"{address} is in use by this network's own machines"
        if not self._leases.is_free(address, mac, now):
            return f"{address} is in use by another machine"
        if node is not None and node.address not in (None, address) and self._can_have(node, mac, now):
            return f"node {node.name} is to have {node.address} now"
        return None

    def _can_have(self, node: NodeBootState, mac: MacAddress, now: float) -> bool:
        return node.address is not None and self._leases.is_free(node.address, mac, now)

    def _was_promised(
        self, address: IPv4Address, mac: MacAddress, node: NodeBootState | None, now: float
    ) -> bool:
        """Whether an address is the client's by declaration, by an offer, or by an earlier lease."""
        lease = self._leases.find(mac)
        return (
            (node is not None and node.address == address)
            or self._leases.offered(mac, now) == address
            or (lease is not None and lease.address == address)
        )

    def _nak(
        self,
        message: DhcpMessage,
        board: BoardIdentity,
        node: NodeBootState | None,
        reason: str,
        now: float,
    ) -> list[Action]:
        reply = build_reply(
            message,
            MessageType.NAK,
            self._settings,
            options=((Option.MESSAGE, reason.encode("ascii", "replace")[:255]),),
        )
        name = node.name if node else None
        return [reply, Report(DhcpNak(at=now, board=board, node=name, reason=reason))]

    def _reply(
        self,
        message: DhcpMessage,
        reply_type: MessageType,
        board: BoardIdentity,
        node: NodeBootState | None,
        address: IPv4Address,
    ) -> SendReply:
        """An OFFER or an ACK with everything that the client can use."""
        options = self._settings.lease_options() + self._settings.network_options()
        if node is not None:
            options += ((Option.HOST_NAME, node.name.encode("ascii", "replace")),)
        return build_reply(
            message,
            reply_type,
            self._settings,
            yiaddr=address,
            siaddr=self._siaddr(board),
            options=options + self._boot_options(message, board),
        )

    def _siaddr(self, board: BoardIdentity) -> IPv4Address:
        return self._settings.server if board.is_pi else NO_ADDRESS

    def _boot_options(self, message: DhcpMessage, board: BoardIdentity) -> tuple[tuple[int, bytes], ...]:
        """Options 60, 97, 43 and 66 for a bootloader. Option 66 is a dotted quad: bootloaders resolve no
        names."""
        if not board.is_pi:
            return ()
        return (
            (Option.VENDOR_CLASS, PXE_CLASS),
            *echoed_guid(message),
            (Option.VENDOR_SPECIFIC, PI_BOOT_OPTION_43),
            (Option.TFTP_SERVER, str(self._settings.server).encode()),
        )
