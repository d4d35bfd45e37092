"""Calling a recovery off: what it made void is written down when it begins, and put back.

    kv "k3s.recovery.before": {"values": {key: text | null}, "nodes": {name: what it was}}

The entry goes in the transaction in which the founder is told to restore: from then on the old cluster would
be a second one, and nothing leads back. It goes with the restore of a backup, too: the founder may have been
told in the hours that are lost. So who calls off and who tells can not both come first. A recovery
that was ordered while an earlier one's founder had been told has no such entry either.

A node is put back as long as no installer was let onto its disk: it is lost until its agent reports. One that
was being installed by then, or had left its cluster before, goes on as a blank node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fleet.join.founding import FOUNDED, FOUNDED_AT, FOUNDER, UNTOLD
from fleet.join.state import JoinState
from fleet.join.turn import WANTS_TO_JOIN
from fleet.lifecycle import LEAVING, Happening, State, allows
from fleet.recovery.state import BEFORE, Recovery
from fleet.reimage import progress
from fleet.restored import UNOBSERVED
from fleet.store.records import NodeRecord
from fleet.store.transaction import Reader, Transaction
from fleet.timeline import Entry, Kind

_VALUES: Final = (FOUNDER, FOUNDED, FOUNDED_AT, UNTOLD)
_COLUMNS: Final = ("certificate", "previous_certificate", "agent_key", "join_allowed")
_MEMBERS: Final = frozenset({State.READY, State.DEGRADED, State.LOST, *LEAVING})
_WHY: Final = "the recovery was called off"


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBack:
    """What became of the nodes: those that are what they were, and those that are installed anew."""

    again: tuple[str, ...]
    anew: tuple[str, ...]


def keep(tx: Transaction, names: Iterable[str]) -> None:
    """Write down what is about to be made void; what an earlier recovery made void stays as it is written."""
    kept = tx.json_value(BEFORE)
    if kept is None:
        if Recovery.load(tx) is not None:
            return  # its founder may have restored by now, whoever is the founder next
        kept = {"values": {key: tx.value(key) for key in _VALUES}, "nodes": {}}
    for name in names:
        if name not in kept["nodes"]:
            kept["nodes"][name] = _describe(tx, tx.require_node(name))
    tx.put_json(BEFORE, kept)


def note_restorer_told(tx: Transaction, recovery: Recovery | None) -> bool:
    """The founder is about to hear how to restore, or where `recovery` is None, how to found an empty
    cluster; False where another recovery is under way by now, or none any more.
    """
    present = Recovery.load(tx)
    if (present and present.id) != (recovery and recovery.id):
        return False
    tx.remove_value(BEFORE)  # there is no way back from here
    return True


def is_possible(reader: Reader) -> bool:
    """Whether the recovery that is under way can still be called off."""
    return reader.json_value(BEFORE) is not None


def put_back(tx: Transaction, by: str, now: float) -> PutBack:
    """Make everything what it was, as far as it still can be."""
    kept = tx.json_value(BEFORE) or {"values": {}, "nodes": {}}
    again, anew = [], []
    for name, before in sorted(kept["nodes"].items()):
        node = tx.node(name)
        if node is None or node.state is State.DECOMMISSIONED:
            continue
        if _can_be_put_back(tx, node, before):
            _put_node_back(tx, node, before, by, now)
            again.append(name)
        else:
            if node.state in WANTS_TO_JOIN and node.join_allowed:  # as the founder, which it is no more
                tx.update_node(node, join_allowed=False)
            anew.append(name)
    for key, text in kept["values"].items():
        tx.remove_value(key) if text is None else tx.put_value(key, text)
    tx.remove_value(BEFORE)
    return PutBack(again=tuple(again), anew=tuple(anew))


def _describe(tx: Transaction, node: NodeRecord) -> dict[str, Any]:
    order = tx.open_reimage(node.name)
    return {
        "state": node.state.value,
        "join": tx.value(JoinState.key(node.name)),
        "unobserved": tx.value(UNOBSERVED + node.name),
        "cordoned": order is not None and progress.text(order, progress.CORDON) == progress.OURS,
        **{name: getattr(node, name) for name in _COLUMNS},
    }


def _can_be_put_back(tx: Transaction, node: NodeRecord, before: Mapping[str, Any]) -> bool:
    """It was a member of its cluster, nobody revoked it since, and its disk is as it was."""
    intent = tx.open_intent(node.name)
    was_let_in = intent is not None and intent.token_sha256 is not None
    return (
        before["state"] in _MEMBERS
        and allows(node.state, Happening.TAKEN_BACK)
        and not was_let_in
        and not tx.is_refused(node.name)
    )


def _put_node_back(tx: Transaction, node: NodeRecord, before: Mapping[str, Any], by: str, now: float) -> None:
    intent = tx.open_intent(node.name)
    if intent is not None:
        tx.close_intent(intent, _WHY, now)
    texts = {JoinState.key(node.name): before["join"], UNOBSERVED + node.name: before["unobserved"]}
    for key, text in texts.items():
        if text is not None:
            tx.put_value(key, text)
    hint = "It is lost until its agent reports."
    if before["cordoned"]:
        hint += f" Its re-image ended with the recovery: 'kubectl uncordon {node.name}'."
    entry = Entry(kind=Kind.STATE, text=f"{by} called the recovery off: it is what it was", hint=hint)
    values = {name: before[name] for name in _COLUMNS}
    tx.move(node, Happening.TAKEN_BACK, entry, now, pending_key=None, approved_key=None, **values)
