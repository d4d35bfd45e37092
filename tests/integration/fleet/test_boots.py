"""What the boot server saw becomes timelines and held boards, and floods stay small."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from fakes_fleet import Fleet, cluster_spec, hardware_of, installer_hello, node_spec, open_fleet

from agent.protocol import Proof, ProofKind
from fleet.boards import MacAddress, Serial, decode_revision
from fleet.boots import MAX_PENDING, TRIM_INTERVAL_S, BootReport, BootStage
from fleet.lifecycle import State
from fleet.sightings import MAX_HELD_BOARDS
from fleet.store.database import StoreError
from fleet.store.tables import boards
from fleet.timeline import Kind
from fleet.views import Timeline, fleet_view, timeline_view

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("backend")]

MAC = MacAddress.parse("2c:cf:67:00:00:0a")
PI5 = decode_revision(0xD04170)
BY_MAC = node_spec("by-mac", 1, mac=str(MAC))
BY_SERIAL = node_spec("by-serial", 2)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    opened = open_fleet(tmp_path, cluster_spec(BY_MAC, BY_SERIAL))
    yield opened
    opened.store.close()


def report(fleet: Fleet, stage: BootStage = BootStage.SEEN, **values: object) -> None:
    base = BootReport(stage=stage, at=fleet.clock())
    fleet.controller.record_boot_event(replace(base, **values))  # type: ignore[arg-type]


def timeline(fleet: Fleet, name: str) -> Timeline:
    fleet.controller.tick()
    found = timeline_view(fleet.store, name)
    assert found is not None
    return found


def test_first_sign_is_durable_at_once_and_the_rest_waits_for_the_next_flush(fleet: Fleet) -> None:
    report(fleet, mac=MAC, text="asks for an address")
    with fleet.store.read() as reader:
        assert reader.require_node("by-mac").state is State.NETBOOTING
        assert "asks for an address" not in [event.text for event in reader.timeline()]
    assert "asks for an address" in [event.text for event in timeline(fleet, "by-mac").events]


def test_serial_of_a_node_known_by_its_mac_is_learned_and_offered_to_tftp(fleet: Fleet) -> None:
    report(fleet, mac=MAC, serial=Serial.parse("abcd1234"), revision=PI5)
    boot = next(state for state in fleet.controller.boot_states() if state.name == "by-mac")
    assert boot.serial == Serial.parse("abcd1234")
    hardware = replace(hardware_of(BY_MAC), serial="10000000abcd1234", macs=(str(MAC),))
    fleet.controller.admission.prove(
        Proof(
            fleet.controller.admission.hello(installer_hello(hardware, b"k" * 32)).session,
            ProofKind.NONE,
            installer_key=(b"k" * 32).hex(),
        ),
        None,
    )
    boot = next(state for state in fleet.controller.boot_states() if state.name == "by-mac")
    assert boot.serial == Serial.parse("10000000abcd1234")


def identity(fleet: Fleet, name: str) -> tuple[str | None, str | None]:
    boot = next(state for state in fleet.controller.boot_states() if state.name == name)
    return boot.serial.prefix if boot.serial else None, str(boot.mac) if boot.mac else None


def test_claims_in_file_names_teach_nothing(fleet: Fleet) -> None:
    report(fleet, BootStage.KERNEL, mac=MAC, serial=Serial.parse("0badbeef"))
    assert identity(fleet, "by-mac") == (None, str(MAC))


def test_false_serial_that_was_believed_is_corrected_by_the_board(fleet: Fleet) -> None:
    report(fleet, mac=MAC, serial=Serial.parse("0badbeef"), revision=PI5)
    report(fleet, mac=MAC, serial=Serial.parse("abcd1234"), revision=PI5)
    assert identity(fleet, "by-mac") == ("abcd1234", str(MAC))


def test_learned_mac_cannot_veto_a_board_that_is_declared_by_its_serial(fleet: Fleet) -> None:
    report(fleet, mac=MacAddress.parse("2c:cf:67:66:66:66"), serial=Serial.parse("abcd0002"), revision=PI5)
    assert identity(fleet, "by-serial") == ("abcd0002", None)


def test_learned_half_is_forgotten_when_the_declared_half_changes(tmp_path: Path) -> None:
    first = open_fleet(tmp_path, cluster_spec(BY_MAC))
    report(first, mac=MAC, serial=Serial.parse("abcd1234"), revision=PI5)
    first.store.close()
    again = open_fleet(tmp_path, cluster_spec(BY_MAC), first.clock)
    assert identity(again, "by-mac")[0] == "abcd1234"
    again.store.close()
    other = node_spec("by-mac", 1, mac="2c:cf:67:00:00:0b")
    second = open_fleet(tmp_path, cluster_spec(other), first.clock)
    try:
        assert identity(second, "by-mac") == (None, "2c:cf:67:00:00:0b")
    finally:
        second.store.close()


def test_same_line_twice_within_seconds_is_one_line(fleet: Fleet) -> None:
    for _ in range(5):
        report(fleet, mac=MAC, text="asks for config.txt")
    assert sum(event.text == "asks for config.txt" for event in timeline(fleet, "by-mac").events) == 1


def test_a_note_about_a_stranger_holds_nothing_and_opens_nothing(fleet: Fleet) -> None:
    report(fleet, BootStage.NOTE, mac=MacAddress.parse("00:11:22:33:44:55"), text="a laptop")
    report(fleet, BootStage.NOTE, mac=MAC, text="its operating system has an address")
    view = fleet_view(fleet.store)
    assert view.held == ()
    assert {node.state for node in view.nodes} == {"declared"}


def test_held_board_shows_what_it_is_and_has_its_own_timeline(fleet: Fleet) -> None:
    revision = decode_revision(0xD03115)
    serial = Serial.parse("deadbeef")
    report(fleet, serial=serial, revision=revision, model="Raspberry Pi 4 Model B 8 GB", text="DISCOVER")
    (held,) = fleet_view(fleet.store).held
    assert (held.board, held.model) == ("deadbeef", "Raspberry Pi 4 Model B 8 GB")
    found = timeline(fleet, "deadbeef")
    assert {event.kind for event in found.events} == {"held", "boot"}
    assert any("cluster.yaml" in event.hint for event in found.events)


@pytest.mark.parametrize(
    "spelling", ["deadbeef", "DEADBEEF", "10000000deadbeef", "2c:cf:67:00:00:0d", "2C-CF-67-00-00-0D"]
)
def test_a_board_outside_of_the_cluster_is_found_by_serial_and_mac(fleet: Fleet, spelling: str) -> None:
    serial, mac = Serial.parse("deadbeef"), MacAddress.parse("2c:cf:67:00:00:0d")
    report(fleet, serial=serial, mac=mac, text="asks for an address")
    found = timeline(fleet, spelling)
    assert found.board is not None
    assert found.board.board == "deadbeef"
    assert "asks for an address" in [event.text for event in found.events]


@pytest.mark.parametrize("spelling", ["abcd0002", "10000000ABCD0002", "by-serial"])
def test_a_node_is_found_by_its_serial_as_well(fleet: Fleet, spelling: str) -> None:
    found = timeline(fleet, spelling)
    assert found.node is not None
    assert found.node.name == "by-serial"


def test_lines_of_strangers_are_few_enough_for_any_disk(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.boots.MAX_STRANGER_EVENTS", 50)
    monkeypatch.setattr("fleet.boots.STRANGER_LINES_A_MINUTE", 40)
    for minute in range(5):
        for number in range(100):
            serial = Serial.parse(f"feed{minute:02x}{number % 10:02x}")
            report(fleet, serial=serial, text=f"line {minute} {number}")
        fleet.clock.advance(TRIM_INTERVAL_S)
        fleet.controller.boots.flush()
    with fleet.store.read() as reader:
        of_strangers = [event for event in reader.timeline(limit=10_000) if event.node is None]
    assert len(of_strangers) <= 50 + 40 + 10  # what came since the last trim, and one "held" of each board
    assert fleet.controller.boots.dropped == 5 * 60


def test_a_diagnosis_of_a_stranger_is_kept_and_is_no_sign_of_life(fleet: Fleet) -> None:
    serial = Serial.parse("deadbeef")
    diagnosis = {"text": "diagnosis pi3: old", "hint": "ignore it", "kind": Kind.DIAGNOSIS}
    report(fleet, BootStage.NOTE, serial=serial, **diagnosis)
    fleet.controller.tick()
    assert timeline_view(fleet.store, "deadbeef") is None
    report(fleet, serial=serial)
    fleet.clock.advance(700)
    report(fleet, BootStage.NOTE, serial=serial, **diagnosis, detail={"rule": "pi3"})
    (line,) = [event for event in timeline(fleet, "deadbeef").events if event.kind == "diagnosis"]
    assert (line.hint, line.detail) == ("ignore it", {"rule": "pi3"})


def test_board_that_was_held_is_free_once_it_is_declared(tmp_path: Path) -> None:
    first = open_fleet(tmp_path, cluster_spec(BY_MAC))
    report(first, serial=Serial.parse("abcd0002"), text="DISCOVER")
    assert len(fleet_view(first.store).held) == 1
    first.controller.tick()
    first.store.close()
    second = open_fleet(tmp_path, cluster_spec(BY_MAC, BY_SERIAL), first.clock)
    try:
        assert fleet_view(second.store).held == ()
        assert any(event.text.startswith("board held") for event in timeline(second, "by-serial").events)
    finally:
        second.store.close()


def test_flood_of_invented_boards_is_bounded(fleet: Fleet) -> None:
    with fleet.store.write() as tx:
        for number in range(MAX_HELD_BOARDS):
            values = {"id": f"{number:08x}", "macs": [], "first_seen": 0, "last_seen": 0, "held_reason": "x"}
            tx.connection.execute(sa.insert(boards).values(**values))
    report(fleet, serial=Serial.parse("feed0001"), text="DISCOVER")
    hardware = replace(hardware_of(BY_SERIAL), serial="10000000feed0002", macs=())
    welcome = fleet.controller.admission.hello(installer_hello(hardware, b"k" * 32))
    fleet.controller.admission.prove(
        Proof(welcome.session, ProofKind.NONE, installer_key=(b"k" * 32).hex()), None
    )
    assert len(fleet_view(fleet.store).held) == MAX_HELD_BOARDS
    assert fleet.controller.boots.dropped == 1


def test_flood_of_serials_beside_a_declared_mac_is_bounded(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.sightings.MAX_BOARDS", 5)
    for number in range(20):
        report(fleet, mac=MAC, serial=Serial.parse(f"feed{number:04x}"))
    with fleet.store.read() as reader:
        assert reader.board_count() == 5


def test_timeline_keeps_the_newest_boot_lines(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.boots.MAX_BOOT_EVENTS", 10)
    for number in range(30):
        report(fleet, mac=MAC, text=f"line {number}")
        fleet.clock.advance(10)
        fleet.controller.boots.flush()
    fleet.clock.advance(TRIM_INTERVAL_S)
    report(fleet, mac=MAC, text="the last line")
    events = timeline(fleet, "by-mac").events
    kept = [event.text for event in events if event.kind == "boot"]
    assert (len(kept), kept[0], kept[-1]) == (10, "line 21", "the last line")
    assert any(event.kind == "intent" for event in events)


def test_flood_of_lines_is_counted_and_dropped(fleet: Fleet) -> None:
    for number in range(MAX_PENDING + 10):
        report(fleet, mac=MAC, text=f"line {number}")
    assert fleet.controller.boots.dropped == 10


def test_terminal_escapes_in_names_do_not_reach_a_terminal(fleet: Fleet) -> None:
    report(fleet, mac=MAC, text="asks for \x1b[2J\x07evil\nfile")
    text = timeline(fleet, "by-mac").events[-1].text
    assert text.isprintable()
    assert "evil" in text


REFUSE_EVENTS = {
    "sqlite": "PRAGMA max_page_count=1",
    "postgres": "ALTER TABLE events ADD CONSTRAINT disk_is_full CHECK (position('xxx' in text) = 0)",
}
TAKE_EVENTS = {
    "sqlite": "PRAGMA max_page_count=1000000",
    "postgres": "ALTER TABLE events DROP CONSTRAINT disk_is_full",
}


def test_full_disk_does_not_stop_the_boot_server_and_lines_wait(fleet: Fleet, backend: str) -> None:
    with fleet.store.write() as tx:
        tx.connection.exec_driver_sql(REFUSE_EVENTS[backend])
    for number in range(400):
        fleet.clock.advance(0.01)
        report(fleet, mac=MAC, text=f"{number} " + "x" * 300)
    with pytest.raises(StoreError, match=r"disk.is.full"):
        fleet.controller.tick()
    with fleet.store.write() as tx:
        tx.connection.exec_driver_sql(TAKE_EVENTS[backend])
    assert sum("xxx" in event.text for event in timeline(fleet, "by-mac").events) == 400
