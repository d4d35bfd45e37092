"""Pods as far as Bramble reads them: what stands in the way when their node goes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"
"""On the API's copy of a pod that the kubelet runs from a file. Source: Kubernetes, "Static Pods"."""
_FINISHED: Final = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class KubePod:
    """One Pod object.

    Attributes:
        owner: Kind of the controller that makes another in its place, `ReplicaSet`; empty: nobody does.
        is_mirror: The kubelet runs it from a file: it can not be moved.
        is_finished: It ended and holds nothing any more.
        leaving: It was deleted, and ends.
        finalizers: What keeps its object when its containers have ended.
        scratch: It has emptyDir volumes that are on the node's disk.
        claims: Names of its PersistentVolumeClaims.
    """

    namespace: str
    name: str
    uid: str
    owner: str = ""
    is_mirror: bool = False
    is_finished: bool = False
    leaving: bool = False
    finalizers: tuple[str, ...] = ()
    scratch: bool = False
    claims: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.namespace}/{self.name}"


def parse_pod(item: Mapping[str, Any]) -> KubePod:
    """A Pod object of the API.

    Raises:
        KeyError, TypeError, AttributeError: It is not one.
    """
    metadata, spec = item["metadata"], item.get("spec") or {}
    volumes = spec.get("volumes") or ()
    owners = metadata.get("ownerReferences") or ()
    return KubePod(
        namespace=str(metadata["namespace"]),
        name=str(metadata["name"]),
        uid=str(metadata["uid"]),
        owner=next((str(owner["kind"]) for owner in owners if owner.get("controller")), ""),
        is_mirror=MIRROR_ANNOTATION in (metadata.get("annotations") or {}),
        is_finished=(item.get("status") or {}).get("phase") in _FINISHED,
        leaving="deletionTimestamp" in metadata,
        finalizers=tuple(map(str, metadata.get("finalizers") or ())),
        scratch=any(
            "emptyDir" in volume and (volume["emptyDir"] or {}).get("medium") != "Memory"
            for volume in volumes
        ),
        claims=tuple(
            str(volume["persistentVolumeClaim"]["claimName"])
            for volume in volumes
            if "persistentVolumeClaim" in volume
        ),
    )


def is_on_the_node(volume: Mapping[str, Any]) -> bool:
    """Whether a PersistentVolume's data is on one node's own disk: k3s's local-path makes such."""
    spec = volume.get("spec") or {}
    return "hostPath" in spec or "local" in spec
