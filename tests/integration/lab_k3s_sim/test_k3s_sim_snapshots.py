"""Snapshots of a simulated server's etcd, resets, and the way from a file to etcd."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from k3s_sim_etcd import AGENT_TOKEN, SERVER_TOKEN, EtcdCluster, etcd_directory
from k3s_sim_processes import wait_until

pytestmark = pytest.mark.integration

MAPS = "/api/v1/namespaces/default/configmaps"
RESET_DONE = "Managed etcd cluster membership has been reset, restart without --cluster-reset flag now."


def snapshot(cluster: EtcdCluster, *argv: str) -> subprocess.CompletedProcess[str]:
    """`k3s etcd-snapshot ARGV` on s1."""
    lab, address = cluster.lab, cluster.address("s1")
    command = [sys.executable, str(lab.program), "etcd-snapshot", *argv, "--data-dir", str(lab.data("s1"))]
    command += ["--node-name", "s1", "--node-ip", address, "--config", str(lab.config("s1"))]
    environ = {"PATH": os.environ["PATH"], "K3S_SIM_ETCD": str(etcd_directory())}
    return subprocess.run(command, env=environ, capture_output=True, check=False, text=True)


def saved(cluster: EtcdCluster) -> Path:
    done = snapshot(cluster, "save")
    assert done.returncode == 0, done.stderr
    (file,) = (cluster.lab.data("s1") / "server/db/snapshots").iterdir()
    assert f"Snapshot {file.name} saved." in done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    return file


def make_map(cluster: EtcdCluster, name: str) -> None:
    assert cluster.admin().call("POST", MAPS, {"metadata": {"name": name}})[0] == 201


def maps(cluster: EtcdCluster) -> set[str]:
    return {item["metadata"]["name"] for item in cluster.admin().call("GET", MAPS)[1]["items"]}


def test_snapshots_are_listed_pruned_and_deleted(etcd_cluster: EtcdCluster) -> None:
    assert snapshot(etcd_cluster, "save").returncode == 1
    etcd_cluster.init("s1", "--disable-agent")
    file = saved(etcd_cluster)
    assert file.name in snapshot(etcd_cluster, "ls").stdout
    objects = etcd_cluster.admin().call("GET", "/apis/k3s.cattle.io/v1/etcdsnapshotfiles")[1]["items"]
    assert [item["spec"]["snapshotName"] for item in objects] == [file.name]
    assert snapshot(etcd_cluster, "delete", "../token").returncode == 1
    assert snapshot(etcd_cluster, "prune", "--snapshot-retention", "0").returncode == 0
    assert not file.exists()
    assert etcd_cluster.admin().call("GET", "/apis/k3s.cattle.io/v1/etcdsnapshotfiles")[1]["items"] == []
    assert snapshot(etcd_cluster, "delete", file.name).returncode == 1


def test_a_cluster_is_restored_from_a_snapshot_on_an_empty_disk_with_its_token(
    etcd_cluster: EtcdCluster,
) -> None:
    etcd_cluster.init()
    etcd_cluster.wait_voter("s1")
    make_map(etcd_cluster, "before")
    file = saved(etcd_cluster)
    kept = file.rename(etcd_cluster.lab.directory / "kept")
    make_map(etcd_cluster, "after")
    cacerts = (etcd_cluster.lab.tls("s1") / "server-ca.crt").read_bytes()
    etcd_cluster.kill("s1")
    etcd_cluster.lab.data("s1").rename(etcd_cluster.lab.directory / "the disk that died")

    reset = ("--cluster-reset", "--cluster-reset-restore-path", str(kept))
    wrong = etcd_cluster.start("s1", *reset, "--token", "another")
    assert wrong.wait_exit() == 1
    assert "bootstrap data already found and encrypted with different token" in wrong.log
    etcd_cluster.lab.data("s1").rename(etcd_cluster.lab.directory / "the failed attempt")

    done = etcd_cluster.start("s1", *reset, "--token", SERVER_TOKEN)
    assert done.wait_exit() == 0, done.log
    assert RESET_DONE in done.log
    etcd_cluster.start("s1", "--token", SERVER_TOKEN).wait_ready()
    assert (etcd_cluster.lab.tls("s1") / "server-ca.crt").read_bytes() == cacerts
    assert maps(etcd_cluster) == {"before"}
    etcd_cluster.wait_voter("s1")
    wait_until(lambda: etcd_cluster.admin().ready("s1") == "True", "the server's own node is back")


def test_the_survivor_of_two_is_reset_and_the_other_joins_again(etcd_cluster: EtcdCluster) -> None:
    etcd_cluster.grow(2)
    make_map(etcd_cluster, "kept")
    make_map(etcd_cluster, "last")  # nobody is left to say that this one was committed
    etcd_cluster.kill("s2")
    etcd_cluster.kill("s1")
    done = etcd_cluster.start("s1", "--cluster-reset")
    assert done.wait_exit() == 0, done.log
    assert RESET_DONE in done.log
    twice = etcd_cluster.start("s1", "--cluster-reset")
    assert twice.wait_exit() == 1
    assert "please remove the cluster-reset flag and start k3s normally" in twice.log
    etcd_cluster.start("s1").wait_ready()
    assert etcd_cluster.members() == {"s1": True}
    assert "kept" in maps(etcd_cluster)
    (etcd_cluster.lab.data("s2") / "server/db").rename(etcd_cluster.lab.directory / "old")
    etcd_cluster.join("s2")
    assert etcd_cluster.members() == {"s1": True, "s2": True}


@pytest.mark.parametrize("path", ["absent", "."])
def test_a_snapshot_that_is_none_is_refused_before_anything_is_touched(
    etcd_cluster: EtcdCluster, path: str
) -> None:
    given = str(etcd_cluster.lab.directory / path)
    done = etcd_cluster.start("s1", "--cluster-reset", "--cluster-reset-restore-path", given)
    assert done.wait_exit() == 1
    assert "etcd: snapshot path" in done.log
    assert not (etcd_cluster.lab.data("s1") / "server/db/etcd/member").exists()


def test_a_file_becomes_a_cluster_when_it_is_told_to(etcd_cluster: EtcdCluster) -> None:
    etcd_cluster.start("s1", "--token", SERVER_TOKEN, "--agent-token", AGENT_TOKEN).wait_ready()
    assert etcd_cluster.admin().call("GET", "/db/info")[0] == 404
    make_map(etcd_cluster, "old")
    etcd_cluster.stop("s1")
    etcd_cluster.start("s1", "--cluster-init").wait_ready()
    assert maps(etcd_cluster) == {"old"}
    etcd_cluster.wait_voter("s1")
    etcd_cluster.join("s2")
