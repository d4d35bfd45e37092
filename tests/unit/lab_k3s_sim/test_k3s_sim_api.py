"""Supervisor and Kubernetes API behind the socket: who gets which status, with which text."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from lab.k3s_sim.node import node_password
from lab.k3s_sim.node.auth import Authenticator, encode_groups
from lab.k3s_sim.node.cluster import Cluster
from lab.k3s_sim.node.credentials import parse_passwd, render_passwd
from lab.k3s_sim.node.datastore import FileDatastore
from lab.k3s_sim.node.errors import K3sError, StatusError
from lab.k3s_sim.node.kube_api import KubeApi
from lab.k3s_sim.node.local_cluster import LocalCluster
from lab.k3s_sim.node.messages import Peer, Request, Response
from lab.k3s_sim.node.supervisor import Supervisor

CLIENT_CA, PROXY_CA = "commonName=client-ca", "commonName=request-header-ca"
ADMIN = Peer("system:admin", ("system:masters",), CLIENT_CA)
KUBELET = Peer("system:node:pi-1", ("system:nodes",), CLIENT_CA)
STRANGER = Peer("somebody", ("some:group",), CLIENT_CA)
MERGE = ("content-type", "application/merge-patch+json")
BOOTSTRAP = "abcdef.0123456789abcdef"


def basic(user: str, password: str) -> tuple[str, str]:
    return ("authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())


CREDENTIALS: dict[str, tuple[tuple[str, str], ...]] = {
    "node token": (basic("node", "agentpw"),),
    "server token": (basic("server", "serverpw"),),
    "none": (),
    "wrong": (basic("node", "guess"),),
}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(FileDatastore(tmp_path / "sim.json"))
    made.prepare()
    return made


@pytest.fixture
def local(cluster: Cluster, tmp_path: Path) -> LocalCluster:
    for folder in ("tls", "cred"):
        (tmp_path / folder).mkdir()
    for name in ("server-ca", "client-ca", "request-header-ca"):
        (tmp_path / "tls" / f"{name}.crt").write_text(f"{name} certificate")
        (tmp_path / "tls" / f"{name}.key").write_text(f"{name} key")
    (tmp_path / "cred" / "passwd").write_text(render_passwd("serverpw", "agentpw"))
    authenticator = Authenticator(
        {"server": "serverpw", "node": "agentpw"},
        lambda name: cluster.find("secrets", "kube-system", name),
        PROXY_CA,
    )
    supervisor = Supervisor(tmp_path, cluster, authenticator, 6443, ("10.0.0.1",))
    return LocalCluster(supervisor, KubeApi(cluster, authenticator, "v1.33.5+k3s1"))


def ask(
    local: LocalCluster,
    method: str,
    path: str,
    body: object = None,
    *,
    peer: Peer | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Response:
    path, _, query = path.partition("?")
    content = b"" if body is None else json.dumps(body).encode()
    return local.handle(Request(method, path, query, headers, content, peer))


def status_of(local: LocalCluster, method: str, path: str, **given: Any) -> int:
    try:
        return ask(local, method, path, **given).status
    except StatusError as error:
        return error.code


@pytest.mark.parametrize(
    ("path", "credential", "expected"),
    [
        (path, credential, expected)
        for path, row in {
            "/v1-k3s/config": (200, 403, 403, 401),
            "/v1-k3s/client-ca.crt": (200, 403, 403, 401),
            "/v1-k3s/server-bootstrap": (403, 200, 403, 401),
            "/v1-k3s/readyz": (200, 403, 403, 401),
            "/v1-k3s/apiservers": (200, 403, 403, 401),
            "/ping": (200, 200, 200, 200),
            "/cacerts": (200, 200, 200, 200),
        }.items()
        for credential, expected in zip(CREDENTIALS, row, strict=True)
    ],
)
def test_status_by_credential_is_what_k3s_answered(
    local: LocalCluster, path: str, credential: str, expected: int
) -> None:
    assert status_of(local, "GET", path, headers=CREDENTIALS[credential]) == expected


@pytest.mark.parametrize("credential", ["none", "wrong"])
@pytest.mark.parametrize("path", ["/readyz", "/livez", "/version", "/nonsense"])
def test_the_kubernetes_api_answers_401_to_strangers(local: LocalCluster, path: str, credential: str) -> None:
    assert status_of(local, "GET", path, headers=CREDENTIALS[credential]) == 401


def test_anybody_gets_the_literal_ca_and_pong(local: LocalCluster) -> None:
    assert ask(local, "GET", "/cacerts").body == b"server-ca certificate"
    assert ask(local, "GET", "/ping").body == b"pong"


@pytest.mark.parametrize(("credential", "message"), [("none", "forbidden"), ("wrong", "not authorized")])
def test_a_refusal_of_the_supervisor_has_the_text_of_k3s(
    local: LocalCluster, credential: str, message: str
) -> None:
    with pytest.raises(StatusError) as caught:
        ask(local, "GET", "/v1-k3s/config", headers=CREDENTIALS[credential])
    assert caught.value.message == message
    assert caught.value.to_json()["kind"] == "Status"


def test_bootstrap_hands_out_the_authorities_with_their_keys(local: LocalCluster) -> None:
    answer = json.loads(
        ask(local, "GET", "/v1-k3s/server-bootstrap", headers=CREDENTIALS["server token"]).body
    )
    assert base64.b64decode(answer["ClientCAKey"]["Content"]) == b"client-ca key"
    passwd = base64.b64decode(answer.pop("PasswdFile")["Content"]).decode()
    assert parse_passwd(passwd) == {"node": "agentpw", "server": "serverpw"}
    assert set(answer) == {
        f"{ca}CA{kind}" for ca in ("Server", "Client", "RequestHeader") for kind in ("", "Key")
    }


def bootstrap_secret(**changes: str) -> dict[str, Any]:
    data = {
        "token-id": "abcdef",
        "token-secret": "0123456789abcdef",
        "usage-bootstrap-authentication": "true",
        "expiration": "2099-01-01T00:00:00Z",
        "auth-extra-groups": "system:bootstrappers:k3s:default-node-token",
        **changes,
    }
    return {
        "metadata": {"name": "bootstrap-token-abcdef"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": data,
    }


@pytest.mark.parametrize(
    ("changes", "path", "expected"),
    [
        ({}, "/v1-k3s/config", 200),
        ({}, "/v1-k3s/server-bootstrap", 403),
        ({"token-secret": "ffffffffffffffff"}, "/v1-k3s/config", 401),
        ({"usage-bootstrap-authentication": "false"}, "/v1-k3s/config", 401),
        ({"expiration": "2020-01-01T00:00:00Z"}, "/v1-k3s/config", 401),
        ({"expiration": "some day"}, "/v1-k3s/config", 401),
        ({"expiration": ""}, "/v1-k3s/config", 200),
    ],
)
def test_a_bootstrap_token_is_a_secret_made_over_the_api(
    local: LocalCluster, changes: dict[str, str], path: str, expected: int
) -> None:
    secrets = "/api/v1/namespaces/kube-system/secrets"
    assert ask(local, "POST", secrets, bootstrap_secret(**changes), peer=ADMIN).status == 201
    assert status_of(local, "GET", path, headers=(("authorization", f"Bearer {BOOTSTRAP}"),)) == expected


def test_an_absent_bootstrap_token_is_401(local: LocalCluster) -> None:
    headers = (("authorization", f"Bearer {BOOTSTRAP}"),)
    assert status_of(local, "GET", "/v1-k3s/config", headers=headers) == 401


def node_headers(name: str, password: str) -> tuple[tuple[str, str], ...]:
    return (("k3s-node-name", name), ("k3s-node-password", password))


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ((), "node name not set"),
        ((("k3s-node-name", "pi-1"),), "node password not set"),
        (node_headers("pi_1/CN=x", "pw"), "the node name 'pi_1/cn=x' is not a DNS subdomain name"),
    ],
)
def test_a_certificate_call_without_a_node_is_400(
    local: LocalCluster, headers: tuple[tuple[str, str], ...], message: str
) -> None:
    with pytest.raises(StatusError) as caught:
        ask(local, "POST", "/v1-k3s/client-kubelet.crt", headers=CREDENTIALS["node token"] + headers)
    assert (caught.value.code, caught.value.message) == (400, message)


def test_a_password_secret_made_beforehand_binds_the_name(local: LocalCluster, cluster: Cluster) -> None:
    stored = node_password.create_hash("right", bytes(8))
    secret = {
        "metadata": {"name": "pi-1.node-password.k3s"},
        "type": node_password.SECRET_TYPE,
        "immutable": True,
        "stringData": {"hash": stored},
    }
    ask(local, "POST", "/api/v1/namespaces/kube-system/secrets", secret, peer=ADMIN)
    headers = CREDENTIALS["node token"] + node_headers("Pi-1", "wrong")
    with pytest.raises(StatusError) as caught:
        ask(local, "GET", "/v1-k3s/serving-kubelet.crt", headers=headers)
    assert caught.value.code == 403
    assert caught.value.message == "unable to verify hash for node 'pi-1': hash does not match"


def test_the_certificate_of_a_deleted_node_is_401(local: LocalCluster) -> None:
    with pytest.raises(StatusError) as caught:
        ask(local, "POST", "/v1-k3s/client-kubelet.crt", peer=KUBELET, headers=node_headers("pi-1", "pw"))
    assert (caught.value.code, caught.value.message) == (
        401,
        'unable to verify node identity: nodes "pi-1" not found',
    )


def test_a_node_gets_no_certificate_of_another_node(local: LocalCluster) -> None:
    with pytest.raises(StatusError, match="header node name does not match auth node name"):
        ask(local, "POST", "/v1-k3s/client-kubelet.crt", peer=KUBELET, headers=node_headers("pi-2", "pw"))


def test_a_wrong_signing_request_is_an_internal_error(
    local: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise K3sError("openssl x509 failed: unable to load")

    monkeypatch.setattr("lab.k3s_sim.node.certificates.sign_request", refuse)
    headers = CREDENTIALS["node token"] + node_headers("pi-1", "pw")
    assert status_of(local, "POST", "/v1-k3s/client-kubelet.crt", headers=headers) == 500


def test_the_administrator_is_healthy_and_sees_the_simulated_version(local: LocalCluster) -> None:
    assert ask(local, "GET", "/readyz", peer=ADMIN).body == b"ok"
    assert (
        json.loads(ask(local, "GET", "/version", peer=ADMIN).body)["gitVersion"] == "v1.33.5+k3s1-simulator"
    )
    namespaces = json.loads(ask(local, "GET", "/api/v1/namespaces", peer=ADMIN).body)
    assert [item["metadata"]["name"] for item in namespaces["items"]] == [
        "default",
        "kube-node-lease",
        "kube-public",
        "kube-system",
    ]


def test_a_node_lives_through_the_api(local: LocalCluster) -> None:
    created = json.loads(
        ask(local, "POST", "/api/v1/nodes", {"metadata": {"name": "pi-1"}}, peer=KUBELET).body
    )
    patch = {"spec": {"unschedulable": True}, "metadata": {"annotations": {"a": "b"}}}
    patched = ask(local, "PATCH", "/api/v1/nodes/pi-1", patch, peer=ADMIN, headers=(MERGE,))
    assert json.loads(patched.body)["spec"] == {"unschedulable": True}
    stale = {"preconditions": {"uid": "another"}}
    assert status_of(local, "DELETE", "/api/v1/nodes/pi-1", body=stale, peer=ADMIN) == 409
    exact = {"preconditions": {"uid": created["metadata"]["uid"]}}
    assert status_of(local, "DELETE", "/api/v1/nodes/pi-1", body=exact, peer=ADMIN) == 200
    assert status_of(local, "GET", "/api/v1/nodes/pi-1", peer=ADMIN) == 404


@pytest.mark.parametrize(
    ("peer", "method", "path", "expected"),
    [
        (KUBELET, "GET", "/api/v1/nodes", 200),
        (KUBELET, "PATCH", "/api/v1/nodes/pi-1/status", 200),
        (KUBELET, "PATCH", "/api/v1/nodes/pi-2", 403),
        (KUBELET, "DELETE", "/api/v1/nodes/pi-1", 403),
        (KUBELET, "GET", "/api/v1/namespaces/kube-system/secrets", 403),
        (STRANGER, "GET", "/api/v1/nodes", 403),
        (None, "GET", "/api/v1/nodes", 401),
        (ADMIN, "GET", "/api/v1/secrets", 200),
        (ADMIN, "GET", "/api/v1/pods", 200),
        (ADMIN, "GET", "/apis/batch/v1/jobs", 404),
        (ADMIN, "GET", "/api/v1/nodes?watch=true&resourceVersion=x", 400),
        (ADMIN, "PATCH", "/api/v1/nodes/pi-1?dryRun=All", 400),
        (ADMIN, "POST", "/api/v1/namespaces", 422),
        (ADMIN, "PUT", "/api/v1/nodes", 405),
    ],
)
def test_rights_and_limits(
    local: LocalCluster, peer: Peer | None, method: str, path: str, expected: int
) -> None:
    ask(local, "POST", "/api/v1/nodes", {"metadata": {"name": "pi-1"}}, peer=ADMIN)
    assert status_of(local, method, path, peer=peer, headers=(MERGE,)) == expected


def test_a_refusal_of_the_api_names_user_verb_and_resource(local: LocalCluster) -> None:
    with pytest.raises(StatusError) as caught:
        ask(local, "GET", "/api/v1/nodes", peer=STRANGER)
    who_and_what = 'User "somebody" cannot list resource "nodes" in API group "" at the cluster scope'
    assert caught.value.message == f"nodes is forbidden: {who_and_what}"


def test_a_patch_of_another_kind_is_refused(local: LocalCluster) -> None:
    headers = (("content-type", "application/apply-patch+yaml"),)
    assert status_of(local, "PATCH", "/api/v1/namespaces/default", peer=ADMIN, headers=headers) == 415


def test_selectors_select(local: LocalCluster) -> None:
    for name, rack in (("pi-1", "a"), ("pi-2", "b")):
        ask(
            local, "POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": {"rack": rack}}}, peer=ADMIN
        )

    def names(query: str) -> list[str]:
        items = json.loads(ask(local, "GET", f"/api/v1/nodes?{query}", peer=ADMIN).body)["items"]
        return [item["metadata"]["name"] for item in items]

    assert names("") == ["pi-1", "pi-2"]
    assert names("labelSelector=rack%3Db") == ["pi-2"]
    assert names("fieldSelector=metadata.name=pi-1") == ["pi-1"]
    assert names("labelSelector=rack%20in%20(a,c)") == ["pi-1"]
    assert names("labelSelector=rack%21%3Da") == ["pi-2"]
    assert status_of(local, "GET", "/api/v1/nodes?labelSelector=rack%20near%20(a)", peer=ADMIN) == 400
    assert status_of(local, "GET", "/api/v1/nodes?fieldSelector=spec.x=1", peer=ADMIN) == 400


def test_an_immutable_secret_keeps_its_data(local: LocalCluster) -> None:
    secrets = "/api/v1/namespaces/kube-system/secrets"
    secret = {"metadata": {"name": "s"}, "immutable": True, "stringData": {"a": "1"}}
    ask(local, "POST", secrets, secret, peer=ADMIN)
    change = {"stringData": {"a": "2"}}
    assert status_of(local, "PATCH", f"{secrets}/s", body=change, peer=ADMIN, headers=(MERGE,)) == 422


def test_a_front_proxy_speaks_for_its_client_and_nobody_else_does(local: LocalCluster) -> None:
    claim = (("x-remote-user", "system:admin"), ("x-remote-group", encode_groups(("system:masters",))))
    proxy = Peer("system:auth-proxy", (), PROXY_CA)
    assert status_of(local, "GET", "/api/v1/secrets", peer=proxy, headers=claim) == 200
    assert status_of(local, "GET", "/api/v1/secrets", peer=STRANGER, headers=claim) == 403
    assert status_of(local, "GET", "/api/v1/secrets", headers=claim) == 401
    assert status_of(local, "GET", "/api/v1/secrets", peer=proxy) == 401


def test_a_group_with_a_comma_does_not_become_two(local: LocalCluster) -> None:
    proxy = Peer("system:auth-proxy", (), PROXY_CA)
    claim = (("x-remote-user", "x"), ("x-remote-group", encode_groups(("a,system:masters",))))
    assert status_of(local, "GET", "/api/v1/secrets", peer=proxy, headers=claim) == 403
