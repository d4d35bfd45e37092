"""Deployments of the simulated cluster: as many pods as they say, on nodes that take them.

What Kubernetes spreads over a deployment controller, a replica set controller and a scheduler is one pass
here. A pod is bound to a node when it is made; where no node takes one, the next pass looks again. Nothing is
rolled out: a template that changes counts for the pods that are made from then on.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping

from lab.k3s_sim.node.cluster import Cluster, owner_reference
from lab.k3s_sim.node.errors import StatusError
from lab.k3s_sim.node.objects import Object

_FINISHED = ("Succeeded", "Failed")
_KEEPS_AWAY = ("NoSchedule", "NoExecute")


def keep_deployments(cluster: Cluster, ready: Mapping[str, Object]) -> None:
    """Make the pods that deployments miss, and delete those that are too many.

    Args:
        ready: Nodes that are Ready, by name.
    """
    for deployment in cluster.select("deployments", ""):
        namespace = deployment["metadata"]["namespace"]
        replica_set = _ensure_replica_set(cluster, deployment)
        everybody = cluster.select("pods", "")
        own = [pod for pod in everybody if _is_owned(pod, replica_set) and not _is_over(pod)]
        wanted = int((deployment.get("spec") or {}).get("replicas", 1))
        for pod in own[wanted:]:
            _delete(cluster, pod)
        for _ in range(wanted - len(own)):
            node = _choose(ready.values(), deployment, everybody, own)
            if node is None:
                break
            pod = cluster.create("pods", namespace, _pod(deployment, replica_set, node))
            everybody, own = [*everybody, pod], [*own, pod]


def host_ports(spec: Object) -> set[int]:
    """The ports of its node that a pod occupies."""
    ports = (port for container in spec.get("containers") or () for port in container.get("ports") or ())
    return {int(port["hostPort"]) for port in ports if port.get("hostPort")}


def _ensure_replica_set(cluster: Cluster, deployment: Object) -> Object:
    metadata, spec = deployment["metadata"], deployment.get("spec") or {}
    name, namespace = f"{metadata['name']}-sim", metadata["namespace"]
    found = cluster.find("replicasets", namespace, name)
    if found is None:
        owner = {**owner_reference(deployment), "controller": True}
        given = {"metadata": {"name": name, "ownerReferences": [owner]}, "spec": spec}
        cluster.ensure("replicasets", namespace, given)
        found = cluster.get("replicasets", namespace, name)
    return found


def _pod(deployment: Object, replica_set: Object, node: str) -> Object:
    template = (deployment.get("spec") or {}).get("template") or {}
    metadata = dict(template.get("metadata") or {})
    name = f"{deployment['metadata']['name']}-{uuid.uuid4().hex[:8]}"
    owner = {**owner_reference(replica_set), "controller": True}
    return {
        "metadata": {**metadata, "name": name, "ownerReferences": [owner]},
        "spec": {**(template.get("spec") or {}), "nodeName": node},
        "status": {"phase": "Pending"},
    }


def _choose(
    nodes: Iterable[Object], deployment: Object, pods: Iterable[Object], own: Iterable[Object]
) -> str | None:
    """The node with the fewest pods of its kind that takes one more; None: none does."""
    spec = ((deployment.get("spec") or {}).get("template") or {}).get("spec") or {}
    wanted = host_ports(spec)
    taken: dict[str, set[int]] = {}
    for pod in pods:
        if not _has_ended(pod):
            node = str((pod.get("spec") or {}).get("nodeName", ""))
            taken.setdefault(node, set()).update(host_ports(pod.get("spec") or {}))
    count: dict[str, int] = {}
    for pod in own:
        node = str(pod["spec"]["nodeName"])
        count[node] = count.get(node, 0) + 1
    fit = [
        node["metadata"]["name"]
        for node in nodes
        if _takes_pods(node) and not wanted & taken.get(node["metadata"]["name"], set())
    ]
    return min(fit, key=lambda name: (count.get(name, 0), name), default=None)


def _takes_pods(node: Object) -> bool:
    spec = node.get("spec") or {}
    tainted = any(taint["effect"] in _KEEPS_AWAY for taint in spec.get("taints") or ())
    return not spec.get("unschedulable") and not tainted


def _is_owned(pod: Object, replica_set: Object) -> bool:
    owners = pod["metadata"].get("ownerReferences") or ()
    return any(owner["uid"] == replica_set["metadata"]["uid"] for owner in owners)


def _has_ended(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in _FINISHED


def _is_over(pod: Object) -> bool:
    """It counts for its replica set no more: another is made while it ends."""
    return _has_ended(pod) or "deletionTimestamp" in pod["metadata"]


def _delete(cluster: Cluster, pod: Object) -> None:
    metadata = pod["metadata"]
    try:
        cluster.delete("pods", metadata["namespace"], metadata["name"], {"uid": metadata["uid"]}, grace_s=30)
    except StatusError as error:
        if error.code not in (404, 409):  # deleted or made anew since we looked
            raise
