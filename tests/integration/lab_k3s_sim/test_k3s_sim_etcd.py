"""Servers on a real etcd: they share one cluster, lose members, and get members back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from k3s_sim_etcd import JOIN_S, EtcdCluster
from k3s_sim_processes import Simulated, wait_until

pytestmark = pytest.mark.integration

REMOVE = "etcd.k3s.cattle.io/remove"
REMOVED = "etcd.k3s.cattle.io/removed-node-name"
NAME = "etcd.k3s.cattle.io/node-name"
ELECTION_S = 90.0
"""An election timeout is 5 s to 10 s; a second one may be needed."""


def notes(cluster: EtcdCluster, node: str, through: str) -> dict[str, str]:
    status, value = cluster.admin(through).call("GET", f"/api/v1/nodes/{node}")
    return dict(value["metadata"].get("annotations", {})) if status == 200 else {}


def write(cluster: EtcdCluster, through: str, label: str) -> int:
    patch = {"metadata": {"labels": {label: "1"}}}
    return cluster.admin(through).call("PATCH", f"/api/v1/nodes/{through}", patch)[0]


def remove(cluster: EtcdCluster, node: str, through: str) -> str:
    """Ask for a member's removal as one does with k3s; returns the member's name once it is removed."""
    patch = {"metadata": {"annotations": {REMOVE: "true"}}}
    admin = cluster.admin(through)
    wait_until(lambda: admin.call("PATCH", f"/api/v1/nodes/{node}", patch)[0] == 200, "it is asked for")
    wait_until(lambda: REMOVED in notes(cluster, node, through), f"the member of {node} is removed")
    return notes(cluster, node, through)[REMOVED]


def delete(cluster: EtcdCluster, node: str, through: str) -> None:
    """Delete a node's object; while etcd has no leader nobody can."""
    admin = cluster.admin(through)
    wait_until(
        lambda: admin.call("DELETE", f"/api/v1/nodes/{node}")[0] in (200, 404),
        f"{node} is to be deleted",
        ELECTION_S,
    )


def removed_by_itself(server: Simulated) -> None:
    """A removed server says so and ends."""
    assert server.wait_exit() == 1
    assert (
        "this node has been removed from the cluster please restart k3s to rejoin the cluster" in server.log
    )


def test_three_servers_share_one_cluster_and_survive_the_first_ones_death(etcd_cluster: EtcdCluster) -> None:
    etcd_cluster.grow(3)
    assert etcd_cluster.members("s2") == {"s1": True, "s2": True, "s3": True}
    uids = {
        etcd_cluster.admin(name).call("GET", "/api/v1/nodes/s1")[1]["metadata"]["uid"]
        for name in ("s1", "s2", "s3")
    }
    assert len(uids) == 1
    labels = etcd_cluster.admin("s3").call("GET", "/api/v1/nodes/s3")[1]["metadata"]["labels"]
    assert labels["node-role.kubernetes.io/etcd"] == labels["node-role.kubernetes.io/control-plane"] == "true"
    etcd_cluster.kill("s1")
    wait_until(
        lambda: write(etcd_cluster, "s2", "after") == 200, "a write after the leader's death", ELECTION_S
    )
    wait_until(lambda: etcd_cluster.condition("s1", "s2") == "Unhealthy", "s1 is seen to be away", ELECTION_S)
    etcd_cluster.start("s1").wait_ready()
    etcd_cluster.wait_voter("s1", "s3")
    assert "after" in etcd_cluster.admin("s1").call("GET", "/api/v1/nodes/s2")[1]["metadata"]["labels"]


def test_a_single_server_keeps_its_cluster_over_a_power_cut(etcd_cluster: EtcdCluster) -> None:
    etcd_cluster.init()
    etcd_cluster.wait_voter("s1")
    assert write(etcd_cluster, "s1", "kept") == 200
    etcd_cluster.kill("s1")
    again = etcd_cluster.start("s1", "--cluster-init")
    again.wait_ready()
    assert "Starting etcd for existing cluster member" in again.log
    assert "kept" in etcd_cluster.admin().call("GET", "/api/v1/nodes/s1")[1]["metadata"]["labels"]


def test_a_removed_member_ends_and_joins_again_under_a_new_name(etcd_cluster: EtcdCluster) -> None:
    etcd_cluster.grow(3)
    before = notes(etcd_cluster, "s3", "s1")[NAME]
    assert remove(etcd_cluster, "s3", "s1") == before
    removed_by_itself(etcd_cluster.servers["s3"])
    assert etcd_cluster.members("s1") == {"s1": True, "s2": True}
    assert (etcd_cluster.lab.data("s3") / "server/db/etcd/tombstone").exists()
    again = etcd_cluster.joining("s3")
    again.wait_for_log("tombstone file has been detected, removing data dir to rejoin the cluster")
    again.wait_ready(JOIN_S)
    etcd_cluster.wait_voter("s3")
    after = notes(etcd_cluster, "s3", "s1")
    assert after[NAME] not in ("", before)
    wait_until(lambda: notes(etcd_cluster, "s3", "s1").get(REMOVE) == "false", "the request is taken back")
    assert REMOVED not in notes(etcd_cluster, "s3", "s1")
    assert list((etcd_cluster.lab.data("s3") / "server/db").glob("etcd-old-*"))


def test_deleting_a_servers_node_removes_its_member_first(etcd_cluster: EtcdCluster) -> None:
    etcd_cluster.grow(3)
    etcd_cluster.kill("s3")
    delete(etcd_cluster, "s3", "s1")
    wait_until(lambda: etcd_cluster.admin("s2").ready("s3") == "absent", "the node is gone", ELECTION_S)
    assert etcd_cluster.members("s1") == {"s1": True, "s2": True}


def test_the_first_server_with_its_old_settings_makes_a_second_cluster_once_it_was_removed(
    etcd_cluster: EtcdCluster,
) -> None:
    """k3s does this too (issue 13623): it is why nobody may start a re-installed server with cluster-init."""
    etcd_cluster.grow(3)
    remove(etcd_cluster, "s1", "s2")
    removed_by_itself(etcd_cluster.servers["s1"])
    etcd_cluster.start("s1", "--cluster-init").wait_ready()
    assert etcd_cluster.members("s1") == {"s1": True}
    assert etcd_cluster.members("s2") == {"s2": True, "s3": True}


def test_a_second_member_of_a_nodes_name_is_refused(etcd_cluster: EtcdCluster) -> None:
    etcd_cluster.init()
    etcd_cluster.wait_voter("s1")
    address = etcd_cluster.address("s9")
    twin = etcd_cluster.joining("s2", "s1", "--node-name", "s1", "--node-ip", address)
    assert twin.wait_exit() == 1
    assert (
        "etcd cluster join failed: duplicate node name found, please use a unique name for this node"
        in twin.log
    )
    assert etcd_cluster.members() == {"s1": True}


def test_a_member_can_not_be_added_while_another_is_away(etcd_cluster: EtcdCluster) -> None:
    etcd_cluster.grow(3)
    etcd_cluster.kill("s3")
    wiped = etcd_cluster.joining("s4")
    wiped.wait_for_log(
        "Waiting for other members to finish joining etcd cluster: etcdserver: unhealthy cluster"
    )
    delete(etcd_cluster, "s3", "s1")
    wiped.wait_ready(JOIN_S)
    etcd_cluster.wait_voter("s4")
    assert etcd_cluster.members() == {"s1": True, "s2": True, "s4": True}


def test_a_learner_that_never_comes_hurts_nobody_and_is_evicted(etcd_cluster: EtcdCluster) -> None:
    etcd_cluster.init("s1", "--disable-agent", environ={"K3S_SIM_LEARNER_STALL_S": "4"})
    etcd_cluster.add_ghost()
    assert etcd_cluster.admin().call("GET", "/api/v1/nodes")[0] == 200
    second = etcd_cluster.joining("s2", "s1", "--disable-agent")
    second.wait_for_log(
        "Waiting for other members to finish joining etcd cluster: "
        "etcdserver: too many learner members in cluster"
    )
    etcd_cluster.servers["s1"].wait_for_log("Removed learner")
    second.wait_ready(JOIN_S)
    assert etcd_cluster.members() == {"s1": True, "s2": True}


def test_a_server_whose_address_changed_says_that_it_is_no_member(etcd_cluster: EtcdCluster) -> None:
    etcd_cluster.init("s1", "--disable-agent")
    etcd_cluster.kill("s1")
    moved = etcd_cluster.start("s1", "--disable-agent", "--node-ip", etcd_cluster.address("s7"))
    assert moved.wait_exit() == 1
    assert "this server is a not a member of the etcd cluster. Found [s1-" in moved.log


def etcd_of(server: Simulated) -> int:
    """The process id of a server's etcd, its only child."""
    pid = server.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def make_map(cluster: EtcdCluster, through: str, name: str) -> bool:
    path = "/api/v1/namespaces/default/configmaps"
    try:
        return cluster.admin(through).call("POST", path, {"metadata": {"name": name}})[0] in (201, 409)
    except OSError:
        return False


def test_a_server_ends_with_its_etcd_and_goes_on_with_its_data(etcd_cluster: EtcdCluster) -> None:
    server = etcd_cluster.init("s1", "--disable-agent")
    assert make_map(etcd_cluster, "s1", "kept")
    os.kill(etcd_of(server), signal.SIGKILL)
    assert server.wait_exit() == 1
    assert "etcd exited with -9" in server.log
    etcd_cluster.start("s1", "--disable-agent").wait_ready()
    assert etcd_cluster.admin().call("GET", "/api/v1/namespaces/default/configmaps/kept")[0] == 200


def test_a_leader_that_hangs_is_replaced_and_follows_when_it_wakes(etcd_cluster: EtcdCluster) -> None:
    etcd_cluster.grow(3, "--disable-agent")
    hung = etcd_of(etcd_cluster.servers["s1"])
    os.kill(hung, signal.SIGSTOP)
    try:
        wait_until(lambda: make_map(etcd_cluster, "s2", "without-s1"), "a new leader", ELECTION_S)
    finally:
        os.kill(hung, signal.SIGCONT)
    wait_until(lambda: make_map(etcd_cluster, "s1", "again"), "s1 follows", ELECTION_S)
    found = etcd_cluster.admin("s1").call("GET", "/api/v1/namespaces/default/configmaps")[1]["items"]
    assert {"without-s1", "again"} <= {item["metadata"]["name"] for item in found}
