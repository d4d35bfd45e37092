"""A node becomes another board, or nobody's: who it was before is turned away from then on.

cluster.yaml declares which board a node is, and people write it. Between an order to replace a board and the
day on which the file says so, the order stands: kv `identity.<node>` holds the declaration that it overrides
and the one in its place. A file that says anything else than the overridden declaration counts again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Final

from fleet import events
from fleet.boards import MacAddress, Serial
from fleet.ground import Ground
from fleet.spec.model import ClusterSpec, NodeSpec
from fleet.store.records import NodeRecord
from fleet.store.transaction import Reader, Transaction

IDENTITY: Final = "identity."
RETIRED: Final = "retired."
"""kv: nodes that were decommissioned by order while they are declared; gone when they leave cluster.yaml."""
_BURNT_BY: Final = "the node's board was replaced"


def overlay(spec: ClusterSpec, reader: Reader) -> ClusterSpec:
    """The declared cluster, with the boards that were replaced since the file was written."""
    overrides = reader.values(IDENTITY)
    if not overrides:
        return spec
    return dataclasses.replace(
        spec, nodes=tuple(_overlaid(node, overrides.get(IDENTITY + node.name)) for node in spec.nodes)
    )


def _overlaid(node: NodeSpec, text: str | None) -> NodeSpec:
    if text is None:
        return node
    known: Mapping[str, str | None] = json.loads(text)
    declared = {
        "serial": node.serial.text if node.serial else None,
        "mac": str(node.mac) if node.mac else None,
    }
    if declared != {"serial": known["old_serial"], "mac": known["old_mac"]}:
        return node
    mac = known["mac"]
    return dataclasses.replace(
        node, serial=Serial.parse(str(known["serial"])), mac=MacAddress.parse(mac) if mac else None
    )


def rebind(tx: Transaction, serial: Serial, node: NodeRecord, ground: Ground, now: float) -> None:
    """Give the node's name to the board with this serial, and take it from the old one for good.

    The old disk holds the node's password: it gets another, so that k3s turns the old disk away too.
    """
    # What the file says, and not a board that took its place before: of two replacements the last one counts.
    spec = ground.written.find_node(node.name) or ground.require_spec(node.name)
    override = {
        "old_serial": spec.serial.text if spec.serial else None,
        "old_mac": str(spec.mac) if spec.mac else None,
        "serial": serial.text,
        "mac": None,
    }
    tx.put_value(IDENTITY + node.name, json.dumps(override))
    _burn(tx, node, now)
    intent = tx.open_intent(node.name)
    if intent is not None:  # an installer on the old board may still be at work
        tx.update_intent(intent, token_sha256=None, occupant=None)
    tx.unbind_board(node.name)
    # Keys of the old board vouch for this node no more. Those that were imported for the new one do.
    tx.forget_device_keys(board=_low_half(node), node=node.name)
    tx.update_node(
        node,
        serial=serial.text,
        mac=None,
        certificate=None,
        previous_certificate=None,
        agent_key=None,
        disk_signature=None,
        pending_key=None,
        approved_key=None,
        node_password=ground.random_hex(16),
        boot_id=None,
        status=None,
        status_sequence=0,
        status_at=None,
    )
    before = ground.require_spec(node.name)
    old = before.serial.text if before.serial else str(before.mac)
    hint = f"Write 'serial: {serial.text}' for {node.name} in cluster.yaml, without the old serial and MAC."
    entry = events.reimage_step(f"board {serial.text} takes the place of {old}", hint)
    tx.add_event(entry, now, node=node.name, board=node.board_id)


def retire(tx: Transaction, node: NodeRecord, now: float) -> None:
    """A node that was decommissioned by order: nothing that it was given counts, and it is not answered."""
    _burn(tx, node, now)
    intent = tx.open_intent(node.name)
    if intent is not None:
        tx.close_intent(intent, "decommissioned", now)
    tx.unbind_board(node.name)
    tx.put_value(RETIRED + node.name, str(now))
    tx.remove_value(IDENTITY + node.name)
    tx.update_node(
        node,
        # Declared again one day it is installed as a new one: what its disk holds by then needs a person.
        image_id=None,
        certificate=None,
        previous_certificate=None,
        agent_key=None,
        pending_key=None,
        approved_key=None,
        join_allowed=False,
    )


def is_retired(reader: Reader, name: str) -> bool:
    """Whether it was decommissioned by order and is still declared."""
    return reader.value(RETIRED + name) is not None


def forget_retirement(tx: Transaction, name: str) -> None:
    """It left cluster.yaml: the next time that it is declared, it is a new node."""
    tx.remove_value(RETIRED + name)
    tx.remove_value(IDENTITY + name)


def _burn(tx: Transaction, node: NodeRecord, now: float) -> None:
    for ticket in tx.tickets(node.name):
        tx.burn_ticket(ticket.sha256, _BURNT_BY, now)


def _low_half(node: NodeRecord) -> str | None:
    return node.serial[8:] if node.serial else None
