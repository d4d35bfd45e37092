"""Writes leases until it is killed: ``python lease_writer.py FILE SEED``.

Prints the number of each batch after it was stored, and writes the file anew all the time as a busy server
does. Batch n gives address n to a client of its own, so what was printed can be looked up.
"""

from __future__ import annotations

import itertools
import sys
from ipaddress import IPv4Address
from pathlib import Path

from fleet.boards import MacAddress
from pxe.dhcp.leases import Lease, LeaseState
from pxe.net.lease_store import LeaseStore

FIRST = IPv4Address("10.0.0.0")


def lease(number: int) -> Lease:
    mac = MacAddress(b"\x02\0" + number.to_bytes(4, "big"))
    return Lease(address=FIRST + number, mac=mac, state=LeaseState.BOUND, expires=float(number))


def main() -> None:
    path, start = Path(sys.argv[1]), int(sys.argv[2])
    with LeaseStore(path) as store:
        known = list(store.leases)
        writing = store.rewrite(list(known))
        for number in itertools.count(start):
            store.append([lease(number)])
            known.append(lease(number))
            print(number, flush=True)
            if next(writing, "ended") == "ended":
                writing = store.rewrite(list(known))


if __name__ == "__main__":
    main()
