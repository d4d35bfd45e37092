"""The DHCP server of `dhcp: proxy`: it gives no addresses, it only adds to another server's offer where to
boot from.

A firmware collects offers until it has an address and a boot server, in any order. It sends its REQUEST to
the server of the address; that request is not answered here, only noticed. UEFI may ask the boot server once
more, on port 4011; a Raspberry Pi never does, and is never answered there.

Raspberry Pis are always answered. Other arm64 firmware is answered when its node may install, for it takes an
offer without a file for a failure; phones, laptops and PCs are not answered at all.

Source: PXE specification 2.1 §2.2, figure 2-1 (proxyDHCP on the ports 67 and 4011).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pxe.boot.clients import Learn
from pxe.boot.decision import BootAnswer, Stage, decide
from pxe.boot.identity import BoardIdentity, Firmware, identify_client
from pxe.boot.programs import explain_answer, find_program, missing_program
from pxe.boot.table import BootTable, NodeBootState
from pxe.dhcp.boot_options import BootWords, boot_words
from pxe.dhcp.replies import Action, ClientMemory, DhcpSettings, Report, build_reply
from pxe.dhcp.wire import FLAG_BROADCAST, NO_ADDRESS, DhcpMessage, MessageType
from pxe.events import DhcpDiscover, DhcpOffer, ForeignServerChosen, NoProgram


class ProxyResponder:
    """Answers boot firmware of arm64 boards, and nobody else.

    Args:
        settings: of the network part only `server` is used.
        table: the boot table as it is now.

    Attributes:
        clients: what each client has said about itself.
    """

    def __init__(self, settings: DhcpSettings, table: Callable[[], BootTable]) -> None:
        self._settings = settings
        self._table = table
        self.clients = ClientMemory()

    def respond(self, message: DhcpMessage, now: float) -> list[Action]:
        """What to do about one message of a client.

        Args:
            message: a request, already valid.
            now: UTC seconds.
        """
        said = identify_client(message)
        if said is None:
            return []
        board = self.clients.recognise(message, said)
        if board.firmware in (Firmware.NONE, Firmware.FOREIGN):
            return []
        node = self._table().find(board)
        name = node.name if node else None
        if message.message_type is MessageType.DISCOVER:
            answer = decide(board, node, Stage.DHCP, now)
            words = self._words(message, board, node, answer)
            seen = Report(DhcpDiscover(at=now, board=board, node=name))
            if (missing := missing_program(board, node, answer)) is not None:
                return [seen, Report(NoProgram(at=now, board=board, node=name, program=missing))]
            if not words.options:
                return [seen]
            explained = explain_answer(board, node, answer)
            return [
                seen,
                self._offer(message, words),
                Report(DhcpOffer(at=now, board=board, node=name, address=None, answer=explained)),
            ]
        server, address = message.server_id, message.requested_address
        if message.message_type is MessageType.REQUEST and server is not None and address is not None:
            return [
                Learn(address, board),
                Report(ForeignServerChosen(at=now, board=board, node=name, server=server, expected=True)),
            ]
        return []

    def respond_boot_server(self, message: DhcpMessage, now: float) -> list[Action]:
        """What to do about one message on port 4011: a firmware with an address asks for its boot file.

        Args:
            message: a request, already valid.
            now: UTC seconds.
        """
        said = identify_client(message)
        if said is None or not said.firmware.takes_programs or message.ciaddr == NO_ADDRESS:
            return []
        if message.message_type not in (MessageType.REQUEST, MessageType.INFORM):
            return []
        board = self.clients.recognise(message, said)
        node = self._table().find(board)
        words = self._words(message, board, node, decide(board, node, Stage.DHCP, now))
        if not words.options:
            return []
        reply = self._reply(message, MessageType.ACK, words)
        return [Learn(message.ciaddr, board), reply]

    def _words(
        self, message: DhcpMessage, board: BoardIdentity, node: NodeBootState | None, answer: BootAnswer
    ) -> BootWords:
        return boot_words(message, board, find_program(board, node, answer), self._settings)

    def _offer(self, message: DhcpMessage, words: BootWords) -> Action:
        """An offer without an address."""
        asked = message if message.giaddr != NO_ADDRESS else _broadcast(message)
        return self._reply(asked, MessageType.OFFER, words)

    def _reply(self, message: DhcpMessage, kind: MessageType, words: BootWords) -> Action:
        siaddr = self._settings.server if words.names_server else NO_ADDRESS
        return build_reply(
            message, kind, self._settings, siaddr=siaddr, file=words.file, options=words.options
        )


def _broadcast(message: DhcpMessage) -> DhcpMessage:
    return replace(message, flags=message.flags | FLAG_BROADCAST)
