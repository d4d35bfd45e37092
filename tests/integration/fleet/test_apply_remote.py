"""A cluster.yaml that comes with a token: for the cluster, not for the machine of its control server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes_fleet_server import Answer, Caller, Running, running

from fleet.admin_client import FleetReader
from fleet.spec import load_cluster
from fleet.spec.power import SecretPlace, TasmotaPower
from fleet.trust.tokens import TokenRole

pytestmark = pytest.mark.integration

CLUSTER = """
version: 1
cluster:
  name: attic
  domain: attic.internal
  k3s: {version: v1.33.5+k3s1}
  control: {dashboard: {certificate: mine.pem, key: mine.key}}
notify:
  - {driver: email, host: 10.77.0.2, user: attic, password_file: mail.txt, sender: a@b.example,
     recipients: [c@b.example]}
image:
  base: debian-trixie
  overlays: [./mine]
  user: {name: pi, ssh_authorized_keys: []}
network: {interface: eth0, dhcp: full, subnet: 10.77.0.0/24, server_address: 10.77.0.1}
nodes:
  - {name: s1, board: pi5, role: server, serial: 10000000abcd0001, address: 10.77.0.11, disk: nvme,
     power: {driver: tasmota, url: "http://10.77.0.60", password_file: plug.txt}}
"""
AGENT = "  - {name: a1, board: pi5, role: agent, serial: 10000000abcd0004, address: 10.77.0.14, disk: nvme}\n"
POWERED = AGENT.replace("disk: nvme", "disk: nvme, power: {driver: %s}")
COMMAND = "command, on: [/bin/true], off: [/bin/true]"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BRAMBLE_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "mine").mkdir()
    for name in ("plug.txt", "mail.txt", "mine.pem", "mine.key"):
        (tmp_path / name).write_text(f"what is in {name}\n")
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    return tmp_path


@pytest.fixture
def server(directory: Path) -> Iterator[Running]:
    with running(directory / "state" / "attic", load_cluster(directory / "cluster.yaml")) as started:
        yield started


@pytest.fixture
def admin(server: Running) -> Caller:
    return server.person("ci", TokenRole.ADMIN)


def send(caller: Caller, text: str, path: str = "/anywhere/cluster.yaml", *, dry_run: bool = False) -> Answer:
    body = json.dumps({"path": path, "text": text}).encode()
    return caller.ask("POST", f"/v1/admin/apply?dry_run={int(dry_run)}", body)


def names(server: Running) -> list[str]:
    return [node.name for node in server.fleet.controller.spec.nodes]


def test_nodes_may_come_with_a_token_and_relative_paths_mean_the_servers_own(
    server: Running, admin: Caller, directory: Path
) -> None:
    done = send(admin, CLUSTER + AGENT)
    assert done.status == 200, done.body
    assert json.loads(done.body)["applied"]
    assert names(server) == ["s1", "a1"]
    spec = server.fleet.controller.spec
    assert spec.path == directory / "cluster.yaml"
    assert spec.image.overlays == (directory / "mine",)
    power = spec.nodes[0].power
    assert isinstance(power, TasmotaPower)
    assert power.password == SecretPlace(directory / "plug.txt")


OVERLAY = CLUSTER.replace("[./mine]", "[./mine, %s]")
BASE = CLUSTER.replace("base: debian-trixie", "base: {path: %s}")
SOURCE = CLUSTER.replace("k3s: {", "k3s: {source: %s, ")
PASSWORD = CLUSTER.replace("plug.txt", "%s")
COMMUNITY = CLUSTER + POWERED % "snmp-poe, host: 10.77.0.61, group: 1, port: 2, community_file: %s"


MAIL = CLUSTER.replace("mail.txt", "%s")
KEY = CLUSTER.replace("mine.key", "%s")


@pytest.mark.parametrize("dry_run", [True, False], ids=["dry", "real"])
@pytest.mark.parametrize(
    "named",
    [OVERLAY, BASE, SOURCE, PASSWORD, COMMUNITY, MAIL, KEY],
    ids=["overlay", "base", "source", "password", "community", "mail", "dashboard"],
)
def test_no_file_of_the_server_is_reached_nor_told_of(
    server: Running, admin: Caller, named: str, dry_run: bool
) -> None:
    told = set()
    for path in ("/etc/shadow", "/etc", "/no/such/file", "../../../etc/shadow"):
        answer = send(admin, named % path, dry_run=dry_run)
        assert (answer.status, answer.error) == (403, "paths"), answer.body
        message: str = json.loads(answer.body)["message"]
        told.add(message.replace(path, "…").replace(str(server.state.parent.parent / path), "…"))
    assert len({text.split("which")[1] for text in told}) == 1
    assert names(server) == ["s1"]


def test_path_of_the_callers_choice_moves_nothing(server: Running, admin: Caller) -> None:
    """Relative paths would start in a folder that the caller names."""
    answer = send(admin, CLUSTER.replace("./mine", "ssl"), path="/etc/cluster.yaml")
    assert (answer.status, answer.error) == (403, "paths")


@pytest.mark.parametrize(
    "text",
    [
        CLUSTER + POWERED % COMMAND,
        CLUSTER.replace("10.77.0.60", "10.77.0.66"),
        CLUSTER.replace("password_file: plug.txt", "password_file: plug.txt, output: 2"),
        CLUSTER + POWERED % 'shelly, url: "http://10.77.0.66", password_env: PGPASSWORD',
    ],
    ids=["command", "password to another device", "another socket of the plug", "a variable of the server"],
)
def test_no_command_is_run_and_no_password_sent_elsewhere(server: Running, admin: Caller, text: str) -> None:
    answer = send(admin, text)
    assert (answer.status, answer.error) == (403, "power"), answer.body
    assert names(server) == ["s1"]


@pytest.mark.parametrize(
    "text",
    [
        CLUSTER.replace("10.77.0.2,", "10.77.0.66,"),
        CLUSTER.replace(
            "notify:", 'notify:\n  - {driver: ntfy, url: "https://10.77.0.66/t", token_file: mail.txt}'
        ),
    ],
    ids=["password to another server", "another channel"],
)
def test_no_secret_of_a_channel_is_sent_elsewhere(server: Running, admin: Caller, text: str) -> None:
    declared = server.fleet.controller.spec.notify
    answer = send(admin, text)
    assert (answer.status, answer.error) == (403, "notify"), answer.body
    assert server.fleet.controller.spec.notify == declared


def test_other_channels_may_come_with_a_token(server: Running, admin: Caller) -> None:
    topic = CLUSTER.replace("notify:", 'notify:\n  - {driver: ntfy, url: "https://ntfy.example/attic"}')
    done = send(admin, topic)
    assert json.loads(done.body)["applied"], done.body
    assert len(server.fleet.controller.spec.notify) == 2


def test_other_plugs_and_their_loss_may_come_with_a_token(server: Running, admin: Caller) -> None:
    plug = POWERED % 'tasmota, url: "http://10.77.0.61"'
    assert send(admin, CLUSTER + plug).status == 200
    assert names(server) == ["s1", "a1"]
    assert send(admin, CLUSTER + AGENT).status == 200


def test_the_socket_reaches_what_its_user_could_anyway(server: Running, directory: Path) -> None:
    reader = FleetReader(directory / "state" / "attic")
    (directory / "more").mkdir()
    text = (OVERLAY % "more") + POWERED % COMMAND
    answer: Any = reader.apply(text, directory / "cluster.yaml", dry_run=True)
    assert answer["problems"] == [] or all(one["severity"] == "warning" for one in answer["problems"])
    assert any(change["key"].startswith("nodes.a1") for change in answer["changes"])
