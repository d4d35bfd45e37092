"""Which disk a node was installed on: remembered after each installation, compared before the next.

Whoever changed a disk may have changed the wrong one, and a second disk of the kind may hold data: another
disk than the node's own is written only with consent. That is a declared serial, `bramble approve` after both
were named, or a new board in the old one's place.

    kv "disk.<node>": {"pinned": disk, "found": disk, "intent": n, "board": serial}

`found` is what the installer of that intent looked at; it becomes `pinned` when it has written it: when it
says so, or, where power failed before it could, when the system on that disk, which boots only after COMMIT,
shows its ticket.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

from agent.protocol import DiskIdentity, DiskSelector
from fleet.store.records import IntentRecord, NodeRecord
from fleet.store.transaction import Reader, Transaction

PREFIX: Final = "disk."


@dataclass(frozen=True, slots=True)
class DiskPin:
    """The disk that a node was installed on, and the board (its serial) that it was in then."""

    disk: DiskIdentity
    board: str | None


def pin_of(reader: Reader, node: NodeRecord) -> DiskPin | None:
    """The node's own disk; None: it was never installed, by an installer of before, or on another board."""
    value = reader.json_value(PREFIX + node.name)
    if value is None or value.get("pinned") is None:
        return None
    pin = DiskPin(DiskIdentity(**value["pinned"]), value.get("board"))
    return pin if pin.board is None or node.serial is None or pin.board == node.serial else None


def note_found(tx: Transaction, node: NodeRecord, intent: IntentRecord, disk: DiskIdentity) -> None:
    """Its installer is about to write this disk."""
    value = tx.json_value(PREFIX + node.name) or {}
    tx.put_json(PREFIX + node.name, {**value, "found": asdict(disk), "intent": intent.number})


def pin_found(tx: Transaction, node: NodeRecord, intent: int) -> None:
    """The installation of this intent is complete: from now on that disk is the node's own.

    Nothing changes where that is known, and where another intent's installer has looked at a disk since.
    """
    value = tx.json_value(PREFIX + node.name)
    if value is not None and value.get("intent") == intent and value.get("found") is not None:
        tx.put_json(
            PREFIX + node.name, {**value, "pinned": value["found"], "found": None, "board": node.serial}
        )


def narrow(selector: DiskSelector, pin: DiskPin | None) -> DiskSelector:
    """Let an installer that finds several disks of the kind take the node's own."""
    if pin is None or selector.serial is not None:
        return selector
    return DiskSelector(selector.kind, None, pin.disk.serial or None, pin.disk.wwn or None)


def is_other(pin: DiskPin | None, found: DiskIdentity, declared_serial: str | None) -> bool:
    """Whether the disk is not the node's own, as far as the two can be told apart.

    A serial in cluster.yaml is consent by itself: whoever wrote it means that disk. Where one of the two
    names neither serial nor WWN (cheap readers do not), kind, model and size have to be the same.
    """
    if pin is None:
        return False
    if declared_serial is not None and _same(declared_serial, found.serial):
        return False
    own = pin.disk
    if own.wwn and found.wwn:
        return not _same(own.wwn, found.wwn)
    if own.serial and found.serial:
        return not _same(own.serial, found.serial)
    return (own.kind, own.model, own.size_bytes) != (found.kind, found.model, found.size_bytes)


def describe(disk: DiskIdentity) -> str:
    """`Samsung SSD 980, serial S64A, 465.8 GiB (nvme)`; who wrote the parts is not trusted with more."""
    words = [disk.model, f"serial {disk.serial}" if disk.serial else "without a serial"]
    size = f"{disk.size_bytes / 2**30:.1f} GiB"
    return f"{', '.join(word for word in (*words, size) if word)} ({disk.kind})"


def _same(one: str, other: str) -> bool:
    return one.strip().casefold() == other.strip().casefold()
