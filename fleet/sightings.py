"""Boards as they are seen: one row per board, added to with each sighting, whoever saw it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from fleet import events
from fleet.boards import BoardError, MacAddress, Serial, decode_revision
from fleet.enrolment import Recognition
from fleet.printable import printable
from fleet.roster import recognise
from fleet.spec.model import ClusterSpec, NodeSpec
from fleet.store.records import BoardRecord, NodeRecord
from fleet.store.transaction import Transaction

MAX_HELD_BOARDS: Final = 1000
"""A flood of invented identities must not fill the disk; boards beyond it are not recorded."""
MAX_BOARDS: Final = 2 * MAX_HELD_BOARDS
"""All boards: who claims a declared node's MAC can show a new serial with every request."""
_UNKNOWN_MODEL: Final = "a board that does not say its model"


def record_sighting(tx: Transaction, seen: BoardRecord) -> bool:
    """Write down that a board was seen; a board that is held for a new reason is told of in its timeline.

    Returns:
        False when there is no room for another board.
    """
    known = tx.board(seen.id)
    if known is None:
        held = tx.held_boards() if seen.held_reason else ()
        if len(held) >= MAX_HELD_BOARDS or tx.board_count() >= MAX_BOARDS:
            return False
    tx.put_board(seen if known is None else merge_sightings(known, seen))
    if seen.held_reason and (known is None or known.held_reason != seen.held_reason):
        entry = events.board_held(seen.model or _UNKNOWN_MODEL, seen.held_reason)
        tx.add_event(entry, seen.last_seen, board=seen.id)
    return True


def merge_sightings(known: BoardRecord, seen: BoardRecord) -> BoardRecord:
    """The row after another sighting: new facts are added, a full serial replaces a short one."""
    full = seen.serial if seen.serial and not Serial(seen.serial).is_short else None
    return replace(
        known,
        serial=full or known.serial or seen.serial,
        macs=tuple(dict.fromkeys((*known.macs, *seen.macs))),
        revision=seen.revision or known.revision,
        model=seen.model or known.model,
        last_seen=max(known.last_seen, seen.last_seen),
        held_reason=seen.held_reason,
    )


def held_reason(recognition: Recognition) -> str | None:
    """Why a board is held; None for the board of a declared node."""
    match recognition:
        case Recognition.DECLARED:
            return None
        case Recognition.CONFLICTING:
            return "its serial and its MAC do not belong to one node of cluster.yaml"
        case Recognition.UNKNOWN:
            return "not in cluster.yaml"


def model_of(revision: int | None, told: str) -> str:
    """The model by the revision code, else in the board's own words."""
    try:
        model = decode_revision(revision).model if revision is not None else None
    except BoardError:
        model = None
    return model.title if model else printable(told, 80)


def learned_identity(
    node: NodeRecord, declared: NodeSpec, serial: Serial | None, macs: tuple[MacAddress, ...]
) -> dict[str, str]:
    """Columns that a believable sighting of the node's board changes.

    What cluster.yaml declares is never touched but for the half of a serial that it leaves out. The rest
    follows the board: a false claim that was believed once is corrected by the board's next sign.
    """
    changes = {}
    known = Serial(node.serial) if node.serial else None
    if serial and (declared.serial is None or declared.serial.is_short):
        is_other = known is None or not known.matches(serial)
        if is_other or (known is not None and known.is_short and not serial.is_short):
            changes["serial"] = serial.text
    if macs and declared.mac is None and node.mac not in [str(mac) for mac in macs]:
        changes["mac"] = str(macs[0])
    return changes


def release_declared(tx: Transaction, spec: ClusterSpec) -> None:
    """Boards that were held and are a node's now, by a new cluster.yaml, are held no longer."""
    for board in tx.held_boards():
        serial = Serial(board.serial) if board.serial else None
        macs = tuple(map(MacAddress.parse, board.macs))
        if recognise(spec.nodes, serial, macs).recognition is Recognition.DECLARED:
            tx.put_board(replace(board, held_reason=None))
