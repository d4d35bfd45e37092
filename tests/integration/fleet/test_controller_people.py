"""What waits for a person: servers, disks with an installation, strangers; and what a word of one allows."""

from __future__ import annotations

from pathlib import Path

import fakes_fleet
import pytest
from fakes_fleet import (
    AgentKey,
    Fleet,
    certificate_serial,
    cluster_spec,
    hardware_of,
    installer_hello,
    node_spec,
    open_fleet,
    status_report,
)
from fleet_story import (
    AGENT,
    FOUND,
    KEY,
    SERVER,
    ask_to_install,
    ask_without_proof,
    complete,
    enrol,
    find_disk,
    install,
    intent_of,
    refuse_disk,
    renew,
    require_token,
    see,
    state_of,
    texts,
)

from agent.proofs import fingerprint
from agent.protocol import (
    Occupant,
    Outcome,
    Proof,
    ProofKind,
)
from fleet.boots import BootStage
from fleet.lifecycle import MAX_ATTEMPTS, State
from fleet.refusal import RefusedError
from fleet.spec.model import FirstBoot
from fleet.views import fleet_view, timeline_view

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("backend")]


def test_server_waits_for_approval_of_exactly_its_key(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(SERVER, server_policy=FirstBoot.APPROVE))
    try:
        assert ask_to_install(fleet, SERVER).outcome is Outcome.PENDING
        assert ask_to_install(fleet, SERVER).outcome is Outcome.PENDING
        assert state_of(fleet, SERVER) is State.PENDING
        assert sum("waits for approval" in text for text in texts(fleet, "pi5-1")) == 1
        fleet.controller.people.approve("pi5-1")
        assert ask_to_install(fleet, SERVER, key=b"x" * 32).outcome is Outcome.PENDING
        fleet.controller.people.approve("pi5-1")
        assert ask_to_install(fleet, SERVER, key=b"x" * 32).outcome is Outcome.ADMITTED
    finally:
        fleet.store.close()


def test_server_that_waits_for_days_is_admitted_under_the_intent_it_was_booted_for(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(SERVER, server_policy=FirstBoot.APPROVE))
    try:
        see(fleet, SERVER, BootStage.KERNEL)
        for _ in range(50):
            assert ask_to_install(fleet, SERVER).outcome is Outcome.PENDING
            fleet.clock.advance(3600)
            fleet.controller.tick()
            assert intent_of(fleet, SERVER) == 1
        assert state_of(fleet, SERVER) is State.PENDING
        assert sum("intent 1 extended" in text for text in texts(fleet, "pi5-1")) == 2
        fleet.controller.people.approve("pi5-1")
        assert ask_to_install(fleet, SERVER).outcome is Outcome.ADMITTED
    finally:
        fleet.store.close()


def test_installed_agent_without_proof_waits_and_the_timeline_says_what_to_do(fleet: Fleet) -> None:
    install(fleet, AGENT)
    key = AgentKey()
    assert ask_without_proof(fleet, AGENT, key).outcome is Outcome.PENDING
    timeline = timeline_view(fleet.store, "pi4-1")
    assert timeline is not None
    assert "bramble approve pi4-1" in timeline.events[-1].hint
    fleet.controller.people.approve("pi4-1", fingerprint(key.sha256))
    assert ask_without_proof(fleet, AGENT, key).outcome is Outcome.ENROLLED


def test_node_that_lost_its_files_and_was_approved_is_heard_again(fleet: Fleet) -> None:
    """It counts its reports from one again, in the same start of its system."""
    install(fleet, AGENT)
    fleet.controller.joins.status(enrol(fleet, AGENT), status_report(hardware_of(AGENT), 500))
    key = AgentKey()
    assert ask_without_proof(fleet, AGENT, key).outcome is Outcome.PENDING
    fleet.controller.people.approve(AGENT.name, fingerprint(key.sha256))
    verdict = ask_without_proof(fleet, AGENT, key)
    fleet.clock.advance(10)
    certificate = certificate_serial(verdict.certificate_pem or "")
    fleet.controller.joins.status(certificate, status_report(hardware_of(AGENT), 1))
    with fleet.store.read() as reader:
        node = reader.require_node(AGENT.name)
    assert (node.status_at, node.status_sequence) == (fleet.clock(), 1)
    # A renewal is no new beginning: what comes late is a repeat still.
    fleet.controller.joins.status(certificate, status_report(hardware_of(AGENT), 7))
    assert renew(fleet, AGENT, certificate).outcome is Outcome.ENROLLED
    fleet.controller.joins.status(certificate, status_report(hardware_of(AGENT), 6))
    with fleet.store.read() as reader:
        assert reader.require_node(AGENT.name).status_sequence == 7


def test_agent_does_not_replace_the_installers_key_that_waits(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(SERVER, server_policy=FirstBoot.APPROVE))
    try:
        ask_to_install(fleet, SERVER)
        shown = fleet_view(fleet.store).nodes[0].fingerprint
        assert ask_without_proof(fleet, SERVER, AgentKey()).outcome is Outcome.PENDING
        assert fleet_view(fleet.store).nodes[0].fingerprint == shown
        fleet.controller.people.approve("pi5-1", shown)
        assert ask_to_install(fleet, SERVER).outcome is Outcome.ADMITTED
    finally:
        fleet.store.close()


@pytest.mark.parametrize("compared", ["", "00000000"])
def test_approval_of_a_key_that_waits_no_more_is_refused(tmp_path: Path, compared: str) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(SERVER, server_policy=FirstBoot.APPROVE))
    try:
        ask_to_install(fleet, SERVER)
        with pytest.raises(RefusedError) as refused:
            fleet.controller.people.approve("pi5-1", compared)
        assert (refused.value.status, refused.value.code) == (409, "other-key")
        assert ask_to_install(fleet, SERVER).outcome is Outcome.PENDING
    finally:
        fleet.store.close()


def test_installation_without_a_record_is_overwritten_only_after_a_persons_word(fleet: Fleet) -> None:
    see(fleet, AGENT, BootStage.KERNEL)
    token = require_token(ask_to_install(fleet, AGENT))
    fleet.controller.installs.plan(token)
    refuse_disk(fleet, token)
    assert state_of(fleet, AGENT) is State.PENDING
    timeline = timeline_view(fleet.store, "pi4-1")
    assert timeline is not None
    assert timeline.events[-1].kind == "alarm"
    assert "if its state directory was lost, restore it" in timeline.events[-1].hint
    with pytest.raises(RefusedError, match="is over"):
        fleet.controller.installs.plan(token)
    for _ in range(2):
        assert ask_to_install(fleet, AGENT).outcome is Outcome.PENDING
    assert sum("not on record here" in text for text in texts(fleet, "pi4-1")) == 1
    fleet.controller.people.approve("pi4-1")
    token = require_token(ask_to_install(fleet, AGENT))
    plan = fleet.controller.installs.plan(token)
    find_disk(fleet, token, FOUND)
    fleet.controller.installs.complete(token, complete(plan))
    assert state_of(fleet, AGENT) is State.FIRST_BOOT


def test_approval_is_for_what_was_found(fleet: Fleet) -> None:
    refuse_disk(fleet, require_token(ask_to_install(fleet, AGENT)))
    ask_to_install(fleet, AGENT)
    fleet.controller.people.approve("pi4-1")
    other = Occupant(cluster="attic", node="pi4-1", image_id="c1" * 32, installation="2b" * 16)
    refuse_disk(fleet, require_token(ask_to_install(fleet, AGENT)), other)
    assert ask_to_install(fleet, AGENT).outcome is Outcome.PENDING


def test_approval_before_the_disk_was_looked_at_is_no_word_on_its_content(tmp_path: Path) -> None:
    fleet = open_fleet(tmp_path, cluster_spec(AGENT, agent_policy=FirstBoot.APPROVE))
    try:
        ask_to_install(fleet, AGENT)
        fleet.controller.people.approve("pi4-1")
        refuse_disk(fleet, require_token(ask_to_install(fleet, AGENT)))
        ask_to_install(fleet, AGENT)
        fleet.controller.people.approve("pi4-1")
        find_disk(fleet, require_token(ask_to_install(fleet, AGENT)), FOUND)
        assert state_of(fleet, AGENT) is State.IMAGING
    finally:
        fleet.store.close()


def test_next_power_on_looks_at_the_disk_again(fleet: Fleet) -> None:
    see(fleet, AGENT, BootStage.KERNEL)
    refuse_disk(fleet, require_token(ask_to_install(fleet, AGENT)))
    ask_to_install(fleet, AGENT)
    fleet.controller.people.approve("pi4-1")
    for number in range(MAX_ATTEMPTS + 1):
        fleet.clock.advance(60)
        see(fleet, AGENT, BootStage.KERNEL)
        key = bytes([number]) * 32
        refuse_disk(fleet, require_token(ask_to_install(fleet, AGENT, key=key)))
    fleet.clock.advance(60)
    see(fleet, AGENT, BootStage.KERNEL)
    find_disk(fleet, require_token(ask_to_install(fleet, AGENT, key=b"z" * 32)), None)
    assert state_of(fleet, AGENT) is State.IMAGING


def test_disk_that_this_intent_committed_may_be_written_again(fleet: Fleet) -> None:
    """Power failed after COMMIT and before the server heard of it, and the board netbooted again."""
    see(fleet, AGENT, BootStage.KERNEL)
    plan = fleet.controller.installs.plan(require_token(ask_to_install(fleet, AGENT)))
    committed = Occupant(plan.cluster, plan.node, plan.image.image_id, plan.installation)
    fleet.clock.advance(60)
    see(fleet, AGENT, BootStage.KERNEL)
    find_disk(fleet, require_token(ask_to_install(fleet, AGENT)), committed)
    assert state_of(fleet, AGENT) is State.IMAGING


def test_lost_store_wipes_nothing(tmp_path: Path) -> None:
    """The same cluster.yaml and keys, a control.db that starts anew: intent 1 is open a second time."""
    fleet = open_fleet(tmp_path, cluster_spec(AGENT))
    plan = install(fleet, AGENT)
    fleet.store.close()
    fakes_fleet.lose_store(tmp_path)
    fleet = open_fleet(tmp_path, cluster_spec(AGENT))
    try:
        assert intent_of(fleet, AGENT) == plan.intent
        see(fleet, AGENT, BootStage.KERNEL)
        installed = Occupant(plan.cluster, plan.node, plan.image.image_id, plan.installation)
        refuse_disk(fleet, require_token(ask_to_install(fleet, AGENT)), installed)
        assert state_of(fleet, AGENT) is State.PENDING
    finally:
        fleet.store.close()


def test_approving_a_node_that_does_not_wait_says_so(fleet: Fleet) -> None:
    with pytest.raises(RefusedError, match="nothing of pi4-1 waits"):
        fleet.controller.people.approve("pi4-1")
    with pytest.raises(RefusedError, match="no node 'nobody'"):
        fleet.controller.people.approve("nobody")


def test_installer_with_a_false_key_is_rejected(fleet: Fleet) -> None:
    welcome = fleet.controller.admission.hello(installer_hello(hardware_of(AGENT), KEY))
    proof = Proof(welcome.session, ProofKind.NONE, installer_key=(b"z" * 32).hex())
    assert fleet.controller.admission.prove(proof, None).outcome is Outcome.REJECTED


def test_session_can_be_used_once(fleet: Fleet) -> None:
    welcome = fleet.controller.admission.hello(installer_hello(hardware_of(AGENT), KEY))
    proof = Proof(welcome.session, ProofKind.NONE, installer_key=KEY.hex())
    fleet.controller.admission.prove(proof, None)
    with pytest.raises(RefusedError) as refused:
        fleet.controller.admission.prove(proof, None)
    assert refused.value.code == "session"


def test_installed_node_that_asks_again_is_held_as_rebinding(fleet: Fleet) -> None:
    install(fleet, AGENT)
    verdict = ask_to_install(fleet, AGENT)
    assert (verdict.outcome, "rebinding" in verdict.reason) == (Outcome.PENDING, True)
    assert state_of(fleet, AGENT) is State.FIRST_BOOT


def test_unknown_board_is_held_listed_and_told_of_once(fleet: Fleet) -> None:
    stranger = node_spec("stranger", 99)
    for _ in range(20):
        see(fleet, stranger, text="DISCOVER")
        fleet.clock.advance(1)
    assert ask_to_install(fleet, stranger).outcome is Outcome.PENDING
    held = fleet_view(fleet.store).held
    assert [(board.board, board.reason) for board in held] == [("abcd0063", "not in cluster.yaml")]
    assert sum(text.startswith("board held") for text in texts(fleet, "abcd0063")) == 1
