"""Deployments of the simulated cluster: how many pods, on which nodes, and where they go after a drain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.k3s_sim.node.cluster import Cluster
from lab.k3s_sim.node.controllers import Controllers
from lab.k3s_sim.node.datastore import FileDatastore
from lab.k3s_sim.node.node_object import render_conditions

NOW = 1_800_000_000.0


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(FileDatastore(tmp_path / "sim.json"), lambda: NOW)
    made.prepare()
    for name in ("pi-1", "pi-2", "pi-3"):
        conditions = render_conditions(NOW, NOW)
        made.create("nodes", "", {"metadata": {"name": name}, "status": {"conditions": conditions}})
    return made


def deploy(cluster: Cluster, replicas: int, *, port: int | None = None) -> None:
    ports = [{"containerPort": 80, "hostPort": port}] if port else []
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "none", "ports": ports}]},
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    cluster.create("deployments", "default", {"metadata": {"name": "web"}, "spec": spec})


def look(cluster: Cluster) -> dict[str, list[dict[str, Any]]]:
    """One pass of the controllers; the pods by their node."""
    Controllers(cluster).run(NOW, 0.0)
    found: dict[str, list[dict[str, Any]]] = {}
    for pod in cluster.select("pods", "default"):
        found.setdefault(pod["spec"]["nodeName"], []).append(pod)
    return found


def test_pods_are_spread_and_belong_to_a_replica_set(cluster: Cluster) -> None:
    deploy(cluster, 3)
    pods = look(cluster)
    assert sorted(pods) == ["pi-1", "pi-2", "pi-3"]
    owner = pods["pi-1"][0]["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["controller"]) == ("ReplicaSet", True)
    assert pods["pi-1"][0]["status"] == {"phase": "Pending"}
    assert look(cluster) == pods, "nothing is made twice"


def test_a_port_of_a_node_is_given_once(cluster: Cluster) -> None:
    deploy(cluster, 5, port=8080)
    assert {node: len(pods) for node, pods in look(cluster).items()} == {"pi-1": 1, "pi-2": 1, "pi-3": 1}


def test_an_evicted_pod_is_made_anew_where_nobody_cordoned(cluster: Cluster) -> None:
    deploy(cluster, 2)
    look(cluster)
    cluster.update("nodes", "", "pi-1", lambda node: {**node, "spec": {"unschedulable": True}})
    (gone,) = [pod for pod in cluster.select("pods", "default") if pod["spec"]["nodeName"] == "pi-1"]
    cluster.delete("pods", "default", gone["metadata"]["name"], grace_s=30)
    assert sorted(look(cluster)) == ["pi-2", "pi-3"]


def test_pods_of_a_deleted_node_are_made_anew(cluster: Cluster) -> None:
    deploy(cluster, 3)
    look(cluster)
    cluster.delete("nodes", "", "pi-3")
    assert {node: len(pods) for node, pods in look(cluster).items()} == {"pi-1": 2, "pi-2": 1}


def test_fewer_replicas_leave_fewer_pods(cluster: Cluster) -> None:
    deploy(cluster, 3)
    look(cluster)

    def fewer(deployment: dict[str, Any]) -> dict[str, Any]:
        return {**deployment, "spec": {**deployment["spec"], "replicas": 1}}

    cluster.update("deployments", "default", "web", fewer)
    look(cluster)  # they are told to end,
    assert len(look(cluster)) == 1  # and have ended
