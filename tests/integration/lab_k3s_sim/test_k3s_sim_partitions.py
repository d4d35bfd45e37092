"""Simulated servers whose network falls apart: the majority goes on, the rest waits, none forks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from k3s_sim_etcd import EtcdCluster, cluster_on_fabric
from k3s_sim_processes import wait_until

pytestmark = pytest.mark.integration

ELECTION_S = 90.0


@pytest.fixture
def cluster(tmp_path: Path, program: Path) -> Iterator[EtcdCluster]:
    with cluster_on_fabric(tmp_path, program) as started:
        yield started


def write(cluster: EtcdCluster, through: str, name: str) -> int:
    """Status of making a config map through one server; 0 where no answer came."""
    path = "/api/v1/namespaces/default/configmaps"
    try:
        return cluster.admin(through).call("POST", path, {"metadata": {"name": name}})[0]
    except OSError:
        return 0


def asked_on_its_own_host(cluster: EtcdCluster, server: str) -> str:
    """What `kubectl get nodes` says on a server that nobody else reaches."""
    assert cluster.fabric is not None
    argv = [
        *cluster.fabric.inside(server),
        sys.executable,
        str(cluster.lab.program),
        "kubectl",
        "get",
        "nodes",
    ]
    environ = {"PATH": os.environ["PATH"], "KUBECONFIG": str(cluster.lab.kubeconfig(server))}
    done = subprocess.run(argv, env=environ, capture_output=True, check=False)
    return done.stderr.decode()


def names(cluster: EtcdCluster, through: str) -> set[str]:
    """As one server lists them; who was cut off may have to hear of the leader first."""
    told: list[dict[str, Any]] = []

    def ask() -> bool:
        status, found = cluster.admin(through).call("GET", "/api/v1/namespaces/default/configmaps")
        told.append(found)
        return status == 200

    wait_until(ask, f"{through} lists", ELECTION_S)
    return {item["metadata"]["name"] for item in told[-1]["items"]}


def test_a_server_that_is_cut_off_answers_no_write_and_catches_up_afterwards(cluster: EtcdCluster) -> None:
    cluster.grow(3, "--disable-agent")
    assert cluster.fabric is not None
    cluster.fabric.split(["s1"])
    wait_until(lambda: write(cluster, "s2", "majority") in (201, 409), "the majority writes", ELECTION_S)
    assert "etcdserver: request timed out" in asked_on_its_own_host(cluster, "s1")
    cluster.fabric.heal()
    wait_until(lambda: write(cluster, "s1", "healed") in (201, 409), "s1 is back", ELECTION_S)
    assert names(cluster, "s1") == names(cluster, "s3") == {"majority", "healed"}
    assert cluster.members("s1") == {"s1": True, "s2": True, "s3": True}


def test_five_servers_go_on_without_two_and_not_without_three(cluster: EtcdCluster) -> None:
    cluster.grow(5, "--disable-agent")
    assert cluster.fabric is not None
    cluster.fabric.split(["s4", "s5"])
    wait_until(lambda: write(cluster, "s1", "without-two") in (201, 409), "three of five write", ELECTION_S)
    cluster.kill("s2")
    wait_until(
        lambda: write(cluster, "s1", "without-three") in (0, 500, 504), "two of five do not write", ELECTION_S
    )
    cluster.fabric.heal()
    wait_until(lambda: write(cluster, "s1", "again") in (201, 409), "four of five write", ELECTION_S)
    assert {"without-two", "again"} <= names(cluster, "s5")
