"""What nodes say of etcd's members where there is no etcd (file_ground): the words of k3s, and nothing behind
them. Each control plane's node counts as a voter from the moment it is Ready until its removal is asked for.
"""

from __future__ import annotations

import hashlib

from lab.k3s_sim.node.cluster import Cluster
from lab.k3s_sim.node.controllers import ready_status
from lab.k3s_sim.node.etcd_words import ADDRESS, ETCD_LABEL, NAME, REMOVE, REMOVED, ROLE_LABELS, set_condition
from lab.k3s_sim.node.objects import Object

_CONTROL_PLANE = "node-role.kubernetes.io/control-plane"


def look_after_members(cluster: Cluster, now: float, cluster_init: bool) -> None:
    """One pass over the control planes' nodes; nothing happens where the cluster never began with etcd.

    Args:
        cluster_init: this server was told so at this start. Nodes that carry the label say it at later ones.
    """
    nodes = [node for node in cluster.select("nodes", "") if _CONTROL_PLANE in _labels(node)]
    if not cluster_init and not any(ETCD_LABEL in _labels(node) for node in nodes):
        return
    for node in nodes:
        cluster.update("nodes", "", node["metadata"]["name"], lambda current: _described(current, now))


def _described(node: Object, now: float) -> Object:
    metadata = node["metadata"]
    annotations = dict(metadata.get("annotations") or {})
    metadata["labels"] = {**_labels(node), **ROLE_LABELS}
    name = _member_name(metadata["name"], metadata["uid"])
    if str(annotations.get(REMOVE, "")).lower() == "true":
        annotations[REMOVED] = name
        annotations.pop(NAME, None)
        annotations.pop(ADDRESS, None)
        kind = "unjoined"
    else:
        annotations.update({NAME: name, ADDRESS: _address(node)})
        kind = "voter" if ready_status(node) == "True" else "unhealthy"
    metadata["annotations"] = annotations
    return set_condition(node, kind, "", now)


def _labels(node: Object) -> dict[str, str]:
    return dict(node["metadata"].get("labels") or {})


def _member_name(node: str, uid: str) -> str:
    return f"{node}-{hashlib.sha256(uid.encode()).hexdigest()[:8]}"


def _address(node: Object) -> str:
    addresses = (node.get("status") or {}).get("addresses") or ()
    return next((str(item["address"]) for item in addresses if item["type"] == "InternalIP"), "")
