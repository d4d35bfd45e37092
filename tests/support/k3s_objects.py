"""Nodes without kubelets, pods without containers and budgets, made by an administrator of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from k3s_hosts import Hosts
from k3s_sim_processes import wait_until

NAMESPACE = "default"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
BUDGETS = f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets"
JSON = {"Content-Type": "application/json"}


def make(hosts: Hosts, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    status, value = hosts.api().call("POST", path, body, JSON)
    assert status == 201, value
    return dict(value)


def make_node(hosts: Hosts, name: str) -> str:
    """A node that anything tolerates; returns its uid."""
    return str(make(hosts, "/api/v1/nodes", {"metadata": {"name": name}})["metadata"]["uid"])


def make_pod(hosts: Hosts, name: str, node: str, app: str) -> str:
    """A Ready pod on a node; returns its uid."""
    account = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default"
    if hosts.release.name == "real":  # its admission wants the account, which a controller makes
        wait_until(lambda: hosts.api().call("GET", account)[0] == 200, "the default service account", 120)
    spec = {
        "nodeName": node,
        "containers": [{"name": "c", "image": "none"}],
        "tolerations": [{"operator": "Exists"}],
    }
    pod = make(hosts, PODS, {"metadata": {"name": name, "labels": {"app": app}}, "spec": spec})
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    assert hosts.api().call("PATCH", f"{PODS}/{name}/status", {"status": ready})[0] == 200
    return str(pod["metadata"]["uid"])


def make_budget(hosts: Hosts, name: str, app: str, minimum: int) -> None:
    spec = {"selector": {"matchLabels": {"app": app}}, "minAvailable": minimum}
    make(hosts, BUDGETS, {"metadata": {"name": name}, "spec": spec})
