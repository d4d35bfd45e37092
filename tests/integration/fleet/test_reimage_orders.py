"""Orders: called off at every state, given twice, too late, for another board, for good, after a restore."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from fakes_cluster import CORDON, pod
from fakes_fleet import AgentKey, node_spec
from fleet_story import ask_to_install, intent_of, prove_ticket, renew, require_token, see, state_of, texts
from reimage_room import A1, A2, S1, Room, open_room

from agent.protocol import InstallProgress, InstallStep, Occupant
from agent.protocol import Outcome as Verdict
from fleet.boots import BootStage, NodeBoot
from fleet.entry.ways import Tried
from fleet.lifecycle import LEAVING, REIMAGING, Happening, State, limit_s
from fleet.refusal import RefusedError
from fleet.reimage import progress
from fleet.reimage.kinds import Outcome, ReimageKind
from fleet.reimage.problems import Problem
from fleet.reimage.steps import Move, Step, next_step
from fleet.restored import mark_restored, observe
from fleet.store.records import ReimageRecord

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

OF_AGENTS = [State.REIMAGE_REQUESTED, State.PREFLIGHT, State.CORDONED, State.DRAINING]
NEW = node_spec("a1", 9)
"""Another board."""


def put(room: Room, state: State) -> None:
    """The node is in a state that only servers pass; its order stands."""
    with room.fleet.store.write() as tx:
        tx._write_node("a1", {"state": state.value})


async def begin(room: Room, state: State) -> None:
    """An order that has got as far as `state`, and no further."""
    room.kube.pods["a1"] = [pod("web")]
    room.kube.refusals["web"] = (429, "no")
    room.controller.reimages.request("a1", by="socket")
    await room.rounds(*(OF_AGENTS if state not in OF_AGENTS else [state]), settle=False)
    if state not in OF_AGENTS:
        await room.rounds(State.DRAINING)
        put(room, state)


@pytest.mark.parametrize("state", sorted(LEAVING))
async def test_it_is_called_off_at_every_state_before_a_removal(tmp_path: Path, state: State) -> None:
    async with open_room(tmp_path) as room:
        await begin(room, state)
        assert "called off" in room.controller.reimages.cancel("a1", by="ana")
        assert "already" in room.controller.reimages.cancel("a1", by="ana")
        order = await room.until_closed()
        assert (order.outcome, order.reason) == (Outcome.CANCELLED, "called off by ana")
        assert room.state_of() is State.READY
        assert not room.kube.seen["a1"].unschedulable
        assert CORDON not in room.kube.seen["a1"].annotations
        assert intent_of(room.fleet, A1) is None, "its network boot is not answered"
        room.kube.refusals.clear()
        room.controller.reimages.request("a1", by="ana")  # and it can be ordered again
        await room.rounds(State.REBOOT_TO_INSTALLER)
        assert room.order().number > order.number


@pytest.mark.parametrize("state", sorted(REIMAGING - LEAVING))
async def test_it_is_too_late_after_a_removal(tmp_path: Path, state: State) -> None:
    async with open_room(tmp_path) as room:
        await begin(room, state)
        with room.fleet.store.write() as tx:
            tx.note_reimage(room.order(), **{progress.ASKED: room.fleet.clock()})
        with pytest.raises(RefusedError, match="only a fresh join brings it back") as refused:
            room.controller.reimages.cancel("a1", by="ana")
        assert (refused.value.status, refused.value.code) == (409, "too-late")
        assert "bramble decommission a1" in refused.value.hint


@pytest.mark.parametrize("was", [State.DEGRADED, State.LOST, State.FAILED_JOINING, State.FAILED_FIRST_BOOT])
async def test_called_off_it_is_what_it_was(tmp_path: Path, was: State) -> None:
    async with open_room(tmp_path) as room:
        put(room, was)
        room.controller.reimages.request("a1", by="socket")
        room.controller.reimages.cancel("a1", by="ana")
        await room.until_closed()
        assert room.state_of() is was


async def test_nothing_is_called_off_where_nothing_is_ordered(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        with pytest.raises(RefusedError, match="a1 is not being re-imaged"):
            room.controller.reimages.cancel("a1", by="ana")
        with pytest.raises(RefusedError, match="there is no node 'a0'"):
            room.controller.reimages.request("a0", by="ana")


async def test_the_same_order_again_goes_on_with_the_first(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await begin(room, State.DRAINING)
        assert "under way already" in room.controller.reimages.request("a1", by="policy")
        with pytest.raises(RefusedError, match="a reimage of a1 is under way"):
            room.controller.reimages.decommission("a1", by="ana")
        with room.fleet.store.read() as reader:
            assert len(reader.reimages("a1")) == 1


async def let_its_limit_pass(room: Room, times: int) -> None:
    """Where the API answers, its server reports."""
    for _ in range(times):
        room.fleet.clock.advance(121.0)
        if room.kube.answers:
            room.report_all()
        room.controller.watch.tick()
        await room.controller.reimages.drive()
        await room.controller.reimages.drive()


async def test_a_step_that_an_outage_stopped_goes_on_by_itself(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await begin(room, State.DRAINING)
        put(room, State.NODE_DELETED)
        room.kube.answers = False
        await let_its_limit_pass(room, 40)
        assert room.state_of() is State.FAILED_NODE_DELETED
        assert "node-deleted is taken up by itself when that is over" in room.order().reason
        room.kube.answers = True
        room.report_all()
        room.kube.join("s1")
        await room.rounds(State.REBOOT_TO_INSTALLER)


async def test_a_step_that_gave_up_for_good_is_tried_again_by_the_same_order(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await begin(room, State.DRAINING)
        put(room, State.NODE_DELETED)
        room.kube.join("a1", leaving=True)
        await let_its_limit_pass(room, 40)  # and three times more
        assert room.state_of() is State.FAILED_NODE_DELETED
        assert "tried 4 times (its Node object waits for its finalizers)" in room.order().reason
        del room.kube.seen["a1"]
        room.report_all()
        room.kube.join("s1")
        assert "goes on" in room.controller.reimages.request("a1", by="ana")
        await room.rounds(State.REBOOT_TO_INSTALLER)


async def test_a_node_that_is_not_installed_is_not_installed_again(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        put(room, State.JOINING)
        with pytest.raises(RefusedError, match="a1 is 'joining': it is not installed"):
            room.controller.reimages.request("a1", by="ana")
        shown = await room.controller.reimages.preview("a1", by="ana")
        assert "state" in [problem.code for problem in shown.problems]


async def test_a_guard_undoes_the_order(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.controller.reimages.guards.append(
            lambda _tx, _order, _node: (Problem("lock", "a2 is on its way", "Wait for it."),)
        )
        with pytest.raises(RefusedError, match="a1 stays as it is: a2 is on its way"):
            room.controller.reimages.request("a1", by="ana")
        assert room.state_of() is State.READY
        with room.fleet.store.read() as reader:
            assert reader.reimages("a1") == []


# --- the old system, while the new one is awaited


async def test_the_old_system_stays_enrolled_and_does_not_pass_for_the_new_one(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.controller.reimages.request("a1", by="ana")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        intent = intent_of(room.fleet, A1)
        assert intent == room.order().number
        see(room.fleet, A1)
        see(room.fleet, A1, BootStage.KERNEL)
        assert room.state_of() is State.NETBOOTING
        # Power fails; the board starts its old disk, whose agent renews.
        verdict = renew(room.fleet, A1, room.certificates["a1"])
        assert verdict.outcome is Verdict.ENROLLED
        assert room.state_of() is State.NETBOOTING, "nothing was installed yet"
        assert intent_of(room.fleet, A1) == intent
        assert prove_ticket(room.fleet, A1, AgentKey(), ticket="00" * 32).outcome is Verdict.REJECTED
        room.netboot()
        assert (await room.until_closed()).outcome is Outcome.DONE


async def test_the_attempts_are_capped_and_then_nothing_is_answered(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.controller.reimages.request("a1", by="ana")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        for _ in range(4):
            see(room.fleet, A1, BootStage.KERNEL)
            room.fleet.clock.advance(60.0)
        assert room.state_of() is State.QUARANTINED
        assert intent_of(room.fleet, A1) is None
        await room.controller.reimages.drive()
        order = room.order()
        assert order.outcome is None, "it holds its place until somebody does something"
        assert "attempts are used up" in order.reason


# --- another board, and no board at all


async def test_a_dead_boards_name_goes_to_another_board(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        assert NEW.serial is not None
        old_certificate, old_password = room.certificates["a1"], room.record().node_password.reveal()
        desk = room.controller.reimages
        with pytest.raises(RefusedError, match="its board is alive"):
            desk.replace("a1", NEW.serial.text, by="ana")
        room.fleet.clock.advance(120.0)
        room.report_all(A1)
        room.controller.watch.tick()
        room.kube.join("a1", ready=False)
        desk.replace("a1", NEW.serial.text, by="ana")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        assert intent_of(room.fleet, A1) is not None

        room.netboot(board=NEW)
        order = await room.until_closed()
        assert (order.kind, order.outcome) == (ReimageKind.REPLACE, Outcome.DONE)
        assert room.record().serial == NEW.serial.text
        assert room.record().node_password.reveal() != old_password

        # The old board is turned away, by its certificate, by its serial, and by its tickets.
        assert renew(room.fleet, A1, old_certificate).outcome is not Verdict.ENROLLED
        assert ask_to_install(room.fleet, A1).outcome is not Verdict.ADMITTED
        room.restart()  # cluster.yaml still names the old board
        assert room.controller.spec.find_node("a1") == dataclasses.replace(A1, serial=NEW.serial)
        assert ask_to_install(room.fleet, A1).outcome is not Verdict.ADMITTED
        assert any("takes the place of 10000000abcd0002" in text for text in texts(room.fleet, "a1"))


async def test_the_file_counts_again_when_it_names_the_new_board(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        assert NEW.serial is not None
        put(room, State.LOST)
        room.controller.reimages.replace("a1", NEW.serial.text, by="ana")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        third = node_spec("a1", 10)
        room.controller.declare(dataclasses.replace(room.spec, nodes=(S1, third, A2)))
        assert room.controller.spec.find_node("a1") == third


async def test_a_new_board_that_is_dead_too_is_replaced_while_the_file_still_names_the_first(
    tmp_path: Path,
) -> None:
    async with open_room(tmp_path) as room:
        third = node_spec("a1", 10)
        assert NEW.serial is not None
        assert third.serial is not None
        put(room, State.LOST)
        room.controller.reimages.replace("a1", NEW.serial.text, by="ana")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        room.controller.reimages.replace("a1", third.serial.text, by="ana")
        for _ in range(2):
            assert room.controller.spec.find_node("a1") == dataclasses.replace(A1, serial=third.serial)
            assert room.record().serial == third.serial.text
            room.restart()  # cluster.yaml still names the first board
        assert ask_to_install(room.fleet, A1).outcome is not Verdict.ADMITTED
        assert ask_to_install(room.fleet, NEW).outcome is not Verdict.ADMITTED


async def test_a_board_that_another_server_replaced_is_the_node_here_too(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        assert NEW.serial is not None
        other = room.controller  # on the same record
        room.restart()
        put(room, State.QUARANTINED)
        assert not other.take_replaced()
        room.controller.reimages.replace("a1", NEW.serial.text, by="ana")
        assert other.take_replaced()
        assert other.spec == room.controller.spec
        assert not other.take_replaced()
        room.fleet.controller = other
        assert ask_to_install(room.fleet, A1).outcome is not Verdict.ADMITTED


async def test_a_replaced_board_takes_no_node_out_that_another_servers_file_has(tmp_path: Path) -> None:
    """'bramble apply' reached one server of two: the other one's file does not name the new node yet."""
    async with open_room(tmp_path) as room:
        assert NEW.serial is not None
        first, third, newer = room.controller, node_spec("a3", 11), node_spec("a1", 12)
        assert newer.serial is not None
        room.spec = dataclasses.replace(room.spec, nodes=(*room.spec.nodes, third))
        room.restart()
        room.join(third)
        put(room, State.QUARANTINED)
        room.controller.reimages.replace("a1", NEW.serial.text, by="ana")
        assert first.take_replaced()
        assert room.state_of(third) is State.READY
        put(room, State.QUARANTINED)
        first.reimages.replace("a1", newer.serial.text, by="ana")
        assert room.state_of(third) is State.READY
        room.report(third)


@pytest.mark.parametrize(
    ("serial", "code"),
    [("", "serial"), ("xyz", "serial"), ("10000000abcd0002", "serial"), ("10000000abcd0003", "serial")],
    ids=["empty", "no-hex", "its-own", "another-nodes"],
)
async def test_a_serial_that_can_not_be_is_refused(tmp_path: Path, serial: str, code: str) -> None:
    async with open_room(tmp_path) as room:
        put(room, State.LOST)
        with pytest.raises(RefusedError) as refused:
            room.controller.reimages.replace("a1", serial, by="ana")
        assert refused.value.code == code
        assert room.state_of() is State.LOST


async def give_up(room: Room) -> None:
    """The board does not start from the network within its limit."""
    limit = limit_s(State.REBOOT_TO_INSTALLER, room.record().role)
    assert limit is not None
    room.fleet.clock.advance(limit + 1.0)
    room.controller.watch.tick()
    assert room.state_of() is State.FAILED_REBOOT_TO_INSTALLER
    for _ in range(2):
        await room.controller.reimages.drive()
    assert room.state_of() is State.QUARANTINED
    assert "did not start from the network" in room.order().reason


async def test_a_board_that_never_came_is_not_answered_until_a_person_says_so(tmp_path: Path) -> None:
    """Its old disk may start months later: it is not written over then."""
    async with open_room(tmp_path) as room:
        room.controller.reimages.request("a1", by="ana")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        first = room.order()
        with room.fleet.store.write() as tx:
            tx.note_reimage(first, **{progress.ENTRY: Tried(reboots=3, cycles=2).as_json()})
        assert boot_of(room).install_intent == first.number
        await give_up(room)
        assert intent_of(room.fleet, A1) is None
        assert (boot_of(room).install_intent, boot_of(room).hold) == (None, True)
        see(room.fleet, A1, BootStage.KERNEL)
        assert room.state_of() is State.QUARANTINED
        assert ask_to_install(room.fleet, A1).outcome is not Verdict.ADMITTED
        assert "bramble approve a1" in room.controller.reimages.request("a1", by="ana")

        room.controller.people.approve("a1")
        assert room.state_of() is State.REBOOT_TO_INSTALLER
        assert boot_of(room).install_intent == first.number + 1
        assert Tried.from_json(room.order().progress.get(progress.ENTRY)) == Tried(), (
            "every way is tried anew"
        )
        room.report_all(A1)
        room.netboot()
        assert (await room.until_closed()).outcome is Outcome.DONE


def boot_of(room: Room) -> NodeBoot:
    """What the boot server is told of a1."""
    return next(boot for boot in room.controller.boots.states() if boot.name == "a1")


async def test_a_board_that_never_came_is_replaced_where_it_stands(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        assert NEW.serial is not None
        room.controller.reimages.request("a1", by="ana")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        await give_up(room)
        room.controller.reimages.replace("a1", NEW.serial.text, by="ana")
        room.report_all(A1)
        room.netboot(board=NEW)
        assert (await room.until_closed()).outcome is Outcome.DONE


async def test_a_decommissioned_node_is_not_answered_until_it_is_declared_anew(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        certificate = room.certificates["a1"]
        room.controller.reimages.decommission("a1", by="ana", why="sold")
        order = await room.until_closed()
        assert (order.kind, order.outcome) == (ReimageKind.DECOMMISSION, Outcome.DONE)
        assert room.state_of() is State.DECOMMISSIONED
        assert "a1" not in room.kube.seen
        assert "decommissioned already" in room.controller.reimages.decommission("a1", by="ana")
        for _ in range(2):
            assert intent_of(room.fleet, A1) is None
            see(room.fleet, A1, BootStage.KERNEL)
            assert state_of(room.fleet, A1) is State.DECOMMISSIONED
            assert ask_to_install(room.fleet, A1).outcome is Verdict.REJECTED
            assert renew(room.fleet, A1, certificate).outcome is Verdict.REJECTED
            room.restart()  # it is still in cluster.yaml
        room.controller.declare(dataclasses.replace(room.spec, nodes=(S1, A2)))
        room.controller.declare(room.spec)
        assert room.state_of() is State.DECLARED
        assert intent_of(room.fleet, A1) is not None


async def test_a_node_that_is_in_no_cluster_is_decommissioned_at_once(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        room.controller.reimages.request("a1", by="ana")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        room.controller.reimages.decommission("a1", by="ana")
        assert room.state_of() is State.DECOMMISSIONED
        assert room.order().outcome is Outcome.ABANDONED
        assert intent_of(room.fleet, A1) is None


async def test_a_decommission_takes_over_what_left_its_cluster(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await begin(room, State.NODE_DELETED)
        room.controller.reimages.decommission("a1", by="ana")
        order = await room.until_closed()
        assert (order.kind, order.outcome) == (ReimageKind.DECOMMISSION, Outcome.DONE)
        assert room.state_of() is State.DECOMMISSIONED


async def test_a_decommission_that_comes_between_decision_and_record_is_none_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver had decided to open the installer for a re-image: its disk would have been written."""
    async with open_room(tmp_path) as room:
        await begin(room, State.NODE_DELETED)

        def decide(order: ReimageRecord, *facts: Any) -> Step:
            step = next_step(order, *facts)
            if isinstance(step, Move) and step.happening is Happening.NODE_GONE:
                room.controller.reimages.decommission("a1", by="ana")
            return step

        monkeypatch.setattr("fleet.reimage.driver.next_step", decide)
        await room.until_closed()
        assert room.state_of() is State.DECOMMISSIONED
        assert intent_of(room.fleet, A1) is None


# --- a record from a backup


async def test_a_restored_record_calls_off_what_removed_nothing(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await begin(room, State.DRAINING)
        with room.fleet.store.write() as tx:
            mark_restored(tx, backup_at=room.fleet.clock() - 3600, now=room.fleet.clock())
        assert room.state_of() is State.LOST
        assert room.order().outcome is Outcome.ABANDONED
        with pytest.raises(RefusedError, match="restored from a backup"):
            room.controller.reimages.request("a1", by="policy")


async def test_a_restored_record_removes_nothing_before_the_node_is_heard_of(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await begin(room, State.NODE_DELETED)
        with room.fleet.store.write() as tx:
            mark_restored(tx, backup_at=room.fleet.clock() - 3600, now=room.fleet.clock())
        for _ in range(5):
            await room.controller.reimages.drive()
        assert "a1" in room.kube.seen
        assert "restored from a backup" in room.order().reason
        with room.fleet.store.write() as tx:
            observe(tx, tx.require_node("a1"), "its agent reports", room.fleet.clock())
        await room.rounds(State.REBOOT_TO_INSTALLER)
        with room.fleet.store.read() as reader:
            intent = reader.open_intent("a1")
        assert intent is not None
        assert intent.number > 1000, "no number of the lost hours is used again"


async def test_a_restored_record_does_not_know_that_nobody_was_asked_since(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await begin(room, State.MEMBER_REMOVED)
        with room.fleet.store.write() as tx:
            mark_restored(tx, backup_at=room.fleet.clock() - 3600, now=room.fleet.clock())
        with pytest.raises(RefusedError, match="only a fresh join"):
            room.controller.reimages.cancel("a1", by="ana")


@pytest.mark.parametrize("heard", [True, False], ids=["its old system reports", "it comes as an installer"])
async def test_an_order_out_of_a_backup_is_no_consent_to_what_came_since(tmp_path: Path, heard: bool) -> None:
    """By then the node may be installed again and full of data: only its old system's report tells."""
    async with open_room(tmp_path) as room:
        room.controller.reimages.request("a1", by="ana")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        with room.fleet.store.write() as tx:
            mark_restored(tx, backup_at=room.fleet.clock() - 3600, now=room.fleet.clock())
        if heard:
            room.report(A1)
        own = Occupant("attic", "a1", "f" * 64, "2b" * 16)
        for _ in range(2):  # starting it again changes nothing
            see(room.fleet, A1, BootStage.KERNEL)
            with room.fleet.store.read() as reader:
                intent = reader.open_intent("a1")
            assert intent is not None
            verdict = ask_to_install(room.fleet, A1, intent=intent.number)
            if verdict.token is None:
                room.controller.people.approve("a1")  # the key; nobody knew of the disk
                verdict = ask_to_install(room.fleet, A1, intent=intent.number)
            found = InstallProgress(intent.number, InstallStep.FIND_DISK, 0.0, occupant=own)
            if heard:
                room.controller.installs.progress(require_token(verdict), found)
                continue
            with pytest.raises(RefusedError, match="a1"):
                room.controller.installs.progress(require_token(verdict), found)
            assert room.state_of() is State.PENDING


async def test_a_node_that_leaves_cluster_yaml_ends_its_order(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        await begin(room, State.DRAINING)
        room.controller.declare(dataclasses.replace(room.spec, nodes=(S1, A2)))
        order = await room.until_closed()
        assert order.outcome is Outcome.ABANDONED
        changes = list(room.kube.changes)
        await room.controller.reimages.drive()
        assert room.kube.changes == changes


async def test_an_installer_at_work_on_the_old_board_is_turned_away(tmp_path: Path) -> None:
    async with open_room(tmp_path) as room:
        assert NEW.serial is not None
        room.controller.reimages.request("a1", by="ana")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        number = room.order().number
        see(room.fleet, A1, BootStage.KERNEL)
        token = ask_to_install(room.fleet, A1, intent=number).token
        assert token is not None
        room.controller.installs.plan(token)
        failed = InstallProgress(number, InstallStep.WRITE, 10.0, "its disk does not answer", failed=True)
        room.controller.installs.progress(token, failed)
        assert room.state_of() is State.FAILED_IMAGING
        room.controller.reimages.replace("a1", NEW.serial.text, by="ana")
        with pytest.raises(RefusedError, match="not admitted"):
            room.controller.installs.progress(token, InstallProgress(number, InstallStep.WRITE, 11.0))
        room.netboot(board=NEW)
        assert (await room.until_closed()).outcome is Outcome.DONE
