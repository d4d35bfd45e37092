"""The packed simulator as processes: a server, agents, a second server, and what goes wrong between them."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from k3s_sim_processes import Admin, Lab, Simulated, running_lab, wait_until

from lab.k3s_sim.node import node_password

pytestmark = pytest.mark.integration

SECRETS = "/api/v1/namespaces/kube-system/secrets"


@pytest.fixture
def lab(tmp_path: Path, program: Path) -> Iterator[Lab]:
    with running_lab(tmp_path, program) as started:
        yield started


@dataclass
class Running:
    """A cluster of one server named `s1`."""

    lab: Lab
    port: int
    server: Simulated
    admin: Admin

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return self.lab.token("s1", "agent-token")

    def agent(self, name: str, token: str | None = None, *argv: str) -> Simulated:
        given = [] if token == "" else ["--token", token or self.token]
        return self.lab.start(name, "agent", "--server", self.url, *given, *argv)

    def joined(self, name: str, *argv: str) -> Simulated:
        agent = self.agent(name, None, *argv)
        agent.wait_ready()
        return agent


@pytest.fixture
def cluster(lab: Lab) -> Running:
    port = free_port()
    server = lab.server("s1", port, "--cluster-init", "--agent-token", "agentpw", "--token", "serverpw")
    server.wait_ready()
    tls = lab.tls("s1")
    admin = Admin(port, tls / "server-ca.crt", tls / "client-admin.crt", tls / "client-admin.key")
    wait_until(lambda: admin.ready("s1") == "True", "the server's own node is Ready")
    return Running(lab, port, server, admin)


def openssl(*argv: str) -> None:
    subprocess.run(["openssl", *argv], check=True, capture_output=True)


def test_two_agents_join_and_are_seen(cluster: Running) -> None:
    cluster.joined("a1", "--node-label", "rack=1")
    cluster.joined("a2", "--node-taint", "a=b:NoSchedule")
    status, nodes = cluster.admin.call("GET", "/api/v1/nodes")
    found = {item["metadata"]["name"]: item for item in nodes["items"]}
    assert (status, set(found)) == (200, {"s1", "a1", "a2"})
    assert found["a1"]["metadata"]["labels"]["rack"] == "1"
    assert found["a2"]["spec"]["taints"] == [{"key": "a", "value": "b", "effect": "NoSchedule"}]
    wait_until(
        lambda: "control-plane,etcd" in cluster.lab.kubectl("s1", "get", "nodes", "s1"),
        "the control plane is labelled",
    )
    table = cluster.lab.kubectl("s1", "get", "nodes", "-o", "wide").splitlines()
    assert [line.split()[:3] for line in table[1:]] == [
        ["a1", "Ready", "<none>"],
        ["a2", "Ready", "<none>"],
        ["s1", "Ready", "control-plane,etcd,master"],
    ]
    assert all("v1.33.5+k3s1-simulator" in line for line in table[1:])
    assert all(line.startswith("(simulator) ") for line in cluster.server.log.splitlines())


def test_the_tokens_pin_the_served_ca(cluster: Running) -> None:
    status, cacerts = Admin(cluster.port, cluster.lab.tls("s1") / "server-ca.crt").call("GET", "/cacerts")
    pin = hashlib.sha256(cacerts).hexdigest()
    assert status == 200
    assert cluster.lab.token("s1") == f"K10{pin}::server:serverpw"
    assert cluster.lab.token("s1", "node-token") == cluster.lab.token("s1")
    assert cluster.token == f"K10{pin}::node:agentpw"


def test_authorities_made_beforehand_are_used(lab: Lab) -> None:
    tls = lab.tls("s1")
    tls.mkdir(parents=True)
    for name in ("server-ca", "client-ca", "request-header-ca"):
        openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", f"/CN=our-{name}", "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign",
            "-config", "/dev/null", "-keyout", str(tls / f"{name}.key"), "-out", str(tls / f"{name}.crt"),
        )  # fmt: skip
    pin = hashlib.sha256((tls / "server-ca.crt").read_bytes()).hexdigest()
    port = free_port()
    token = f"K10{pin}::server:serverpw"
    lab.server("s1", port, "--cluster-init", "--disable-agent", "--token", token).wait_ready()
    assert lab.token("s1") == token
    ours = lab.directory / "ours"
    openssl(
        "req", "-x509", "-CA", str(tls / "client-ca.crt"), "-CAkey", str(tls / "client-ca.key"),
        "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-subj", "/O=system:masters/CN=bramble",
        "-addext", "extendedKeyUsage=clientAuth", "-config", "/dev/null",
        "-keyout", f"{ours}.key", "-out", f"{ours}.crt",
    )  # fmt: skip
    admin = Admin(port, tls / "server-ca.crt", Path(f"{ours}.crt"), Path(f"{ours}.key"))
    assert admin.call("GET", "/readyz") == (200, b"ok")
    assert admin.call("GET", "/api/v1/namespaces")[0] == 200
    assert Admin(port, tls / "server-ca.crt").call("GET", "/readyz")[0] == 401


def test_a_certificate_of_a_foreign_ca_does_not_get_in(cluster: Running, tmp_path: Path) -> None:
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-config", "/dev/null", "-subj", "/O=system:masters/CN=mallory",
        "-keyout", str(tmp_path / "m.key"), "-out", str(tmp_path / "m.crt"),
    )  # fmt: skip
    foreign = Admin(cluster.port, cluster.admin.ca, tmp_path / "m.crt", tmp_path / "m.key")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        foreign.call("GET", "/readyz")


def test_a_reinstalled_node_needs_its_old_password(cluster: Running) -> None:
    first = cluster.joined("a1")
    password_file = cluster.lab.data("a1") / "agent/etc/rancher/node/password"
    password = password_file.read_text()
    assert len(password.strip()) == 32
    assert password_file.stat().st_mode & 0o777 == 0o600
    cluster.lab.stop(first)
    wipe(cluster.lab.data("a1"))

    stranger = cluster.agent("a1")
    stranger.wait_for_log(
        "Waiting to retrieve agent configuration; server is not ready: Node password rejected, "
        f"duplicate hostname or contents of '{password_file}' may not match server node-passwd entry, "
        "try enabling a unique node name with the --with-node-id flag"
    )
    assert "unable to verify hash for node 'a1': hash does not match" in cluster.server.log
    cluster.lab.stop(stranger)
    wipe(cluster.lab.data("a1"))

    password_file.parent.mkdir(parents=True)
    password_file.write_text(password)
    cluster.joined("a1")
    assert cluster.admin.ready("a1") == "True"


def test_keys_that_a_power_cut_left_empty_are_made_again(cluster: Running) -> None:
    first = cluster.joined("a1")
    cluster.lab.stop(first)
    for name in ("client-kubelet.key", "serving-kubelet.key"):
        key = cluster.lab.data("a1") / "agent" / name
        assert key.stat().st_size
        key.write_bytes(b"")
    cluster.joined("a1")
    assert cluster.admin.ready("a1") == "True"


def wipe(directory: Path) -> None:
    for folder, _, files in os.walk(directory, topdown=False):
        for name in files:
            (Path(folder) / name).unlink()
        Path(folder).rmdir()


def test_a_password_secret_made_over_the_api_is_honoured(cluster: Running) -> None:
    secret = {
        "metadata": {"name": "a1.node-password.k3s"},
        "type": node_password.SECRET_TYPE,
        "immutable": True,
        "stringData": {"hash": node_password.create_hash("f" * 32, os.urandom(8))},
    }
    assert cluster.admin.call("POST", SECRETS, secret)[0] == 201
    squatter = cluster.agent("a1")
    squatter.wait_for_log("Node password rejected")
    cluster.lab.stop(squatter)
    password_file = cluster.lab.data("a1") / "agent/etc/rancher/node/password"
    password_file.write_text("f" * 32 + "\n")
    cluster.joined("a1")


def test_a_foreign_ca_is_refused_before_the_password_is_sent(cluster: Running) -> None:
    pin = "0" * 64
    agent = cluster.agent("a1", f"K10{pin}::node:agentpw")
    real = hashlib.sha256(cluster.admin.ca.read_bytes()).hexdigest()
    agent.wait_for_log(
        f"Failed to validate connection to cluster at {cluster.url}: "
        f"token CA hash does not match the Cluster CA certificate hash: {pin} != {real}"
    )
    assert cluster.admin.ready("a1") == "absent"


@pytest.mark.parametrize(
    ("password", "cause"),
    [
        ("guess", "/v1-k3s/config: 401 Unauthorized"),
        ("abcdef.0123456789abcdef", "/v1-k3s/config: 401 Unauthorized"),
    ],
    ids=["wrong password", "absent bootstrap token"],
)
def test_a_wrong_token_waits_with_its_cause(cluster: Running, password: str, cause: str) -> None:
    agent = cluster.agent("a1", password)
    agent.wait_for_log(
        "Waiting to retrieve agent configuration; server is not ready: "
        f"failed to retrieve configuration from server: {cluster.url}{cause}"
    )
    assert agent.process.poll() is None


def test_a_bootstrap_token_joins_until_it_expires(cluster: Running) -> None:
    def secret(expiration: str) -> dict[str, Any]:
        data = {"token-id": "abcdef", "token-secret": "0123456789abcdef", "expiration": expiration}
        return {
            "metadata": {"name": "bootstrap-token-abcdef"},
            "type": "bootstrap.kubernetes.io/token",
            "stringData": {**data, "usage-bootstrap-authentication": "true"},
        }

    token = cluster.token.partition("::")[0] + "::abcdef.0123456789abcdef"
    cluster.admin.call("POST", SECRETS, secret("2020-01-01T00:00:00Z"))
    early = cluster.agent("a1", token)
    early.wait_for_log("401 Unauthorized")
    cluster.lab.stop(early)
    assert cluster.admin.call("DELETE", f"{SECRETS}/bootstrap-token-abcdef")[0] == 200
    cluster.admin.call("POST", SECRETS, secret("2099-01-01T00:00:00Z"))
    agent = cluster.agent("a1", token)
    agent.wait_ready()


def test_a_joined_agent_needs_no_token_after_a_reboot(cluster: Running) -> None:
    cluster.lab.stop(cluster.joined("a1"))
    again = cluster.agent("a1", "")
    again.wait_ready()
    assert cluster.admin.ready("a1") == "True"


def test_a_token_file_that_is_gone_stops_even_a_joined_agent(cluster: Running) -> None:
    cluster.lab.stop(cluster.joined("a1"))
    missing = cluster.lab.directory / "gone"
    agent = cluster.agent("a1", "", "--token-file", str(missing))
    assert agent.wait_exit() == 1
    assert f'level=fatal msg="Error: open {missing}: no such file or directory"' in agent.log


def test_an_agent_without_token_and_certificate_ends(cluster: Running) -> None:
    agent = cluster.agent("a1", "")
    assert agent.wait_exit() == 1
    assert "--token is required" in agent.log


def test_an_agent_waits_for_its_server_and_joins_when_it_comes(lab: Lab) -> None:
    port = free_port()
    lab.config("a1").write_text(f"server: https://127.0.0.1:{port}\ntoken: agentpw\n")
    agent = lab.start("a1", "agent")
    agent.wait_for_log(f"dial tcp 127.0.0.1:{port}: connect: connection refused")
    lab.server("s1", port, "--disable-agent", "--agent-token", "agentpw").wait_ready()
    agent.wait_ready()
    agent.wait_for_log("the token does not include a CA hash")


def test_a_restarted_server_keeps_its_nodes_and_they_stay_ready(cluster: Running) -> None:
    agent = cluster.joined("a1")
    uid = cluster.admin.call("GET", "/api/v1/nodes/a1")[1]["metadata"]["uid"]
    cluster.server.process.kill()
    cluster.server.wait_exit()
    again = cluster.lab.server(
        "s1", cluster.port
    )  # without cluster-init and without token, as after the join
    again.wait_ready()
    assert cluster.admin.ready("a1") == "True"
    assert cluster.admin.call("GET", "/api/v1/nodes/a1")[1]["metadata"]["uid"] == uid
    assert cluster.lab.token("s1").endswith("::server:serverpw")
    assert cluster.token.endswith("::node:agentpw")
    wait_until(lambda: cluster.admin.ready("s1") == "True", "the server's own node is Ready")
    assert agent.process.poll() is None


def test_another_token_does_not_open_an_existing_cluster(cluster: Running) -> None:
    cluster.lab.stop(cluster.server)
    again = cluster.lab.server("s1", cluster.port, "--token", "another")
    assert again.wait_exit() == 1
    assert "bootstrap data already found and encrypted with different token" in again.log


def test_the_certificate_of_a_deleted_node_falls_back_to_the_token(cluster: Running) -> None:
    cluster.lab.stop(cluster.joined("a1"))
    assert cluster.admin.call("DELETE", "/api/v1/nodes/a1")[0] == 200
    without = cluster.agent("a1", "")
    without.wait_for_log("Node authorization rejected, retrying without client certificate authentication")
    without.wait_for_log("Node password rejected")  # k3s reads every 403 on a certificate call that way
    cluster.lab.stop(without)
    cluster.joined("a1")


def test_old_agents_get_a_shared_key_with_their_certificate(cluster: Running, tmp_path: Path) -> None:
    server = Admin(cluster.port, cluster.admin.ca)
    headers = {
        "Authorization": "Basic bm9kZTphZ2VudHB3",  # node:agentpw
        "k3s-Node-Name": "old",
        "k3s-Node-Password": "pw",
        "k3s-Node-IP": "127.0.0.1",
    }
    status, pem = server.call("GET", "/v1-k3s/serving-kubelet.crt", headers=headers)
    assert status == 200
    (tmp_path / "pair.pem").write_bytes(pem)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "pair.pem")
    assert pem.count(b"BEGIN CERTIFICATE") == 2
    wrong = {**headers, "k3s-Node-Password": "guess"}
    status, refusal = server.call("GET", "/v1-k3s/serving-kubelet.crt", headers=wrong)
    assert (status, refusal["message"]) == (403, "unable to verify hash for node 'old': hash does not match")


def test_a_second_server_joins_and_relays(cluster: Running) -> None:
    port = free_port()
    tokens = ("--token", cluster.lab.token("s1"), "--agent-token", "agentpw")
    second = cluster.lab.server("s2", port, "--server", cluster.url, *tokens)
    second.wait_ready()
    wait_until(lambda: cluster.admin.ready("s2") == "True", "the second server's node is Ready")
    assert (cluster.lab.tls("s2") / "client-ca.key").read_bytes() == (
        cluster.lab.tls("s1") / "client-ca.key"
    ).read_bytes()
    through_second = Admin(port, cluster.admin.ca, cluster.admin.certificate, cluster.admin.key)
    assert through_second.call("GET", "/api/v1/nodes?labelSelector=a%3Db")[1]["items"] == []
    assert through_second.ready("s1") == "True"
    assert Admin(port, cluster.admin.ca).call("GET", "/readyz")[0] == 401
    agent = cluster.lab.start(
        "a1", "agent", "--server", f"https://127.0.0.1:{port}", "--token", cluster.token
    )
    agent.wait_ready()
    wait_until(
        lambda: "control-plane" in cluster.lab.kubectl("s2", "get", "nodes", "s2"),
        "the second server is labelled",
    )
    cluster.lab.stop(second)
    again = cluster.lab.server("s2", port)  # no server, no token: it knows where it belongs
    again.wait_ready()
    assert through_second.ready("a1") == "True"
    cluster.lab.stop(cluster.server)
    status, refusal = through_second.call("GET", "/api/v1/nodes")
    assert (status, refusal["reason"]) == (503, "ServiceUnavailable")


@pytest.mark.parametrize(
    ("token", "cause"),
    [
        ("", "K3S_TOKEN is required to join a cluster"),
        (
            "K10" + "0" * 64 + "::server:serverpw",
            "token CA hash does not match the Cluster CA certificate hash",
        ),
        ("guess", "/v1-k3s/server-bootstrap: 401 Unauthorized"),
    ],
    ids=["absent", "foreign ca", "wrong password"],
)
def test_a_second_server_with_a_bad_token_ends(cluster: Running, token: str, cause: str) -> None:
    given = ["--token", token] if token else []
    second = cluster.lab.server("s2", free_port(), "--server", cluster.url, *given)
    assert second.wait_exit() == 1
    assert "level=fatal" in second.log
    assert cause in second.log
    assert not (cluster.lab.tls("s2") / "client-ca.key").exists()


def test_a_taken_port_is_fatal_with_its_reason(lab: Lab) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        server = lab.server("s1", port, "--bind-address", "127.0.0.1")
        assert server.wait_exit() == 1
    assert f"listen tcp 127.0.0.1:{port}: Address already in use" in server.log


def test_the_program_runs_under_the_names_of_its_links(lab: Lab) -> None:
    link = lab.directory / "crictl"
    link.symlink_to(lab.program)
    done = subprocess.run(["/usr/bin/env", "python3", str(link), "ps"], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"no containers for crictl" in done.stderr


def test_memory_stays_small(cluster: Running) -> None:
    cluster.joined("a1")
    status = Path(f"/proc/{cluster.server.process.pid}/status").read_text()
    rss_kib = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))
    assert rss_kib < 60 * 1024
