"""Objects in etcd, shared by all servers of a cluster: `/registry/<resource>/[<namespace>/]<name>`."""

from __future__ import annotations

import json
from collections.abc import Iterator

from lab.k3s_sim.node.datastore import ADDED, DELETED, MODIFIED, Change, ExpiredError, Key, Stored
from lab.k3s_sim.node.errors import StatusError
from lab.k3s_sim.node.etcd_client import CompactedError, EtcdClient, EtcdError, KeyValue
from lab.k3s_sim.node.objects import Object

_ROOT = "/registry/"


class EtcdDatastore:
    """A Datastore. A revision of etcd is a version of the store."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client

    def read(self, key: Key) -> Stored | None:
        """See Datastore."""
        try:
            found = self._client.get(_path(key))
        except EtcdError as error:
            raise _status(error) from error
        return _stored(found) if found else None

    def select(self, resource: str, namespace: str) -> tuple[list[Stored], int]:
        """See Datastore."""
        try:
            found, revision = self._client.get_prefix(_prefix(resource, namespace))
        except EtcdError as error:
            raise _status(error) from error
        return [_stored(item) for item in found], revision

    def swap(self, key: Key, value: Object | None, expected: int) -> int | None:
        """See Datastore."""
        content = None if value is None else json.dumps(value, separators=(",", ":")).encode()
        if content is None and expected == 0:
            return None
        try:
            return self._client.swap(_path(key), content, expected)
        except EtcdError as error:
            raise _status(error) from error

    def changes(self, resource: str, namespace: str, since: int, wait_s: float) -> Iterator[Change]:
        """See Datastore."""
        prefix = _prefix(resource, namespace)
        try:
            for events in self._client.watch(prefix, since + 1, wait_s):
                for event in events:
                    kind = DELETED if event.is_delete else ADDED if event.is_new else MODIFIED
                    yield Change(kind, _key(event.state.key), _stored(event.state))
        except CompactedError as error:
            raise ExpiredError from error
        except EtcdError as error:
            raise _status(error) from error


def _path(key: Key) -> str:
    return _ROOT + "/".join(part for part in key if part)


def _prefix(resource: str, namespace: str) -> str:
    return f"{_ROOT}{resource}/{namespace}/" if namespace else f"{_ROOT}{resource}/"


def _key(path: str) -> Key:
    resource, *middle, name = path[len(_ROOT) :].split("/")
    return resource, "/".join(middle), name


def _stored(found: KeyValue) -> Stored:
    return Stored(json.loads(found.value), found.revision)


def _status(error: EtcdError) -> StatusError:
    """What clients of the API hear when etcd is in trouble: a time-out, or an error of the server."""
    if not error.answered:
        return StatusError(504, "Timeout", f"etcdserver: request timed out ({error})")
    return StatusError(500, "InternalError", str(error))
