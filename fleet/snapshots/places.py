"""Which machine keeps which snapshots of etcd, where several control servers share one record.

A snapshot is on the disk of the server that took it. The record says where, so that every server can tell a
person who needs one; each writes its own entry, where that changed and once an hour.

    <snapshots>/.place                    32 hex digits, made once: whose entry it is, whatever its name;
                                          and the directory's inode: a copy of it is another place
    kv "snapshot-place.<those>"           {"host", "directory", "seen_at", "kept": {id: taken at}}, UTC s
    kv "snapshots-at.<host>:<directory>"  {id: taken at}: the entry of an older release

The mark lies beside the snapshots and not in a backup: a control server that is restored elsewhere is
another place. An entry that was not renewed for `UNSEEN_S` is of a machine that is gone, and is forgotten; by
hand it is sooner (`bramble snapshot forget`). What it keeps stays where it is.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fleet.files import write_private
from fleet.refusal import RefusedError
from fleet.snapshots.manifest import SnapshotInfo
from fleet.store.transaction import Reader, Transaction

MARK: Final = ".place"
RENEW_S: Final = 3600.0
UNSEEN_S: Final = 30 * 86400.0
_PREFIX: Final = "snapshot-place."
_OLD_PREFIX: Final = "snapshots-at."


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A directory on a machine. `mark` tells it from one of the same name; "" not known, or of an older
    release."""

    host: str
    directory: str
    mark: str = ""

    def marked(self, directory: Path) -> Place:
        """With the mark of `directory`, which is made where there is none yet.

        Raises:
            FleetError: The disk refuses.
        """
        known = read_mark(directory)
        if not known:
            known = secrets.token_hex(16)
            write_private(directory / MARK, f"{known} {directory.stat().st_ino}\n".encode())
        return replace(self, mark=known)

    def note(self, tx: Transaction, kept: Iterable[SnapshotInfo], now: float) -> None:
        """Write down what is kept here, in place of what an older release wrote."""
        found = {info.id: info.taken_at for info in kept}
        if found:
            entry = {"host": self.host, "directory": self.directory, "seen_at": now, "kept": found}
            tx.put_json(_PREFIX + self.mark, entry)
        else:
            tx.remove_value(_PREFIX + self.mark)
        tx.remove_value(f"{_OLD_PREFIX}{self.host}:{self.directory}")

    def way_here(self, snapshot_id: str) -> str:
        """What to do for having a snapshot of that place on this machine."""
        return (
            f"Order it on {self.host}; or bring it here: 'rsync -a "
            f"{self.host}:{self.directory}/{snapshot_id} .', "
            f"then 'bramble recover --snapshot ./{snapshot_id}'."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptElsewhere:
    """A snapshot on another machine. UTC seconds; `seen_at` is when its server was heard of last, null of an
    older release's, which does not tell."""

    id: str
    taken_at: float
    host: str
    directory: str
    seen_at: float | None

    @property
    def place(self) -> Place:
        return Place(self.host, self.directory)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of the record, under its key."""

    key: str
    place: Place
    seen_at: float | None
    kept: dict[str, float]

    def is_of(self, here: Place) -> bool:
        """By its mark; by its name where it has none."""
        if self.place.mark and here.mark:
            return self.place.mark == here.mark
        return (self.place.host, self.place.directory) == (here.host, here.directory)

    def last_sign(self) -> float:
        """When its machine was certainly alive."""
        return self.seen_at if self.seen_at is not None else max(self.kept.values(), default=0.0)


def read_mark(directory: Path) -> str:
    """The mark of a directory of snapshots; "" it has none, or none that can be read."""
    try:
        text, inode = (directory / MARK).read_text("ascii"), directory.stat().st_ino
    except (OSError, ValueError):
        return ""
    found = re.fullmatch(r"([0-9a-f]{32}) ([0-9]+)\n", text)
    return found[1] if found and int(found[2]) == inode else ""


def elsewhere(reader: Reader, here: Place) -> tuple[KeptElsewhere, ...]:
    """What other places keep, the newest first."""
    found = [
        KeptElsewhere(
            id=one,
            taken_at=at,
            host=entry.place.host,
            directory=entry.place.directory,
            seen_at=entry.seen_at,
        )
        for entry in _entries(reader)
        if not entry.is_of(here)
        for one, at in entry.kept.items()
    ]
    return tuple(sorted(found, key=lambda one: (one.id, one.host, one.directory), reverse=True))


def find_elsewhere(reader: Reader, here: Place, snapshot_id: str) -> KeptElsewhere | None:
    """Another place that keeps one, the one that was heard of last; None: nobody told of it."""
    found = [one for one in elsewhere(reader, here) if one.id == snapshot_id]
    return max(found, key=lambda one: one.seen_at or 0.0, default=None)


def forget(tx: Transaction, here: Place, host: str, directory: str | None) -> tuple[Place, ...]:
    """Take the entries of a machine out of the record; a server that is alive there writes its own again.

    Raises:
        RefusedError: No other place has that name; nothing was changed.
    """
    entries = [entry for entry in _entries(tx) if not entry.is_of(here)]
    meant = [one for one in entries if one.place.host == host and directory in (None, one.place.directory)]
    if not meant:
        known = ", ".join(sorted(f"{one.place.host} ({one.place.directory})" for one in entries))
        named = f"{host} ({directory})" if directory else host
        if host == here.host and directory in (None, here.directory):
            raise RefusedError(
                409,
                "own-place",
                f"{named} is this very server's: it knows what it keeps",
                "'bramble snapshot prune' deletes snapshots that are kept here.",
            )
        raise RefusedError(
            404,
            "place",
            f"no other machine {named} is said to keep snapshots",
            f"There are: {known}." if known else "Nobody else tells of snapshots.",
        )
    for one in meant:
        tx.remove_value(one.key)
    return tuple(one.place for one in meant)


def forget_unseen(tx: Transaction, here: Place, now: float) -> tuple[Place, ...]:
    """Forget places whose server was not heard of for long; which."""
    gone = [entry for entry in _entries(tx) if not entry.is_of(here) and now - entry.last_sign() > UNSEEN_S]
    for entry in gone:
        tx.remove_value(entry.key)
    return tuple(entry.place for entry in gone)


def _entries(reader: Reader) -> Iterator[_Entry]:
    for key, text in reader.values(_PREFIX).items():
        told = json.loads(text)
        place = Place(str(told["host"]), str(told["directory"]), key.removeprefix(_PREFIX))
        kept = {str(one): float(at) for one, at in told["kept"].items()}
        yield _Entry(key, place, float(told["seen_at"]), kept)
    for key, text in reader.values(_OLD_PREFIX).items():
        host, _, directory = key.removeprefix(_OLD_PREFIX).partition(":")
        kept = {str(one): float(at) for one, at in json.loads(text).items()}
        yield _Entry(key, Place(host, directory), None, kept)
