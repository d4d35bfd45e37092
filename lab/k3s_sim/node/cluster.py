"""One cluster's objects with the rules of the Kubernetes API: identity, versions, preconditions, finalizers.

Storage is a Datastore; every change is a compare-and-swap that is tried again when somebody else was faster,
so several servers may do this at once on one etcd.
"""

from __future__ import annotations

import copy
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lab.k3s_sim.node.datastore import Change, Datastore, Key, Stored
from lab.k3s_sim.node.errors import StatusError, conflict, not_found
from lab.k3s_sim.node.objects import Object, timestamp
from lab.k3s_sim.node.resources import resource

SYSTEM_NAMESPACE = "kube-system"
LEASE_NAMESPACE = "kube-node-lease"
NAMESPACES = ("default", LEASE_NAMESPACE, "kube-public", SYSTEM_NAMESPACE)
LEASE_DURATION_S = 40
_ATTEMPTS = 20
"""Compare-and-swap under contention; far above what any number of servers needs."""

_OTHER_UID = (
    "the UID in the precondition ({wanted}) does not match the UID in record ({found}). The object might "
    "have been deleted and then recreated"
)
"""What a deletion is told; seen on k3s v1.21.3."""

Edit = Callable[[Object], Object]


class Cluster:
    """Every method may be called from several threads. `clock` is wall time in seconds."""

    def __init__(self, datastore: Datastore, clock: Callable[[], float] = time.time) -> None:
        self._datastore = datastore
        self._clock = clock

    def prepare(self) -> None:
        """Make the namespaces that every cluster has."""
        for name in NAMESPACES:
            if self.find("namespaces", "", name) is None:
                self.ensure("namespaces", "", {"metadata": {"name": name}, "status": {"phase": "Active"}})

    def get(self, plural: str, namespace: str, name: str) -> Object:
        """One object; 404 if there is none."""
        return self._require((plural, namespace, name)).labelled()

    def find(self, plural: str, namespace: str, name: str) -> Object | None:
        """One object, if there is one."""
        stored = self._datastore.read((plural, namespace, name))
        return stored.labelled() if stored else None

    def select(self, plural: str, namespace: str) -> list[Object]:
        """All objects of a kind in a namespace (empty: in all), by name."""
        return self.list(plural, namespace)[0]

    def list(self, plural: str, namespace: str) -> tuple[list[Object], int]:
        """The same with the version of the whole store, from which a watch can go on."""
        found, version = self._datastore.select(plural, namespace)
        return [stored.labelled() for stored in found], version

    def changes(self, plural: str, namespace: str, since: int, wait_s: float) -> Iterator[Change]:
        """What happens from now on; see Datastore."""
        return self._datastore.changes(plural, namespace, since, wait_s)

    def create(self, plural: str, namespace: str, given: Object) -> Object:
        """Add an object and give it its uid; 409 if the name is taken."""
        kind = resource(plural)
        created = copy.deepcopy(given)
        metadata = created.setdefault("metadata", {})
        for key in ("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds"):
            metadata.pop(key, None)
        name = str(metadata["name"])
        metadata.update(uid=str(uuid.uuid4()), creationTimestamp=timestamp(self._clock()))
        if namespace:
            metadata["namespace"] = namespace
        created.update(apiVersion=kind.api_version, kind=kind.kind)
        version = self._datastore.swap((plural, namespace, name), created, 0)
        if version is None:
            raise StatusError(409, "AlreadyExists", f'{kind.qualified} "{name}" already exists')
        return Stored(created, version).labelled()

    def ensure(self, plural: str, namespace: str, given: Object) -> None:
        """Add an object unless there is one of its name, whoever made it."""
        try:
            self.create(plural, namespace, given)
        except StatusError as error:
            if error.reason != "AlreadyExists":
                raise

    def replace(self, plural: str, namespace: str, name: str, given: Object) -> Object:
        """Put a new version in place of an object; stale versions are refused (409)."""
        metadata = given.get("metadata") or {}
        return self.update(
            plural, namespace, name, lambda _current: given,
            uid=str(metadata.get("uid") or ""), version=str(metadata.get("resourceVersion") or ""),
        )  # fmt: skip

    def update(
        self, plural: str, namespace: str, name: str, edit: Edit, *, uid: str = "", version: str = ""
    ) -> Object:
        """Change an object by `edit`, which gets a copy as clients see it and may be called again.

        Identity is kept whatever `edit` says. A change that changes nothing makes no new version. The last
        finalizer that goes takes an object that is being deleted with it.

        Args:
            uid, version: preconditions; 409 if the object has others.
        """
        key = (plural, namespace, name)
        for _ in range(_ATTEMPTS):
            current = self._require(key)
            _check(plural, name, current, uid, version)
            changed = _with_identity(current, edit(current.labelled()), plural)
            if changed == current.value:
                return current.labelled()
            gone = _is_deleted(changed)
            written = self._datastore.swap(key, None if gone else changed, current.version)
            if written is not None:
                return Stored(changed, written).labelled()
        raise _stale(plural, name)

    def delete(
        self,
        plural: str,
        namespace: str,
        name: str,
        preconditions: Mapping[str, Any] | None = None,
        grace_s: int = 0,
    ) -> Object:
        """Remove an object if uid and resourceVersion, where given, are the ones the caller saw (else 409).

        With finalizers, or with a grace period, it is marked as being deleted and stays until they are over.
        """
        key = (plural, namespace, name)
        wanted = preconditions or {}
        uid, version = str(wanted.get("uid") or ""), str(wanted.get("resourceVersion") or "")
        for _ in range(_ATTEMPTS):
            current = self._require(key)
            found = current.value["metadata"]["uid"]
            if uid and uid != found:
                raise conflict(resource(plural).kind, name, _OTHER_UID.format(wanted=uid, found=found))
            _check(plural, name, current, "", version)
            marked = copy.deepcopy(current.value)
            stays = marked["metadata"].get("finalizers") or grace_s > 0
            if stays:
                marked["metadata"].setdefault("deletionTimestamp", timestamp(self._clock() + grace_s))
                marked["metadata"].setdefault("deletionGracePeriodSeconds", grace_s)
                if marked == current.value:
                    return current.labelled()
            written = self._datastore.swap(key, marked if stays else None, current.version)
            if written is not None:
                return Stored(marked, written).labelled()
        raise _stale(plural, name)

    def heartbeat(self, name: str, edit: Edit) -> Object:
        """A kubelet reports its node's status.

        The lease is renewed; only a change other than the time of the report is a new version of the node.
        """
        renewed = {"holderIdentity": name, "leaseDurationSeconds": LEASE_DURATION_S,
                   "renewTime": timestamp(self._clock())}  # fmt: skip

        def quiet(node: Object) -> Object:
            changed = edit(copy.deepcopy(node))
            return node if _without_heartbeat(changed) == _without_heartbeat(node) else changed

        answer = self.update("nodes", "", name, quiet)
        lease = {"metadata": {"name": name, "ownerReferences": [owner_reference(answer)]}, "spec": renewed}
        try:
            self.update("leases", LEASE_NAMESPACE, name, lambda old: {**old, "spec": renewed})
        except StatusError as error:
            if error.code != 404:
                raise
            self.ensure("leases", LEASE_NAMESPACE, lease)
        return answer

    def _require(self, key: Key) -> Stored:
        stored = self._datastore.read(key)
        if stored is None:
            raise not_found(resource(key[0]).qualified, key[2])
        return stored


def owner_reference(owner: Object) -> Object:
    """The reference by which an object goes when its owner does."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }


_IDENTITY = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)


def _with_identity(current: Stored, changed: Object, plural: str) -> Object:
    """What no update may change is as it was; a new object, without its version."""
    kind = resource(plural)
    before = current.value["metadata"]
    metadata = {key: value for key, value in (changed.get("metadata") or {}).items() if key not in _IDENTITY}
    metadata.pop("resourceVersion", None)
    metadata.update({key: before[key] for key in _IDENTITY if key in before})
    return {**copy.deepcopy(changed), "metadata": metadata, "apiVersion": kind.api_version, "kind": kind.kind}


def _is_deleted(item: Object) -> bool:
    metadata = item["metadata"]
    return (
        "deletionTimestamp" in metadata
        and not metadata.get("finalizers")
        and not metadata.get("deletionGracePeriodSeconds")
    )


def _check(plural: str, name: str, current: Stored, uid: str, version: str) -> None:
    found = current.value["metadata"]["uid"]
    if uid and uid != found:
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {found}"
        raise conflict(resource(plural).qualified, name, why)
    if version and version != str(current.version):
        raise _stale(plural, name)


def _stale(plural: str, name: str) -> StatusError:
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(resource(plural).qualified, name, why)


def _without_heartbeat(node: Object) -> Object:
    status = dict(node.get("status") or {})
    status["conditions"] = [
        {key: value for key, value in condition.items() if key != "lastHeartbeatTime"}
        for condition in status.get("conditions") or ()
    ]
    return {**node, "status": status}
