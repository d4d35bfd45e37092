"""Node objects of the Kubernetes API as far as Bramble reads them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

VOTER_CONDITION: Final = "EtcdIsVoter"
"""Set by k3s on servers with embedded etcd: the member has a vote, and is no learner any more. Since
v1.25.16, v1.26.11, v1.27.8 and v1.28.4 (k3s pull request 8724 and its backports)."""
ETCD_ROLE: Final = "node-role.kubernetes.io/etcd"
"""Label of servers with a member of the embedded etcd, in all releases."""


@dataclass(frozen=True, slots=True)
class KubeNode:
    """One Node object.

    Attributes:
        ready: The Ready condition is True.
        reason: Why not, in the kubelet's words; empty when ready.
        version: The kubelet's version, `v1.33.5+k3s1`.
        votes: The server's etcd member has a vote; None: nothing is said of that.
        taints: `(key, value, effect)` each.
        unschedulable: It is cordoned.
        leaving: It was deleted, and finalizers keep it.
    """

    name: str
    ready: bool
    reason: str
    version: str
    votes: bool | None = None
    uid: str = ""
    resource_version: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[tuple[str, str, str], ...] = ()
    unschedulable: bool = False
    leaving: bool = False


def parse_node(item: Mapping[str, Any]) -> KubeNode:
    """A Node object of the API.

    Raises:
        KeyError, TypeError, AttributeError: It is not one.
    """
    metadata, status, spec = item["metadata"], item.get("status", {}), item.get("spec") or {}
    conditions = {entry["type"]: entry for entry in status.get("conditions") or []}
    condition, voter = conditions.get("Ready"), conditions.get(VOTER_CONDITION)
    ready = condition is not None and condition["status"] == "True"
    told = (
        "no Ready condition yet" if condition is None else condition.get("message") or condition.get("reason")
    )
    return KubeNode(
        name=metadata["name"],
        ready=ready,
        reason="" if ready else str(told or "no reason given"),
        version=str(status.get("nodeInfo", {}).get("kubeletVersion", "")),
        votes=None if voter is None else voter["status"] == "True",
        uid=str(metadata.get("uid") or ""),
        resource_version=str(metadata.get("resourceVersion") or ""),
        labels=dict(metadata.get("labels") or {}),
        annotations=dict(metadata.get("annotations") or {}),
        taints=tuple(
            (taint["key"], str(taint.get("value") or ""), taint["effect"])
            for taint in spec.get("taints") or []
        ),
        unschedulable=bool(spec.get("unschedulable")),
        leaving="deletionTimestamp" in metadata,
    )
