"""Where objects are kept: the seam between the API and its storage, and the storage of a node without etcd.

A version is a number that grows with every change of the whole store; etcd calls it revision. Objects are
kept without it and handed out with it.
"""

from __future__ import annotations

import collections
import copy
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lab.k3s_sim.node.errors import K3sError, StatusError
from lab.k3s_sim.node.files import write_atomically
from lab.k3s_sim.node.objects import Object

Key = tuple[str, str, str]
"""Resource (plural), namespace (empty for a resource of the whole cluster), name."""


@dataclass(frozen=True)
class Stored:
    """One object with the version that wrote it."""

    value: Object
    version: int

    def labelled(self) -> Object:
        """The object as clients see it, a copy."""
        item = copy.deepcopy(self.value)
        item.setdefault("metadata", {})["resourceVersion"] = str(self.version)
        return item


@dataclass(frozen=True)
class Change:
    """What a watch reports: the new object, or the last one of a key that was removed."""

    kind: str
    key: Key
    stored: Stored


ADDED, MODIFIED, DELETED = "ADDED", "MODIFIED", "DELETED"


class ExpiredError(Exception):
    """The watch begins before the history that is kept."""


class Datastore(Protocol):
    """Objects with compare-and-swap. Safe to call from several threads.

    Every method raises StatusError with 500, 503 or 504 where the storage does not answer.
    """

    def read(self, key: Key) -> Stored | None:
        """One object, as of now."""

    def select(self, resource: str, namespace: str) -> tuple[list[Stored], int]:
        """All objects of a kind (an empty namespace: in all), by key, and the version of the whole store."""

    def swap(self, key: Key, value: Object | None, expected: int) -> int | None:
        """Write (None: remove) if the key still has the version `expected` (0: does not exist).

        Returns the new version, or None if somebody was faster.
        """

    def changes(self, resource: str, namespace: str, since: int, wait_s: float) -> Iterator[Change]:
        """What happens after version `since`, as it happens, for `wait_s` seconds.

        Raises:
            ExpiredError: `since` is older than the history.
        """


_FORMAT = 2
_HISTORY = 4096
"""Changes that a watch can look back to."""
_NOT_WORTH_A_WRITE = ("leases",)
"""A file need not be rewritten for every heartbeat: a lease that is lost is renewed ten seconds later."""


class FileDatastore:
    """Objects in memory and in one file, written before the caller hears of a change.

    It is what a virtual board has in the place of etcd, and what stands for k3s's SQLite: one server, alone.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._changed = threading.Condition()
        self._objects: dict[Key, Stored] = {}
        self._version = 0
        self._history: collections.deque[Change] = collections.deque(maxlen=_HISTORY)
        self._load()

    def _load(self) -> None:
        try:
            saved: dict[str, Any] = json.loads(self._file.read_text("utf-8"))
        except FileNotFoundError:
            return
        except ValueError as error:
            raise K3sError(
                f"{self._file} is damaged: {error}. Remove it to start with an empty cluster"
            ) from error
        if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
            raise K3sError(
                f"{self._file} is not of format {_FORMAT}, the one that this simulator reads. "
                "Remove it to start with an empty cluster"
            )
        for item in saved["objects"]:
            self._objects[tuple(item["key"])] = Stored(item["value"], int(item["version"]))
        self._version = int(saved["version"])

    def read(self, key: Key) -> Stored | None:
        """See Datastore."""
        with self._changed:
            return self._objects.get(key)

    def everything(self) -> dict[Key, Object]:
        """All objects, to move them to another datastore."""
        with self._changed:
            return {key: copy.deepcopy(stored.value) for key, stored in self._objects.items()}

    def select(self, resource: str, namespace: str) -> tuple[list[Stored], int]:
        """See Datastore."""
        with self._changed:
            found = [
                stored
                for key, stored in sorted(self._objects.items())
                if key[0] == resource and namespace in ("", key[1])
            ]
            return found, self._version

    def swap(self, key: Key, value: Object | None, expected: int) -> int | None:
        """See Datastore."""
        with self._changed:
            current = self._objects.get(key)
            if (current.version if current else 0) != expected:
                return None
            version = self._version + 1
            after = dict(self._objects)
            if value is None:
                gone = after.pop(key, None)
                if gone is None:
                    return None
                change = Change(DELETED, key, Stored(gone.value, version))
            else:
                after[key] = Stored(copy.deepcopy(value), version)
                change = Change(MODIFIED if current else ADDED, key, after[key])
            if key[0] not in _NOT_WORTH_A_WRITE:
                self._save(after, version)
            self._objects, self._version = after, version
            self._history.append(change)
            self._changed.notify_all()
            return version

    def _save(self, objects: dict[Key, Stored], version: int) -> None:
        items = [
            {"key": list(key), "version": stored.version, "value": stored.value}
            for key, stored in objects.items()
        ]
        document = {"format": _FORMAT, "version": version, "objects": items}
        try:
            write_atomically(self._file, json.dumps(document).encode())
        except OSError as error:
            text = f"the datastore cannot be written: {self._file}: {error.strerror}"
            raise StatusError(500, "InternalError", text) from error

    def changes(self, resource: str, namespace: str, since: int, wait_s: float) -> Iterator[Change]:
        """See Datastore."""
        deadline = time.monotonic() + wait_s
        while True:
            with self._changed:
                while self._version <= since:
                    if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                        return
                oldest = self._history[0].stored.version if self._history else self._version + 1
                if since + 1 < oldest:
                    raise ExpiredError
                news = [change for change in self._history if change.stored.version > since]
            for change in news:
                since = change.stored.version
                if change.key[0] == resource and namespace in ("", change.key[1]):
                    yield change
