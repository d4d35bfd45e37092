"""Images that a person writes to a card: the same numbered permission, and one card that enrols."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_fleet import (
    AgentKey,
    Fleet,
    agent_hello,
    cluster_spec,
    hardware_of,
    installer_hello,
    node_spec,
    open_fleet,
)

from agent.protocol import Outcome, Proof, ProofKind, Verdict, ticket_proof
from fleet.boards import Serial
from fleet.boots import BootReport, BootStage
from fleet.handout import Handout
from fleet.lifecycle import State
from fleet.refusal import RefusedError
from fleet.spec.model import Role
from fleet.views import timeline_view

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("backend")]

SERVER = node_spec("pi5-1", 1, role=Role.SERVER)
AGENT = node_spec("pi4-1", 2)
MEDIUM = "SanDisk Ultra 0x1234 (/dev/sdb)"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    opened = open_fleet(tmp_path, cluster_spec(SERVER, AGENT))
    yield opened
    opened.store.close()


def state_of(fleet: Fleet) -> State:
    with fleet.store.read() as reader:
        return reader.require_node("pi4-1").state


def intent_of(fleet: Fleet) -> int | None:
    return next(boot.install_intent for boot in fleet.controller.boot_states() if boot.name == "pi4-1")


def enrol(fleet: Fleet, handout: Handout) -> Verdict:
    key = AgentKey()
    hello = agent_hello(hardware_of(AGENT), key)
    welcome = fleet.controller.admission.hello(hello)
    secret = ticket_proof(handout.ticket.reveal(), hello, welcome)
    return fleet.controller.admission.prove(
        Proof(welcome.session, ProofKind.TICKET, secret, key.csr_pem), None
    )


def write(fleet: Fleet) -> Handout:
    handout = fleet.controller.handouts.begin("pi4-1")
    fleet.controller.handouts.finish("pi4-1", handout.intent, image_id="f" * 40, medium=MEDIUM)
    return handout


def netboot(fleet: Fleet) -> None:
    assert AGENT.serial is not None
    serial = Serial.parse(AGENT.serial.prefix)
    for stage in (BootStage.SEEN, BootStage.KERNEL):
        fleet.controller.record_boot_event(
            BootReport(stage=stage, at=fleet.clock(), serial=serial, mac=None, text="")
        )
    fleet.controller.tick()


def test_flashed_card_enrols_its_node_and_is_never_installed_over_the_network(fleet: Fleet) -> None:
    handout = write(fleet)
    assert state_of(fleet) is State.FLASHED
    netboot(fleet)
    assert intent_of(fleet) is None
    fleet.clock.advance(30 * 24 * 3600.0)  # it lay in a drawer
    fleet.controller.tick()
    assert state_of(fleet) is State.FLASHED
    assert enrol(fleet, handout).outcome is Outcome.ENROLLED
    assert state_of(fleet) is State.JOINING
    timeline = timeline_view(fleet.store, "pi4-1")
    assert timeline is not None
    assert any(MEDIUM in event.text for event in timeline.events)
    assert not any(handout.ticket.reveal() in event.text + event.hint for event in timeline.events)


def test_card_that_was_switched_on_before_the_end_was_reported_enrols_too(fleet: Fleet) -> None:
    handout = fleet.controller.handouts.begin("pi4-1")
    assert intent_of(fleet) == handout.intent
    assert enrol(fleet, handout).outcome is Outcome.ENROLLED


def test_of_two_cards_only_the_newer_enrols(fleet: Fleet) -> None:
    first, second = write(fleet), write(fleet)
    assert first.disk_signature != second.disk_signature
    assert first.instance_id != second.instance_id
    assert enrol(fleet, first).outcome is Outcome.REJECTED
    assert enrol(fleet, second).outcome is Outcome.ENROLLED


def test_second_card_does_not_open_the_network_to_an_installer(fleet: Fleet) -> None:
    write(fleet)
    fleet.controller.handouts.begin("pi4-1")
    assert intent_of(fleet) is None


def test_end_may_be_reported_again_but_not_of_a_replaced_card(fleet: Fleet) -> None:
    handout = write(fleet)
    fleet.controller.handouts.finish("pi4-1", handout.intent, image_id="f" * 40, medium=MEDIUM)
    fleet.controller.handouts.begin("pi4-1")
    with pytest.raises(RefusedError, match="another installation of pi4-1 began"):
        fleet.controller.handouts.finish("pi4-1", handout.intent, image_id="f" * 40, medium=MEDIUM)


def test_node_at_work_or_installed_is_refused(fleet: Fleet) -> None:
    netboot(fleet)
    hello = installer_hello(hardware_of(AGENT), b"k" * 32)
    welcome = fleet.controller.admission.hello(hello)
    proof = Proof(welcome.session, ProofKind.NONE, installer_key=(b"k" * 32).hex())
    assert fleet.controller.admission.prove(proof, None).outcome is Outcome.ADMITTED
    with pytest.raises(RefusedError, match="'imaging'"):
        fleet.controller.handouts.begin("pi4-1")
    with pytest.raises(RefusedError, match="no node 'pi9'"):
        fleet.controller.handouts.begin("pi9")


def test_joined_node_is_refused(fleet: Fleet) -> None:
    assert enrol(fleet, write(fleet)).outcome is Outcome.ENROLLED
    with pytest.raises(RefusedError, match="would be a second pi4-1"):
        fleet.controller.handouts.begin("pi4-1")


def test_handout_survives_the_socket(fleet: Fleet) -> None:
    handout = fleet.controller.handouts.begin("pi4-1")
    assert Handout.from_json(handout.as_json()) == handout
    assert handout.ticket.reveal() not in repr(handout)
