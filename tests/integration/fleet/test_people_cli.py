"""What people decide about nodes, and what else cannot be taken back, from the keyboard to the record."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from fakes_device import DeviceKey, board_of
from fakes_fleet_server import Running
from typed_cluster import HEAD, node_line, serving, typed, write_cluster

from agent.protocol import Outcome
from fleet.cli.agent import agent
from fleet.cli.dashboard import dashboard
from fleet.cli.eeprom import eeprom
from fleet.cli.etcd import etcd
from fleet.cli.nodes import nodes
from fleet.cli.people import approve, devices, reject, revoke
from fleet.cli.recover import recover
from fleet.cli.snapshot import snapshot
from fleet.cli.token import token
from fleet.etcd.view import EtcdMember, EtcdView
from fleet.trust.tokens import TokenRole

pytestmark = pytest.mark.integration

CLUSTER = HEAD + node_line("pi5-1", 1, role="server")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_cluster(tmp_path, CLUSTER, monkeypatch)


@pytest.fixture
def server(file: Path) -> Iterator[Running]:
    with serving(file) as one:
        yield one


def ask(server: Running, device: DeviceKey | None = None) -> Outcome:
    """The server node's installer asks."""
    node = server.fleet.controller.spec.nodes[0]
    outcome: Outcome = server.in_loop(lambda: board_of(server.fleet, node, device).install()).outcome
    return outcome


def test_reject_turns_the_compared_key_away(
    server: Running, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(server) is Outcome.PENDING
    assert typed(reject, "pi5-1", file).exit_code == 2  # there is no terminal to ask on
    wrong = typed(reject, "pi5-1", file, "--key", "0" * 20)
    assert "that waits now is" in str(wrong.exception)
    monkeypatch.setattr("fleet.cli.questions.is_terminal", lambda: True)
    assert typed(reject, "pi5-1", file, answer="n\n").exit_code == 1
    assert ask(server) is Outcome.PENDING
    assert "is rejected" in typed(reject, "pi5-1", file, answer="y\n").output
    assert ask(server) is Outcome.REJECTED


def test_revoke_and_approve_that_lifts_it(server: Running, file: Path) -> None:
    assert "is revoked" in typed(revoke, "pi5-1", file, "--yes").output
    assert ask(server) is Outcome.REJECTED
    assert "no longer revoked" in typed(approve, "pi5-1", file, "--yes").output
    assert ask(server) is Outcome.PENDING
    nobody = typed(revoke, "nobody", file, "--yes")
    assert "there is no node 'nobody'" in str(nobody.exception)


def test_whom_it_is_about_is_looked_up_before_anybody_is_asked(
    server: Running, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.cli.questions.is_terminal", lambda: True)
    for command in (approve, reject, revoke):
        unknown = typed(command, "pi5-2", file, answer="")  # who is asked all the same, aborts
        assert "there is no node or board 'pi5-2'. Did you mean 'pi5-1'?" in str(unknown.exception)
        assert unknown.stderr == ""
    for command in (approve, reject):
        assert "nothing of pi5-1 waits for approval" in str(typed(command, "pi5-1", file).exception)
    declined = typed(revoke, "pi5-1", file, answer="n\n")
    assert "pi5-1 is declared. Revoke it? Its certificate" in declined.stderr
    assert "is revoked" in typed(revoke, "10000000abcd0001", file, answer="y\n").output
    assert "revoked" in typed(nodes, file).output
    again = typed(revoke, "pi5-1", file)
    assert "is revoked already" in str(again.exception)
    lifted = typed(approve, "pi5-1", file, answer="y\n")
    assert "pi5-1 is revoked. Let it ask again?" in lifted.stderr
    assert "revoked" not in typed(nodes, file).output


def test_without_a_server_nobody_is_asked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.cli.questions.is_terminal", lambda: True)
    for command, words in (
        *((command, ("pi5-1", file)) for command in (approve, reject, revoke)),
        (token, ("revoke", "ci", file)),
        (etcd, ("remove", "8e9e05c52164694d", "-c", file)),
        (snapshot, ("forget", "rack-1", "-c", file)),
        (agent, ("update", "--all", "-c", file)),
        (recover, ("--cancel", file)),
        (eeprom, ("apply", "pi5-1", file)),
    ):
        refused = typed(command, *words, answer="y\n")
        assert "no server of this cluster is running" in str(refused.exception)
        assert refused.stderr == ""


def test_whose_token_it_is_is_said_before_it_ends(
    server: Running, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = server.person("ci", TokenRole.ADMIN)
    assert typed(token, "revoke", "ci", file).exit_code == 2  # there is no terminal to ask on
    monkeypatch.setattr("fleet.cli.questions.is_terminal", lambda: True)
    unknown = typed(token, "revoke", "cj", file)
    assert "no token is called 'cj'" in str(unknown.exception)
    assert unknown.stderr == ""
    declined = typed(token, "revoke", "ci", file, answer="n\n")
    assert declined.exit_code == 1
    assert re.search(r"ci \([0-9a-f]{8}\) is the admin token that was made on 20", declined.stderr)
    assert person.ask("GET", "/v1/nodes").status == 200
    assert "is revoked" in typed(token, "revoke", "ci", file, answer="y\n").output
    assert person.ask("GET", "/v1/nodes").status == 401
    again = typed(token, "revoke", "ci", file)
    assert "has ended already" in str(again.exception)
    assert again.stderr == ""


def test_members_of_etcd_are_removed_by_who_they_are(
    server: Running, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = EtcdMember(id=0xA1, name="pi5-1-0a1b", node="pi5-1", healthy=True)
    ghost = EtcdMember(id=0xB2, name="old-1-2c3d", node="old-1", peer_urls=("https://10.77.0.99:2380",))
    other = replace(ghost, id=0xC3, name="old-2-4e5f", node="old-2")
    etcd_now = StillEtcd(EtcdView(cluster_id=1, leader_id=ours.id, members=(ours, ghost)))
    monkeypatch.setattr(server.fleet.controller.etcd, "client", lambda: etcd_now)
    assert typed(etcd, "remove", "b2", "-c", file).exit_code == 2  # there is no terminal to ask on
    monkeypatch.setattr("fleet.cli.questions.is_terminal", lambda: True)
    for words, why in (
        ("ff", "etcd has no member ff"),
        ("a1", "pi5-1-0a1b is the member of pi5-1, a declared server"),
    ):
        refused = typed(etcd, "remove", words, "-c", file)
        assert why in str(refused.exception)
        assert refused.stderr == ""
    declined = typed(etcd, "remove", "00B2", "-c", file, answer="n\n")
    assert (
        "no declared server stands behind: old-1-2c3d (b2, a voter, https://10.77.0.99:2380)"
        in declined.stderr
    )
    assert "1 voter will be left." in declined.stderr
    assert etcd_now.removed == []
    assert "is out of etcd" in typed(etcd, "remove", "b2", "-c", file, answer="y\n").output
    assert etcd_now.removed == [0xB2]
    etcd_now.view = replace(etcd_now.view, members=(ours, ghost, other, replace(other, id=0xD4)))
    refused = typed(etcd, "remove", "b2", "-c", file)
    assert "1 of 3 voters are healthy" in str(refused.exception)
    assert refused.stderr == ""


@dataclass
class StillEtcd:
    """An etcd that is as it is, and notes whom it would remove."""

    view: EtcdView
    removed: list[int] = field(default_factory=list)

    async def observe(self) -> EtcdView:
        return self.view

    async def remove_member(self, member_id: int, _cluster_id: int) -> None:
        self.removed.append(member_id)


def test_devices_are_imported_listed_and_forgotten(server: Running, file: Path, tmp_path: Path) -> None:
    device, keys = DeviceKey(), tmp_path / "keys"
    keys.mkdir()
    assert "no device key is on record" in typed(devices, "list", file).output
    empty = typed(devices, "import", keys, file)
    assert "no file's name ends in .pub" in str(empty.exception)
    (keys / "10000000abcd0001.pub").write_bytes(device.der)
    assert "1 device key(s) imported" in typed(devices, "import", keys, file).output
    assert ask(server) is Outcome.REJECTED
    assert ask(server, device) is Outcome.ADMITTED
    (listed,) = json.loads(typed(devices, "list", file, "--json").output)
    assert (listed["board"], listed["node"], listed["source"]) == ("abcd0001", "pi5-1", "imported")
    assert listed["fingerprint"] in typed(devices, "list", file).output
    assert "1 device key(s) of pi5-1 are forgotten" in typed(devices, "forget", "pi5-1", file, "--yes").output
    assert json.loads(typed(devices, "list", file, "--json").output) == []


def test_dashboard_prints_a_link_for_who_may_use_the_socket(server: Running, file: Path) -> None:
    refused = typed(dashboard, file)
    assert refused.exit_code != 0
    assert "network.ports.dashboard is 0" in str(refused.exception)
    links = server.fleet.controller.login_links
    links.url = "https://10.77.0.1:7444"
    shown = typed(dashboard, file)
    assert shown.exit_code == 0, shown.output
    address, _, code = shown.output.strip().rpartition("/")
    assert address == "https://10.77.0.1:7444/enter"
    assert links.find(code) is not None
    told = json.loads(typed(dashboard, file, "--viewer", "--json").output)
    grant = links.redeem(told["url"].rpartition("/")[2])
    assert grant is not None
    assert grant.role.value == told["role"] == "viewer"
    assert "uid" in grant.who, "the kernel says who asked"
