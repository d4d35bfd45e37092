"""A cluster's Kubernetes API as plain memory for re-images: nodes, pods, evictions, volumes, passwords.

Every call can be the last one of the caller's process (`calls_left`). Nothing here decides what Bramble
should do: evictions are refused as a test says, and a pod that may go is gone at the next `settle`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fakes_kube_memory import CutOffError

from fleet.kube.client import KubeError, KubeRefusedError
from fleet.kube.objects import KubeNode
from fleet.kube.pods import KubePod

CORDON = "bramble.dev/cordon"


def pod(name: str, **more: Any) -> KubePod:
    """A pod of a ReplicaSet, unless `more` says otherwise."""
    return KubePod(namespace="default", name=name, uid=f"uid-{name}", **{"owner": "ReplicaSet", **more})


@dataclass
class ClusterMemory:
    """The objects. `changes` collects every call that changes something."""

    seen: dict[str, KubeNode] = field(default_factory=dict)
    pods: dict[str, list[KubePod]] = field(default_factory=dict)
    volumes: dict[str, dict[str, Any]] = field(default_factory=dict)
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Pod → how its eviction is refused."""
    answers: bool = True
    calls_left: int | None = None
    changes: list[str] = field(default_factory=list)
    url: str = "https://memory"
    _version: int = 0

    @contextlib.asynccontextmanager
    async def connect(self, _url: str) -> AsyncIterator[Any]:
        yield self

    def join(self, name: str, *, ready: bool = True, **more: Any) -> None:
        """The kubelet registers, or reports: the object of its name stays while there is one."""
        self._version += 1
        known = self.seen.get(name)
        uid = known.uid if known else f"uid-{name}-{self._version}"
        fresh = KubeNode(
            name,
            ready,
            "" if ready else "silent",
            "v1.33.5+k3s1",
            uid=uid,
            resource_version=str(self._version),
        )
        kept = known if known is not None else fresh
        self.seen[name] = dataclasses.replace(
            kept, ready=ready, reason=fresh.reason, resource_version=fresh.resource_version, **more
        )
        secret = f"{name}.node-password.k3s"
        self.secrets.setdefault(
            secret, {"metadata": {"name": secret, "uid": f"uid-{secret}-{self._version}"}}
        )

    def settle(self) -> None:
        """Pods that were told to leave have ended, unless a finalizer keeps them."""
        for name, pods in self.pods.items():
            self.pods[name] = [one for one in pods if not one.leaving or one.finalizers]

    def _called(self, change: str = "") -> None:
        if not self.answers:
            raise KubeError("does not answer")
        if self.calls_left is not None:
            if self.calls_left == 0:
                raise CutOffError
            self.calls_left -= 1
        if change:
            self.changes.append(change)

    async def nodes(self) -> dict[str, KubeNode]:
        self._called()
        return dict(self.seen)

    async def pods_on(self, node: str) -> tuple[KubePod, ...]:
        self._called()
        return tuple(self.pods.get(node, ()))

    async def patch_node(self, name: str, patch: Mapping[str, Any]) -> None:
        self._called(f"patch {name}")
        node, metadata = self.seen[name], patch.get("metadata", {})
        if metadata.get("resourceVersion", node.resource_version) != node.resource_version:
            raise KubeRefusedError("the object has been modified", 409)
        annotations = {**node.annotations, **metadata.get("annotations", {})}
        self._version += 1
        self.seen[name] = dataclasses.replace(
            node,
            annotations={key: value for key, value in annotations.items() if value is not None},
            unschedulable=bool(patch.get("spec", {}).get("unschedulable", node.unschedulable)),
            resource_version=str(self._version),
        )

    async def patch_node_status(self, _name: str, _patch: Mapping[str, Any]) -> None:
        self._called()

    async def evict(self, wanted: KubePod, api_version: str) -> None:
        assert api_version == "policy/v1"
        self._called(f"evict {wanted.name}")
        if wanted.name in self.refusals:
            status, text = self.refusals[wanted.name]
            raise KubeRefusedError(text, status)
        self._mark_leaving(wanted)

    async def delete_pod(self, wanted: KubePod) -> None:
        self._called(f"delete {wanted.name}")
        self._mark_leaving(wanted)

    def _mark_leaving(self, wanted: KubePod) -> None:
        for node, pods in self.pods.items():
            self.pods[node] = [
                dataclasses.replace(one, leaving=True) if one.uid == wanted.uid else one for one in pods
            ]

    async def volume_of(self, namespace: str, claim: str) -> Mapping[str, Any] | None:
        self._called()
        return self.volumes.get(f"{namespace}/{claim}")

    async def delete_node(self, name: str, uid: str) -> None:
        self._called(f"delete node {name}")
        if name in self.seen and self.seen[name].uid == uid:
            del self.seen[name]
            self.pods.pop(name, None)

    async def secret(self, name: str) -> dict[str, Any] | None:
        self._called()
        return self.secrets.get(name)

    async def create_secret(self, secret: Mapping[str, Any]) -> None:
        self._called(f"create {secret['metadata']['name']}")
        self._version += 1
        name = secret["metadata"]["name"]
        if name in self.secrets:
            raise KubeRefusedError("already exists", 409)
        self.secrets[name] = {**secret, "metadata": {**secret["metadata"], "uid": f"uid-{self._version}"}}

    async def delete_secret(self, secret: Mapping[str, Any]) -> None:
        name = secret["metadata"]["name"]
        self._called(f"delete {name}")
        self.secrets.pop(name, None)

    async def bootstrap_tokens(self) -> list[dict[str, Any]]:
        self._called()
        return [one for one in self.secrets.values() if one.get("type") == "bootstrap.kubernetes.io/token"]
