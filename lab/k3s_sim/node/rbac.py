"""May this caller do that? Role-based access control over the roles and bindings that the cluster holds.

Source: Kubernetes documentation, "Using RBAC Authorization"; for kubelets "Using Node Authorization".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lab.k3s_sim.node.auth import MASTERS_GROUP, Identity
from lab.k3s_sim.node.cluster import LEASE_NAMESPACE, Cluster
from lab.k3s_sim.node.errors import StatusError
from lab.k3s_sim.node.objects import Object
from lab.k3s_sim.node.resources import Target


@dataclass(frozen=True)
class Attempt:
    """What somebody wants to do. `name` is that of the object, also of one that is being created."""

    verb: str
    target: Target
    name: str

    @property
    def path(self) -> str:
        """As rules name it: `pods`, `pods/eviction`."""
        part = self.target.subresource
        return f"{self.target.resource.plural}/{part}" if part else self.target.resource.plural


def require_allowed(cluster: Cluster, identity: Identity, attempt: Attempt) -> None:
    """Refuse what no role allows.

    Raises:
        StatusError: 403 with the text of the API server.
    """
    if MASTERS_GROUP in identity.groups or _node_may(identity, attempt):
        return
    if any(_allows(rule, attempt) for rule in _rules(cluster, identity, attempt.target.namespace)):
        return
    target = attempt.target
    scope = f'in the namespace "{target.namespace}"' if target.namespace else "at the cluster scope"
    text = (
        f'User "{identity.name}" cannot {attempt.verb} resource "{attempt.path}" in API group '
        f'"{target.resource.group}" {scope}'
    )
    qualified = target.resource.qualified
    subject = f'{qualified} "{target.name}"' if target.name else qualified
    raise StatusError(403, "Forbidden", f"{subject} is forbidden: {text}")


def _node_may(identity: Identity, attempt: Attempt) -> bool:
    """A kubelet reads nodes and pods, writes its own node and lease, and reports its own pods."""
    if identity.node is None:
        return False
    plural, own = attempt.target.resource.plural, attempt.name == identity.node
    if plural == "nodes":
        return attempt.verb in ("get", "list", "watch") or (
            own and attempt.verb in ("create", "update", "patch")
        )
    if plural == "leases" and attempt.target.namespace == LEASE_NAMESPACE:
        return own and attempt.verb in ("get", "create", "update", "patch")
    if plural == "pods" and attempt.target.subresource == "status":
        return attempt.verb == "patch"  # whether the pod is the node's own is not looked at here
    return plural == "pods" and attempt.verb in ("get", "list", "watch")


def _rules(cluster: Cluster, identity: Identity, namespace: str) -> Iterator[Object]:
    for binding in cluster.select("clusterrolebindings", ""):
        if _binds(binding, identity):
            yield from _rules_of(cluster, binding, "")
    if namespace:
        for binding in cluster.select("rolebindings", namespace):
            if _binds(binding, identity):
                yield from _rules_of(cluster, binding, namespace)


def _binds(binding: Object, identity: Identity) -> bool:
    groups = (*identity.groups, "system:authenticated")
    for subject in binding.get("subjects") or ():
        if subject.get("kind") == "User" and subject.get("name") == identity.name:
            return True
        if subject.get("kind") == "Group" and subject.get("name") in groups:
            return True
    return False


def _rules_of(cluster: Cluster, binding: Object, namespace: str) -> list[Object]:
    reference = binding.get("roleRef") or {}
    name = str(reference.get("name", ""))
    if reference.get("kind") == "ClusterRole":
        role = cluster.find("clusterroles", "", name)
    else:
        role = cluster.find("roles", namespace, name) if namespace else None
    return list((role or {}).get("rules") or ())


def _allows(rule: Object, attempt: Attempt) -> bool:
    names = rule.get("resourceNames") or ()
    return (
        _covers(rule.get("verbs"), attempt.verb)
        and _covers(rule.get("apiGroups"), _group(attempt))
        and _covers(rule.get("resources"), attempt.path)
        and (not names or attempt.name in names)
    )


def _group(attempt: Attempt) -> str:
    return attempt.target.resource.group


def _covers(values: object, wanted: str) -> bool:
    return isinstance(values, list) and ("*" in values or wanted in values)
