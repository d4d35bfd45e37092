"""Which control server a node reports to, where several share one record.

What a server keeps in its memory for a node, its errands, is of no use at another. A node keeps to the server
that answered it last, so the record says which that was, and every other one can tell a person.

    kv "reports-to.<node>"    `Ground.server_name` of who took the node's last report; written when it changes
"""

from __future__ import annotations

from typing import Final

from fleet.ground import Ground
from fleet.store.transaction import Reader, Transaction

PREFIX: Final = "reports-to."


def note_report(tx: Transaction, ground: Ground, node: str) -> None:
    """A report of the node was taken here. A server that has the record to itself writes nothing."""
    if not ground.store.is_shared:
        return
    own = ground.server_name
    if tx.value(PREFIX + node) != own:
        tx.put_value(PREFIX + node, own)


def other_server(reader: Reader, ground: Ground, node: str) -> str | None:
    """The server that the node reports to; None: this one, or nobody knows."""
    if not ground.store.is_shared:
        return None
    found = reader.value(PREFIX + node)
    return None if found == ground.server_name else found
