"""Kubernetes objects that servers bring into their cluster by themselves: files in k3s's directory for
that. Pure.

k3s applies what lies there when it starts and when a file changes. A file that is taken away undoes nothing.

Source: k3s documentation, "Auto-Deploying Manifests".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import yaml

from agent.protocol import NodeFile
from fleet.join.secrets import NAMESPACE
from fleet.k3s.material import CONTROL_USER
from fleet.kube.vip import LEASE

DIRECTORY: Final = "/var/lib/rancher/k3s/server/manifests"
ACCESS_FILE: Final = f"{DIRECTORY}/bramble-access.yaml"
_RBAC: Final = "rbac.authorization.k8s.io"
_ROLE_NAME: Final = "bramble-control"


def access_objects() -> tuple[dict[str, Any], ...]:
    """What the control server may do in the cluster, and no more: nodes, evictions, and in kube-system the
    secrets of joins and the lease of the API's own address. Pods are deleted where a person ordered a drain
    by force; volumes are looked at because an installation ends those that are on the node's disk.
    """
    cluster_rules = (
        _rule("nodes", "get", "list", "patch", "delete"),
        _rule("nodes/status", "patch"),
        _rule("pods", "get", "list", "delete"),
        _rule("persistentvolumeclaims", "get"),
        _rule("persistentvolumes", "get"),
        _rule("pods/eviction", "create"),
    )
    return (
        _role("ClusterRole", cluster_rules),
        _binding("ClusterRole"),
        _role("Role", (_rule("secrets", "get", "list", "create", "delete"), _lease_rule())),
        _binding("Role"),
    )


def render_access() -> NodeFile:
    """The control server's role as a file for servers."""
    return manifest(ACCESS_FILE, access_objects())


def manifest(path: str, objects: Iterable[Mapping[str, Any]]) -> NodeFile:
    """Objects as one file of YAML documents."""
    documents = [
        yaml.safe_dump(dict(one), sort_keys=False, default_flow_style=False, width=1 << 16) for one in objects
    ]
    header = "# Written by Bramble; changes here are lost.\n"
    return NodeFile(path=path, mode="0600", content=header + "---\n".join(documents))


def object_path(item: Mapping[str, Any]) -> tuple[str, str]:
    """Path of the collection that an access object belongs to, and the object's name there."""
    metadata = item["metadata"]
    scope = f"namespaces/{metadata['namespace']}/" if "namespace" in metadata else ""
    return f"/apis/{item['apiVersion']}/{scope}{item['kind'].lower()}s", metadata["name"]


def _rule(resource: str, *verbs: str) -> dict[str, Any]:
    return {"apiGroups": [""], "resources": [resource], "verbs": list(verbs)}


def _lease_rule() -> dict[str, Any]:
    """The API's own address is handed on before its holder is taken down."""
    return {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "resourceNames": [LEASE],
        "verbs": ["get", "patch"],
    }


def _metadata(kind: str) -> dict[str, str]:
    name = {"name": _ROLE_NAME}
    return name if kind.startswith("Cluster") else {**name, "namespace": NAMESPACE}


def _role(kind: str, rules: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": kind,
        "metadata": _metadata(kind),
        "rules": list(rules),
    }


def _binding(role_kind: str) -> dict[str, Any]:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": f"{role_kind}Binding",
        "metadata": _metadata(role_kind),
        "roleRef": {"apiGroup": _RBAC, "kind": role_kind, "name": _ROLE_NAME},
        "subjects": [{"apiGroup": _RBAC, "kind": "User", "name": CONTROL_USER}],
    }
