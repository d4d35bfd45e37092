"""The contract of joining: what a k3s server answers to nodes and servers that hold our tokens and passwords.

Every test runs against the simulator, and with `make test-k3s K3S=DIR` against the real server in DIR.
"""

from __future__ import annotations

import hashlib
import os
import time

import pytest
from k3s_hosts import Hosts, basic
from k3s_sim_processes import wait_until

from fleet.join_secrets import BootstrapToken, bootstrap_token_object, node_password_object
from fleet.k3s_versions import Feature, has
from fleet.secret import Secret

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
    """Ask for a kubelet's serving certificate; status and text of the answer."""
    headers = {"k3s-Node-Name": node, "k3s-Node-Password": password, "k3s-Node-IP": "10.99.0.77"}
    headers |= credentials(hosts, "node token")
    status, body = hosts.anybody().call("GET", "/v1-k3s/serving-kubelet.crt", headers=headers)
    text = body.decode() if isinstance(body, bytes) else str(body.get("message"))
    return status, text


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
    wait_until(lambda: hosts.control().call("GET", "/api/v1/nodes")[0] == 200, "our manifest is applied", 120)
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
    stranger.stop()
    assert hosts.members() == {"s1": True}


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        (
            ("--agent-token", "ours", "--cluster-cidr", "10.77.0.0/16"),
            "critical configuration value mismatch",
        ),
        ((), "401"),
    ],
    ids=["another network for pods", "without the agents' token"],
)
def test_a_server_whose_settings_differ_does_not_join(
    hosts: Hosts, given: tuple[str, ...], cause: str
) -> None:
    ours = hosts.keys.agent_password.reveal()
    argv = [ours if word == "ours" else word for word in given]
    token = hosts.keys.server_token.reveal()
    stranger = hosts.start("s8", "--server", hosts.url("s1"), "--token", token, *argv)
    stranger.wait_for_log(cause, 60)
    stranger.stop()
    assert hosts.members() == {"s1": True}


def test_a_second_server_joins_leaves_and_joins_again_under_its_name(hosts: Hosts) -> None:
    tokens = (
        "--token",
        hosts.keys.server_token.reveal(),
        "--agent-token",
        hosts.keys.agent_password.reveal(),
    )
    join = ("--server", hosts.url("s1"), *tokens)
    first = hosts.start("s2", *join)
    wait_until(lambda: hosts.members() == {"s1": True, "s2": True}, "s2 votes", JOIN_S)
    hosts.wait_ready("s2")
    made = {"metadata": {"name": "through-the-second"}}
    maps = "/api/v1/namespaces/default/configmaps"
    assert hosts.api("s2").call("POST", maps, made, {"Content-Type": "application/json"})[0] == 201
    assert hosts.api("s1").call("GET", f"{maps}/through-the-second")[0] == 200

    # A second member of the same name is refused while the first is there, and joins once it is removed.
    stranger = hosts.start("s3", *join, "--node-name", "s2")
    stranger.wait_for_log("duplicate node name found, please use a unique name for this node", JOIN_S)
    stranger.stop()
    assert hosts.members() == {"s1": True, "s2": True}
    hosts.remove_member("s2", "s1")
    wait_until(lambda: hosts.members() == {"s1": True}, "s2 is out", JOIN_S)
    first.stop()
    hosts.data("s2").rename(hosts.data("s2").with_name("s2-wiped"))
    hosts.start("s2", *join)
    wait_until(lambda: hosts.members() == {"s1": True, "s2": True}, "s2 votes again", JOIN_S)
    hosts.wait_ready("s2")
    assert hosts.api("s2").call("GET", f"{maps}/through-the-second")[0] == 200
