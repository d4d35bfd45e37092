"""Which of several control servers on one record works on orders: one, so that no board is cut twice.

A lease in the record (kv `reimage.turn`), renewed while its holder lives. When it runs out another server
goes on: every deed is looked for before it is done, so a short overlap does no more than ask twice.
"""

from __future__ import annotations

import json
from typing import Final

from fleet.store.database import Store

TURN: Final = "reimage.turn"
LEASE_S: Final = 15.0
"""So long orders rest when their server dies; clocks of servers may differ by less."""
RENEW_S: Final = 5.0


class Turn:
    """One server's claim. `who` is like that of no other server."""

    def __init__(self, store: Store, who: str) -> None:
        self._store = store
        self._who = who
        self._until = float("-inf")

    def is_mine(self, now: float) -> bool:
        """Whether this server works on orders now; where it has the record to itself, it does.

        Raises:
            StoreError: The record can not be written.
        """
        renewed = self._until - LEASE_S
        # A clock that was set back makes no claim longer: others go by theirs.
        if not self._store.is_shared or renewed <= now < renewed + RENEW_S:
            return True
        with self._store.write() as tx:
            held = json.loads(tx.value(TURN) or "{}")
            if held.get("who", self._who) != self._who and now < float(held.get("until", 0.0)):
                self._until = float("-inf")
                return False
            self._until = now + LEASE_S
            tx.put_value(TURN, json.dumps({"who": self._who, "until": self._until}))
        return True
