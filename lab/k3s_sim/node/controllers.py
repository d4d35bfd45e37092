"""What a cluster's controllers do in the background: silent nodes become Unknown, orphans go, pods end and
are made anew.

One `run` is one look at everything. Several servers may run it at once: every change is a compare-and-swap
on the object as it was looked at.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.k3s_sim.node import log
from lab.k3s_sim.node.cluster import LEASE_NAMESPACE, SYSTEM_NAMESPACE, Cluster, owner_reference
from lab.k3s_sim.node.errors import StatusError
from lab.k3s_sim.node.node_password import secret_name
from lab.k3s_sim.node.objects import Object, timestamp
from lab.k3s_sim.node.workloads import keep_deployments

HEARTBEAT_LIMIT_S = 40.0
"""Silence after which a node is no longer Ready: node-monitor-grace-period as k3s sets it."""

ORPHAN_AGE_S = 600.0
"""A node password whose node never came is swept away at this age (MinOrphanSecretAge of k3s)."""

_KUBELET_CONDITIONS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
_UNSCHEDULABLE, _UNREACHABLE = "node.kubernetes.io/unschedulable", "node.kubernetes.io/unreachable"
_PASSWORD_SUFFIX = secret_name("")


@dataclass
class NodeMonitor:
    """When each node's lease was last seen to change, by our own clock: nobody else's is believed.

    A monitor that has just started gives every node a full grace period.
    """

    seen: dict[str, tuple[str, float]] = field(default_factory=dict)

    def silent(self, nodes: Iterable[str], leases: Mapping[str, str], clock: float) -> list[str]:
        """Nodes whose lease (its version, by node name) did not change for HEARTBEAT_LIMIT_S."""
        late = []
        after: dict[str, tuple[str, float]] = {}
        for name in nodes:
            version = leases.get(name, "")
            before = self.seen.get(name)
            after[name] = before if before is not None and before[0] == version else (version, clock)
            if clock - after[name][1] > HEARTBEAT_LIMIT_S:
                late.append(name)
        self.seen = after
        return late


@dataclass
class Controllers:
    """The controllers of one server. `orphan_age_s` is the age at which an ownerless node password goes."""

    cluster: Cluster
    orphan_age_s: float = ORPHAN_AGE_S
    monitor: NodeMonitor = field(default_factory=NodeMonitor)

    def run(self, now: float, clock: float) -> None:
        """One pass; `now` is wall time for stamps and ages, `clock` monotonic time for silence."""
        nodes = self.cluster.select("nodes", "")
        leases = {item["metadata"]["name"]: item["metadata"]["resourceVersion"]
                  for item in self.cluster.select("leases", LEASE_NAMESPACE)}  # fmt: skip
        late = set(self.monitor.silent((node["metadata"]["name"] for node in nodes), leases, clock))
        for node in nodes:
            self._watch_over(node, node["metadata"]["name"] in late, now)
        self._sweep_passwords(nodes, now)
        self._collect_garbage("leases", LEASE_NAMESPACE, nodes)
        self._end_pods({node["metadata"]["name"]: node for node in nodes})
        current = self.cluster.select("nodes", "")  # as this pass left their taints
        keep_deployments(
            self.cluster,
            {node["metadata"]["name"]: node for node in current if ready_status(node) == "True"},
        )

    def _watch_over(self, node: Object, is_silent: bool, now: float) -> None:
        def edit(current: Object) -> Object:
            if is_silent:
                _mark_unknown(current, now)
            _keep_taint(current, _UNREACHABLE, ready_status(current) == "Unknown", now)
            _keep_taint(current, _UNSCHEDULABLE, bool((current.get("spec") or {}).get("unschedulable")), now)
            return current

        self._change("nodes", "", node["metadata"]["name"], edit)

    def _sweep_passwords(self, nodes: list[Object], now: float) -> None:
        """Secrets get their node as owner and go with it; those without a node go when they are old."""
        by_secret = {secret_name(node["metadata"]["name"]): node for node in nodes}
        for secret in self.cluster.select("secrets", SYSTEM_NAMESPACE):
            name = secret["metadata"]["name"]
            if not name.endswith(_PASSWORD_SUFFIX):
                continue
            owners = secret["metadata"].get("ownerReferences") or []
            node = by_secret.get(name)
            alive = {item["metadata"]["uid"] for item in nodes}
            if owners and not any(owner["uid"] in alive for owner in owners):
                self._remove("secrets", SYSTEM_NAMESPACE, secret)
            elif node is not None and not any(owner["uid"] == node["metadata"]["uid"] for owner in owners):
                log.info(f"Adding node OwnerReference to node-password secret {name}")
                self._own(name, node)
            elif node is None and seconds(secret["metadata"]["creationTimestamp"]) < now - self.orphan_age_s:
                created = secret["metadata"]["creationTimestamp"]
                self._remove("secrets", SYSTEM_NAMESPACE, secret)
                log.warning(f"Deleted orphaned node-password secret {name} created {created}")

    def _own(self, name: str, node: Object) -> None:
        def edit(secret: Object) -> Object:
            secret["metadata"].setdefault("ownerReferences", []).append(owner_reference(node))
            return secret

        self._change("secrets", SYSTEM_NAMESPACE, name, edit)

    def _collect_garbage(self, plural: str, namespace: str, nodes: list[Object]) -> None:
        alive = {item["metadata"]["uid"] for item in nodes}
        for item in self.cluster.select(plural, namespace):
            owners = [
                owner for owner in item["metadata"].get("ownerReferences") or () if owner["kind"] == "Node"
            ]
            if owners and not any(owner["uid"] in alive for owner in owners):
                self._remove(plural, namespace, item)

    def _end_pods(self, nodes: Mapping[str, Object]) -> None:
        """There are no containers: a pod's kubelet lets it end at once, if the kubelet is there to do so.

        A pod of a silent node stays, as it does in Kubernetes, until its node is deleted or is tainted
        out-of-service.
        """
        for pod in self.cluster.select("pods", ""):
            name = (pod.get("spec") or {}).get("nodeName", "")
            node = nodes.get(name)
            metadata = pod["metadata"]
            leaves = "deletionTimestamp" in metadata
            orphaned = bool(name) and node is None
            if not orphaned and not leaves:
                continue
            if node is not None and ready_status(node) != "True" and not _is_out_of_service(node):
                continue
            if metadata.get("finalizers"):
                continue
            self._remove("pods", metadata["namespace"], pod)

    def _change(self, plural: str, namespace: str, name: str, edit: Any) -> None:
        try:
            self.cluster.update(plural, namespace, name, edit)
        except StatusError as error:
            if error.code != 404:  # deleted since we looked
                raise

    def _remove(self, plural: str, namespace: str, item: Object) -> None:
        try:
            self.cluster.delete(plural, namespace, item["metadata"]["name"], {"uid": item["metadata"]["uid"]})
        except StatusError as error:
            if error.code not in (404, 409):  # deleted or made anew since we looked
                raise


def ready_status(node: Object) -> str:
    """True, False or Unknown; Unknown where nobody has said."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    return next((str(item["status"]) for item in conditions if item["type"] == "Ready"), "Unknown")


def seconds(stamp: str) -> float:
    """Wall time of an RFC 3339 stamp."""
    return float(calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ")))


def _mark_unknown(node: Object, now: float) -> None:
    for condition in (node.get("status") or {}).get("conditions") or ():
        if condition["type"] in _KUBELET_CONDITIONS and condition["status"] != "Unknown":
            condition.update(
                status="Unknown",
                reason="NodeStatusUnknown",
                message="Kubelet stopped posting node status.",
                lastTransitionTime=timestamp(now),
            )


def _keep_taint(node: Object, key: str, wanted: bool, now: float) -> None:
    spec = node.setdefault("spec", {})
    taints = list(spec.get("taints") or ())
    present = any(taint["key"] == key for taint in taints)
    if wanted and not present:
        spec["taints"] = [*taints, {"key": key, "effect": "NoSchedule", "timeAdded": timestamp(now)}]
    elif present and not wanted:
        spec["taints"] = [taint for taint in taints if taint["key"] != key]


def _is_out_of_service(node: Object) -> bool:
    return any(
        taint["key"] == "node.kubernetes.io/out-of-service" and taint["effect"] == "NoExecute"
        for taint in (node.get("spec") or {}).get("taints") or ()
    )
