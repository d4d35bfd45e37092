"""Is the board that speaks the one that this node is? Pure.

cluster.yaml often declares one half of a board's identity. The other half is learned when a board first
claims to be the node, and from then on a second board with the same declared half is a second board: a copied
card, or a forged serial.
"""

from __future__ import annotations

from fleet.boards import MacAddress, Serial
from fleet.store.trust import NodeBoard


def has_other_serial(bound: NodeBoard | None, serial: Serial | None) -> bool:
    """Whether both serials are known and name two boards."""
    if bound is None or bound.serial is None or serial is None:
        return False
    return not Serial(bound.serial).matches(serial)


def has_other_macs(bound: NodeBoard | None, macs: tuple[MacAddress, ...]) -> bool:
    """Whether both showed network interfaces, and have none in common.

    One in common is enough: the installer knows the wired interface only, the installed system the radio too.
    """
    if bound is None or not bound.macs or not macs:
        return False
    return set(bound.macs).isdisjoint(map(str, macs))


def bind(
    bound: NodeBoard | None,
    node: str,
    serial: Serial | None,
    macs: tuple[MacAddress, ...],
    *,
    intent: int | None,
    key: str | None = None,
) -> NodeBoard:
    """The binding to this board; what the same board showed earlier is kept."""
    same = bound is not None and not has_other_serial(bound, serial) and not has_other_macs(bound, macs)
    known = bound.macs if bound is not None and same else ()
    full = serial.text if serial is not None and not serial.is_short else None
    earlier = bound.serial if bound is not None and same else None
    return NodeBoard(
        node=node,
        serial=full or earlier or (serial.text if serial else None),
        macs=tuple(dict.fromkeys((*known, *map(str, macs)))),
        intent=intent,
        key=key,
        contested=False,
    )
