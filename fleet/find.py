"""Which node or board a person means: by name, by serial in any of its spellings, or by MAC address."""

from __future__ import annotations

from fleet.boards import BoardError, MacAddress, Serial
from fleet.store.records import BoardRecord, NodeRecord
from fleet.store.transaction import Reader


def find_subject(reader: Reader, text: str) -> NodeRecord | BoardRecord | None:
    """The node of that name, else the node or the board with that serial (8 or 16 digits) or MAC address."""
    if not text.isprintable():  # nobody is called so, and PostgreSQL takes no NUL in a text
        return None
    node = reader.node(text)
    if node is not None:
        return node
    serial, mac = _serial(text), _mac(text)
    for known in reader.nodes():
        if serial is not None and known.serial is not None and Serial(known.serial).matches(serial):
            return known
        if mac is not None and known.mac == str(mac):
            return known
    board = reader.board(serial.prefix) if serial is not None else None
    if board is None and mac is not None:
        shown = reader.boards_with_mac(str(mac))
        board = reader.board(str(mac)) or (shown[0] if shown else None)
    return board


def _serial(text: str) -> Serial | None:
    try:
        return Serial.parse(text)
    except BoardError:
        return None


def _mac(text: str) -> MacAddress | None:
    try:
        return MacAddress.parse(text)
    except BoardError:
        return None
