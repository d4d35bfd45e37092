"""What is remembered of a board's power: its last cuts, and whether somebody owes it to be switched on.

A power-cycle is a debt from its order until the board was seen to be on, and it is one server's. Of several
servers on one record the others leave it alone while that one lives, which a lease in the record tells; when
the lease ran out one of them takes the debt over, in one transaction, and switches the board on. A record
from a backup may hold a debt of days ago: whether that board is to be on, people know (`forgive_old`).

    kv "power.<node>"        {"cuts": [UTC seconds, …], "owed": true while a board may be off that should be
                              on, "owner": the server that sees to it; "" nobody does any more}
    kv "power-server.<id>"   until when that server is taken for alive, UTC seconds
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from fleet.power.limits import KEPT
from fleet.store.database import Store
from fleet.store.transaction import Reader, Transaction

PREFIX: Final = "power."
SERVERS: Final = "power-server."
NOBODY: Final = ""
LEASE_S: Final = 20.0
"""So long a board stays dark when its server died; clocks of servers may differ by less."""
RENEW_S: Final = 5.0
_FORGET_S: Final = 3600.0
OWED_S: Final = 3600.0
"""For so long after its cut a board is switched on for a debt that a backup tells of."""


@dataclass(frozen=True, slots=True)
class History:
    """One node's power."""

    cuts: tuple[float, ...] = ()
    owed: bool = False
    owner: str = NOBODY

    @classmethod
    def load(cls, reader: Reader, name: str) -> History:
        value = reader.json_value(PREFIX + name) or {}
        owner = value.get("owner", NOBODY)
        return cls(tuple(value.get("cuts", ())), bool(value.get("owed", False)), str(owner))

    def save(self, tx: Transaction, name: str) -> None:
        value = {"cuts": self.cuts[-KEPT:], "owed": self.owed, "owner": self.owner}
        tx.put_json(PREFIX + name, value)

    def cut(self, now: float) -> History:
        return replace(self, cuts=(*self.cuts, now), owed=False, owner=NOBODY)

    def lend(self, owner: str) -> History:
        """`owner` owes the board to be on, from now on."""
        return replace(self, owed=True, owner=owner)

    def settle(self) -> History:
        return replace(self, owed=False, owner=NOBODY)


def forgive_old(tx: Transaction, now: float) -> dict[str, float | None]:
    """End the debts of a record that was restored after their time; node → seconds since its cut, None where
    that is not on record."""
    forgiven: dict[str, float | None] = {}
    for key in sorted(tx.values(PREFIX)):
        name = key.removeprefix(PREFIX)
        history = History.load(tx, name)
        age_s = now - max(history.cuts) if history.cuts else None
        if history.owed and (age_s is None or age_s >= OWED_S):
            history.settle().save(tx, name)
            forgiven[name] = age_s
    return forgiven


class Owner:
    """One server. `me` is like that of no other process: what ran here before has another one."""

    def __init__(self, store: Store, me: str) -> None:
        self._store = store
        self.me = me

    @property
    def is_alone(self) -> bool:
        """Nobody else works on this record: what is owed is owed here."""
        return not self._store.is_shared

    def is_anothers(self, reader: Reader, history: History, now: float) -> bool:
        """Whether a server that lives sees to it, and it is not this one."""
        if self.is_alone or not history.owed or history.owner in (NOBODY, self.me):
            return False
        return now < float(reader.value(SERVERS + history.owner) or "-inf")

    def has_work(self, reader: Reader) -> bool:
        """Whether anybody owes anything: else there is nothing to say or to take over."""
        names = (key.removeprefix(PREFIX) for key in reader.values(PREFIX))
        return any(History.load(reader, name).owed for name in names)

    def renew(self, tx: Transaction, now: float) -> None:
        """This server lives. Rows of servers that ended long ago go."""
        tx.put_value(SERVERS + self.me, str(now + LEASE_S))
        for key, until in tx.values(SERVERS).items():
            if now - float(until) > _FORGET_S:
                tx.remove_value(key)

    def resign(self, tx: Transaction) -> None:
        """This server ends: what it still owes is anybody's."""
        tx.remove_value(SERVERS + self.me)

    def take_over(self, tx: Transaction, names: Iterable[str], now: float, *, at_start: bool) -> list[str]:
        """Make debts that nobody sees to this server's; their nodes.

        Args:
            names: Nodes that this server may switch, and for which it has no order under way: a debt of its
                own is then one whose end could not be written down.
            at_start: Also those that a server gave up, as it told: a new one tries once more.
        """
        known = set(names)
        taken = []
        for key in sorted(tx.values(PREFIX)):
            name = key.removeprefix(PREFIX)
            history = History.load(tx, name)
            if name not in known or not history.owed:
                continue
            if self.is_anothers(tx, history, now) or (history.owner == NOBODY and not at_start):
                continue
            history.lend(self.me).save(tx, name)
            taken.append(name)
        return taken
