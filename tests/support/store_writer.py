"""A process that writes events until it is killed, and says of each when it was told that it is durable.

Run as: python store_writer.py PLACE KILLS. It forks one writer after another (importing once), kills each
with SIGKILL at a random moment, and prints, as one JSON list, the numbers that they were told are kept.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
from pathlib import Path

from fleet.store.database import Store
from fleet.store_place import Place, PostgresPlace
from fleet.timeline import Entry, Kind

LONGEST_LIFE_S = 0.06
FIRST_SIGN_S = 30.0


def write_for_ever(place: Place, number: int, told: int) -> None:
    """Events of rising numbers, each with its counter in the same transaction."""
    store = Store.open(place)
    while True:
        number += 1
        with store.write() as tx:
            tx.add_event(Entry(kind=Kind.BOOT, text=str(number)), float(number), board="writer")
            tx.put_value("newest", str(number))
        os.write(told, f"{number}\n".encode())


def main(place: Place, kills: int) -> None:
    kept: list[int] = []
    dice = random.Random()
    for _ in range(kills):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            write_for_ever(place, kept[-1] if kept else 0, writing)
        os.close(writing)
        assert select.select([reading], [], [], FIRST_SIGN_S)[0], "the writer did not begin"
        select.select([], [], [], dice.uniform(0, LONGEST_LIFE_S))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reading) as stream:
            kept += [int(line) for line in stream if line.endswith("\n")]
    sys.stdout.write(json.dumps(kept))


if __name__ == "__main__":
    text = sys.argv[1]
    main(PostgresPlace(text) if text.startswith("postgresql:") else Path(text), int(sys.argv[2]))
