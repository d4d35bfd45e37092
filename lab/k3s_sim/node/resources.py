"""Which kinds of objects the simulated API server knows, and how a path names them. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resource:
    """One kind. `group` is empty for the core group; `short_names` are what kubectl understands."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    subresources: tuple[str, ...] = ()
    short_names: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """As objects carry it: `v1`, `policy/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """As error texts name it: `nodes`, `leases.coordination.k8s.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


_RBAC, _APPS = "rbac.authorization.k8s.io", "apps"

RESOURCES: tuple[Resource, ...] = (
    Resource("namespaces", "Namespace", namespaced=False, subresources=("status",), short_names=("ns",)),
    Resource("nodes", "Node", namespaced=False, subresources=("status",), short_names=("no",)),
    Resource("pods", "Pod", subresources=("status", "eviction"), short_names=("po",)),
    Resource("secrets", "Secret"),
    Resource("configmaps", "ConfigMap", short_names=("cm",)),
    Resource("events", "Event", short_names=("ev",)),
    Resource("serviceaccounts", "ServiceAccount", short_names=("sa",)),
    Resource("services", "Service", subresources=("status",), short_names=("svc",)),
    Resource("persistentvolumes", "PersistentVolume", namespaced=False, short_names=("pv",)),
    Resource("persistentvolumeclaims", "PersistentVolumeClaim", short_names=("pvc",)),
    Resource("daemonsets", "DaemonSet", _APPS, subresources=("status",), short_names=("ds",)),
    Resource("deployments", "Deployment", _APPS, subresources=("status",), short_names=("deploy",)),
    Resource("replicasets", "ReplicaSet", _APPS, subresources=("status",), short_names=("rs",)),
    Resource("statefulsets", "StatefulSet", _APPS, subresources=("status",), short_names=("sts",)),
    Resource("poddisruptionbudgets", "PodDisruptionBudget", "policy", subresources=("status",),
             short_names=("pdb",)),
    Resource("leases", "Lease", "coordination.k8s.io"),
    Resource("clusterroles", "ClusterRole", _RBAC, namespaced=False),
    Resource("clusterrolebindings", "ClusterRoleBinding", _RBAC, namespaced=False),
    Resource("roles", "Role", _RBAC),
    Resource("rolebindings", "RoleBinding", _RBAC),
    Resource("etcdsnapshotfiles", "ETCDSnapshotFile", "k3s.cattle.io", namespaced=False),
)  # fmt: skip

_BY_PATH = {(item.group, item.version, item.plural): item for item in RESOURCES}
_BY_PLURAL = {item.plural: item for item in RESOURCES}
_BY_KIND = {(item.api_version, item.kind): item for item in RESOURCES}


def resource(plural: str) -> Resource:
    """The kind with this plural name; the table has no two."""
    return _BY_PLURAL[plural]


def find_kind(api_version: str, kind: str) -> Resource | None:
    """The resource that holds objects of a kind."""
    return _BY_KIND.get((api_version, kind))


@dataclass(frozen=True)
class Target:
    """What a path names: a collection (`name` is empty), an object, or a part of one."""

    resource: Resource
    namespace: str
    name: str
    subresource: str


def parse_path(path: str) -> Target | None:
    """Read a path: `/api/v1/` or `/apis/<group>/<version>/`, then
    `[namespaces/<namespace>/]<plural>[/<name>[/<part>]]`.

    None if the simulator has nothing there.
    """
    parts = path.strip("/").split("/")
    if parts[:2] == ["api", "v1"]:
        group, version, parts = "", "v1", parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 3:
        group, version, parts = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if len(parts) >= 3 and parts[0] == "namespaces" and parts[2] not in ("status", "finalize"):
        namespace, parts = parts[1], parts[2:]
    plural, name, subresource = [*parts, "", "", ""][:3]
    found = _BY_PATH.get((group, version, plural))
    if found is None or len(parts) > 3 or (subresource and subresource not in found.subresources):
        return None
    if namespace and not found.namespaced:
        return None
    if name and found.namespaced and not namespace:
        return None
    return Target(found, namespace, name, subresource)


def discovery(path: str) -> dict[str, object] | None:
    """What clients such as kubectl read to learn which kinds there are; None for any other path."""
    parts = path.strip("/").split("/")
    if parts == ["api"]:
        return {"kind": "APIVersions", "versions": ["v1"]}
    if parts == ["apis"]:
        groups = [_group_document(group) for group in sorted({item.group for item in RESOURCES} - {""})]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    group_version = "/".join(parts[1:])
    kinds = [item for item in RESOURCES if item.api_version == group_version]
    if not kinds or parts[0] != ("apis" if kinds[0].group else "api"):
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": [document for item in kinds for document in _resource_documents(item)],
    }


def _group_document(group: str) -> dict[str, object]:
    versions = sorted({item.version for item in RESOURCES if item.group == group})
    listed = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
    return {"name": group, "versions": listed, "preferredVersion": listed[0]}


def _resource_documents(item: Resource) -> list[dict[str, object]]:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    document: dict[str, object] = {
        "name": item.plural,
        "singularName": "",
        "namespaced": item.namespaced,
        "kind": item.kind,
        "verbs": verbs,
        "shortNames": list(item.short_names),
    }
    parts: list[dict[str, object]] = []
    for part in item.subresources:
        described: dict[str, object] = {
            "name": f"{item.plural}/{part}",
            "singularName": "",
            "namespaced": item.namespaced,
            "kind": item.kind,
            "verbs": ["get", "patch", "update"],
        }
        if part == "eviction":
            described.update(group="policy", version="v1", kind="Eviction", verbs=["create"])
        parts.append(described)
    return [document, *parts]
