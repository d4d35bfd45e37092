"""Which server initialises the cluster: one, ever, and nobody else once it may have done so."""

from __future__ import annotations

from typing import Final

from fleet import events
from fleet.lifecycle import State
from fleet.spec.model import Role
from fleet.store.transaction import Reader, Transaction

FOUNDER: Final = "k3s.founder"
"""kv: the one server that may initialise the cluster; set once, before it is told."""
FOUNDED: Final = "k3s.founded"
"""kv: set when that server was Ready."""
FOUNDED_AT: Final = "k3s.founded_at"
"""kv: when that was, UTC seconds. Records of earlier versions of Bramble do not have it."""
UNTOLD: Final = "k3s.founder_untold"
"""kv: set with FOUNDER, gone before it is told how: while it stands, nothing can have been founded."""


def claim(tx: Transaction, name: str) -> bool:
    """Make a server the founder; False where another one is."""
    if tx.value(FOUNDER) is None:
        tx.put_value(UNTOLD, name)
    return tx.claim_value(FOUNDER, name) == name


def note_told(tx: Transaction, name: str) -> bool:
    """It is about to hear how to found the cluster; False where it is the founder no longer."""
    if tx.value(FOUNDER) != name:
        return False
    tx.remove_value(UNTOLD)
    return True


def awaited_founder(reader: Reader) -> str | None:
    """The one server that may initialise the cluster, as long as the cluster is not there."""
    return reader.value(FOUNDER) if reader.value(FOUNDED) is None else None


def may_have_founded(tx: Transaction, name: str) -> bool:
    """Whether it is the founder, was told how, and nobody knows what came of it."""
    return tx.value(FOUNDER) == name and tx.value(FOUNDED) is None and tx.value(UNTOLD) is None


def note_founded(tx: Transaction, name: str, now: float) -> None:
    """The founder is Ready: there is a cluster."""
    if tx.value(FOUNDED) is None:
        tx.put_value(FOUNDED_AT, str(now))
    tx.claim_value(FOUNDED, name)


def founded_for(reader: Reader, now: float) -> float | None:
    """Seconds since the cluster was founded, infinite where nobody wrote down when; None: it is not yet."""
    if reader.value(FOUNDED) is None:
        return None
    return now - float(reader.value(FOUNDED_AT) or "-inf")


def release_founder(tx: Transaction, now: float) -> None:
    """Let another server found the cluster when the one that should have can not, or not any more.

    One that is no server of cluster.yaml any more counts as gone: a person said so. One that was revoked does
    only while it was never told how: its k3s may run already, and a second cluster is worse than none.
    """
    founder = tx.value(FOUNDER)
    if founder is None or tx.value(FOUNDED) is not None:
        return
    node = tx.node(founder)
    is_gone = node is None or node.role is not Role.SERVER or node.state is State.DECOMMISSIONED
    if not is_gone and not (tx.is_refused(founder) and tx.value(UNTOLD) is not None):
        return
    tx.remove_value(FOUNDER)
    tx.remove_value(UNTOLD)
    tx.add_event(events.founder_released(), now, node=founder, board=node.board_id if node else None)
