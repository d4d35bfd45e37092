"""The DHCP server of `dhcp: proxy`: it gives no addresses, it only adds to another server's offer where to
boot from.

A bootloader collects offers until it has an address and a boot server, in any order. It sends its REQUEST
to the server of the address; that request is not answered here, only noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pxe.boot.clients import Learn
from pxe.boot.decision import Stage, decide
from pxe.boot.identity import identify_client
from pxe.boot.table import BootTable
from pxe.dhcp.core import PXE_CLASS
from pxe.dhcp.replies import Action, ClientMemory, DhcpSettings, Report, build_reply, echoed_guid
from pxe.dhcp.vendor import PI_BOOT_OPTION_43
from pxe.dhcp.wire import FLAG_BROADCAST, NO_ADDRESS, DhcpMessage, MessageType, Option
from pxe.events import DhcpDiscover, DhcpOffer, ForeignServerChosen


class ProxyResponder:
    """Answers bootloaders of Raspberry Pis, and nobody else.

    Args:
        settings: of the network part only `server` is used.
        table: the boot table as it is now.
    """

    def __init__(self, settings: DhcpSettings, table: Callable[[], BootTable]) -> None:
        self._settings = settings
        self._table = table
        self._memory = ClientMemory()

    def respond(self, message: DhcpMessage, now: float) -> list[Action]:
        """What to do about one message of a client.

        Args:
            message: a request, already valid.
            now: UTC seconds.
        """
        said = identify_client(message)
        if said is None:
            return []
        board = self._memory.recognise(message, said)
        if not board.is_pi:
            return []
        node = self._table().find(board)
        name = node.name if node else None
        if message.message_type is MessageType.DISCOVER:
            answer = decide(board, node, Stage.DHCP, now).describe()
            return [
                Report(DhcpDiscover(at=now, board=board, node=name)),
                self._offer(message),
                Report(DhcpOffer(at=now, board=board, node=name, address=None, answer=answer)),
            ]
        server, address = message.server_id, message.requested_address
        if message.message_type is MessageType.REQUEST and server is not None and address is not None:
            return [
                Learn(address, board),
                Report(ForeignServerChosen(at=now, board=board, node=name, server=server, expected=True)),
            ]
        return []

    def _offer(self, message: DhcpMessage) -> Action:
        """An offer without an address. Order of the options as bootloaders are known to accept it."""
        asked = message if message.giaddr != NO_ADDRESS else _broadcast(message)
        return build_reply(
            asked,
            MessageType.OFFER,
            self._settings,
            options=(
                (Option.VENDOR_CLASS, PXE_CLASS),
                *echoed_guid(message),
                (Option.VENDOR_SPECIFIC, PI_BOOT_OPTION_43),
            ),
        )


def _broadcast(message: DhcpMessage) -> DhcpMessage:
    return replace(message, flags=message.flags | FLAG_BROADCAST)
