"""Every way in which a join fails here is told by the journal in words that the agent understands."""

from __future__ import annotations

import os

import pytest
from k3s_sim_etcd import AGENT_TOKEN, PORT, SERVER_TOKEN, EtcdCluster
from k3s_sim_processes import Simulated, wait_until

from agent.k3s import classify
from lab.k3s_sim.node import node_password

pytestmark = pytest.mark.integration

SECRETS = "/api/v1/namespaces/kube-system/secrets"


def cause(process: Simulated) -> str:
    """The class that the agent finds in the process's journal."""
    problem = classify(process.log.splitlines())
    return problem.code if problem else ""


def fails_for(cluster: EtcdCluster, process: Simulated, code: str) -> None:
    """The process fails for a cause of that class; then it is ended."""
    wait_until(lambda: cause(process) == code, f"{code} in\n{process.log}")
    cluster.lab.stop(process)


def agent(cluster: EtcdCluster, name: str, token: str, server: str = "s1") -> Simulated:
    return cluster.lab.start(name, "agent", "--server", cluster.url(server), "--token", token)


def bind_name(cluster: EtcdCluster, name: str) -> None:
    """A password for a node's name that nobody has."""
    secret = {
        "metadata": {"name": node_password.secret_name(name)},
        "type": node_password.SECRET_TYPE,
        "stringData": {"hash": node_password.create_hash("nobody's", os.urandom(8))},
    }
    assert cluster.admin().call("POST", SECRETS, secret)[0] == 201


def test_the_journal_tells_the_agent_why_a_join_fails(etcd_cluster: EtcdCluster) -> None:
    etcd_cluster.init()
    etcd_cluster.wait_voter("s1")
    fails_for(etcd_cluster, agent(etcd_cluster, "a1", AGENT_TOKEN, server="s77"), "unreachable")
    fails_for(etcd_cluster, agent(etcd_cluster, "a2", f"K10{'0' * 64}::node:{AGENT_TOKEN}"), "ca_mismatch")
    fails_for(etcd_cluster, agent(etcd_cluster, "a3", "guess"), "token_rejected")
    bind_name(etcd_cluster, "a4")
    fails_for(etcd_cluster, agent(etcd_cluster, "a4", AGENT_TOKEN), "node_password")

    differing = etcd_cluster.joining("s2", "s1", "--cluster-cidr", "10.77.0.0/16")
    fails_for(etcd_cluster, differing, "config_mismatch")
    twin = etcd_cluster.joining("s3", "s1", "--node-name", "s1")
    fails_for(etcd_cluster, twin, "duplicate_member")
    foreign = etcd_cluster.start("s4", "--server", f"https://{etcd_cluster.address('s1')}:{PORT}",
                                 "--token", f"K10{'0' * 64}::server:{SERVER_TOKEN}")  # fmt: skip
    fails_for(etcd_cluster, foreign, "ca_mismatch")

    etcd_cluster.add_ghost()
    fails_for(etcd_cluster, etcd_cluster.joining("s5", "s1", "--disable-agent"), "too_many_learners")
    etcd_cluster.kill("s1")
    moved = etcd_cluster.start("s1", "--node-ip", etcd_cluster.address("s8"))
    fails_for(etcd_cluster, moved, "ip_changed")


def test_the_journal_tells_the_agent_that_its_member_was_removed(etcd_cluster: EtcdCluster) -> None:
    etcd_cluster.grow(2)
    patch = {"metadata": {"annotations": {"etcd.k3s.cattle.io/remove": "true"}}}
    wait_until(
        lambda: etcd_cluster.admin().call("PATCH", "/api/v1/nodes/s2", patch)[0] == 200,
        "removal is asked for",
    )
    assert etcd_cluster.servers["s2"].wait_exit() == 1
    assert cause(etcd_cluster.servers["s2"]) == "removed_member"
