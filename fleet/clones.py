"""Copied disks: two boards that hold one node's key and certificate.

Whoever presents a certificate in force from a board that is not its node proves that the key exists twice.
Then neither copy can be told from the other, so both lose it, and a person decides.
"""

from __future__ import annotations

from agent.protocol import Hardware
from fleet import events
from fleet.bindings import bind, has_other_serial
from fleet.boards import BoardError, MacAddress, Serial
from fleet.store.records import NodeRecord
from fleet.store.transaction import Transaction


def suspend_cloned(tx: Transaction, node: NodeRecord, now: float) -> None:
    """Make the node's certificate worthless, with an alarm."""
    tx.update_node(node, certificate=None, previous_certificate=None)
    # Not `say_once`: it happens once for each certificate anyway.
    tx.add_event(events.cloned(node.name), now, node=node.name, board=node.board_id)


def is_copied(tx: Transaction, node: NodeRecord, hardware: Hardware) -> bool:
    """Whether a report with the node's certificate is another board's.

    Only the serial counts: it is one value that the firmware gives, whereas interfaces come and go with their
    drivers. A node from before boards were bound is bound by its first report.
    """
    try:
        serial = Serial.parse(hardware.serial) if hardware.serial else None
        macs = tuple(map(MacAddress.parse, hardware.macs))
    except BoardError:
        return False
    bound = tx.node_board(node.name)
    if bound is None and serial is not None:
        tx.bind_board(bind(None, node.name, serial, macs, intent=None))
    return has_other_serial(bound, serial)
