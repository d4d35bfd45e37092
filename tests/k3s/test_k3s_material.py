"""The contract of what nodes are handed: k3s starts from exactly those files, and again from what stays.

Every test runs against the simulator, and with `make test-k3s K3S=DIR` against the real k3s in DIR. Agents
have no containers here: they have joined, as far as that goes, when the servers gave them their certificates.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from cryptography import x509
from k3s_hosts import Hosts, Server

from agent.k3s import classify
from agent.protocol import JoinMaterial, NodeFile
from fleet.etcd.snapshot import save_snapshot
from fleet.join.secrets import (
    BootstrapToken,
    bootstrap_token,
    bootstrap_token_object,
    node_password_object,
)
from fleet.k3s.config import NODE_PASSWORD_FILE, JoinServer, RestoreCluster, keeps_token
from fleet.k3s.versions import Feature, has
from fleet.kube.client import KubeApi
from fleet.recovery.state import RESET_DROP_IN, Recovery
from fleet.spec.model import Role

pytestmark = pytest.mark.integration

JOIN_S = 120.0
TOKEN_S = 600.0
MAPS = "/api/v1/namespaces/default/configmaps"
JSON = {"Content-Type": "application/json"}


def bootstrap_of(hosts: Hosts, name: str) -> BootstrapToken | None:
    """The token that the control server would have made for this agent, if this release knows such."""
    if not has(hosts.release.version, Feature.BOOTSTRAP_TOKENS):
        return None
    return bootstrap_token(hosts.keys.server_token, f"uuid of {name}", 1)


def prepare(hosts: Hosts, name: str, token: BootstrapToken | None) -> None:
    """Make what has to exist in the cluster before an agent joins, with the control server's own rights."""
    version = hosts.release.version
    secret = node_password_object(name, hosts.password(name), os.urandom(8), version)

    async def story() -> None:
        async with hosts.kube() as api:
            await api.create_secret(secret)
            if token is not None:
                await api.create_secret(bootstrap_token_object(token, name, time.time() + TOKEN_S))

    hosts.wait_role()
    hosts.run(story())


def joining(hosts: Hosts, name: str, *, files: tuple[NodeFile, ...] = ()) -> JoinMaterial:
    """An agent's material, laid where its k3s looks for it; `files` replace some of it."""
    material = hosts.material(name, JoinServer(hosts.url("s1")), bootstrap_of(hosts, name))
    hosts.lay(name, (*material.files, *files))
    return material


def certificate_of(server: Server) -> x509.Certificate:
    """The certificate that the servers gave to a kubelet.

    Raises:
        OSError, ValueError: It has none yet.
    """
    return x509.load_pem_x509_certificate((server.data / "agent/client-kubelet.crt").read_bytes())


def has_certificate(server: Server) -> bool:
    try:
        certificate_of(server)
    except (OSError, ValueError):
        return False
    return True


def named_causes(server: Server) -> dict[str, str]:
    """Every line of a log in which the agent on the node would see a failure, by its class."""
    return {found.code: line for line in server.log.splitlines() if (found := classify([line]))}


def test_the_first_server_starts_again_from_what_it_keeps(hosts: Hosts) -> None:
    assert named_causes(hosts.servers["s1"]) == {}
    material = hosts.material("s1", JoinServer(hosts.url("s1")))
    before = hosts.observe()
    hosts.finish("s1", material)
    kept = hosts.place("s1", "/etc/rancher/k3s/config.yaml.d/50-bramble.yaml").read_text()
    assert "token-file: /etc/rancher/k3s/bramble-token\n" not in kept
    assert "cluster-init" not in kept
    hosts.servers["s1"].stop()
    data = hosts.data("s1") / "server/db"
    data.rename(data.with_name("lost"))
    assert not hosts.may_start("s1")  # it would found another cluster
    data.with_name("lost").rename(data)
    assert hosts.may_start("s1")
    again = hosts.keep_up("s1")
    hosts.wait_ready("s1")
    assert named_causes(again) == {}
    after = hosts.observe()
    assert before is not None
    assert after is not None
    assert (after.cluster_id, [one.id for one in after.members]) == (
        before.cluster_id,
        [one.id for one in before.members],
    )


def test_an_agent_joins_under_the_name_and_password_that_were_made_for_it(hosts: Hosts) -> None:
    token = bootstrap_of(hosts, "a1")
    prepare(hosts, "a1", token)
    material = joining(hosts, "a1")
    first = hosts.start_node("a1")
    first.wait_for(lambda: has_certificate(first), "the agent has its certificate", JOIN_S)
    (name,) = certificate_of(first).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    assert name.value == "system:node:a1"
    first.kill()

    # After Ready: no token on the node where its k3s can do without, and none in the cluster.
    hosts.finish("a1", material)
    version = hosts.release.version
    assert hosts.place("a1", "/etc/rancher/k3s/bramble-token").exists() is keeps_token(Role.AGENT, version)

    async def tidy(api: KubeApi) -> None:
        for secret in await api.bootstrap_tokens():
            await api.delete_secret(secret)

    async def story() -> None:
        async with hosts.kube() as api:
            await tidy(api)

    hosts.run(story())
    fetched = first.data / "agent/server-ca.crt"
    fetched.unlink()
    again = hosts.start_node("a1")
    again.wait_for(fetched.exists, "the agent is let in without its token", JOIN_S)
    again.kill()


def test_an_agent_with_another_password_for_its_name_is_turned_away(hosts: Hosts) -> None:
    prepare(hosts, "a2", bootstrap_of(hosts, "a2"))
    joining(hosts, "a2", files=(NodeFile(NODE_PASSWORD_FILE, "0600", "of another\n"),))
    stranger = hosts.start_node("a2")
    stranger.wait_for_cause("node_password", JOIN_S)
    assert not has_certificate(stranger)
    stranger.kill()


@pytest.mark.parametrize(
    ("hash_", "password", "cause"),
    [("", "guess", "token_rejected"), ("0" * 64, "", "ca_mismatch")],
    ids=["wrong password", "foreign pin"],
)
def test_an_agent_with_a_wrong_token_says_why_it_waits(
    hosts: Hosts, hash_: str, password: str, cause: str
) -> None:
    ours = hosts.keys.agent_password.reveal()
    token = f"K10{hash_ or hosts.keys.ca_hash}::node:{password or ours}"
    joining(hosts, "a2", files=(NodeFile("/etc/rancher/k3s/bramble-token", "0600", token),))
    stranger = hosts.start_node("a2")
    stranger.wait_for_cause(cause, JOIN_S)
    assert stranger.process.poll() is None
    stranger.kill()


def test_an_agent_that_lost_token_and_certificate_says_so(hosts: Hosts) -> None:
    material = hosts.material("a2", JoinServer(hosts.url("s1")))
    bare = [
        NodeFile(
            file.path, file.mode, "\n".join(line for line in file.content.splitlines() if "token" not in line)
        )
        for file in material.files_after_ready
    ]
    hosts.lay("a2", bare)
    stranger = hosts.start_node("a2")
    stranger.wait_for_cause("token_rejected", JOIN_S)
    assert stranger.process.wait(60) != 0


def test_a_blank_server_brings_the_cluster_back_from_a_snapshot(hosts: Hosts, tmp_path: Path) -> None:
    """Last here: it is another cluster afterwards, with what was written before the snapshot and no more."""

    def write(name: str) -> None:
        assert hosts.api().call("POST", MAPS, {"metadata": {"name": name}}, JSON)[0] == 201

    async def save() -> tuple[int, str]:
        client = hosts.etcd()
        saved = await save_snapshot(client, await client.observe(), tmp_path / "etcd.db")
        return saved.size_bytes, saved.sha256

    write("before")
    before = hosts.observe()
    size, digest = hosts.run(save())
    write("after")
    hosts.servers["s1"].stop()
    hosts.data("s1").rename(hosts.data("s1").with_name("s1-lost"))
    recovery = Recovery(
        id="00" * 8,
        snapshot="x",
        sha256=digest,
        size_bytes=size,
        founder="s1",
        stale=(),
        by="me",
        began_at=1.0,
    )
    material = hosts.material("s1", RestoreCluster(recovery))
    hosts.lay("s1", material.files)
    kept = hosts.place("s1", recovery.data_path)
    kept.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "etcd.db").rename(kept)
    restoring = hosts.start_node("s1")
    restoring.wait_for(lambda: restoring.process.poll() is not None, "k3s restored, and ended", JOIN_S)
    assert restoring.process.returncode == 0, restoring.log[-4000:]
    hosts.place("s1", RESET_DROP_IN).unlink()
    hosts.keep_up("s1")
    hosts.wait_ready("s1")
    assert [hosts.api().call("GET", f"{MAPS}/{name}")[0] for name in ("before", "after")] == [200, 404]
    after = hosts.observe()
    assert before is not None
    assert after is not None
    assert [one.node for one in after.members] == ["s1"]
    assert after.members[0].name != before.members[0].name  # the id is made of its address
