"""Which machine keeps which snapshots of etcd, where several control servers share one record.

A snapshot is on the disk of the server that took it. The record says where, so that every server can tell a
person who needs one; each writes its own entry, and only where it changed.

    kv "snapshots-at.<host>:<directory>"   {id: taken at, UTC seconds}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fleet.snapshot_files import SnapshotInfo
from fleet.store.transaction import Reader, Transaction

_PREFIX: Final = "snapshots-at."


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A directory on a machine."""

    host: str
    directory: str

    def note(self, tx: Transaction, kept: Iterable[SnapshotInfo]) -> None:
        """Write down what is kept here."""
        key, found = f"{_PREFIX}{self.host}:{self.directory}", {info.id: info.taken_at for info in kept}
        if found:
            tx.put_json(key, found)
        else:
            tx.remove_value(key)

    def way_here(self, snapshot_id: str) -> str:
        """What to do for having a snapshot of that place on this machine."""
        return (
            f"Order it on {self.host}; or bring it here: 'rsync -a "
            f"{self.host}:{self.directory}/{snapshot_id} .', "
            f"then 'bramble recover --snapshot ./{snapshot_id}'."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptElsewhere:
    """A snapshot on another machine; `taken_at` in UTC seconds."""

    id: str
    taken_at: float
    host: str
    directory: str

    @property
    def place(self) -> Place:
        return Place(self.host, self.directory)


def elsewhere(reader: Reader, here: Place) -> tuple[KeptElsewhere, ...]:
    """What other places keep, the newest first."""
    found = []
    for key, text in reader.values(_PREFIX).items():
        host, _, directory = key.removeprefix(_PREFIX).partition(":")
        if Place(host, directory) == here:
            continue
        kept: Mapping[str, float] = json.loads(text)
        found += [
            KeptElsewhere(id=one, taken_at=float(at), host=host, directory=directory)
            for one, at in kept.items()
        ]
    return tuple(sorted(found, key=lambda one: (one.id, one.host, one.directory), reverse=True))


def find_elsewhere(reader: Reader, here: Place, snapshot_id: str) -> KeptElsewhere | None:
    """Another place that keeps one; None: nobody told of it."""
    return next((one for one in elsewhere(reader, here) if one.id == snapshot_id), None)
