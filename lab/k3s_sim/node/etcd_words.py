"""The words in which k3s speaks about etcd's members on their nodes. Pure."""

from __future__ import annotations

from lab.k3s_sim.node.objects import Object, timestamp

ETCD_LABEL = "node-role.kubernetes.io/etcd"
ROLE_LABELS = {
    "node-role.kubernetes.io/control-plane": "true",
    ETCD_LABEL: "true",
    "node-role.kubernetes.io/master": "true",
}
NAME = "etcd.k3s.cattle.io/node-name"
ADDRESS = "etcd.k3s.cattle.io/node-address"
REMOVE = "etcd.k3s.cattle.io/remove"
REMOVED = "etcd.k3s.cattle.io/removed-node-name"
FINALIZER = "wrangler.cattle.io/managed-etcd-controller"
CONDITION = "EtcdIsVoter"

_CONDITIONS = {
    "voter": ("True", "MemberNotLearner", "Node is a voting member of the etcd cluster"),
    "learner": (
        "False",
        "MemberIsLearner",
        "Node has not been promoted to voting member of the etcd cluster",
    ),
    "unhealthy": ("False", "Unhealthy", "Node is unhealthy"),
    "unjoined": ("False", "NotAMember", "Node is not a member of the etcd cluster"),
}


def set_condition(node: Object, kind: str, message: str, now: float) -> Object:
    """The node with its condition as `kind` says; as it was if it says so already.

    Args:
        kind: voter, learner, unhealthy or unjoined.
        message: in the place of the usual one, if it is not empty.
    """
    status, reason, usual = _CONDITIONS[kind]
    state = node.setdefault("status", {})
    conditions = list(state.get("conditions") or ())
    found = next((item for item in conditions if item["type"] == CONDITION), None)
    said = {"type": CONDITION, "status": status, "reason": reason, "message": message or usual}
    if found is not None and said.items() <= found.items():
        return node
    stamped = {**said, "lastHeartbeatTime": timestamp(now), "lastTransitionTime": timestamp(now)}
    state["conditions"] = [*(item for item in conditions if item is not found), stamped]
    return node
