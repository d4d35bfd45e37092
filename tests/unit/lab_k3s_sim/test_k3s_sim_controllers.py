"""What happens in the background: silence, taints, orphans, pods that end. Time comes as an argument."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.k3s_sim.node.cluster import LEASE_NAMESPACE, SYSTEM_NAMESPACE, Cluster
from lab.k3s_sim.node.controllers import HEARTBEAT_LIMIT_S, ORPHAN_AGE_S, Controllers, ready_status
from lab.k3s_sim.node.datastore import FileDatastore
from lab.k3s_sim.node.members_in_name import look_after_members
from lab.k3s_sim.node.node_object import render_conditions
from lab.k3s_sim.node.patches import merge_patch, strategic_patch

NOW = 1_800_000_000.0
NODE = {"metadata": {"name": "pi-1"}, "status": {"conditions": render_conditions(NOW, NOW)}}
PASSWORD: dict[str, Any] = {"metadata": {"name": "pi-1.node-password.k3s"}, "type": "Opaque"}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(FileDatastore(tmp_path / "sim.json"), lambda: NOW)
    made.prepare()
    return made


@pytest.fixture
def controllers(cluster: Cluster) -> Controllers:
    return Controllers(cluster)


def ready(cluster: Cluster) -> str:
    return ready_status(cluster.get("nodes", "", "pi-1"))


def taints(cluster: Cluster) -> set[str]:
    return {taint["key"] for taint in cluster.get("nodes", "", "pi-1")["spec"].get("taints", ())}


def has_password(cluster: Cluster) -> bool:
    return cluster.find("secrets", SYSTEM_NAMESPACE, "pi-1.node-password.k3s") is not None


def beat(cluster: Cluster, at: float) -> None:
    """A report of the kubelet; the lease of a later report is another one."""
    status = {"status": {"conditions": render_conditions(NOW + at, NOW)}}
    cluster.heartbeat("pi-1", lambda node: strategic_patch(node, status))
    cluster.update("leases", LEASE_NAMESPACE, "pi-1", lambda old: merge_patch(old, {"spec": {"at": at}}))


def test_silence_makes_a_node_unknown_and_a_heartbeat_ready_again(
    cluster: Cluster, controllers: Controllers
) -> None:
    cluster.create("nodes", "", NODE)
    controllers.run(NOW, 100.0)
    controllers.run(NOW, 100.0 + HEARTBEAT_LIMIT_S)
    assert ready(cluster) == "True"
    controllers.run(NOW + 41, 100.1 + HEARTBEAT_LIMIT_S)
    assert ready(cluster) == "Unknown"
    assert taints(cluster) == {"node.kubernetes.io/unreachable"}
    beat(cluster, 60.0)
    controllers.run(NOW + 61, 161.0)
    assert ready(cluster) == "True"
    assert taints(cluster) == set()


def test_heartbeats_keep_a_node_ready(cluster: Cluster, controllers: Controllers) -> None:
    cluster.create("nodes", "", NODE)
    for number in range(20):
        beat(cluster, number * 10.0)
        controllers.run(NOW + number * 10, number * 10.0)
    assert ready(cluster) == "True"


def test_conditions_of_others_do_not_become_unknown(cluster: Cluster, controllers: Controllers) -> None:
    cluster.create("nodes", "", NODE)
    other = {"status": {"conditions": [{"type": "PiUnderVoltage", "status": "False"}]}}
    cluster.update("nodes", "", "pi-1", lambda node: strategic_patch(node, other))
    controllers.run(NOW, 0.0)
    controllers.run(NOW, 1.0 + HEARTBEAT_LIMIT_S)
    conditions = cluster.get("nodes", "", "pi-1")["status"]["conditions"]
    assert {item["type"]: item["status"] for item in conditions} == {
        "PiUnderVoltage": "False",
        "Ready": "Unknown",
        "MemoryPressure": "Unknown",
        "DiskPressure": "Unknown",
        "PIDPressure": "Unknown",
    }


def test_a_monitor_that_has_just_started_gives_every_node_time(cluster: Cluster) -> None:
    cluster.create("nodes", "", NODE)
    later = Controllers(cluster)
    later.run(NOW + 3600, 5000.0)
    later.run(NOW + 3600, 5000.0 + HEARTBEAT_LIMIT_S)
    assert ready(cluster) == "True"
    later.run(NOW + 3700, 5000.1 + HEARTBEAT_LIMIT_S)
    assert ready(cluster) == "Unknown"


def test_a_cordon_is_a_taint_and_an_uncordon_takes_only_that(
    cluster: Cluster, controllers: Controllers
) -> None:
    human = {"key": "mine", "effect": "NoExecute"}
    cluster.create("nodes", "", {**NODE, "spec": {"unschedulable": True, "taints": [human]}})
    controllers.run(NOW, 0.0)
    assert taints(cluster) == {"mine", "node.kubernetes.io/unschedulable"}
    cluster.update("nodes", "", "pi-1", lambda node: merge_patch(node, {"spec": {"unschedulable": None}}))
    controllers.run(NOW, 0.0)
    assert taints(cluster) == {"mine"}


def test_a_password_belongs_to_its_node_and_goes_with_it(cluster: Cluster, controllers: Controllers) -> None:
    uid = cluster.create("nodes", "", NODE)["metadata"]["uid"]
    cluster.create("secrets", SYSTEM_NAMESPACE, PASSWORD)
    controllers.run(NOW, 0.0)
    secret = cluster.get("secrets", SYSTEM_NAMESPACE, "pi-1.node-password.k3s")
    assert [owner["uid"] for owner in secret["metadata"]["ownerReferences"]] == [uid]
    cluster.delete("nodes", "", "pi-1")
    assert has_password(cluster)
    controllers.run(NOW, 0.0)
    assert not has_password(cluster)


def test_the_password_of_an_earlier_node_of_the_name_goes_too(
    cluster: Cluster, controllers: Controllers
) -> None:
    cluster.create("nodes", "", NODE)
    cluster.create("secrets", SYSTEM_NAMESPACE, PASSWORD)
    controllers.run(NOW, 0.0)
    cluster.delete("nodes", "", "pi-1")
    cluster.create("nodes", "", NODE)
    controllers.run(NOW, 0.0)
    assert not has_password(cluster)


def test_a_password_made_before_its_node_lives_ten_minutes(
    cluster: Cluster, controllers: Controllers
) -> None:
    cluster.create("secrets", SYSTEM_NAMESPACE, PASSWORD)
    controllers.run(NOW + ORPHAN_AGE_S, 0.0)
    assert has_password(cluster)
    controllers.run(NOW + ORPHAN_AGE_S + 1, 0.0)
    assert not has_password(cluster)


def test_other_secrets_are_left_alone(cluster: Cluster, controllers: Controllers) -> None:
    cluster.create("secrets", SYSTEM_NAMESPACE, {"metadata": {"name": "mine"}, "type": "Opaque"})
    controllers.run(NOW + 10 * ORPHAN_AGE_S, 0.0)
    assert cluster.find("secrets", SYSTEM_NAMESPACE, "mine")


def pod(name: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **metadata}, "spec": {"nodeName": "pi-1"}}


def test_a_pod_that_is_being_deleted_ends_when_its_kubelet_is_there(
    cluster: Cluster, controllers: Controllers
) -> None:
    cluster.create("nodes", "", NODE)
    for given in (pod("stays"), pod("goes"), pod("is-held", finalizers=["a/b"])):
        cluster.create("pods", "default", given)
    for name in ("goes", "is-held"):
        cluster.delete("pods", "default", name, grace_s=30)
    controllers.run(NOW, 0.0)
    assert [item["metadata"]["name"] for item in cluster.select("pods", "")] == ["is-held", "stays"]


def test_a_pod_of_a_silent_node_stays_until_the_node_is_out_of_service_or_gone(
    cluster: Cluster, controllers: Controllers
) -> None:
    cluster.create("nodes", "", NODE)
    cluster.create("pods", "default", pod("p"))
    controllers.run(NOW, 0.0)
    controllers.run(NOW, 1.0 + HEARTBEAT_LIMIT_S)
    cluster.delete("pods", "default", "p", grace_s=30)
    controllers.run(NOW, 2.0 + HEARTBEAT_LIMIT_S)
    assert cluster.find("pods", "default", "p")
    taint = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}
    cluster.update("nodes", "", "pi-1", lambda node: strategic_patch(node, {"spec": {"taints": [taint]}}))
    controllers.run(NOW, 3.0 + HEARTBEAT_LIMIT_S)
    assert cluster.find("pods", "default", "p") is None
    cluster.create("pods", "default", pod("q"))
    cluster.delete("nodes", "", "pi-1")
    controllers.run(NOW, 4.0 + HEARTBEAT_LIMIT_S)
    assert cluster.find("pods", "default", "q") is None


def control_plane(cluster: Cluster) -> None:
    labels = {"node-role.kubernetes.io/control-plane": "true"}
    addresses = [{"type": "InternalIP", "address": "10.0.0.1"}]
    status = {"addresses": addresses, "conditions": render_conditions(NOW, NOW)}
    cluster.create("nodes", "", {"metadata": {"name": "pi-1", "labels": labels}, "status": status})


def voter(cluster: Cluster) -> str:
    conditions = cluster.get("nodes", "", "pi-1")["status"]["conditions"]
    return next((item["reason"] for item in conditions if item["type"] == "EtcdIsVoter"), "")


def test_without_etcd_a_control_plane_is_a_voter_in_name(cluster: Cluster) -> None:
    control_plane(cluster)
    look_after_members(cluster, NOW, cluster_init=False)
    assert voter(cluster) == ""
    look_after_members(cluster, NOW, cluster_init=True)
    annotations = cluster.get("nodes", "", "pi-1")["metadata"]["annotations"]
    assert voter(cluster) == "MemberNotLearner"
    assert annotations["etcd.k3s.cattle.io/node-address"] == "10.0.0.1"
    name = annotations["etcd.k3s.cattle.io/node-name"]
    assert name.startswith("pi-1-")
    request = {"metadata": {"annotations": {"etcd.k3s.cattle.io/remove": "true"}}}
    cluster.update("nodes", "", "pi-1", lambda node: merge_patch(node, request))
    look_after_members(cluster, NOW, cluster_init=False)
    annotations = cluster.get("nodes", "", "pi-1")["metadata"]["annotations"]
    assert annotations["etcd.k3s.cattle.io/removed-node-name"] == name
    assert voter(cluster) == "NotAMember"
