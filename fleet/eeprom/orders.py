"""Orders to write bootloader settings: a person gives them, the node's agent fetches and carries them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agent.protocol import EepromOrder
from fleet import events
from fleet.eeprom.keys import KEYS
from fleet.ground import Ground
from fleet.refusal import RefusedError, no_such_node
from fleet.restored import GAP, epoch_of, require_observed
from fleet.store.records import NodeRecord
from fleet.store.transaction import Reader

MAX_SETTINGS: Final = 64


class EepromDesk:
    """Keeps one order for each node, the newest, with its number."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def order(self, name: str, settings: Mapping[str, Any]) -> str:
        """Take an order; what was done, for people.

        Raises:
            RefusedError: There is no such node, it has no agent yet, or a setting is not sound for its board.
        """
        node = self._ground.spec.find_node(name)
        if node is None:
            raise no_such_node(name, (known.name for known in self._ground.spec.nodes))
        if not settings or len(settings) > MAX_SETTINGS:
            raise RefusedError(400, "settings", f"{len(settings)} settings, expected 1 to {MAX_SETTINGS}")
        for key, value in settings.items():
            check = KEYS.get(key)
            fault = "no setting of the bootloader" if check is None else None
            if check is not None:
                fault = check(value, node.board) if isinstance(value, str) else "not a text"
            if fault is not None:
                raise RefusedError(
                    400, "settings", f"{key}: {fault}", "'bramble eeprom check' finds them all."
                )
        now = self._ground.clock()
        with self._ground.store.write() as tx:
            record = tx.require_node(name)
            require_observed(tx, name)
            if record.certificate is None:
                raise RefusedError(
                    409,
                    "not-enrolled",
                    f"{name} is {record.state}: no agent of it is enrolled that could do it",
                    "Install the node first, or run rpi-eeprom-config on the board with 'bramble eeprom "
                    "config'.",
                )
            # After a restore above what the lost hours can have used: a node takes no number twice.
            number = max(number_of(tx, name), epoch_of(tx) * GAP) + 1
            value = {"number": number, "settings": dict(settings)}
            tx.put_json(_key(name), value)
            entry = events.eeprom_ordered(number, settings)
            tx.add_event(entry, now, node=name, board=record.board_id)
        return f"order {number} for {name} is given; 'bramble show {name}' tells what its agent did"

    def order_for(self, node: NodeRecord) -> EepromOrder:
        """The newest order for the caller.

        Raises:
            RefusedError: There is none.
        """
        with self._ground.store.read() as reader:
            found = reader.json_value(_key(node.name))
        if found is None:
            raise RefusedError(404, "no-order", f"there is no EEPROM order for {node.name}")
        board = self._ground.require_spec(node.name).board
        return EepromOrder(
            number=found["number"], board_type=board.type_code, settings=dict(found["settings"])
        )


def number_of(reader: Reader, name: str) -> int:
    """Number of a node's newest order; 0 where there is none."""
    found = reader.json_value(_key(name))
    return 0 if found is None else int(found["number"])


def _key(name: str) -> str:
    return f"eeprom.{name}"
