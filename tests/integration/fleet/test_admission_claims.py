"""Two machines that claim to be one node: forged serials, copied disks, and boards that prove themselves."""

from __future__ import annotations

import dataclasses

import pytest
from fakes_device import Board, DeviceKey, board_of, rogue_of
from fakes_fleet import Fleet, certificate_serial, status_report
from fleet_story import AGENT, SERVER, complete, require_token, see, state_of, texts

from agent.protocol import Outcome, Verdict
from fleet.boots import BootStage
from fleet.lifecycle import State
from fleet.refusal import RefusedError
from fleet.spec.model import NodeSpec
from fleet.views import timeline_view

pytestmark = pytest.mark.integration

OTHER_MAC = "d8:3a:dd:00:00:99"
OTHER_SERIAL = "10000000deadbeef"


def alarms(fleet: Fleet, node: NodeSpec) -> list[str]:
    timeline = timeline_view(fleet.store, node.name)
    assert timeline is not None
    return [event.text for event in timeline.events if event.kind == "alarm"]


def approve(fleet: Fleet, node: NodeSpec) -> None:
    fleet.controller.people.approve(node.name)


def install(board: Board, node: NodeSpec) -> str:
    """The board's installer from hello to complete; the ticket of its disk."""
    fleet = board.fleet
    verdict = board.install()
    if verdict.outcome is Outcome.PENDING:
        approve(fleet, node)
        verdict = board.install()
    token = require_token(verdict)
    plan = fleet.controller.installs.plan(token)
    fleet.controller.installs.complete(token, complete(plan))
    return fleet.images.tickets[node.name][-1].reveal()


def enrol(board: Board, node: NodeSpec) -> str:
    """The board installed and enrolled; the serial number of its certificate."""
    return certificate_of(board.enrol(ticket=install(board, node)))


def certificate_of(verdict: Verdict) -> str:
    assert verdict.outcome is Outcome.ENROLLED, verdict.reason
    assert verdict.certificate_pem is not None
    return certificate_serial(verdict.certificate_pem)


def test_rogue_with_a_servers_serial_and_mac_stays_pending_and_raises_an_alarm(fleet: Fleet) -> None:
    board = board_of(fleet, SERVER)
    assert board.install().outcome is Outcome.PENDING
    rogue = rogue_of(board)
    verdict = rogue.install()
    assert (verdict.outcome, verdict.token) == (Outcome.PENDING, None)
    assert any("two boards claim to be this node" in text for text in alarms(fleet, SERVER))
    fleet.controller.people.approve("pi5-1", board.session_key_fingerprint)
    assert rogue.install().outcome is Outcome.PENDING
    assert board.install().outcome is Outcome.ADMITTED
    assert rogue.install().outcome is Outcome.PENDING
    assert state_of(fleet, SERVER) is State.IMAGING


def test_rogue_that_came_first_is_rejected_and_the_board_gets_its_turn(fleet: Fleet) -> None:
    board = board_of(fleet, SERVER)
    rogue = rogue_of(board)
    rogue.install()
    board.install()
    with pytest.raises(RefusedError, match="waits now is"):
        fleet.controller.people.approve("pi5-1", board.session_key_fingerprint)
    fleet.controller.people.reject("pi5-1", rogue.session_key_fingerprint)
    assert rogue.install().outcome is Outcome.REJECTED
    assert board.install().outcome is Outcome.PENDING
    fleet.controller.people.approve("pi5-1", board.session_key_fingerprint)
    assert board.install().outcome is Outcome.ADMITTED


def test_rogue_that_asks_again_and_again_does_not_fill_the_timeline(fleet: Fleet) -> None:
    board = board_of(fleet, SERVER)
    rogue = rogue_of(board)
    for _ in range(30):
        board.install()
        rogue.install()
        fleet.clock.advance(5)
    assert len(texts(fleet, "pi5-1")) < 10


def test_rogue_agent_with_serial_and_mac_but_no_proof_waits(fleet: Fleet) -> None:
    board = board_of(fleet, SERVER)
    enrol(board, SERVER)
    verdict = rogue_of(board).enrol()
    assert (verdict.outcome, verdict.certificate_pem) == (Outcome.PENDING, None)
    assert "the node is enrolled" in alarms(fleet, SERVER)[-1]


def test_two_boards_with_one_serial_both_wait_for_a_person(fleet: Fleet) -> None:
    board = board_of(fleet, AGENT)
    assert board.install().outcome is Outcome.ADMITTED
    token = require_token(board.install())
    fleet.controller.installs.plan(token)
    stolen = fleet.images.tickets["pi4-1"][-1].reveal()
    assert rogue_of(board, mac=OTHER_MAC).install().outcome is Outcome.PENDING
    assert state_of(fleet, AGENT) is State.QUARANTINED
    assert "a second board claimed to be this node" in alarms(fleet, AGENT)[-1]
    assert board.install().outcome is Outcome.REJECTED
    with pytest.raises(RefusedError, match="not admitted"):
        fleet.controller.installs.plan(token)
    approve(fleet, AGENT)
    assert board.enrol(ticket=stolen).outcome is Outcome.PENDING
    with fleet.store.read() as reader:
        assert reader.require_node(AGENT.name).pending_key is None, "an installer is awaited, no agent"
    again = dataclasses.replace(board, intent=2)
    assert again.install().outcome is Outcome.ADMITTED


def test_second_board_does_not_disturb_one_that_a_person_approved(fleet: Fleet) -> None:
    board = board_of(fleet, SERVER)
    board.install()
    approve(fleet, SERVER)
    token = require_token(board.install())
    rogue = rogue_of(board, mac=OTHER_MAC)
    assert rogue.install().outcome is Outcome.PENDING
    assert fleet.controller.installs.plan(token).node == "pi5-1"
    assert any("two boards" in text for text in alarms(fleet, SERVER))


def test_board_that_is_switched_off_and_on_is_not_a_second_board(fleet: Fleet) -> None:
    board = board_of(fleet, AGENT)
    see(fleet, AGENT, BootStage.KERNEL)
    assert board.install().outcome is Outcome.ADMITTED
    fleet.clock.advance(60)
    see(fleet, AGENT, BootStage.KERNEL)
    assert dataclasses.replace(board, session_key=b"n" * 32).install().outcome is Outcome.ADMITTED
    assert alarms(fleet, AGENT) == []


def test_ticket_on_another_board_than_the_one_that_was_installed_is_a_conflict(fleet: Fleet) -> None:
    board = board_of(fleet, AGENT)
    ticket = install(board, AGENT)
    thief = rogue_of(board, mac=OTHER_MAC)
    verdict = thief.enrol(ticket=ticket)
    assert (verdict.outcome, verdict.certificate_pem) == (Outcome.PENDING, None)
    assert "another board" in alarms(fleet, AGENT)[-1]
    # The ticket was not burnt: the board that it was made for still gets in.
    assert board.enrol(ticket=ticket).outcome is Outcome.ENROLLED


def test_copied_disk_in_another_board_costs_both_their_certificate(fleet: Fleet) -> None:
    board = board_of(fleet, AGENT)
    certificate = enrol(board, AGENT)
    own = status_report(board.hardware, 1)
    fleet.controller.joins.status(certificate, own)
    copy = dataclasses.replace(board.hardware, serial=OTHER_SERIAL, macs=(OTHER_MAC,))
    with pytest.raises(RefusedError, match="client certificate"):
        fleet.controller.joins.status(certificate, status_report(copy, 1, boot_id="boot-of-the-copy"))
    assert "disk was copied" in alarms(fleet, AGENT)[-1]
    with pytest.raises(RefusedError, match="client certificate"):
        fleet.controller.joins.status(certificate, dataclasses.replace(own, sequence=2))
    # Both pend, now that both ask again; the copy's board is no node at all.
    assert board.enrol().outcome is Outcome.PENDING
    assert dataclasses.replace(board, hardware=copy).enrol().outcome is Outcome.PENDING
    approve(fleet, AGENT)
    assert board.enrol().outcome is Outcome.ENROLLED


def test_copied_disk_that_renews_in_another_board_is_found_too(fleet: Fleet) -> None:
    board = board_of(fleet, AGENT)
    certificate = enrol(board, AGENT)
    copy = dataclasses.replace(board, hardware=dataclasses.replace(board.hardware, serial=OTHER_SERIAL))
    assert copy.enrol(certificate=certificate).outcome is Outcome.PENDING
    assert "disk was copied" in alarms(fleet, AGENT)[-1]
    with pytest.raises(RefusedError, match="client certificate"):
        fleet.controller.joins.desired(certificate)


def test_board_that_loses_an_interface_is_no_copy(fleet: Fleet) -> None:
    board = board_of(fleet, AGENT)
    certificate = enrol(board, AGENT)
    radio = dataclasses.replace(board.hardware, macs=(OTHER_MAC,))
    accepted = fleet.controller.joins.status(certificate, status_report(radio, 1, boot_id="next"))
    assert accepted.generation >= 0
    board.hardware = radio
    assert board.enrol(certificate=certificate).outcome is Outcome.ENROLLED


def test_device_key_lets_a_server_in_unattended_and_nobody_else(fleet: Fleet) -> None:
    device = DeviceKey()
    board = board_of(fleet, SERVER, device)
    fleet.controller.people.import_devices({"abcd0001": device.sha256})
    rogue = rogue_of(board)
    assert rogue.install().outcome is Outcome.REJECTED
    rogue.device = DeviceKey()
    assert rogue.install().outcome is Outcome.REJECTED
    assert sum("device key" in text for text in alarms(fleet, SERVER)) == 2
    assert board.install().outcome is Outcome.ADMITTED


def test_device_key_is_pinned_once_a_person_vouched_and_then_nothing_else_will_do(fleet: Fleet) -> None:
    device = DeviceKey()
    board = board_of(fleet, SERVER, device)
    certificate = enrol(board, SERVER)
    assert any("device key" in text and "from now on" in text for text in texts(fleet, "pi5-1"))
    board.device = None
    assert board.enrol(certificate=certificate).outcome is Outcome.REJECTED
    assert "did not prove it" in alarms(fleet, SERVER)[-1]
    board.device = device
    assert board.enrol(certificate=certificate).outcome is Outcome.ENROLLED
    fleet.controller.people.forget_device("pi5-1")
    board.device = None
    assert board.enrol(certificate=certificate).outcome is Outcome.ENROLLED


def test_device_key_that_nobody_vouched_for_is_not_pinned(fleet: Fleet) -> None:
    board = board_of(fleet, AGENT, DeviceKey())
    enrol(board, AGENT)
    with fleet.store.read() as reader:
        assert reader.all_device_keys() == []


def test_device_key_of_another_board_counts_for_nothing(fleet: Fleet) -> None:
    device = DeviceKey()
    fleet.controller.people.import_devices({"abcd0002": device.sha256})
    assert board_of(fleet, SERVER, device).install().outcome is Outcome.REJECTED


def test_device_proof_of_an_earlier_conversation_is_false(fleet: Fleet) -> None:
    device = DeviceKey()
    fleet.controller.people.import_devices({"abcd0001": device.sha256})
    board = board_of(fleet, SERVER, device)
    recorded = []
    prove = device.prove
    device.prove = lambda hello, welcome: recorded.append(prove(hello, welcome)) or recorded[0]  # type: ignore[method-assign,func-returns-value]
    assert board.install().outcome is Outcome.ADMITTED
    assert board.install().outcome is Outcome.REJECTED
    assert len(recorded) == 2
