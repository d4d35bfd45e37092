"""Which disk a re-image may write: the node's own, with what it holds; anything else waits for a person."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from fakes_fleet import AgentKey, hardware_of, installer_hello, node_spec
from fleet_story import KEY, complete, prove_ticket, require_token, see, texts
from reimage_room import A1, A2, S1, Room, open_room

from agent.protocol import (
    OCCUPIED,
    DiskIdentity,
    InstallPlan,
    InstallProgress,
    InstallStep,
    Occupant,
    Outcome,
    Proof,
    ProofKind,
)
from fleet.boots import BootStage
from fleet.lifecycle import State
from fleet.refusal import RefusedError
from fleet.spec.model import NodeSpec

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

OWN = DiskIdentity("nvme", "Samsung SSD 980", "S64ANS0T1", "eui.0025385b11b2a1c0", 500_107_862_016)
OTHER = replace(OWN, serial="S64ANS0T2", wwn="eui.0025385b11b2a1c1")
MARKER = Occupant(cluster="attic", node="a1", image_id="f" * 64, installation="")


@dataclass
class Installer:
    """One start of the installer on a1's board."""

    room: Room
    board: NodeSpec = A1
    token: str = ""
    plan: InstallPlan | None = None

    def start(self) -> Outcome:
        """It boots and asks; PENDING where a person has to speak."""
        see(self.room.fleet, self.board)
        see(self.room.fleet, self.board, BootStage.KERNEL)
        return self.ask()

    def ask(self) -> Outcome:
        with self.room.fleet.store.read() as reader:
            intent = reader.open_intent("a1")
        number = None if intent is None else intent.number
        hello = installer_hello(hardware_of(self.board), KEY, intent=number, boot=f"boot-{number}")
        welcome = self.room.controller.admission.hello(hello)
        proof = Proof(welcome.session, ProofKind.NONE, installer_key=KEY.hex())
        verdict = self.room.controller.admission.prove(proof, None)
        if verdict.outcome is Outcome.ADMITTED:
            self.token = require_token(verdict)
            self.plan = self.room.controller.installs.plan(self.token)
        return verdict.outcome

    def find(self, disk: DiskIdentity | None, occupant: Occupant | None = None) -> None:
        """The question of FIND_DISK."""
        assert self.plan is not None
        question = InstallProgress(
            self.plan.intent, InstallStep.FIND_DISK, 0.0, "looked", occupant=occupant, disk=disk
        )
        self.room.controller.installs.progress(self.token, question)

    def refuses(self, disk: DiskIdentity | None, occupant: Occupant | None = None) -> str:
        with pytest.raises(RefusedError) as caught:
            self.find(disk, occupant)
        assert caught.value.code == OCCUPIED
        return caught.value.message

    def finish(self) -> None:
        assert self.plan is not None
        self.room.controller.installs.complete(self.token, complete(self.plan))


@contextlib.asynccontextmanager
async def reimaging(path: Path, node: NodeSpec = A1) -> AsyncIterator[tuple[Room, Installer]]:
    """a1 was installed on its own disk once, and is ordered to be installed again."""
    async with open_room(path, S1, node, A2) as room:
        with room.fleet.store.write() as tx:
            # As an installer of this release leaves it behind.
            tx.put_value("disk.a1", _PINNED)
        room.controller.reimages.request("a1", by="anna")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        yield room, Installer(room, node)


_PINNED = (
    '{"board": "10000000abcd0002", "found": null, "intent": 1, "pinned": {"kind": "nvme", '
    '"model": "Samsung SSD 980", "serial": "S64ANS0T1", "wwn": "eui.0025385b11b2a1c0", '
    '"size_bytes": 500107862016}}'
)


async def test_disk_of_the_first_installation_is_the_nodes_own_and_the_next_plan_names_it(
    tmp_path: Path,
) -> None:
    async with open_room(tmp_path, S1, A1, A2) as room:
        for disk in (OWN, None):
            room.controller.reimages.request("a1", by="anna")
            await room.rounds(State.REBOOT_TO_INSTALLER)
            installer = Installer(room)
            assert installer.start() is Outcome.ADMITTED
            assert installer.plan is not None
            wanted = (None, None) if disk is OWN else (OWN.serial, OWN.wwn)
            assert (installer.plan.disk.own_serial, installer.plan.disk.own_wwn) == wanted
            installer.find(disk)
            installer.finish()
            room.come_up(A1)
            await room.until_closed()


async def test_own_installation_on_the_own_disk_goes_without_a_question(tmp_path: Path) -> None:
    async with reimaging(tmp_path) as (_room, installer):
        assert installer.start() is Outcome.ADMITTED
        installer.find(OWN, MARKER)
        installer.finish()


@pytest.mark.parametrize(
    "occupant",
    [replace(MARKER, node="a2"), replace(MARKER, cluster="cellar")],
    ids=["another node", "cluster"],
)
async def test_installation_of_somebody_else_waits_for_a_person(tmp_path: Path, occupant: Occupant) -> None:
    async with reimaging(tmp_path) as (room, installer):
        installer.start()
        assert "was not touched" in installer.refuses(OWN, occupant)
        assert room.state_of() is State.PENDING
        assert installer.ask() is Outcome.PENDING
        room.controller.people.approve("a1")
        assert installer.ask() is Outcome.ADMITTED
        installer.find(OWN, occupant)


async def test_another_disk_is_refused_with_both_names_until_a_person_consents_to_that_one(
    tmp_path: Path,
) -> None:
    async with reimaging(tmp_path) as (room, installer):
        installer.start()
        message = installer.refuses(OTHER)
        assert "serial S64ANS0T1" in message
        assert "serial S64ANS0T2" in message
        assert any("serial S64ANS0T2" in text for text in texts(room.fleet, "a1"))
        assert installer.ask() is Outcome.PENDING
        room.controller.people.approve("a1")
        assert installer.ask() is Outcome.ADMITTED
        third = replace(OTHER, serial="S64ANS0T3", wwn="")
        assert "S64ANS0T3" in installer.refuses(third), "the consent was for another disk"
        assert installer.ask() is Outcome.PENDING
        room.controller.people.approve("a1")
        assert installer.ask() is Outcome.ADMITTED
        installer.find(third)
        installer.finish()
        room.come_up(A1)
        await room.until_closed()
        room.controller.reimages.request("a1", by="anna")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        again = Installer(room)
        again.start()
        assert again.plan is not None
        assert again.plan.disk.own_serial == "S64ANS0T3", "that is the node's own from now on"


async def test_serial_in_cluster_yaml_is_consent(tmp_path: Path) -> None:
    declared = replace(A1, disk=replace(A1.disk, serial="S64ANS0T2"))
    async with reimaging(tmp_path, declared) as (_room, installer):
        installer.start()
        installer.find(OTHER)


@pytest.mark.parametrize(
    ("found", "is_own"),
    [
        (replace(OWN, wwn=""), True),
        (replace(OWN, serial="s64ans0t1 ", wwn=""), True),
        (replace(OWN, serial="", wwn=""), True),
        (replace(OWN, serial="", wwn="", size_bytes=OWN.size_bytes + 512), False),
        (replace(OWN, serial="", wwn="", model="Kingston"), False),
        (replace(OWN, wwn="eui.1"), False),
    ],
    ids=["no wwn", "same serial", "no names, same make", "other size", "other model", "other wwn"],
)
async def test_disk_that_tells_less_of_itself_is_compared_by_what_it_tells(
    tmp_path: Path, found: DiskIdentity, is_own: bool
) -> None:
    async with reimaging(tmp_path) as (_room, installer):
        installer.start()
        if is_own:
            installer.find(found)
        else:
            installer.refuses(found)


async def test_pin_survives_power_cuts_between_looking_and_writing(tmp_path: Path) -> None:
    """What an installer looked at and never finished does not become the node's own disk."""
    async with reimaging(tmp_path) as (room, installer):
        installer.start()
        installer.refuses(OTHER)
        assert installer.ask() is Outcome.PENDING
        room.controller.people.approve("a1")
        assert installer.ask() is Outcome.ADMITTED
        installer.find(OTHER)
        again = Installer(room)
        assert again.start() is Outcome.ADMITTED
        assert again.plan is not None
        assert again.plan.disk.own_serial == OWN.serial
        assert "S64ANS0T2" in again.refuses(OTHER), "the approval was of the start before"


async def test_power_cut_between_commit_and_the_report_of_it_leaves_no_disk_unknown(tmp_path: Path) -> None:
    """The board starts from its disk, and its agent is the first to be heard."""
    async with open_room(tmp_path, S1, A1, A2) as room:
        room.controller.reimages.request("a1", by="anna")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        installer = Installer(room)
        assert installer.start() is Outcome.ADMITTED
        installer.find(OWN)
        assert room.state_of() is State.IMAGING
        room.come_up(A1)
        await room.until_closed()
        room.controller.reimages.request("a1", by="anna")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        again = Installer(room)
        assert again.start() is Outcome.ADMITTED
        assert again.plan is not None
        assert (again.plan.disk.own_serial, again.plan.disk.own_wwn) == (OWN.serial, OWN.wwn)
        assert "serial S64ANS0T1" in again.refuses(OTHER)


async def test_ticket_of_an_earlier_attempt_does_not_pin_what_a_later_one_looked_at(tmp_path: Path) -> None:
    async with open_room(tmp_path, S1, A1, A2) as room:
        room.controller.reimages.request("a1", by="anna")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        first, second = Installer(room), Installer(room)
        first.start()
        first.find(OWN)
        earlier = room.fleet.images.tickets["a1"][-1].reveal()
        second.start()
        second.find(OTHER)
        verdict = prove_ticket(room.fleet, A1, AgentKey(), earlier)
        assert verdict.outcome is Outcome.REJECTED
        third = Installer(room)
        third.start()
        assert third.plan is not None
        assert third.plan.disk.own_serial is None


async def test_new_board_brings_its_own_disk(tmp_path: Path) -> None:
    new = node_spec("a1", 77)
    async with open_room(tmp_path, S1, A1, A2) as room:
        with room.fleet.store.write() as tx:
            tx.put_value("disk.a1", _PINNED)
        room.fleet.clock.advance(3600)
        room.report(S1)
        room.controller.watch.tick()
        assert new.serial is not None
        room.controller.reimages.replace("a1", new.serial.text, by="anna")
        await room.rounds(State.REBOOT_TO_INSTALLER)
        installer = Installer(room, new)
        assert installer.start() is Outcome.ADMITTED
        assert installer.plan is not None
        assert installer.plan.disk.own_serial is None
        installer.find(OTHER)
        # What is on it is nobody's consent.
        installer.refuses(OTHER, replace(MARKER, node="a2"))


async def test_board_that_came_by_its_order_for_one_start_says_so(tmp_path: Path) -> None:
    async with reimaging(tmp_path) as (room, installer):
        number = room.order().number
        for argument in (number - 1, number):
            see(room.fleet, A1, BootStage.KERNEL)
            hello = installer_hello(hardware_of(A1), KEY, intent=number, boot=f"boot-{argument}")
            welcome = room.controller.admission.hello(replace(hello, boot_arg1=argument))
            proof = Proof(welcome.session, ProofKind.NONE, installer_key=KEY.hex())
            assert room.controller.admission.prove(proof, None).outcome is Outcome.ADMITTED
            said = [text for text in texts(room.fleet, "a1") if "boot_arg1" in text]
            assert len(said) == (argument == number)
            room.fleet.clock.advance(60)
        assert installer.plan is None


async def test_wrong_board_at_the_right_address_gets_nothing(tmp_path: Path) -> None:
    """It shows the node's MAC address, takes its place on the network, and another serial."""
    declared = replace(A1, mac=node_spec("x", 5, mac="2c:cf:67:00:00:02").mac)
    async with reimaging(tmp_path, declared) as (room, installer):
        wrong = replace(node_spec("a1", 66), mac=declared.mac)
        stranger = Installer(room, wrong)
        assert stranger.start() is not Outcome.ADMITTED
        assert stranger.plan is None
        assert room.state_of() in (State.REBOOT_TO_INSTALLER, State.PENDING)
        assert installer.plan is None
