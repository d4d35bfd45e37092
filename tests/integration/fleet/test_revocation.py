"""Reject, revoke, device keys: what a person takes away stays away, over renewals and restarts."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes_device import DeviceKey, board_of
from fakes_fleet import AgentKey, Fleet, cluster_spec, node_spec, open_fleet
from fleet_story import (
    AGENT,
    SERVER,
    ask_to_install,
    ask_without_proof,
    enrol,
    install,
    kube_ready,
    let_in,
    prove_ticket,
    renew,
    require_token,
    texts,
)

from agent.protocol import Outcome
from fleet.refusal import RefusedError
from fleet.spec.model import FirstBoot, Role

pytestmark = pytest.mark.integration


def test_rejected_key_gets_nothing_and_another_key_may_ask(fleet: Fleet) -> None:
    assert ask_to_install(fleet, SERVER, b"r" * 32).outcome is Outcome.PENDING
    assert "rejected" in fleet.controller.people.reject("pi5-1")
    refused = ask_to_install(fleet, SERVER, b"r" * 32)
    assert (refused.outcome, refused.reason) == (Outcome.REJECTED, "a person rejected this key")
    assert ask_to_install(fleet, SERVER, b"k" * 32).outcome is Outcome.PENDING
    fleet.controller.people.approve("pi5-1")
    assert ask_to_install(fleet, SERVER, b"k" * 32).outcome is Outcome.ADMITTED
    assert ask_to_install(fleet, SERVER, b"r" * 32).outcome is Outcome.REJECTED


def test_only_what_waits_can_be_rejected(fleet: Fleet) -> None:
    with pytest.raises(RefusedError, match="nothing of pi5-1 waits"):
        fleet.controller.people.reject("pi5-1")
    ask_to_install(fleet, SERVER)
    with pytest.raises(RefusedError) as refused:
        fleet.controller.people.reject("pi5-1", "0" * 20)
    assert (refused.value.code, "bramble reject" in refused.value.hint) == ("other-key", True)


@pytest.mark.usefixtures("backend")
def test_revoked_node_gets_nothing_not_even_after_a_restart(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(SERVER, AGENT))
    install(fleet, AGENT)
    certificate = enrol(fleet, AGENT)
    fleet.controller.joins.desired(certificate)
    fleet.controller.people.revoke("pi4-1")
    fleet.store.close()
    again = open_fleet(tmp_path, cluster_spec(SERVER, AGENT), fleet.clock)
    again.images.tickets = fleet.images.tickets
    try:
        for call in (again.controller.joins.desired, again.controller.joins.join_material):
            with pytest.raises(RefusedError) as refused:
                call(certificate)
            assert (refused.value.status, refused.value.code) == (401, "certificate")
        assert renew(again, AGENT, certificate).outcome is Outcome.REJECTED
        assert ask_without_proof(again, AGENT, AgentKey()).outcome is Outcome.REJECTED
        with pytest.raises(RefusedError, match="revoked already"):
            again.controller.people.revoke("pi4-1")
        assert "no longer revoked" in again.controller.people.approve("pi4-1")
        key = AgentKey()
        assert ask_without_proof(again, AGENT, key).outcome is Outcome.PENDING
        again.controller.people.approve("pi4-1")
        assert ask_without_proof(again, AGENT, key).outcome is Outcome.ENROLLED
    finally:
        again.store.close()


def test_revocation_takes_tickets_and_install_tokens_too(fleet: Fleet) -> None:
    token = require_token(let_in(fleet, AGENT))
    fleet.controller.installs.plan(token)
    fleet.controller.people.revoke("pi4-1")
    with pytest.raises(RefusedError, match="not admitted"):
        fleet.controller.installs.plan(token)
    assert prove_ticket(fleet, AGENT, AgentKey()).outcome is Outcome.REJECTED
    fleet.controller.people.approve("pi4-1")
    assert prove_ticket(fleet, AGENT, AgentKey()).outcome is Outcome.PENDING


def test_device_key_does_not_outrank_a_revocation(fleet: Fleet) -> None:
    device = DeviceKey()
    fleet.controller.people.import_devices({"abcd0001": device.sha256})
    board = board_of(fleet, SERVER, device)
    assert board.install().outcome is Outcome.ADMITTED
    fleet.controller.people.revoke("pi5-1")
    assert board.install().outcome is Outcome.REJECTED
    assert board.enrol().outcome is Outcome.REJECTED


def test_import_names_every_conflict_and_changes_nothing(fleet: Fleet) -> None:
    first, second = DeviceKey(), DeviceKey()
    assert "1 device key(s) imported" in fleet.controller.people.import_devices({"abcd0001": first.sha256})
    assert "0 device key(s) imported, 1" in fleet.controller.people.import_devices({"abcd0001": first.sha256})
    with pytest.raises(RefusedError) as refused:
        fleet.controller.people.import_devices(
            {"abcd0001": second.sha256, "abcd0002": first.sha256, "abcd0003": DeviceKey().sha256}
        )
    assert "board abcd0001 has key" in refused.value.message
    assert "of board abcd0002 is on record for abcd0001" in refused.value.message
    with fleet.store.read() as reader:
        assert [one.board for one in reader.all_device_keys()] == ["abcd0001"]


def test_every_decision_is_an_entry_of_the_timeline(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(SERVER, AGENT, agent_policy=FirstBoot.APPROVE))
    try:
        ask_to_install(fleet, AGENT, b"r" * 32)
        fleet.controller.people.reject("pi4-1")
        ask_to_install(fleet, AGENT, b"r" * 32)
        install(fleet, AGENT)
        certificate = enrol(fleet, AGENT)
        renew(fleet, AGENT, certificate)
        prove_ticket(fleet, AGENT, AgentKey())
        fleet.controller.people.revoke("pi4-1")
        fleet.controller.people.approve("pi4-1")
        told = "\n".join(texts(fleet, "pi4-1"))
        for words in (
            "installer pending: waits for approval",
            "rejected by a person",
            "installer rejected: a person rejected this key",
            "approved by a person",
            "installer admitted: approved by a person",
            "agent enrolled: showed its ticket",
            "agent enrolled: renewed",
            "agent pending: waits for approval: its ticket was used before",
            "revoked by a person",
            "a person lifted the revocation",
        ):
            assert words in told, words
    finally:
        fleet.store.close()


def test_server_that_is_revoked_while_it_joins_lets_the_next_one_join(tmp_path: Path) -> None:
    servers = [node_spec(f"s{number}", number, role=Role.SERVER) for number in (1, 2, 3)]
    fleet = open_fleet(tmp_path, cluster_spec(*servers))
    joins = fleet.controller.joins
    try:
        for server in servers:
            install(fleet, server)
        first, second, third = (enrol(fleet, server) for server in servers)
        assert joins.desired(first).join
        fleet.controller.watch.apply_kubernetes(kube_ready(servers[0]))
        assert joins.desired(second).join
        assert not joins.desired(third).join
        fleet.controller.people.revoke("s2")
        assert joins.desired(third).join
    finally:
        fleet.store.close()
