"""Orders to restart a board into the installer: given by the way in, fetched and carried out by the agent.

An agent notes the number of an order before it begins, so that it never restarts a board twice for one. Where
the disk takes nothing any more, which is a reason to install anew, the order ends here: it is named to no
other start of the node's system than the one that it was given to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from agent.protocol import RebootOrder, Status
from fleet.lifecycle import ENTERING_INSTALLER
from fleet.refusal import RefusedError
from fleet.restored import GAP, epoch_of
from fleet.store.database import Store
from fleet.store.records import NodeRecord
from fleet.store.transaction import Reader, Transaction

PREFIX: Final = "reboot."
"""kv: {"number": n, "intent": n, "boot_order": "0x…", "boot_id": start, "refused": text} by node. Without a
start, as a release of before wrote it, it is for whoever asks."""
REFUSED: Final = "reboot_refused"
"""Problem code of an agent that did not restart its board, as `agent.duties` has it."""


@dataclass(frozen=True, slots=True)
class RebootDesk:
    """Answers agents. One order for each node, the newest."""

    store: Store

    def order_for(self, node: NodeRecord) -> RebootOrder:
        """The newest order for the caller.

        Raises:
            RefusedError: There is none, or its board is not wanted on the network any more.
        """
        with self.store.read() as reader:
            found = _wanted(reader, node)
        if found is None:
            raise RefusedError(404, "no-order", f"{node.name} is not to be restarted")
        return RebootOrder(
            number=found["number"], intent=found["intent"], boot_order=str(found["boot_order"])
        )


def give_order(tx: Transaction, node: NodeRecord, *, intent: int, boot_order: str) -> int:
    """Write an order down; its number. After a restore it is above what the lost hours can have used."""
    known = tx.json_value(PREFIX + node.name)
    number = max(int(known["number"]) if known else 0, epoch_of(tx) * GAP) + 1
    order = {"number": number, "intent": intent, "boot_order": boot_order, "boot_id": node.boot_id}
    tx.put_json(PREFIX + node.name, order)
    return number


def offered(reader: Reader, node: NodeRecord) -> int:
    """The number that a node's agent is told: none unless its board is wanted on the network."""
    found = _wanted(reader, node)
    return 0 if found is None else int(found["number"])


def hear(tx: Transaction, name: str, status: Status) -> None:
    """Keep why an agent did not carry its order out: it says so once."""
    for problem in status.problems:
        known = tx.json_value(PREFIX + name) if problem.code == REFUSED else None
        if known is not None and problem.message.startswith(f"order {known['number']}: "):
            reason = problem.message.partition(": ")[2]
            text = f"{reason}. {problem.hint.replace('NODE', name)}" if problem.hint else reason
            tx.put_json(PREFIX + name, {**known, "refused": text})


def refusal_of(reader: Reader, name: str, number: int) -> str:
    """Why the agent did not carry this order out; empty as long as it did not say so."""
    found = reader.json_value(PREFIX + name)
    if found is None or int(found["number"]) != number:
        return ""
    return str(found.get("refused", ""))


def _wanted(reader: Reader, node: NodeRecord) -> dict[str, Any] | None:
    """The newest order, if it was given for the re-image that is open, and to the start that asks: the one of
    an earlier installation is new to the agent of this one."""
    if node.state not in ENTERING_INSTALLER:
        return None
    found, order = reader.json_value(PREFIX + node.name), reader.open_reimage(node.name)
    if not found or order is None or int(found["intent"]) < order.number:
        return None
    return found if found.get("boot_id") in (None, node.boot_id) else None
