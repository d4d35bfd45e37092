"""The cluster's objects: nodes, secrets and namespaces, with resource versions and preconditions. Plain
memory, no I/O.

Times: `now` is wall time in seconds for stamps inside objects, `clock` is monotonic seconds for heartbeats.
Callers hold the lock that guards a Store; they persist `snapshot()` when `revision` has moved.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping
from typing import Any

from lab.k3s_sim.node.errors import StatusError, conflict, not_found
from lab.k3s_sim.node.node_password import SECRET_TYPE
from lab.k3s_sim.node.objects import Object, timestamp

HEARTBEAT_LIMIT_S = 40.0
"""Silence after which a node is no longer Ready: node-monitor-grace-period as k3s sets it."""

ORPHAN_AGE_S = 600.0
"""A node password whose node does not exist is swept away at this age."""

SYSTEM_NAMESPACE = "kube-system"
NAMESPACES = ("default", "kube-node-lease", "kube-public", SYSTEM_NAMESPACE)
_KINDS = {"nodes": "Node", "secrets": "Secret", "namespaces": "Namespace"}
_PASSWORD_SUFFIX = ".node-password.k3s"

Key = tuple[str, str, str]
"""Resource, namespace (empty for nodes and namespaces), name."""


class Store:
    """All objects of one cluster."""

    def __init__(self, now: float, clock: float) -> None:
        self._objects: dict[Key, Object] = {}
        self._heard: dict[str, float] = {}
        self._orphans: list[Key] = []
        self.revision = 0
        for name in NAMESPACES:
            self.create(
                "namespaces", "", {"metadata": {"name": name}, "status": {"phase": "Active"}}, now, clock
            )

    @classmethod
    def restore(cls, saved: Mapping[str, Any], now: float, clock: float) -> Store:
        """A store as `snapshot` described it; every node gets a full grace period to be heard again."""
        store = cls(now, clock)
        store._objects = {}
        for item in saved["objects"]:
            store._objects[item["resource"], item["namespace"], item["object"]["metadata"]["name"]] = item[
                "object"
            ]
        store._heard = {name: clock for resource, _, name in store._objects if resource == "nodes"}
        store.revision = int(saved["revision"])
        return store

    def snapshot(self) -> dict[str, Any]:
        """Everything that must survive a restart, as JSON."""
        objects = [
            {"resource": resource, "namespace": namespace, "object": item}
            for (resource, namespace, _), item in self._objects.items()
        ]
        return {"revision": self.revision, "objects": copy.deepcopy(objects)}

    def get(self, resource: str, namespace: str, name: str) -> Object:
        """A copy of one object; 404 if there is none."""
        return copy.deepcopy(self._require(resource, namespace, name))

    def find(self, resource: str, namespace: str, name: str) -> Object | None:
        """A copy of one object, if there is one."""
        found = self._objects.get((resource, namespace, name))
        return copy.deepcopy(found)

    def select(self, resource: str, namespace: str) -> list[Object]:
        """Copies of all objects of a kind, by name; an empty namespace means every namespace."""
        return [
            copy.deepcopy(item)
            for key, item in sorted(self._objects.items())
            if key[0] == resource and namespace in ("", key[1])
        ]

    def create(self, resource: str, namespace: str, given: Object, now: float, clock: float) -> Object:
        """Add an object and give it its uid; 409 if the name is taken."""
        created = copy.deepcopy(given)
        metadata = created.setdefault("metadata", {})
        name = str(metadata["name"])
        if (resource, namespace, name) in self._objects:
            raise StatusError(409, "AlreadyExists", f'{resource} "{name}" already exists')
        metadata.update(uid=str(uuid.uuid4()), creationTimestamp=timestamp(now))
        if namespace:
            metadata["namespace"] = namespace
        created.update(apiVersion="v1", kind=_KINDS[resource])
        self._put((resource, namespace, name), created)
        if resource == "nodes":
            self._heard[name] = clock
        return copy.deepcopy(created)

    def replace(self, resource: str, namespace: str, name: str, given: Object) -> Object:
        """Put a new version in place of an object; identity is kept, stale versions are refused (409)."""
        current = self._require(resource, namespace, name)
        metadata = given.get("metadata", {})
        _check_version(resource, name, current, metadata.get("uid"), metadata.get("resourceVersion"))
        changed = copy.deepcopy(given)
        changed["metadata"] = {**metadata, **_identity(current)}
        changed.update(apiVersion="v1", kind=_KINDS[resource])
        return self._commit((resource, namespace, name), current, changed)

    def patch(self, resource: str, namespace: str, name: str, patch: Object) -> Object:
        """Apply a JSON merge patch (RFC 7386); a uid or resourceVersion inside it is a precondition."""
        current = self._require(resource, namespace, name)
        metadata = patch.get("metadata") or {}
        _check_version(resource, name, current, metadata.get("uid"), metadata.get("resourceVersion"))
        changed = merge_patch(current, patch)
        changed["metadata"] = {**changed["metadata"], **_identity(current)}
        return self._commit((resource, namespace, name), current, changed)

    def heartbeat(self, name: str, patch: Object, clock: float) -> Object:
        """A kubelet reports its node's status. Only a change other than the time of the report is a new
        version.
        """
        current = self._require("nodes", "", name)
        changed = merge_patch(current, {"status": patch.get("status", {})})
        self._heard[name] = clock
        if _without_heartbeat(changed) == _without_heartbeat(current):
            self._objects["nodes", "", name] = changed
            return copy.deepcopy(changed)
        return self._commit(("nodes", "", name), current, changed)

    def delete(self, resource: str, namespace: str, name: str, preconditions: Mapping[str, Any]) -> Object:
        """Remove an object if uid and resourceVersion, where given, are still the ones the caller saw (else
        409).
        """
        current = self._require(resource, namespace, name)
        _check_version(
            resource, name, current, preconditions.get("uid"), preconditions.get("resourceVersion")
        )
        del self._objects[resource, namespace, name]
        self.revision += 1
        if resource == "nodes":
            self._heard.pop(name, None)
            self._orphans.append(("secrets", SYSTEM_NAMESPACE, f"{name}{_PASSWORD_SUFFIX}"))
        return current

    def tick(self, now: float, clock: float) -> None:
        """What controllers do in the background: silent nodes become Unknown, orphaned node passwords go."""
        for name, heard in self._heard.items():
            if clock - heard > HEARTBEAT_LIMIT_S:
                self._mark_unknown(name, now)
        for key in self._orphans:
            self._drop(key)
        self._orphans.clear()
        for key, item in list(self._objects.items()):
            if item.get("type") == SECRET_TYPE and self._is_old_orphan(key[2], item, now):
                self._drop(key)

    def _is_old_orphan(self, name: str, secret: Object, now: float) -> bool:
        node = name[: -len(_PASSWORD_SUFFIX)]
        oldest_allowed = timestamp(now - ORPHAN_AGE_S)
        return ("nodes", "", node) not in self._objects and secret["metadata"][
            "creationTimestamp"
        ] < oldest_allowed

    def _drop(self, key: Key) -> None:
        if self._objects.pop(key, None) is not None:
            self.revision += 1

    def _mark_unknown(self, name: str, now: float) -> None:
        key = ("nodes", "", name)
        current = self._objects[key]
        changed = copy.deepcopy(current)
        for condition in changed.get("status", {}).get("conditions", ()):
            if condition["status"] != "Unknown":
                condition.update(
                    status="Unknown",
                    reason="NodeStatusUnknown",
                    message="Kubelet stopped posting node status.",
                    lastTransitionTime=timestamp(now),
                )
        self._commit(key, current, changed)

    def _require(self, resource: str, namespace: str, name: str) -> Object:
        try:
            return self._objects[resource, namespace, name]
        except KeyError:
            raise not_found(resource, name) from None

    def _commit(self, key: Key, current: Object, changed: Object) -> Object:
        if changed != current:
            self._put(key, changed)
        return copy.deepcopy(self._objects[key])

    def _put(self, key: Key, item: Object) -> None:
        self.revision += 1
        item["metadata"]["resourceVersion"] = str(self.revision)
        self._objects[key] = item


def merge_patch(target: Object, patch: Object) -> Object:
    """RFC 7386: null removes, objects merge, everything else replaces. Returns a new object."""
    merged = copy.deepcopy(target)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            below = merged.get(key)
            merged[key] = merge_patch(below if isinstance(below, dict) else {}, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _identity(item: Object) -> Object:
    """What no update may change."""
    kept = ("name", "namespace", "uid", "creationTimestamp", "resourceVersion")
    return {key: item["metadata"][key] for key in kept if key in item["metadata"]}


def _check_version(resource: str, name: str, current: Object, uid: Any, version: Any) -> None:
    metadata = current["metadata"]
    if uid and uid != metadata["uid"]:
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {metadata['uid']}"
        raise conflict(resource, name, why)
    if version and version != metadata["resourceVersion"]:
        why = "the object has been modified; please apply your changes to the latest version and try again"
        raise conflict(resource, name, why)


def _without_heartbeat(node: Object) -> Object:
    status = dict(node.get("status", {}))
    status["conditions"] = [
        {key: value for key, value in condition.items() if key != "lastHeartbeatTime"}
        for condition in status.get("conditions", ())
    ]
    return {**node, "status": status}
