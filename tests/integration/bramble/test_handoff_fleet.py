"""The hand-off gate with the real fleet behind it: SQLite, intents, boot table, and the emulated board."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from fakes_boot_room import CONFIG, MAC, SERIAL, TREE, MemoryDisk, RoomServer, answers, key, power_on
from fakes_bramble import CONTROL, make_image
from fakes_fat import make_fat
from fakes_fleet import cluster_spec, node_spec, open_fleet
from fleet_story import ask_to_install, complete, require_token, state_of

from agent.protocol import InstallProgress, InstallStep, Outcome
from bramble.boot_images import RECORD, purpose_of, serve_boot_images
from bramble.boot_table import make_boot_table
from fleet.boards import decode_revision
from fleet.boots import BootReport, BootStage
from fleet.lifecycle import MAX_ATTEMPTS, State
from imagebuilder.boot_image.sign import render_signature
from lab.bootloader.files import BootFiles
from pxe.boot.decision import Hold, Install, LocalDisk
from pxe.boot.table import BootTable

pytestmark = pytest.mark.integration

NODE = node_spec("pi5-1", 1, serial=SERIAL.text, mac=str(MAC))
NETWORK_FIRST, HTTP_FIRST = 0xE62, 0xE67


class Room:
    """A controller over a state directory, its boot table, and one board with a blank disk."""

    def __init__(self, tmp_path: Path) -> None:
        self._directory = tmp_path
        self.image = make_image(tmp_path / "image")
        boot = tmp_path / "image" / "boot"
        (boot / "config.txt").write_bytes(CONFIG)
        for name, data in TREE.items():
            (boot / name).write_bytes(data)
        (tmp_path / "image" / "installer").mkdir()
        self.image.installer_initramfs.write_bytes(b"installer")
        self.fleet = open_fleet(tmp_path / "state", cluster_spec(NODE))
        self.disk = MemoryDisk()
        self.server = RoomServer(self.table, lambda: self.fleet.clock())

    def table(self) -> BootTable:
        states = self.fleet.controller.boot_states()
        table = make_boot_table(states, self.image, CONTROL)
        return serve_boot_images(table, states, self.image, CONTROL, self._directory / "boot-images")

    def publish(self) -> None:
        """What 'bramble boot-image' does, with a file system made in memory."""
        (state,) = self.fleet.controller.boot_states()
        purpose = purpose_of(state, self.image, CONTROL)
        assert purpose is not None
        (node,) = self.table().nodes
        tree = {**TREE, "installer.img": b"installer", **node.tree.rendered}
        image = make_fat({name: data for name, data in tree.items() if "/" not in name}, 12)
        place = self._directory / "boot-images" / state.name
        place.mkdir(parents=True, exist_ok=True)
        (place / "boot.img").write_bytes(image)
        signature = render_signature(hashlib.sha256(image).hexdigest(), 1, key())
        (place / "boot.sig").write_text(signature)
        (place / RECORD).write_text(json.dumps({"purpose": asdict(purpose)}))

    def restart_server(self) -> None:
        self.fleet.store.close()
        self.fleet = open_fleet(self._directory / "state", cluster_spec(NODE), self.fleet.clock)

    def report(self, stage: BootStage) -> None:
        self.fleet.controller.record_boot_event(
            BootReport(
                stage=stage, at=self.fleet.clock(), serial=SERIAL, mac=MAC, revision=decode_revision(0xD04170)
            )
        )

    def boot(self, order: int) -> BootFiles:
        """Power on; what the server would report of it is recorded."""
        self.fleet.clock.advance(60.0)
        self.report(BootStage.SEEN)
        files = power_on(self.server, self.disk, order)
        assert files is not None
        if self.is_installer(files):
            self.report(BootStage.KERNEL)
        return files

    @staticmethod
    def is_installer(files: BootFiles) -> bool:
        return "bramble.intent=" in files.cmdline

    def install(self, order: int, *, until: InstallStep | None = None) -> None:
        """Boot the installer and let it install; or only up to a step, where the power fails."""
        files = self.boot(order)
        assert self.is_installer(files)
        intent = int(files.cmdline.partition("bramble.intent=")[2].split()[0])
        token = require_token(ask_to_install(self.fleet, NODE, intent=intent))
        plan = self.fleet.controller.installs.plan(token)
        self.disk.installed = ""
        for step in (InstallStep.WRITE, InstallStep.VERIFY, InstallStep.COMMIT):
            if step is until:
                return
            self.fleet.controller.installs.progress(token, InstallProgress(intent, step, 50.0))
        self.disk.installed = f"installed by {intent}"
        self.fleet.controller.installs.complete(token, complete(plan))


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.fleet.store.close()


@pytest.mark.parametrize("order", [NETWORK_FIRST, HTTP_FIRST], ids=["tftp", "http"])
def test_five_power_cycles_and_a_restart_of_the_server_boot_the_disk(room: Room, order: int) -> None:
    room.publish()
    room.install(order)
    assert state_of(room.fleet, NODE) is State.FIRST_BOOT
    for cycle in range(5):
        if cycle == 2:
            room.restart_server()
        for asked in (order, NETWORK_FIRST, HTTP_FIRST):
            files = room.boot(asked)
            assert files.cmdline == "installed by 1"
        assert all(isinstance(answer, LocalDisk) for answer in answers(room.table(), room.fleet.clock()))
    verdict = ask_to_install(room.fleet, NODE)
    assert (verdict.outcome, verdict.token) == (Outcome.PENDING, None)
    assert "no installation of this node is open" in verdict.reason


@pytest.mark.parametrize("order", [NETWORK_FIRST, HTTP_FIRST], ids=["tftp", "http"])
@pytest.mark.parametrize("step", [InstallStep.WRITE, InstallStep.VERIFY, InstallStep.COMMIT])
def test_a_power_cut_at_any_step_is_another_attempt_of_the_same_intent(
    room: Room, order: int, step: InstallStep
) -> None:
    room.publish()
    room.install(order, until=step)
    assert all(isinstance(answer, Install) for answer in answers(room.table(), room.fleet.clock()))
    room.restart_server()
    room.install(order)
    assert room.boot(order).cmdline == "installed by 1"


def test_a_board_whose_installer_never_ends_is_held_by_every_service(room: Room) -> None:
    for _ in range(MAX_ATTEMPTS):
        room.install(NETWORK_FIRST, until=InstallStep.WRITE)
    room.fleet.clock.advance(60.0)
    room.report(BootStage.SEEN)
    room.report(BootStage.KERNEL)
    assert state_of(room.fleet, NODE) is State.QUARANTINED
    assert all(isinstance(answer, Hold) for answer in answers(room.table(), room.fleet.clock()))
    assert room.server.find_file(f"{SERIAL.prefix}/config.txt") is None

    room.fleet.controller.people.approve(NODE.name)
    (state,) = room.fleet.controller.boot_states()
    assert state.install_intent == 2
    room.publish()
    room.install(HTTP_FIRST)
    for order in (HTTP_FIRST, NETWORK_FIRST):
        assert room.boot(order).cmdline == "installed by 2"


def test_a_boot_image_of_a_used_up_intent_is_not_served_for_the_next(room: Room) -> None:
    room.publish()
    for _ in range(MAX_ATTEMPTS):
        room.install(HTTP_FIRST, until=InstallStep.WRITE)
    room.fleet.clock.advance(60.0)
    room.report(BootStage.KERNEL)
    room.fleet.controller.people.approve(NODE.name)
    assert room.server.find_page(f"/boot/{SERIAL.prefix}/boot.img") is None
    assert room.server.find_file(f"{SERIAL.prefix}/config.txt") is not None
