"""kube-vip as Kubernetes objects: one of the servers answers for the API's own address, another when it is
gone. Pure.

It runs on servers only, elects a leader through a lease, and announces the address by ARP on the boards'
network. It serves the API and nothing else: addresses of Services are not its work here.

Source: kube-vip documentation, "DaemonSet" (ARP mode) and "RBAC"; the settings are those of its release
    below. Not run by the automated tests, which have no container images.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from fleet.join.secrets import NAMESPACE
from fleet.spec.model import K3sSpec

FILE_NAME: Final = "bramble-kube-vip.yaml"
LEASE: Final = "bramble-api-vip"
"""The lease in kube-system whose holder answers for the address."""
_NAME: Final = "kube-vip"
_ROLE: Final = "system:kube-vip-role"
_RBAC: Final = "rbac.authorization.k8s.io"
_API_PORT: Final = 6443


def kube_vip_objects(k3s: K3sSpec) -> tuple[dict[str, Any], ...]:
    """What runs it in the cluster; nothing where no address is declared, or somebody else answers for it."""
    if k3s.api_vip is None or not k3s.kube_vip.enabled:
        return ()
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata()}
    return (account, *_access(), _daemon_set(_environment(k3s), k3s.kube_vip.image))


def _environment(k3s: K3sSpec) -> dict[str, str]:
    """Its settings. Without `vip_interface` it takes the interface of the default route."""
    settings = {
        "address": str(k3s.api_vip),
        "port": str(_API_PORT),
        "vip_arp": "true",
        "vip_subnet": "32",
        "cp_enable": "true",
        "cp_namespace": NAMESPACE,
        "svc_enable": "false",
        "vip_leaderelection": "true",
        "vip_leasename": LEASE,
        "vip_leaseduration": "15",
        "vip_renewdeadline": "10",
        "vip_retryperiod": "2",
    }
    interface = k3s.kube_vip.interface
    return settings if interface is None else {**settings, "vip_interface": interface}


def _daemon_set(settings: dict[str, str], image: str) -> dict[str, Any]:
    environment: list[dict[str, Any]] = [{"name": name, "value": text} for name, text in settings.items()]
    own_name = {"fieldRef": {"fieldPath": "spec.nodeName"}}
    environment.append({"name": "vip_nodename", "valueFrom": own_name})
    container = {
        "name": _NAME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["manager"],
        "env": environment,
        "securityContext": {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]}},
    }
    pod = {
        "hostNetwork": True,
        "serviceAccountName": _NAME,
        "priorityClassName": "system-node-critical",
        "nodeSelector": {"node-role.kubernetes.io/control-plane": "true"},
        "tolerations": [{"operator": "Exists", "effect": effect} for effect in ("NoSchedule", "NoExecute")],
        "containers": [container],
    }
    labels = {"app.kubernetes.io/name": _NAME}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": _metadata(),
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _access() -> Iterable[dict[str, Any]]:
    """It keeps a lease and looks at nodes."""
    lease_rule = {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "verbs": ["list", "get", "watch", "update", "create"],
    }
    node_rule = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "get", "watch"]}
    yield {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": _ROLE},
        "rules": [node_rule, lease_rule],
    }
    yield {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": _ROLE},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": _ROLE},
        "subjects": [{"kind": "ServiceAccount", "name": _NAME, "namespace": NAMESPACE}],
    }


def _metadata() -> dict[str, str]:
    return {"name": _NAME, "namespace": NAMESPACE}
