"""A control server among several on one store: counts a shared value up, and claims what only one may have.

Run as: python store_counter.py URL NAME ROUNDS. Prints, as one JSON list, the claims that it won.
"""

from __future__ import annotations

import json
import sys

from fleet.store.database import Store
from fleet.store_place import PostgresPlace
from fleet.timeline import Entry, Kind


def main(url: str, name: str, rounds: int) -> None:
    store = Store.open(PostgresPlace(url))
    won = []
    for number in range(rounds):
        with store.write() as tx:
            seen = int(tx.value("counter") or 0)
            tx.put_value("counter", str(seen + 1))
            tx.add_event(Entry(kind=Kind.BOOT, text=str(seen + 1)), float(seen), board="counter")
            if tx.claim_value(f"claim-{number}", name) == name:
                won.append(number)
    store.close()
    sys.stdout.write(json.dumps(won))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
