"""The store, shared between threads and kept on disk: every change is in the file before the caller hears of
it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lab.k3s_sim.node.errors import K3sError
from lab.k3s_sim.node.files import write_atomically
from lab.k3s_sim.node.objects import Object
from lab.k3s_sim.node.store import Store

_FORMAT = 1
_T = TypeVar("_T")


class Cluster:
    """One cluster's objects in `<data-dir>/server/db/sim.json`; safe to call from several threads."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._store = self._load()
        self._saved_revision = -1
        with self._lock:
            self._save()

    def _load(self) -> Store:
        try:
            saved = json.loads(self._file.read_text("utf-8"))
        except FileNotFoundError:
            return Store(time.time(), time.monotonic())
        except ValueError as error:
            raise K3sError(
                f"{self._file} is damaged: {error}. Remove it to start with an empty cluster"
            ) from error
        if saved.get("format") != _FORMAT:
            raise K3sError(f"{self._file} has format {saved.get('format')!r}, this simulator reads {_FORMAT}")
        return Store.restore(saved, time.time(), time.monotonic())

    def _save(self) -> None:
        if self._store.revision == self._saved_revision:
            return
        write_atomically(self._file, json.dumps({"format": _FORMAT, **self._store.snapshot()}).encode())
        self._saved_revision = self._store.revision

    def _change(self, action: Callable[[Store], _T]) -> _T:
        with self._lock:
            result = action(self._store)
            self._save()
            return result

    @property
    def revision(self) -> int:
        """The version of the whole store."""
        return self._store.revision

    def get(self, resource: str, namespace: str, name: str) -> Object:
        """One object; 404 if there is none."""
        with self._lock:
            return self._store.get(resource, namespace, name)

    def find(self, resource: str, namespace: str, name: str) -> Object | None:
        """One object, if there is one."""
        with self._lock:
            return self._store.find(resource, namespace, name)

    def select(self, resource: str, namespace: str) -> list[Object]:
        """All objects of a kind in a namespace (empty: in all)."""
        with self._lock:
            return self._store.select(resource, namespace)

    def create(self, resource: str, namespace: str, given: Object) -> Object:
        """Add an object."""
        return self._change(
            lambda store: store.create(resource, namespace, given, time.time(), time.monotonic())
        )

    def replace(self, resource: str, namespace: str, name: str, given: Object) -> Object:
        """Put a new version in place."""
        return self._change(lambda store: store.replace(resource, namespace, name, given))

    def patch(self, resource: str, namespace: str, name: str, patch: Object) -> Object:
        """Apply a merge patch."""
        return self._change(lambda store: store.patch(resource, namespace, name, patch))

    def heartbeat(self, name: str, patch: Object) -> Object:
        """Note that a kubelet reported."""
        return self._change(lambda store: store.heartbeat(name, patch, time.monotonic()))

    def delete(self, resource: str, namespace: str, name: str, preconditions: Mapping[str, Any]) -> Object:
        """Remove an object."""
        return self._change(lambda store: store.delete(resource, namespace, name, preconditions))

    def tick(self) -> None:
        """Run the background controllers once."""
        self._change(lambda store: store.tick(time.time(), time.monotonic()))
