"""The contract of joining: what a k3s server answers to nodes and servers that hold our tokens and passwords.

Every test runs against the simulator, and with `make test-k3s K3S=DIR` against the real server in DIR.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest
from k3s_hosts import Hosts, basic
from k3s_sim_processes import wait_until

from fleet.etcd.client import EtcdClient
from fleet.etcd.errors import EtcdRefusedError
from fleet.etcd.snapshot import check_file, save_snapshot
from fleet.etcd.view import EtcdView
from fleet.join.secrets import BootstrapToken, accepts_password, bootstrap_token_object, node_password_object
from fleet.k3s.config import JoinServer
from fleet.k3s.versions import Feature, has
from fleet.secret import Secret
from fleet.snapshots.files import SnapshotFiles
from fleet.snapshots.imports import Ours, import_snapshot

pytestmark = pytest.mark.integration

SECRETS = "/api/v1/namespaces/kube-system/secrets"
JOIN_S = 120.0


def credentials(hosts: Hosts, kind: str) -> dict[str, str]:
    server = hosts.keys.server_token.reveal().rpartition(":")[2]
    return {
        "node token": basic("node", hosts.keys.agent_password.reveal()),
        "server token": basic("server", server),
        "none": {},
        "wrong": basic("node", "guess"),
    }[kind]


def kubelet_certificate(hosts: Hosts, node: str, password: str) -> tuple[int, str]:
    """Ask for a kubelet's serving certificate; status and text of the answer.

    While k3s says 503 it is asked again: its own clients start some seconds after the API is ready.
    """
    headers = {"k3s-Node-Name": node, "k3s-Node-Password": password, "k3s-Node-IP": "10.99.0.77"}
    headers |= credentials(hosts, "node token")
    answers: list[tuple[int, Any]] = []

    def is_answered() -> bool:
        answers.append(hosts.anybody().call("GET", "/v1-k3s/serving-kubelet.crt", headers=headers))
        return answers[-1][0] != 503

    wait_until(is_answered, "k3s says whether it gives a kubelet its certificate", JOIN_S)
    status, body = answers[-1]
    return status, body.decode() if isinstance(body, bytes) else str(body.get("message"))


def test_the_token_pins_a_ca_that_was_made_before_the_server(hosts: Hosts) -> None:
    status, cacerts = hosts.anybody().call("GET", "/cacerts")
    assert (status, cacerts.decode()) == (200, hosts.keys.server_ca_pem)
    assert hashlib.sha256(cacerts).hexdigest() == hosts.keys.ca_hash
    assert (hosts.data("s1") / "server/token").read_text().strip() == hosts.keys.server_token.reveal()


def test_a_server_says_pong_to_anybody(hosts: Hosts) -> None:
    assert hosts.anybody().call("GET", "/ping") == (200, b"pong")


def test_a_certificate_of_our_ca_is_an_administrators_and_nobody_is_none(hosts: Hosts) -> None:
    assert hosts.anybody().call("GET", "/readyz")[0] == 401
    status, namespaces = hosts.api().call("GET", "/api/v1/namespaces")
    assert status == 200
    assert {"default", "kube-system"} <= {item["metadata"]["name"] for item in namespaces["items"]}


def test_the_control_server_may_do_what_its_role_says_and_no_more(hosts: Hosts) -> None:
    hosts.wait_role()
    ours, theirs = f"{SECRETS}?limit=1", "/api/v1/namespaces/default/secrets?limit=1"
    assert hosts.control().call("GET", ours)[0] == 200
    for path in (theirs, "/api/v1/namespaces", "/api/v1/namespaces/default/configmaps"):
        status, refusal = hosts.control().call("GET", path)
        assert (status, refusal["reason"]) == (403, "Forbidden")
    assert 'User "bramble-control" cannot list resource "configmaps"' in refusal["message"]


@pytest.mark.parametrize(
    ("path", "credential", "expected"),
    [
        (path, credential, expected)
        for path, row in {
            "/v1-k3s/config": (200, 403, 403, 401),
            "/v1-k3s/client-ca.crt": (200, 403, 403, 401),
            "/v1-k3s/server-bootstrap": (403, 200, 403, 401),
        }.items()
        for credential, expected in zip(("node token", "server token", "none", "wrong"), row, strict=True)
    ],
)
def test_every_credential_opens_its_own_doors(
    hosts: Hosts, path: str, credential: str, expected: int
) -> None:
    assert hosts.anybody().call("GET", path, headers=credentials(hosts, credential))[0] == expected


def test_anybody_is_told_the_members_of_etcd(hosts: Hosts) -> None:
    status, value = hosts.anybody().call("GET", "/db/info")
    assert status == 200
    (member,) = value["members"]
    assert member["name"].startswith("s1-")
    assert member["peerURLs"] == ["https://10.99.0.1:2380"]
    assert member["clientURLs"] == ["https://10.99.0.1:2379"]


def test_a_password_made_beforehand_binds_a_nodes_name(hosts: Hosts) -> None:
    secret = node_password_object("bound", Secret("right"), os.urandom(8), hosts.release.version)
    assert hosts.api().call("POST", SECRETS, secret, {"Content-Type": "application/json"})[0] == 201
    status, text = kubelet_certificate(hosts, "bound", "wrong")
    assert status == 403
    assert "unable to verify hash for node 'bound': hash does not match" in text
    status, text = kubelet_certificate(hosts, "bound", "right")
    assert (status, "BEGIN CERTIFICATE" in text) == (200, True)


def test_a_free_name_belongs_to_whoever_comes_first(hosts: Hosts) -> None:
    assert kubelet_certificate(hosts, "squatted", "first")[0] == 200
    status, secret = hosts.api().call("GET", f"{SECRETS}/squatted.node-password.k3s")
    assert (status, secret.get("immutable")) == (200, True)
    assert accepts_password(secret, Secret("first"))
    assert not accepts_password(secret, Secret("second"))
    assert kubelet_certificate(hosts, "squatted", "second")[0] == 403
    assert kubelet_certificate(hosts, "squatted", "first")[0] == 200


@pytest.mark.parametrize(("token_id", "lives_s"), [("valid1", 600.0), ("ended1", -60.0)])
def test_a_bootstrap_token_joins_agents_while_it_lives(hosts: Hosts, token_id: str, lives_s: float) -> None:
    token = BootstrapToken(token_id, "0123456789abcdef")
    secret = bootstrap_token_object(token, "any", time.time() + lives_s)
    hosts.api().call("DELETE", f"{SECRETS}/{token.object_name}")
    assert hosts.api().call("POST", SECRETS, secret, {"Content-Type": "application/json"})[0] == 201
    headers = {"Authorization": f"Bearer {token.text.reveal()}"}
    knows_them = has(hosts.release.version, Feature.BOOTSTRAP_TOKENS)
    expected = 200 if knows_them and lives_s > 0 else 401

    def status(path: str) -> int:
        return hosts.anybody().call("GET", path, headers=headers)[0]

    wait_until(lambda: status("/v1-k3s/config") == expected, f"{expected} for a bootstrap token")
    assert status("/v1-k3s/server-bootstrap") in (401, 403)


def test_a_server_with_a_foreign_pin_does_not_join(hosts: Hosts) -> None:
    password = hosts.keys.server_token.reveal().rpartition(":")[2]
    token = f"K10{'0' * 64}::server:{password}"
    stranger = hosts.start("s9", "--server", hosts.url("s1"), "--token", token)
    stranger.wait_for_log("token CA hash does not match the Cluster CA certificate hash", 60)
    stranger.wait_for_cause("ca_mismatch", 60)
    stranger.stop()
    assert hosts.members() == {"s1": True}


def test_a_server_with_a_wrong_password_does_not_join(hosts: Hosts) -> None:
    token = f"K10{hosts.keys.ca_hash}::server:guess"
    stranger = hosts.start("s9", "--server", hosts.url("s1"), "--token", token)
    stranger.wait_for_cause("token_rejected", 60)
    stranger.stop()
    assert hosts.members() == {"s1": True}


def test_a_server_that_finds_nobody_at_the_address_says_so(hosts: Hosts) -> None:
    hosts.fabric.add("nobody", "10.99.0.77")
    token = hosts.keys.server_token.reveal()
    stranger = hosts.start("s9", "--server", "https://10.99.0.77:6443", "--token", token)
    stranger.wait_for_cause("unreachable", 60)
    stranger.stop()


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        (("--agent-token", "ours", "--cluster-cidr", "10.77.0.0/16"), "config_mismatch"),
        ((), "config_mismatch"),
    ],
    ids=["another network for pods", "without the agents' token"],
)
def test_a_server_whose_settings_differ_does_not_join(
    hosts: Hosts, given: tuple[str, ...], cause: str
) -> None:
    if not hosts.release.compares_settings:
        pytest.skip(f"k3s {hosts.release.version} lets servers join whatever their settings are")
    ours = hosts.keys.agent_password.reveal()
    argv = [ours if word == "ours" else word for word in given]
    token = hosts.keys.server_token.reveal()
    stranger = hosts.start("s8", "--server", hosts.url("s1"), "--token", token, *argv)
    stranger.wait_for_cause(cause, 60)
    stranger.stop()
    assert hosts.members() == {"s1": True}


def votes(hosts: Hosts, *names: str) -> bool:
    """Whether etcd has exactly these members, and each votes and is well, as our own client sees it."""
    view = hosts.observe()
    return view is not None and {one.node: (one.is_learner, one.healthy) for one in view.members} == {
        name: (False, True) for name in names
    }


async def lead_elsewhere(client: EtcdClient, node: str) -> EtcdView:
    """Move the lead away from a node's member."""
    view = await client.observe()
    (member,) = view.of_node(node)
    await client.move_leader(member.id)
    return await client.observe()


def remove(hosts: Hosts, node: str) -> bool:
    """Take a member out with our own client; False: etcd refuses yet, as it does after a member began to
    vote.
    """

    async def story() -> None:
        client = hosts.etcd()
        view = await lead_elsewhere(client, node)
        (member,) = view.of_node(node)
        await client.remove_member(member.id, view.cluster_id)

    try:
        hosts.run(story())
    except EtcdRefusedError:
        return False
    return True


def test_a_second_server_joins_leaves_and_joins_again_under_its_name(hosts: Hosts, tmp_path: Path) -> None:
    material = hosts.material("s2", JoinServer(hosts.url("s1")))
    hosts.lay("s2", material.files)
    first = hosts.keep_up("s2")
    first.wait_for(lambda: votes(hosts, "s1", "s2"), "s2 votes", JOIN_S)
    hosts.wait_ready("s2")
    made = {"metadata": {"name": "through-the-second"}}
    maps = "/api/v1/namespaces/default/configmaps"
    assert hosts.api("s2").call("POST", maps, made, {"Content-Type": "application/json"})[0] == 201
    assert hosts.api("s1").call("GET", f"{maps}/through-the-second")[0] == 200

    # It has what it needs on its disk, and starts again without token.
    hosts.finish("s2", material)
    first.stop()
    again = hosts.keep_up("s2")
    hosts.wait_ready("s2")
    again.wait_for(lambda: votes(hosts, "s1", "s2"), "s2 votes after a restart", JOIN_S)

    async def lead_and_save() -> str:
        client = hosts.etcd()
        view = await lead_elsewhere(client, "s1")
        assert view.leader is not None
        saved = await save_snapshot(client, view, tmp_path / "etcd.db")
        assert check_file(tmp_path / "etcd.db") == (saved.size_bytes, saved.sha256)
        ours = Ours(name=hosts.spec.name, material=hosts.keys)
        kept = import_snapshot(
            SnapshotFiles(tmp_path / "kept"), tmp_path / "etcd.db", ours, release=str(hosts.release.version)
        )
        assert kept.sha256 == saved.sha256
        return view.leader.node

    assert hosts.run(lead_and_save()) == "s2"

    if hosts.release.refuses_names_twice:
        token, password = hosts.keys.server_token.reveal(), hosts.keys.agent_password.reveal()
        tokens = ("--token", token, "--agent-token", password)
        stranger = hosts.start("s3", "--server", hosts.url("s1"), *tokens, "--node-name", "s2")
        stranger.wait_for_cause("duplicate_member", JOIN_S)
        stranger.stop()
        assert votes(hosts, "s1", "s2")

    # Once its member is removed it ends, and is not started again: it would found a cluster of its own. It
    # joins again when its old data are gone and it is handed a token.
    assert hosts.may_start("s2")
    wait_until(lambda: remove(hosts, "s2"), "s2 is removed", JOIN_S)
    wait_until(lambda: votes(hosts, "s1"), "s2 is out", JOIN_S)
    wait_until(lambda: not hosts.may_start("s2"), "s2 knows that it was removed", JOIN_S)
    hosts.servers["s2"].stop()
    view = hosts.observe()
    assert view is not None
    assert view.strangers == ()
    if hosts.release.founds_when_removed:
        hosts.start_node("s2")  # past the unit
        hosts.wait_ready("s2")
        assert hosts.members("s2") == {"s2": True}, "a second cluster, under the CA that all nodes trust"
        assert hosts.members("s1") == {"s1": True}
        hosts.servers["s2"].stop()
    hosts.data("s2").rename(hosts.data("s2").with_name("s2-wiped"))
    hosts.lay("s2", material.files)
    last = hosts.keep_up("s2")
    last.wait_for(lambda: votes(hosts, "s1", "s2"), "s2 votes again", JOIN_S)
    hosts.wait_ready("s2")
    assert hosts.api("s2").call("GET", f"{maps}/through-the-second")[0] == 200
