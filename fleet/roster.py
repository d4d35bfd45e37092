"""Which declared node is the board that was seen? Pure: cluster.yaml against a serial and MACs.

`pxe.boot.identity` reads the identity out of packets; this decides whose it is, for the control server. A
board may be seen with its serial's low half only (DHCP option 97, TFTP prefix) or with its MAC only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fleet.boards import MacAddress, Serial
from fleet.enrolment import Recognition
from fleet.spec.model import NodeSpec


@dataclass(frozen=True, slots=True)
class Match:
    """Whose board it is. `node` is set for DECLARED only."""

    recognition: Recognition
    node: NodeSpec | None = None


def recognise(nodes: Iterable[NodeSpec], serial: Serial | None, macs: tuple[MacAddress, ...]) -> Match:
    """Find the node that a board is.

    A node declared with both serial and MAC is matched by either, as long as the other does not contradict: a
    board that shows the serial of one node and the MAC of another is CONFLICTING and gets nothing.
    """
    found: set[str] = set()
    contradicted = False
    by_name = {}
    for node in nodes:
        serial_says = node.serial.matches(serial) if node.serial and serial else None
        mac_says = node.mac in macs if node.mac and macs else None
        if serial_says or mac_says:
            found.add(node.name)
            by_name[node.name] = node
            contradicted |= serial_says is False or mac_says is False
    if not found:
        return Match(Recognition.UNKNOWN)
    if len(found) > 1 or contradicted:
        return Match(Recognition.CONFLICTING)
    return Match(Recognition.DECLARED, by_name[found.pop()])
